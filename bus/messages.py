"""Every payload that crosses the bus, as frozen types; the contract's sections 3 to 8 in code.

Over 400 lines because it is one glossary: readers look a payload up here, and nothing in it decides.

Conventions: times are aware UTC datetimes (``_at``; RFC 3339 on the wire), durations and money carry their
unit in the name (``_s``, ``_ms``, ``_usd``), memory is bytes. A field that may be absent is ``UNSET``, one
that may be empty is ``None``. In snapshots and events an enumerated value is a plain ``str``, because a
reader must keep a payload whose value it does not know; in commands it is a ``Literal``, because there an
unknown value is ``bad_request``. Unknown fields are ignored everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

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
Level = Literal["low", "medium", "high", "critical"]
SessionKind = Literal["managed", "sdk-url", "interactive", "external"]

Time = Annotated[datetime, Meta(tz=True)]
"""An aware time; one without an offset is the peer's error, because it cannot be compared with others."""


class Payload(Struct, frozen=True, kw_only=True):
    """Base of every JSON payload."""


# ── Commands ─────────────────────────────────────────────────────────────────────────────────────────────


class Command(Payload, frozen=True, kw_only=True):
    """Someone asks an owner to act. With an ``id`` it acts once in 24 hours and is answered on replies/<id>;
    without one it acts as often as it arrives. ``by`` and ``via`` are recorded as stated and prove nothing.
    A ``uid`` that is not the living session's is refused with ``unknown_session``.
    """

    id: Id | None = None
    uid: str | None = None
    by: str | None = None
    via: str | None = None


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


class VerifyAudit(Command, frozen=True, kw_only=True):
    """Prove the audit chain; ``head`` is one that was told before and noted elsewhere (`AuditVerified`)."""

    head: Annotated[str, Meta(pattern=r"^[0-9]{1,18}:[0-9a-f]{64}(?!\n)$")] | None = None


class AuditBroken(Payload, frozen=True, kw_only=True):
    """Where the chain does not hold: ``n`` is the first row that cannot be trusted."""

    n: int
    reason: str


class AuditVerified(Payload, frozen=True, kw_only=True):
    """``head`` is ``<number>:<hash>`` of the last row that the chain leads to."""

    ok: bool
    rows: int
    head: str
    broken: AuditBroken | None


class ExportAudit(Command, frozen=True, kw_only=True):
    """The rows after number ``after``, oldest first. A page may be shorter than ``limit``."""

    after: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    limit: Annotated[int, Meta(ge=1, le=1000)] = 500


class AuditPage(Payload, frozen=True, kw_only=True):
    """``last`` is the number of the chain's last row: the next page is asked for with the last ``n`` here."""

    rows: list[AuditLine]
    last: int


class AuditLine(Payload, frozen=True, kw_only=True):
    """One row of the audit. ``hash`` (hex) is over the row before it and this one's other fields."""

    n: int
    at: str
    action: str
    approval: str
    data: Raw
    hash: str


class RotateKeys(Command, frozen=True, kw_only=True):
    """Tokens that were read before stay good for what waits now, unless ``now``: then they are void at once.
    New ones are told either way.
    """

    now: bool = False


class AddUser(Command, frozen=True, kw_only=True):
    """``max_level``: what it may approve at most; a device ``low``, others anything unless it is given."""

    user: str  # checked by the owner, so that a bad name is bad_name and not bad_request
    role: Literal["viewer", "approver", "operator", "device"]
    max_level: Level | None = None


class AddedUser(Payload, frozen=True, kw_only=True):
    """``rights`` stands there for a broker of somebody else's: what must be allowed to the user there."""

    user: str
    role: str
    username: str
    password_file: str
    max_level: str | None
    rights: UserRights | UnsetType = UNSET


class UserRights(Payload, frozen=True, kw_only=True):
    """Full topic filters."""

    write: list[str]
    read: list[str]


class RemoveUser(Command, frozen=True, kw_only=True):
    user: str


class ListUsers(Command, frozen=True, kw_only=True):
    """Asks for all users that people and devices have."""


class BusUser(Payload, frozen=True, kw_only=True):
    """``since`` is new for each user, also for one that gets the name of a removed one."""

    user: str
    role: str
    max_level: str | None
    since: str


class DevicePress(Payload, frozen=True, kw_only=True):
    """A device's yes or no. The topic also takes the bare approval id, or nothing."""

    approval: str | None = None
    session: str | None = None
    reason: str | None = None
    text: str = ""  # the payload where it is no JSON


