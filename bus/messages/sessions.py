"""Sessions: the commands to them, and their state. What happens in them is in `events`."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, UnsetType

from bus.messages.envelope import Command, Payload, PermissionMode, SessionKind, Time, Usd


class CreateSession(Command, frozen=True, kw_only=True):
    """Open a session. Defaults: agent ``claude``, kind ``managed``. Result: the session's state."""

    session: str  # checked by the owner, so that a bad slug is bad_name and not bad_request
    cwd: str
    agent: str = "claude"
    kind: SessionKind = "managed"
    prompt: str | None = None
    model: str | None = None
    permission_mode: PermissionMode | None = None
    budget_usd: Usd | UnsetType | None = UNSET  # absent: the default budget; null: none
    auto_approve: list[str] | None = None
    resume: str | None = None
    title: str | None = None
    pinned: bool = False
    trust: bool = False
    parent: str | None = None


class Prompt(Command, frozen=True, kw_only=True):
    """Say something to the agent. The topic also takes plain text."""

    text: Annotated[str, Meta(min_length=1)]


class PromptResult(Payload, frozen=True, kw_only=True):
    queued_prompts: int
    method: str  # bridge | websocket | tmux


class SessionCommand(Command, frozen=True, kw_only=True):
    """interrupt, hibernate, wake, remove, end."""

    reason: str | None = None


class SetSession(Command, frozen=True, kw_only=True):
    model: str | None = None
    permission_mode: PermissionMode | None = None
    title: str | None = None
    pinned: bool | None = None


class History(Command, frozen=True, kw_only=True):
    after_seq: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    limit: Annotated[int, Meta(ge=1, le=1000)] = 200


class HistoryResult(Payload, frozen=True, kw_only=True):
    events: list[dict[str, Any]]
    last_seq: int


class AgentInfo(Payload, frozen=True, kw_only=True):
    name: str
    version: str
    session_id: str | None


class CurrentTool(Payload, frozen=True, kw_only=True):
    tool: str
    tool_use_id: str
    summary: str
    since: Time


class Blocked(Payload, frozen=True, kw_only=True):
    by: str  # budget | limit | breaker
    until: Time | None


class SessionState(Payload, frozen=True, kw_only=True):
    """The owner's present truth about one session (contract, section 4)."""

    session: str
    uid: str
    node: str
    kind: str
    title: str
    status: str
    status_since: Time
    agent: AgentInfo
    model: str | None
    permission_mode: str
    cwd: str
    started_at: Time
    last_activity_at: Time
    turns: int = 0
    queued_prompts: int = 0
    pending_approvals: list[str] = []
    current_tool: CurrentTool | None = None
    last_message: str | None = None
    connected: bool = False
    pinned: bool = False
    parent: str | None = None
    blocked: Blocked | None = None
    error: str | None = None
    enforcement: str = "asked"  # full | partial | asked: which tool calls the rules of the policy reach


class IndexEntry(Payload, frozen=True, kw_only=True):
    session: str
    uid: str
    kind: str
    status: str


class SessionIndex(Payload, frozen=True, kw_only=True):
    sessions: list[IndexEntry]
    at: Time
