"""What all payloads are made of: the words, the command and its answer."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, get_args

from msgspec import UNSET, Meta, Struct, UnsetType

# (?!\n) because Python's $ also matches before a last newline, and \Z is unknown to JSON Schema.
Slug = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}(?!\n)$")]
"""A session, node, service or user name."""

Id = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}(?!\n)$")]
"""An id that may stand in a topic: commands, approvals, facts."""

Usd = Annotated[float, Meta(ge=0, le=1e9)]
PermissionMode = Literal["default", "manual", "acceptEdits", "plan", "dontAsk", "auto", "bypassPermissions"]
# From the least that an agent may do by itself to the most. "manual" is the newer name of "default".
PERMISSION_MODE_RANK: Mapping[str, int] = {
    "plan": 0, "dontAsk": 1, "default": 1, "manual": 1, "acceptEdits": 2, "auto": 3, "bypassPermissions": 4,
}  # fmt: skip
SessionKind = Literal["managed", "sdk-url", "interactive", "external"]
Level = Literal["low", "medium", "high", "critical"]
LEVELS: tuple[str, ...] = get_args(Level)


def level_rank(level: str) -> int:
    """Order of a danger level; one that we do not know counts as ``critical`` (contract, section 2)."""
    return LEVELS.index(level) if level in LEVELS else len(LEVELS) - 1


Time = Annotated[datetime, Meta(tz=True)]
"""An aware time; one without an offset is the peer's error, because it cannot be compared with others."""


class Payload(Struct, frozen=True, kw_only=True):
    """Base of every JSON payload."""


class Command(Payload, frozen=True, kw_only=True):
    """Someone asks an owner to act. With an ``id`` it acts once in 24 hours and is answered on replies/<id>;
    without one it acts as often as it arrives. ``by`` and ``via`` are recorded as stated and prove nothing.
    A ``uid`` that is not the living session's is refused with ``unknown_session``.
    """

    id: Id | None = None
    uid: str | None = None
    by: str | None = None
    via: str | None = None


class ErrorBody(Payload, frozen=True, kw_only=True):
    code: str
    message: str
    details: Any = UNSET


class Reply(Payload, frozen=True, kw_only=True):
    """The owner's answer to a command with an id."""

    id: str
    ok: bool
    result: Any = UNSET
    error: ErrorBody | UnsetType = UNSET


class ErrorReport(Payload, frozen=True, kw_only=True):
    """A message without an id that could not be acted on."""

    at: Time
    service: str
    topic: str
    code: str
    message: str
