"""Commands between services, which nobody else sends (internal/<owner>/<verb>)."""

from __future__ import annotations

from typing import Literal

from bus.messages.envelope import Command


class SpawnAgent(Command, frozen=True, kw_only=True):
    """ingest → tmux: start the next agent process of session ``uid``, resuming conversation ``resume``."""

    process: int
    resume: str | None


class StopAgent(Command, frozen=True, kw_only=True):
    """ingest → tmux: end agent process ``process`` of session ``uid``, and keep the session: it hibernates.

    ``force``: without asking the agent first (memory is short, or it is in mid turn).
    """

    process: int
    force: bool = False
    reason: str | None = None


class EndAgent(Command, frozen=True, kw_only=True):
    """tmux → ingest: ask the agent of session ``uid`` to end in good order; answered when it was asked.

    ``process`` 0: the session ends with it; else only that agent process is to end, and the session sleeps.
    """

    reason: str | None = None
    process: int = 0


class TypeText(Command, frozen=True, kw_only=True):
    """ingest → tmux: type ``text`` and Enter into the screen of session ``uid``, or press ``key``. Refused
    with ``busy`` where a dialog or a half-written line stands there.
    """

    process: int
    text: str | None = None
    key: Literal["Escape"] | None = None


class EvictAgent(Command, frozen=True, kw_only=True):
    """watchdog → ingest: memory is short; hibernate session ``uid`` whatever it does, pinned or not."""

    reason: str


class Admit(Command, frozen=True, kw_only=True):
    """tmux, ingest → watchdog: may an agent be started? Refused with ``breaker_open`` and ``retry_at``."""

    session: str
    what: Literal["create", "wake"]


class OrphanRemoved(Command, frozen=True, kw_only=True):
    """tmux → watchdog: something of ours that belonged to no session was cleaned away; for the event."""

    reason: str


class JudgeTool(Command, frozen=True, kw_only=True):
    """ingest → approvals: an agent is about to use a tool, whether or not it would ask; may it? Asked again
    until it is answered, so it needs no id: what is denied is decided once, by the approval's id.
    """

    session: str
    process: int
    request_id: str
    kind: str
    tool: str
    tool_use_id: str | None
    agent_id: str | None
    input_json: str
    cwd: str
    permission_mode: str
    auto_approve: list[str]


class ToolVerdict(Command, frozen=True, kw_only=True):
    """approvals → ingest: ``ask`` (a rule wants a person asked) or ``none`` (the agent goes on as it would).
    A denial comes as the fact ``answer``.
    """

    process: int
    request_id: str
    verdict: Literal["ask", "none"]
    message: str = ""
