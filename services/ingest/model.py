"""What ingest knows of a session, and what it asks its shell to keep and do.

`Record` is the durable part, kept whole as one row whenever it changed; prompts and lines to the agent have
rows of their own. `Session` adds what may be lost with the process: the connection, the running deltas.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

from bus.effects import Do, Keep
from bus.messages import Blocked, CurrentTool, RunningUsage
from services.ingest.hook_model import HookAnswer, Screen, Typing
from services.ingest.states import Status

# ── kept ─────────────────────────────────────────────────────────────────────────────────────────────────


class Question(Struct):
    """A `can_use_tool` that is open. ``answered``: the number of the line with its answer; for one that came
    by a hook 0, and ``hook``. ``left``: we wait no more, but its dialog stands.
    """

    approval: str
    tool: str
    tool_use_id: str | None
    agent_id: str | None
    input_sha256: str
    answered: int | None = None
    hook: HookAnswer | None = None
    asked_at: datetime | None = None  # by a hook
    left: bool = False
    callback: bool = False  # asked by a hook callback, because this agent asks nothing more after one


class Callback(Struct):
    """A PreToolUse callback that waits for the gate. ``answered``: the number of the line that denies it."""

    kind: str
    tool: str
    tool_use_id: str | None
    agent_id: str | None
    input_json: str
    since: datetime
    answered: int | None = None


class ToolRun(Struct):
    """A tool call that has not finished. ``asked`` is its approval, if the agent asked or a rule denied it.

    ``judged``: the gate was asked before it ran; ``decision`` is what became of ``asked``; ``ran``: the agent
    said that it was carried out.
    """

    tool: str
    summary: str
    since: datetime
    agent_id: str | None = None
    asked: str | None = None
    input: str = ""  # hook sessions: stands for its input, to know its permission request by
    judged: bool = False
    decision: str | None = None
    by_rule: bool = False
    ran: bool = False


class Cost(Struct):
    """The agent's last running totals of a process, numbers as its decimal text; models as in the fact."""

    total: str = "0"
    models: dict[str, Any] = {}


class Ask(Struct):
    """A command to the tmux controller, repeated until it is answered: start ``process``; or stop it
    (``stop``, by ``force``); or, ``process`` 0, end the session. ``admit``: ask the watchdog first.
    """

    id: str
    process: int
    resume: str | None
    reason: str = ""
    stop: bool = False
    force: bool = False
    admit: bool = False


class Exit(Struct):
    """A process is gone, but its journal may not be read to the end; that is waited for ``until`` then."""

    process: int
    exit_code: int | None
    reason: str
    final: bool
    failed: bool
    until: datetime


class Held(Struct):
    """An exhausted budget holds the session (the ledger's word). ``message`` is for whoever is refused."""

    message: str
    until: datetime | None


class Running(Struct):
    """What the running turn has cost so far. ``n`` numbers what was posted of it.

    ``told``: the agent's own figure, as text; ``usage``: tokens of its finished calls by model, in the order
    of `bus.messages.RunningUsage`, for agents that tell none.
    """

    n: int = 0
    told: str = "0"
    usage: dict[str, list[int]] = {}


class Limited(Struct):
    """A usage limit of the account that is used up. ``until``: None where the agent does not say."""

    window: str
    until: datetime | None


class Record(Struct):
    """One session. Everything in it was decided by a fact, a command or a frame, none of it is a clock's."""

    uid: str
    session: str
    kind: str
    cwd: str
    title: str
    model: str | None
    permission_mode: str
    pinned: bool
    parent: str | None
    agent: str
    version: str
    token_sha256: str
    auto_approve: list[str]
    started_at: datetime
    last_activity_at: datetime
    status: Status
    status_since: datetime
    seq: int = 0  # of the last event
    turns: int = 0
    results: int = 0
    order: int = 0  # of the last prompt
    conversation: str | None = None  # the agent's session_id
    last_message: str | None = None
    current_tool: CurrentTool | None = None
    error: str | None = None
    blocked: Blocked | None = None
    notional: bool = False
    # the agent process
    process: int = 0
    resumed: bool = False  # this process was given a conversation
    alive: bool = False
    initialized: bool = False
    baseline: bool = True  # the cost to count this process from is known
    lost: bool = False  # out of reach for longer than the grace
    offset: int = 0  # bytes of its journal that are dealt with
    drained: bool = False  # its journal is read to the end
    line: int = 0  # number of the last line to it
    requests: dict[str, str] = {}  # control requests of ours that it has not answered → what they ask
    # the turn
    fresh: bool = True  # no turn since start or waking
    turn: bool = False
    compacting: bool = False
    lifecycle: bool = False  # this agent says which prompts a result is for
    asks_back: str | None = None  # the last text of the turn, if it ends with a question
    questions: dict[str, Question] = {}  # by the agent's request id
    callbacks: dict[str, Callback] = {}  # by the agent's request id
    hooked: bool | None = None  # whether this process lets our hooks decide; None: not known yet
    tools: dict[str, ToolRun] = {}  # by tool_use_id
    cost: Cost = msgspec.field(default_factory=Cost)
    earlier: list[Cost] = []  # last totals of earlier processes, newest last
    followed: str | None = None  # the conversation whose transcript the ledger was last told of
    uncovered: str | None = None  # id of the first message since the last result: no total counts it yet
    heard: list[str] = []  # ids of all of them; empty where an older ingest has heard the first
    # budgets and limits
    running: Running = msgspec.field(default_factory=Running)
    agents: list[str] = []  # task ids of its background agents, which go on after the turn
    tells_cost: bool = True  # this agent answers ``get_session_cost``
    held: Held | None = None
    unled: Held | None = None  # held because the ledger is silent (`allowances`)
    stopped: str = ""  # the turn that was told to stop because the session is held
    limited: Limited | None = None  # what the agent said last
    waits: Limited | None = None  # prompts wait for this reset
    # sleep
    rest: Status | None = None  # hibernating | hibernated | waking
    wakers: list[str] = []  # request ids of `wake` that wait
    # sessions that are followed by their hooks
    pid: int = 0  # external: the agent's process, if it said so
    typing: Typing | None = None
    count: int = 0  # numbers what is asked: permission requests of hooks, prompts to type
    # wishes and ends
    wanted_model: str | None = None
    wanted_mode: str | None = None
    ending: bool = False
    deaths: list[datetime] = []
    ask: Ask | None = None
    exit: Exit | None = None
    end: str | None = None  # ended | failed
    ended_at: datetime | None = None

    @property
    def living(self) -> bool:
        return self.end is None

    @property
    def enforcement(self) -> str:
        """How far a denial holds. ``full``: for every tool call; ``partial``: while the agent's connection
        stands, or we are there; ``asked``: only where the agent asks."""
        if self.hooked is False:
            return "asked"
        return "full" if self.kind == "managed" else "partial"


