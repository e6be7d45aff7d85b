"""What happens to a bridge (events), what it does (effects), and what it remembers (state). `core` decides
over them."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from bus import bridge_wire as wire


class Link(enum.Enum):
    DOWN = "down"
    GREETING = "greeting"
    UP = "up"


# ── Events ───────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Connected:
    """The WebSocket is open."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The WebSocket could not be opened, or is gone. ``roll`` in [0, 1) spreads the next attempts of many
    bridges.
    """

    reason: str
    roll: float = 0.5


@dataclass(frozen=True, slots=True)
class Received:
    message: wire.FromIngest


@dataclass(frozen=True, slots=True)
class Sent:
    """A `Send` is with the operating system."""


@dataclass(frozen=True, slots=True)
class Grew:
    """The journal has ``size`` bytes."""

    size: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Answer to `Read`; may be shorter than asked for, not empty."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Wrote:
    """Line ``n`` is in the FIFO, ``size`` bytes with its newline."""

    n: int
    size: int


@dataclass(frozen=True, slots=True)
class NotWritten:
    """Line ``n`` can never be written."""

    n: int
    reason: str


@dataclass(frozen=True, slots=True)
class Unread:
    """So many bytes in the FIFO the agent has not read."""

    size: int


@dataclass(frozen=True, slots=True)
class Exited:
    """The agent is gone; the journal has ``size`` bytes for good."""

    code: int | None
    size: int
    error: str | None


@dataclass(frozen=True, slots=True)
class Measured:
    """How this bridge is now."""

    figures: wire.Figures


Event = Connected | Lost | Received | Sent | Grew | Chunk | Wrote | NotWritten | Unread | Exited | Measured

# ── Effects, to be carried out in their order ────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Send:
    """Give this to the connection, after those before it; then `Sent`. A lost connection forgets it."""

    message: bytes


@dataclass(frozen=True, slots=True)
class Read:
    """Read up to ``limit`` bytes of the journal at ``offset``, now; then `Chunk`."""

    offset: int
    limit: int


@dataclass(frozen=True, slots=True)
class Write:
    """Write one line (without newline) into the agent's stdin; then `Wrote` or `NotWritten`, or nothing if it
    is gone.
    """

    n: int
    data: str


@dataclass(frozen=True, slots=True)
class Save:
    """Make durable before the effects that follow."""

    written: int
    kept: int
    unwritable: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Punch:
    """The journal's bytes below ``end`` are not needed any more."""

    end: int


@dataclass(frozen=True, slots=True)
class Kill:
    """Send the signal to the agent's process group."""

    name: Literal["INT", "TERM", "KILL"]


@dataclass(frozen=True, slots=True)
class Connect:
    """Try to connect, after so many seconds."""

    after_s: float


@dataclass(frozen=True, slots=True)
class Tell:
    """A dim line in the window."""

    text: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End this program. ``reason`` is for the window."""

    code: int
    reason: str


Effect = Send | Read | Write | Save | Punch | Kill | Connect | Tell | Stop

# ── State ────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class State:
    """``written``, ``kept`` and ``unwritable`` are what `Save` kept; the rest is found out anew."""

    process: int
    agent_pid: int | None
    written: int = 0
    kept: int = 0
    unwritable: tuple[tuple[int, str], ...] = ()

    link: Link = Link.DOWN
    attempts: int = 0
    down_since: datetime | None = None
    outage_told: bool = False

    size: int = 0
    sent: int = 0
    acked: int = 0  # of the present connection
    figures: bool = False  # the present connection takes them
    pieces: tuple[bytes, ...] = ()  # of the line that begins at `sent`; empty when it is too long
    pieces_size: int = 0  # counts on when it is too long
    sending: int = 0

    queue: tuple[wire.Line, ...] = ()
    writing: bool = False
    poured: int = 0  # bytes written, counted from any start
    untaken: tuple[tuple[int, int], ...] = ()  # line number, `poured` after it
    taken: int = 0

    exited: Exited | None = None
    exit_said: bool = False
    stopped: bool = False