class DeviceReply(Payload, frozen=True, kw_only=True):
    """``decision``: where the approval stands now (``pending`` while another approver is needed)."""

    ok: bool
    approval: str | UnsetType = UNSET
    decision: str | UnsetType = UNSET
    error: ErrorBody | UnsetType = UNSET


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


class SetBudget(Command, frozen=True, kw_only=True):
    budget_usd: Usd | None


class LedgerQuery(Command, frozen=True, kw_only=True):
    by: Literal["session", "model", "day", "project"]
    since: Time | None = None
    until: Time | None = None


class LedgerImport(Command, frozen=True, kw_only=True):
    """Read past transcripts: files, and everything below directories; absolute, on the ledger's machine."""

    paths: Annotated[list[str], Meta(min_length=1, max_length=1000)]


class LedgerCheck(Command, frozen=True, kw_only=True):
    """Compare every sum with its postings; ``rebuild``: if some differ, the ledger starts anew and makes them
    again.
    """

    rebuild: bool = False


class CheckResult(Payload, frozen=True, kw_only=True):
    """``differing``: of each table of sums, how many rows are not what the postings say; ``rebuilding``: the
    ledger starts anew now.
    """

    ok: bool
    postings: int
    differing: dict[str, int]
    rebuilding: bool = False


class ImportResult(Payload, frozen=True, kw_only=True):
    """``added``: calls of a model that were new; ``duplicates``: lines that told of known ones."""

    files: int
    lines: int
    added: int
    duplicates: int
    broken: int
    unreadable: int = 0


class LedgerQueryRow(Payload, frozen=True, kw_only=True):
    """``uid`` stands in rows by session, because a name may have been used by several."""

    key: str
    uid: str | UnsetType = UNSET
    spent_usd: float
    turns: int
    tokens: Tokens
    unpriced: bool = False  # some of these tokens have no price: they are not in ``spent_usd``


class LedgerQueryResult(Payload, frozen=True, kw_only=True):
    by: str
    rows: list[LedgerQueryRow]
    total_usd: float


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


# ── The node and its services ────────────────────────────────────────────────────────────────────────────


class Info(Payload, frozen=True, kw_only=True):
    node: str
    version: str
    contract: int
    broker: str
    started_at: Time
    services: list[str]
    endpoints: dict[str, Any]


class NodeClaim(Payload, frozen=True, kw_only=True):
    """Which home a node's name belongs to, on a broker that others use too. ``held``: it is settled."""

    home: str
    host: str
    at: Time
    held: bool


class NodeHealth(Payload, frozen=True, kw_only=True):
    status: str  # healthy | degraded | critical
    reasons: list[str]
    services: dict[str, str]  # online | offline | stale
    sessions: dict[str, int]
    memory_used_ratio: float
    disk_free_bytes: int
    uptime_s: float
    at: Time


class ServiceHealth(Payload, frozen=True, kw_only=True):
    """Every 10 s from each service; its age is how a stuck service is noticed."""

    service: str
    pid: int
    rss_bytes: int
    cpu_percent: float
    loop_lag_ms: float
    uptime_s: float
    queue_depth: int
    errors_total: int
    doing: str | UnsetType = UNSET  # something that takes long, before it can do its work
    at: Time


class Breaker(Payload, frozen=True, kw_only=True):
    state: str  # closed | open | half_open
    cause: str | None
    reason: str
    used_bytes: int
    budget_bytes: int
    used_ratio: float
    since: Time
    retry_at: Time | None
    evicted: list[str]


class Resources(Payload, frozen=True, kw_only=True):
    session: str
    uid: str
    pid: int
    processes: int
    rss_bytes: int
    cpu_percent: float
    at: Time


class WatchdogEvent(Payload, frozen=True, kw_only=True):
    at: Time
    action: str
    session: str | UnsetType = UNSET
    service: str | UnsetType = UNSET
    reason: str


# ── Sessions ─────────────────────────────────────────────────────────────────────────────────────────────


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

# ── Approvals ────────────────────────────────────────────────────────────────────────────────────────────

LEVELS = ("low", "medium", "high", "critical")


def level_rank(level: str) -> int:
    """Order of a danger level; one that we do not know counts as ``critical`` (contract, section 2)."""
    return LEVELS.index(level) if level in LEVELS else len(LEVELS) - 1


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


# ── Ledger ───────────────────────────────────────────────────────────────────────────────────────────────


class Tokens(Payload, frozen=True, kw_only=True):
    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0


class ModelCost(Payload, frozen=True, kw_only=True):
    cost_usd: float
    turns: int
    tokens: Tokens


