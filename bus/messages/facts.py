"""Facts between services. `FACT_TYPES` is the table; types and data are internal."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Raw, UnsetType, field

from bus.messages.envelope import Id, Payload, Time
from bus.messages.users import BusUser


class Fact(Payload, frozen=True, kw_only=True):
    """Something that must be counted or decided once. ``data`` is one of `FACT_TYPES`, by ``type``.

    ``after`` is set by the outbox when it sends: the id of the fact before this one that the producer has not
    yet seen acknowledged. The owner takes a fact only once it has dealt with that one, so that facts of one
    producer have their effects in order whatever was lost or sent twice.
    """

    id: Id
    type: str
    uid: str | None = None
    at: Time
    data: Raw = field(default_factory=lambda: Raw(b"{}"))
    after: Id | UnsetType = UNSET


class Refused(Payload, frozen=True, kw_only=True):
    id: str
    code: str
    message: str


class Ack(Payload, frozen=True, kw_only=True):
    """The owner has kept (or refused) these facts durably. One without any asks for those that wait, from the
    first: the owner has just come up, or has seen a gap.
    """

    ids: list[str]
    refused: list[Refused] = []


class SessionCreated(Payload, frozen=True, kw_only=True):
    """tmux → ingest: a session exists now. Ingest refuses it with ``name_taken`` where the name lives.

    The agent's bearer token itself never crosses the bus: ``token_sha256`` is its hash (hex).
    """

    session: str
    kind: str
    cwd: str
    title: str
    model: str | None
    permission_mode: str
    pinned: bool
    parent: str | None
    agent: str
    agent_version: str
    token_sha256: str
    prompt: str | None
    prompt_id: str | None
    by: str | None
    resume: str | None
    auto_approve: list[str]
    budget_usd: float | UnsetType | None = UNSET


class AgentStarted(Payload, frozen=True, kw_only=True):
    """tmux → ingest: agent process number ``process`` (1, 2, …) of the session was started.

    ``resume`` is the conversation id that it was given, or None for a new conversation.
    """

    process: int
    resume: str | None


class AgentExited(Payload, frozen=True, kw_only=True):
    """tmux → ingest: that agent process is gone. ``exit_code`` None: not known. ``final``: the session ends
    (``failed``: as a failure), otherwise it may be resumed.
    """

    process: int
    exit_code: int | None
    reason: str
    final: bool
    failed: bool = False


class ScreenShows(Payload, frozen=True, kw_only=True):
    """tmux → ingest: a dialog on an interactive session's screen keeps it from starting; ``message`` says
    which, and what to do.
    """

    process: int
    message: str


class Question(Payload, frozen=True, kw_only=True):
    """ingest → approvals: an agent asks. The fact's id is ``question-<approval id>``.

    ``input_json`` is the agent's JSON text of the input, byte for byte as it came.
    """

    approval: str
    session: str
    process: int
    request_id: str
    kind: str
    tool: str
    tool_use_id: str | None
    agent_id: str | None
    input_json: str
    description: str
    cwd: str
    permission_mode: str
    suggestions: list[Any]
    auto_approve: list[str]
    held: str = ""  # why it is denied whatever the rules say: the session is held by its budget


class QuestionForbidden(Payload, frozen=True, kw_only=True):
    """ingest → approvals: a question that is open is denied, because the session's budget is exhausted."""

    approval: str
    reason: str


class QuestionWithdrawn(Payload, frozen=True, kw_only=True):
    """ingest → approvals: the agent no longer waits (cancelled, interrupted, answered elsewhere, dead).

    ``via`` ``hook``: a person answered at the agent's own screen.
    """

    approval: str
    reason: str
    via: str = "agent"


class AnswerApplied(Payload, frozen=True, kw_only=True):
    """ingest → approvals: the agent has taken the answer (true) or could not (false)."""

    approval: str
    applied: bool


class ToolUnapproved(Payload, frozen=True, kw_only=True):
    """ingest → approvals: a tool ran although its request was ``denied``, ``expired`` or still ``open``, or
    although the gate had not been asked before it (``unjudged``) where it always should be.
    """

    session: str
    tool: str
    tool_use_id: str
    approval: str | None
    state: str
    summary: str


class SessionOver(Payload, frozen=True, kw_only=True):
    """ingest → approvals: the session has ended or failed; it asks nothing any more."""

    session: str


class Answer(Payload, frozen=True, kw_only=True):
    """approvals → ingest: what was decided. ``input_json`` is what goes back to the agent on approval:
    the agent's own bytes, or the updated input.
    """

    approval: str
    process: int
    request_id: str
    decision: str  # approved | denied | expired | cancelled
    message: str
    input_json: str
    interrupt: bool
    rule: str | None = None  # that decided


