"""What happens in a session, as said on sessions/<s>/events/<type>; `EVENT_TYPES` is the table."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, UnsetType

from bus.messages.envelope import Payload, Time


class AnyEvent(Payload, frozen=True, kw_only=True):
    """What all of sessions/<s>/events/<type> have; `EVENT_TYPES` has the rest by ``type``."""

    session: str
    uid: str
    at: Time
    type: str


class Event(AnyEvent, frozen=True, kw_only=True):
    """(``uid``, ``seq``) identifies an event; ``seq`` grows by one per uid, so that a gap is a loss, to be
    filled by ``history``.
    """

    seq: int


class PromptEvent(Event, frozen=True, kw_only=True):
    type: str = "prompt"
    prompt_id: str
    text: str
    phase: str  # queued | delivered | refused
    by: str | None


class MessageEvent(Event, frozen=True, kw_only=True):
    """A finished text of user or assistant."""

    type: str = "message"
    role: str
    message_id: str
    text: str
    blocks: list[Any]
    agent_id: str | UnsetType = UNSET
    parent_tool_use_id: str | UnsetType = UNSET
    prompt_ids: list[str] | UnsetType = UNSET


class DeltaEvent(AnyEvent, frozen=True, kw_only=True):
    """A piece of a text on its way; has no ``seq`` and is not kept."""

    type: str = "delta"
    message_id: str
    block: int
    index: int
    kind: str  # text | thinking
    text: str


class ToolEvent(Event, frozen=True, kw_only=True):
    type: str = "tool"
    phase: str  # started | progress | finished
    tool: str
    tool_use_id: str
    input: Any = UNSET
    summary: str = ""
    is_error: bool | UnsetType = UNSET
    output: str | UnsetType = UNSET
    duration_ms: int | UnsetType = UNSET
    approval: str | UnsetType = UNSET
    agent_id: str | UnsetType = UNSET
    decided_by: str | UnsetType = UNSET  # once finished: approval | rule | agent (its own mode and rules)


class QuestionEvent(Event, frozen=True, kw_only=True):
    type: str = "question"
    text: str
    options: list[str]
    approval: str | UnsetType = UNSET


class ResultEvent(Event, frozen=True, kw_only=True):
    """A turn has ended. ``cost_usd`` is this turn's, ``total_cost_usd`` the session's as the agent counts."""

    type: str = "result"
    prompt_ids: list[str]
    model: str | None
    num_turns: int
    cost_usd: float | None  # None: the agent does not tell (sessions that are followed by their hooks)
    total_cost_usd: float | None
    usage: Any
    duration_ms: int
    is_error: bool
    subtype: str


class StatusEvent(Event, frozen=True, kw_only=True, rename={"from_": "from"}):
    type: str = "status"
    from_: str
    to: str
    reason: str


class HookEvent(Event, frozen=True, kw_only=True):
    type: str = "hook"
    event: str
    tool: str | UnsetType = UNSET
    tool_use_id: str | UnsetType = UNSET
    data: Any = UNSET


class LimitEvent(Event, frozen=True, kw_only=True):
    type: str = "limit"
    status: str
    window: str
    utilization: float | None
    resets_at: Time | None
    attempt: int | UnsetType = UNSET


class ErrorEvent(Event, frozen=True, kw_only=True):
    type: str = "error"
    code: str
    message: str


class EndedEvent(Event, frozen=True, kw_only=True):
    type: str = "ended"
    exit_code: int | None
    reason: str


EVENT_TYPES: dict[str, type[AnyEvent]] = {
    "prompt": PromptEvent,
    "message": MessageEvent,
    "delta": DeltaEvent,
    "tool": ToolEvent,
    "question": QuestionEvent,
    "result": ResultEvent,
    "status": StatusEvent,
    "hook": HookEvent,
    "limit": LimitEvent,
    "error": ErrorEvent,
    "ended": EndedEvent,
}
