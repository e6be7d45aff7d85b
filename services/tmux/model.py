"""What the tmux controller knows and may ask for, in values.

Theory of operation. A session has one `Record`, kept in the store from the moment its command is accepted
until nothing of it is left on this machine. `TRANSITIONS` holds every legal step:

    checking   the command is kept; directory, tmux, agent program and version are being looked at
    creating   ingest has been told (fact ``created``) and has not answered yet
    running    agent process number ``process`` is meant to run, or to be ended (``stop``: the session
               hibernates), or has exited and ingest decides what next
    ending     somebody asked for the end: the agent is asked, then signalled, then killed
    ended      the agent is gone and told so; window and directory are being removed
    failed     the same after a failure, and for what never came to be

A record in ``ended`` or ``failed`` is forgotten once window and directory are gone; its name is free as soon
as it gets there. What has to happen in a state follows from the record and what is `Seen` of the world, never
from what was done before: so a crash at any point is no special case.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from msgspec import Struct

from bus import messages as m
from bus.effects import Do, Keep


class State(enum.StrEnum):
    CHECKING = "checking"
    CREATING = "creating"
    RUNNING = "running"
    ENDING = "ending"
    ENDED = "ended"
    FAILED = "failed"


TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.CHECKING: frozenset({State.CREATING, State.FAILED}),
    State.CREATING: frozenset({State.RUNNING, State.ENDED, State.FAILED}),
    State.RUNNING: frozenset({State.ENDING, State.ENDED, State.FAILED}),
    State.ENDING: frozenset({State.ENDED}),
    State.ENDED: frozenset(),
    State.FAILED: frozenset(),
}

GONE = frozenset({State.ENDED, State.FAILED})


class Record(Struct, frozen=True, kw_only=True):
    """One session as this service keeps it. ``token`` is the agent's bearer token: the store is 0600."""

    uid: str
    asked: m.CreateSession
    state: State
    since: datetime
    created_at: datetime
    token: str
    prompt_id: str
    creator: str | None  # request id that waits for the state
    program: str = ""  # the agent's executable
    version: str = ""
    process: int = 1
    resume: str | None = None  # conversation that ``process`` goes on with
    told: int = 0  # the last process whose exit ingest was told of
    stop: int = 0  # the last process that ingest wants ended while the session stays: it hibernates
    force: bool = False  # … without asking the agent
    enders: tuple[str, ...] = ()  # request ids that wait for the end
    end_asked: bool = False  # also true when nobody waits for it
    end_reason: str | None = None
    ended_by: str | None = None

    @property
    def session(self) -> str:
        return self.asked.session


class Found(Struct, frozen=True, kw_only=True):
    """What a look at the world before opening a session has found; None means: as it should be.

    ``program`` and ``version`` are empty where they could not be had.
    """

    cwd_problem: str | None = None
    tmux_problem: str | None = None
    agent_problem: str | None = None
    breaker_open: str | None = None  # the watchdog's reason
    retry_at: str | None = None
    program: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class Pane:
    """A tmux pane with our mark. ``status`` is a dead pane's exit code, None when a signal ended it."""

    pane: str  # "%3"
    window_session: str  # "$1"
    uid: str
    process: int
    dead: bool
    status: int | None


@dataclass(frozen=True, slots=True)
class Exit:
    """What the keeper has written down. ``code`` None: nobody knows it."""

    code: int | None


class AgentIs(enum.Enum):
    """The agent process, by its pid file."""

    NOT_STARTED = "not started"  # no pid file (yet)
    ALIVE = "alive"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Seen:
    """One session's part of the world, looked at for ``process``."""

    process: int
    pane: Pane | None = None
    agent: AgentIs = AgentIs.NOT_STARTED
    exit: Exit | None = None
    directory: bool = False


# ── What the core asks for ───────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Save(Keep):
    record: Record


@dataclass(frozen=True, slots=True)
class Forget(Keep):
    uid: str


@dataclass(frozen=True, slots=True)
class Check(Do):
    """Look at directory, tmux and agent; then say `Core.checked`."""

    uid: str


@dataclass(frozen=True, slots=True)
class Wake(Do):
    """Look at the world now rather than in a second."""


@dataclass(frozen=True, slots=True)
class Open(Do):
    """Write the launch file of ``process`` and have its program run in the session's window; ``pane`` is the
    pane to reuse. Then say `Core.opened` or `Core.open_failed`.
    """

    uid: str
    process: int
    pane: str | None


@dataclass(frozen=True, slots=True)
class Signal(Do):
    """Send a signal to the process group of the session's agent."""

    uid: str
    process: int
    name: str  # INT | TERM | KILL


@dataclass(frozen=True, slots=True)
class CloseWindow(Do):
    uid: str
    window_session: str


@dataclass(frozen=True, slots=True)
class Clear(Do):
    """Remove what is left of a session: its window, then its directory."""

    uid: str
    window_session: str | None


@dataclass(frozen=True, slots=True)
class EndOrphan(Do):
    """Something of ours that no record knows (the database was moved away): end its agent and remove it."""

    uid: str
    window_session: str | None