class SessionOpened(Payload, frozen=True, kw_only=True):
    """ingest → ledger: a session exists; ``budget_usd`` absent means the default budget."""

    session: str
    cwd: str
    kind: str
    budget_usd: float | UnsetType | None = UNSET


class ModelUsage(Payload, frozen=True, kw_only=True):
    """The agent's running totals of one model in one process; money as the agent's decimal text."""

    cost_usd: str
    input: int
    output: int
    cache_read: int
    cache_write: int
    cache_write_5m: int | None = None  # None: this version of the agent does not tell them apart
    cache_write_1h: int | None = None


class CostReported(Payload, frozen=True, kw_only=True):
    """ingest → ledger: a turn's end, or a process's ``baseline`` before its first prompt.

    Totals are cumulative over the agent process: the ledger takes deltas. ``total_usd`` is the agent's
    number as decimal text, so that nothing is rounded on the way.
    """

    session: str
    process: int
    turn: int  # grows by one per result of the uid
    baseline: bool
    total_usd: str
    models: dict[str, ModelUsage]
    model: str | None
    cache_write_5m: int = 0  # of this turn, from the result's usage
    cache_write_1h: int = 0
    notional: bool = False


class RunningUsage(Payload, frozen=True, kw_only=True):
    """Tokens of the model calls that a running turn has finished."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0


class ConversationFollowed(Payload, frozen=True, kw_only=True):
    """ingest → ledger: a conversation of the session; its transcript is a second witness of the cost.

    What stands in it from before ``since`` is not the session's. ``path`` None: where the agent keeps them.
    ``booked``: the agent reports no cost, all of it is booked from the transcript.
    """

    session: str
    conversation: str
    cwd: str
    since: Time
    path: str | None = None
    booked: bool = False


class CostUnreported(Payload, frozen=True, kw_only=True):
    """ingest → ledger: a process is gone that has not reported what it spent from message ``first`` on.

    ``turn`` is the last one that it did report; ``messages`` are the ids of all that it has said since, in
    order, at most a thousand (empty: an older ingest, which named the first alone). ``whole``: they are all,
    its output was read to its end; else its transcript may have more. To be booked from the transcript, as an
    estimate; ``usage`` is what its stream told of, for what the agent had no time to write there.
    """

    session: str
    process: int
    turn: int
    conversation: str
    first: str
    messages: list[str] = []
    whole: bool = False
    usage: dict[str, RunningUsage] = {}
    notional: bool = False


class CostRunning(Payload, frozen=True, kw_only=True):
    """ingest → ledger: what the running turn has cost so far. No posting: it only counts against budgets,
    until the turn's own report comes.

    ``spent_usd`` is the agent's figure (decimal text); None where it tells none: then ``usage`` by model is
    to be priced.
    """

    session: str
    process: int
    turn: int  # the number that its report will have
    spent_usd: str | None
    usage: dict[str, RunningUsage] = {}
    notional: bool = False


class BudgetHold(Payload, frozen=True, kw_only=True):
    """ledger → ingest: a budget is exhausted, so the session is held; or (``held`` false) it is released.

    ``scope`` is ``session`` or the node's period; ``until`` is when a period ends by itself.
    """

    session: str
    held: bool
    scope: str = ""
    until: Time | None = None
    message: str = ""


class LimitSeen(Payload, frozen=True, kw_only=True):
    """ingest → ledger: the agent told how much of a usage limit is used."""

    session: str
    window: str
    status: str
    utilization: float | None
    resets_at: Time | None


class LimitOver(Payload, frozen=True, kw_only=True):
    """ingest → ledger: a prompt that had failed on a usage limit was sent again after its reset."""

    session: str
    window: str
    prompt_ids: list[str]
    ok: bool
    message: str


class BusUsers(Payload, frozen=True, kw_only=True):
    """broker → approvals: everybody who is a user of the bus now, beside the first operator and the services;
    empty on a broker that enforces no access rules.
    """

    users: list[BusUser]


FACT_TYPES: dict[str, type[Payload]] = {
    "created": SessionCreated,
    "started": AgentStarted,
    "exited": AgentExited,
    "question": Question,
    "withdrawn": QuestionWithdrawn,
    "forbidden": QuestionForbidden,
    "applied": AnswerApplied,
    "unapproved": ToolUnapproved,
    "over": SessionOver,
    "answer": Answer,
    "opened": SessionOpened,
    "cost": CostReported,
    "conversation": ConversationFollowed,
    "unreported": CostUnreported,
    "running": CostRunning,
    "hold": BudgetHold,
    "screen": ScreenShows,
    "limit": LimitSeen,
    "limit_over": LimitOver,
    "users": BusUsers,
}