class Witnesses(Payload, frozen=True, kw_only=True):
    agent_usd: float
    priced_usd: float | None = None
    transcript_usd: float | None = None


class LimitWindow(Payload, frozen=True, kw_only=True):
    window: str
    utilization: float | None
    resets_at: Time | None


class Period(Payload, frozen=True, kw_only=True):
    """``remaining_usd`` and ``level`` count what turns that still run have cost so far."""

    spent_usd: float
    budget_usd: float | None
    remaining_usd: float | None = None
    level: str = "unlimited"
    since: Time | None
    until: Time | None = None


class LedgerTotal(Payload, frozen=True, kw_only=True):
    """What the node spent (contract, section 7). ``running_usd``: what turns that still run have cost so far.
    It is not in ``spent_usd`` yet, but counts against the budget.
    """

    spent_usd: float
    running_usd: float = 0.0
    budget_usd: float | None
    remaining_usd: float | None
    used_ratio: float | None
    level: str
    turns: int
    tokens: Tokens
    by_model: dict[str, ModelCost]
    burn_usd_per_h: float | None
    exhausted_at: Time | None
    exhausted_between: tuple[Time, Time] | None
    notional: bool
    estimated_usd: float
    unpriced: list[str]
    witnesses: Witnesses
    drift_usd: float  # spent, less what the second witness says
    drift_cause: str | None = None  # where the drift is more than a cent or 1 %
    limits: list[LimitWindow]
    at: Time
    periods: dict[str, Period] | UnsetType = UNSET


class LedgerAllowances(Payload, frozen=True, kw_only=True):
    """What may still be spent before something is stopped: of the node's budgets, and by each session's uid.
    None: no budget stops it. Said every 5 s, so that its absence tells.
    """

    node_usd: float | None
    sessions: dict[str, float | None]
    at: Time


class LedgerSession(LedgerTotal, frozen=True, kw_only=True):
    """What one session spent."""

    session: str
    uid: str


class LedgerEvent(Payload, frozen=True, kw_only=True, rename={"from_": "from"}):
    at: Time
    action: str
    session: str | UnsetType = UNSET
    uid: str | UnsetType = UNSET
    from_: str | UnsetType = UNSET
    to: str | UnsetType = UNSET
    reason: str
    id: str | UnsetType = UNSET  # of the import or check
    done: int | UnsetType = UNSET  # bytes of it, or steps
    of: int | UnsetType = UNSET


# ── Facts between services: types and data are internal ──────────────────────────────────────────────────


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

    ``turn`` is the last one that it did report. To be booked from the transcript, as an estimate; ``usage``
    is what its stream told of, for what the agent had no time to write there.
    """

    session: str
    process: int
    turn: int
    conversation: str
    first: str
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


class ScreenShows(Payload, frozen=True, kw_only=True):
    """tmux → ingest: a dialog on an interactive session's screen keeps it from starting; ``message`` says
    which, and what to do. Empty: it is gone.
    """

    process: int
    message: str


class TypeText(Command, frozen=True, kw_only=True):
    """ingest → tmux: type ``text`` and Enter into the screen of session ``uid``, or press ``key``. Refused
    with ``busy`` where a dialog or a half-written line stands there.
    """

    process: int
    text: str | None = None
    key: Literal["Escape"] | None = None


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


class SpawnAgent(Command, frozen=True, kw_only=True):
    """ingest → tmux: start the next agent process of session ``uid``, resuming conversation ``resume``."""

    process: int
    resume: str | None


class EndAgent(Command, frozen=True, kw_only=True):
    """tmux → ingest: ask the agent of session ``uid`` to end in good order; answered when it was asked.

    ``process`` 0: the session ends with it; else only that agent process is to end, and the session sleeps.
    """

    reason: str | None = None
    process: int = 0


class StopAgent(Command, frozen=True, kw_only=True):
    """ingest → tmux: end agent process ``process`` of session ``uid``, and keep the session: it hibernates.

    ``force``: without asking the agent first (memory is short, or it is in mid turn).
    """

    process: int
    force: bool = False
    reason: str | None = None


class EvictAgent(Command, frozen=True, kw_only=True):
    """watchdog → ingest: memory is short; hibernate session ``uid`` whatever it does, pinned or not."""

    reason: str


class OrphanRemoved(Command, frozen=True, kw_only=True):
    """tmux → watchdog: something of ours that belonged to no session was cleaned away; for the event."""

    reason: str


class Admit(Command, frozen=True, kw_only=True):
    """tmux, ingest → watchdog: may an agent be started? Refused with ``breaker_open`` and ``retry_at``."""

    session: str
    what: Literal["create", "wake"]


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
