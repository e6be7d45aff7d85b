"""What the gate keeps and what it asks for: values only."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from bus import messages as m
from bus.effects import Do, Keep
from services.approvals.danger.sight import BLIND, Sight
from services.approvals.passed import Passed
from services.approvals.remember import Remembered


class State(enum.StrEnum):
    """Where an approval stands; every one but ``PENDING`` is final, and is the outcome's ``decision``."""

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class GoodPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What the configuration said when it was last good; ``rules`` are its tables as they stood there."""

    rules: tuple[dict[str, Any], ...]
    auto_approve: tuple[str, ...]


class Vote(msgspec.Struct, frozen=True, kw_only=True):
    """One approver's yes, to exactly this input."""

    user: str
    input_sha256: str


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """One question and all that became of it. ``input_json`` is the agent's text, byte for byte.

    ``final_json`` is what goes back to the agent if it is not ``input_json``; ``message`` and ``interrupt``
    go with a denial. ``outcome`` stands once ``state`` is final and never changes but for ``applied``.
    """

    id: str
    session: str
    uid: str
    process: int
    request_id: str
    kind: str  # tool | question | plan
    tool: str
    tool_use_id: str | None
    agent_id: str | None
    input_json: str
    input_sha256: str
    input_partial: bool
    summary: str
    description: str
    cwd: str
    permission_mode: str
    suggestions: list[Any]
    auto_approve: list[str]
    danger: m.Danger
    required: int
    created_at: datetime
    expires_at: datetime | None
    state: State = State.PENDING
    votes: tuple[Vote, ...] = ()
    final_json: str | None = None
    message: str = ""
    interrupt: bool = False
    outcome: m.ApprovalOutcome | None = None
    asked_by: str | None = None  # the rule that wants it asked


@dataclass(frozen=True, slots=True)
class Place:
    """What the gate knows of its machine: Pointsman's own home, and what the judge may see."""

    home: str
    sight: Sight = BLIND

    def led(self, paths: Iterable[str]) -> tuple[str, ...]:
        """The paths as they are named, and as they are without links."""
        named = tuple(dict.fromkeys(paths))
        return tuple(dict.fromkeys((*named, *map(self.sight.resolve, named))))


@dataclass(frozen=True, slots=True)
class Approver:
    """A user who may decide; it may approve up to ``max_level``, and deny anything (a device: nothing above).

    ``since`` tells a user from an earlier one of the same name; "" for the first operator.
    """

    user: str
    max_level: str = "critical"
    since: str = ""


@dataclass(frozen=True, slots=True)
class Save(Keep):
    """Keep the approval as it now is. ``new``: it was not there before."""

    approval: Approval
    new: bool = False


@dataclass(frozen=True, slots=True)
class Audit(Keep):
    """Append a row to the audit chain. ``approval`` may be the id of one that does not exist."""

    at: datetime
    action: str  # request | decision | outcome | applied
    approval: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SealAnew(Keep):
    """Trust the audit's head as it stands."""


@dataclass(frozen=True, slots=True)
class OldKeys(Do):
    """Forget the old keys if nothing needs them."""


@dataclass(frozen=True, slots=True)
class SaveUsers(Keep):
    """These are the users of the bus now."""

    users: tuple[m.BusUser, ...]


@dataclass(frozen=True, slots=True)
class DeviceDecided(Keep):
    """The device has decided something."""

    device: str
    at: datetime


@dataclass(frozen=True, slots=True)
class SaveRule(Keep):
    """Keep what somebody had remembered."""

    rule: Remembered


@dataclass(frozen=True, slots=True)
class DropRule(Keep):
    """Remembered no more."""

    rule_id: str


@dataclass(frozen=True, slots=True)
class SavePolicy(Keep):
    """The rules that are in force, to go on with when the configuration's are no good at a start."""

    policy: GoodPolicy


@dataclass(frozen=True, slots=True)
class SaveCalls(Keep):
    """Keep these, and forget as many old ones as are too many."""

    calls: tuple[Passed, ...]


@dataclass(frozen=True, slots=True)
class NoteCall(Do):
    """No rule was about this call: keep it some time soon."""

    call: Passed


@dataclass(frozen=True, slots=True)
class LookAhead(Do):
    """This call goes on; its agent may ask about it in a moment: examine it when all else is said."""

    uid: str
    question: m.Question


@dataclass(frozen=True, slots=True)
class Restate(Do):
    """What waits has changed: say it (`Gate.restated`) when all else is said. Nobody waits for that list, and
    with a hundred approvals it is long.
    """


@dataclass(frozen=True, slots=True)
class Unapproved(Do):
    """For the metrics: a tool ran against a decision, or without one."""

    state: str


@dataclass(frozen=True, slots=True)
class Decided(Do):
    """For the metrics: an approval was decided."""

    decision: str
    via: str
    level: str
    latency_s: float


@dataclass(frozen=True, slots=True)
class NotDecided(Do):
    """For the metrics: a decision changed nothing, and why."""

    code: str
