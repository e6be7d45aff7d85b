"""Approvals: what is asked, what was decided, and the rules that decide."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, UnsetType

from bus.messages.envelope import Command, Payload, Time


class Decision(Command, frozen=True, kw_only=True):
    """An answer to an approval (contract, section 6). ``token`` proves the user."""

    decision: Literal["approve", "deny"]
    token: str = ""
    reason: str | None = None
    updated_input: dict[str, Any] | None = None
    answers: dict[str, str] | None = None
    remember: Literal["session", "always"] | None = None
    interrupt: bool = False


class ShowApproval(Command, frozen=True, kw_only=True):
    """Asks for a request with its whole input. The approval stands in the topic."""


class PolicyCommand(Command, frozen=True, kw_only=True):
    """policy/<verb>: ``check`` (toml), ``explain`` (tool, input, session, cwd), ``replay`` (toml, since),
    ``reload``, ``rules``, ``forget`` (rule). ``toml`` is the text of a whole configuration file.
    """

    toml: str | None = None
    tool: str | None = None
    input: dict[str, Any] | None = None
    session: str | None = None
    cwd: str | None = None
    since: Time | None = None
    rule: str | None = None


class Danger(Payload, frozen=True, kw_only=True):
    level: str
    reason: str
    impact: str


class ApprovalRequest(Payload, frozen=True, kw_only=True):
    """One question of an agent that waits for a decision. ``input`` is for reading: secrets are masked and
    values over 64 KiB cut (then ``input_partial``); ``show`` gives the whole.
    """

    id: str
    session: str
    uid: str
    node: str
    kind: str  # tool | question | plan
    tool: str
    tool_use_id: str | None
    agent_id: str | None
    input: Any
    input_sha256: str
    input_partial: bool
    summary: str
    description: str
    cwd: str
    permission_mode: str
    danger: Danger
    permission_suggestions: list[Any]
    required: int
    created_at: Time
    expires_at: Time | None
    rule: str | None = None  # the policy's rule that wants it asked


class PendingItem(Payload, frozen=True, kw_only=True):
    id: str
    session: str
    tool: str
    kind: str
    summary: str
    level: str
    expires_at: Time | None


class PendingApprovals(Payload, frozen=True, kw_only=True):
    count: int
    oldest_id: str | None
    oldest_at: Time | None
    items: list[PendingItem]


class ApprovalToken(Payload, frozen=True, kw_only=True):
    id: str
    token: str


class ApprovalOutcome(Payload, frozen=True, kw_only=True):
    """What was decided; said once when decided (``applied`` null) and again when the agent took it or not."""

    id: str
    session: str
    uid: str
    tool_use_id: str | None
    decision: str  # approved | denied | expired | cancelled
    by: str
    via: str
    rule: str | None
    reason: str | None
    level: str
    input_sha256: str
    updated_input: Any
    answers: dict[str, str] | None
    latency_ms: int
    applied: bool | None
    at: Time
    remembered: str | None = None  # the rule that this decision left behind


class ApprovalEvent(Payload, frozen=True, kw_only=True):
    at: Time
    action: str
    session: str | UnsetType = UNSET
    uid: str | UnsetType = UNSET
    tool_use_id: str | UnsetType = UNSET
    reason: str