class Prompt(Struct):
    """Something to say to the agent, until a result covers it. ``process`` 0: not written to any yet."""

    prompt_id: str
    uuid: str
    order: int
    text: str
    by: str | None
    process: int = 0
    n: int = 0
    sent_at: datetime | None = None
    delivered: bool = False  # said so
    running: bool = False  # a turn of this process has begun with it
    done: bool = False  # the agent said "completed"
    again: str = ""  # sent again, after this usage limit was reset


class Line(Struct, frozen=True):
    """A line to the agent that it may not have read. ``about``: prompt uuid or request id."""

    n: int
    kind: str  # control | prompt | answer | hook
    about: str
    data: str


# ── not kept ─────────────────────────────────────────────────────────────────────────────────────────────


class Link(Struct):
    """The connection of a session's agent. ``number`` names it; ``bridge`` tells its protocol."""

    number: int
    bridge: bool
    greeted: bool = False  # lines may be sent
    hello: int = 0  # process that the bridge named
    kept: int = 0  # offset that is durable
    acked: int = 0
    replaying: bool = False  # an sdk-url agent repeats what it said before: deltas are left out
    seen: set[str] = set()  # uuids of frames from before this connection


class Call(Struct):
    """A model call that runs, as its stream tells."""

    model: str
    usage: RunningUsage


class Session:
    """A record with what is around it. ``messages``: message id by parent tool, for agents before 2.1.329."""

    __slots__ = ("ask_again", "calls", "lines", "link", "messages", "prompts", "record", "screen", "waiting")

    def __init__(self, record: Record) -> None:
        self.record = record
        self.prompts: dict[str, Prompt] = {}
        self.lines: dict[int, Line] = {}
        self.link: Link | None = None
        self.messages: dict[str | None, str] = {}
        self.calls: dict[str | None, Call] = {}  # model calls that run, by parent tool
        self.waiting: dict[str, int] = {}  # request id of a question → the HTTP request that waits for it
        self.screen = Screen()
        self.ask_again = False  # a model call has finished since its cost was asked for


# ── effects ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class KeepSession(Keep):
    uid: str
    data: bytes


@dataclass(frozen=True, slots=True)
class KeepEvent(Keep):
    uid: str
    seq: int
    data: bytes


@dataclass(frozen=True, slots=True)
class KeepPrompt(Keep):
    """``data`` None: it is dealt with."""

    uid: str
    uuid: str
    data: bytes | None


@dataclass(frozen=True, slots=True)
class KeepLine(Keep):
    uid: str
    n: int
    data: bytes


@dataclass(frozen=True, slots=True)
class DropLines(Keep):
    uid: str
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class KeepSeen(Keep):
    """A frame of an sdk-url agent was dealt with."""

    uid: str
    uuid: str


@dataclass(frozen=True, slots=True)
class DropSeen(Keep):
    uid: str


@dataclass(frozen=True, slots=True)
class Forget(Keep):
    uid: str  # everything about it


@dataclass(frozen=True, slots=True)
class SendHello(Do):
    link: int
    process: int
    offset: int


@dataclass(frozen=True, slots=True)
class SendLine(Do):
    """``n`` 0: only to an sdk-url agent, and not kept."""

    link: int
    n: int
    data: str


@dataclass(frozen=True, slots=True)
class SendAck(Do):
    link: int
    offset: int


@dataclass(frozen=True, slots=True)
class SendBye(Do):
    link: int


@dataclass(frozen=True, slots=True)
class Close(Do):
    """Hang up. ``refused``: the bridge is not wanted and should end."""

    link: int
    reason: str
    refused: bool = False
    code: int = 1000


@dataclass(frozen=True, slots=True)
class AskController(Do):
    """Ask the tmux controller until it answers; the answer goes to `Sessions.controller_answered`."""

    uid: str
    session: str
    ask: Ask


@dataclass(slots=True)
class Settings:
    """What the configuration says, for the core."""

    node: str
    keep_ended_s: float = 86400.0
    max_permission_mode: str = "acceptEdits"
    resume_when_reset: bool = False
