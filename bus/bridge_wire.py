"""What a bridge and ingest say to each other on `ws://…/ws/sessions/<name>`, subprotocol `SUBPROTOCOL`.

The session's bearer token stands in the upgrade (`Authorization: Bearer …`). Every message is binary: one
JSON object tagged by `t`, ended by a newline; only `Data` has bytes after that newline. The bridge speaks
first (`BridgeHello`), ingest answers with `IngestHello` or `Refused`, and from then on both say what they
have. Nothing but the sequence of messages is assumed: after any loss of the connection both begin with their
hellos again.

Offsets count bytes of the agent's standard output since its process began. They grow without a gap: the
messages of type `Data` of one connection, put together, cover everything from `IngestHello.offset` on, each
line once. Where a line cannot be had, a line of ours stands in its place (`notice`), with `Data.end` saying
how far it reaches.

Lines to the agent are numbered from 1 for each agent process. A bridge writes them in the order of their
numbers and none twice; `BridgeHello.written` says up to where, so ingest sends what is above it, and again
what it is not sure of.

What does not fit is a `PeerError`: the receiver closes the connection; nothing else is raised.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from bus.errors import MisuseError, PeerError

SUBPROTOCOL = "pointsman.bridge.v1"
VERSION = 1

BATCH_BYTES = 1024 * 1024
"""A bridge that has fallen behind puts whole lines together up to this; one longer line goes alone."""

MAX_LINE_BYTES = 16 * 1024 * 1024
"""A longer line of the agent, newline included, is replaced by the notice `oversized`."""

MAX_MESSAGE_BYTES = MAX_LINE_BYTES + 1024
"""No message is longer. Give it to trio-websocket on both sides: its own default is 1 MiB."""

FIGURES_S = 10.0
"""How often a bridge says its `Figures` to who asked for them, after once at the greeting."""

MAX_INPUT_LINE_BYTES = 900 * 1024
"""A line to the agent must fit into a pipe of 1 MiB (Linux's limit for users, fs.pipe-max-size) at one go,
newline included."""

Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Seconds = Annotated[float, Meta(ge=0)]
LineNumber = Annotated[int, Meta(ge=1, le=2**63 - 1)]
ProcessNumber = Annotated[int, Meta(ge=1, le=2**31 - 1)]


class Message(Struct, frozen=True, kw_only=True, tag_field="t"):
    """Base of both directions. Unknown fields are ignored, so that a newer peer can talk to us."""


# ── bridge → ingest ──────────────────────────────────────────────────────────────────────────────────────


class BridgeHello(Message, frozen=True, kw_only=True, tag="hello"):
    """First message of each connection.

    ``written``: all lines up to this number are in the agent's stdin (0: none yet). ``size``: bytes in the
    journal now. ``agent_pid`` is None when the agent never ran. ``kept``: bytes below it are punched out; an
    `IngestHello.offset` below it is answered by a notice ``lost``.
    """

    v: Annotated[int, Meta(ge=1, le=1_000_000)] = VERSION
    process: ProcessNumber
    written: Count
    agent_pid: Count | None
    size: Count
    kept: Count = 0


class Data(Message, frozen=True, kw_only=True, tag="data"):
    """Whole lines of the journal, from byte ``offset`` up to, not including, byte ``end``.

    ``raw`` follows the JSON head on the wire; it is never empty and ends with a newline. ``end`` is ``offset
    + len(raw)`` except for a notice.
    """

    offset: Count
    end: Count
    raw: bytes


class Taken(Message, frozen=True, kw_only=True, tag="taken"):
    """The agent has read all lines up to number ``n`` from its stdin."""

    n: LineNumber


class Unwritable(Message, frozen=True, kw_only=True, tag="unwritable"):
    """Line ``n`` was left out for good, ``reason`` says why: not one JSON object, or too long. Said again at
    each connection.
    """

    n: LineNumber
    reason: str


class Exit(Message, frozen=True, kw_only=True, tag="exit"):
    """The agent is gone and all its data (``size`` bytes) were sent before. Said at each connection until
    `Bye`.

    ``code``: exit code, minus the signal's number when a signal ended it, 127/126 when it could not be
    started, None when nobody knows. ``error``: the end of its stderr if the code is not 0.
    """

    process: ProcessNumber
    code: int | None
    size: Count
    error: str | None = None


class Used(Struct, frozen=True, kw_only=True):
    """What a process uses: ``cpu_s`` of the processor since it began, ``started_s`` after 1970."""

    rss_bytes: Count
    cpu_s: Seconds
    open_fds: Count
    started_s: Seconds


class Figures(Message, frozen=True, kw_only=True, tag="figures"):
    """How the bridge is, for Prometheus. Only for an ingest that asked (`IngestHello.figures`): an older one
    would hang up on a message that it does not know.

    ``keeper`` is None when it is gone. ``journal_bytes`` are on the disk, ``unacknowledged_bytes`` of them
    not kept by ingest yet; ``waiting_lines`` are for the agent, which has not read them. Counted since the
    bridge began: what it sent of the journal (again after each loss of the connection) and wrote into the
    agent's stdin, lines for the agent that were left out, connections that stood, and attempts that failed.
    """

    version: Annotated[str, Meta(max_length=64)]
    bridge: Used
    keeper: Used | None
    journal_bytes: Count
    unacknowledged_bytes: Count
    waiting_lines: Count
    lines_out: Count
    bytes_out: Count
    lines_in: Count
    bytes_in: Count
    unwritable: Count
    connections: Count
    failed_connections: Count


# ── ingest → bridge ──────────────────────────────────────────────────────────────────────────────────────


class IngestHello(Message, frozen=True, kw_only=True, tag="hello"):
    """Go on with agent process ``process`` from byte ``offset`` of its journal (0: from the start).

    ``figures``: it takes `Figures`.
    """

    process: ProcessNumber
    offset: Count
    figures: bool = False


class Line(Message, frozen=True, kw_only=True, tag="line"):
    """Line number ``n`` for the agent's stdin: one JSON object without a newline."""

    n: LineNumber
    data: str


class Ack(Message, frozen=True, kw_only=True, tag="ack"):
    """Everything below byte ``offset`` is kept durably by ingest; the bridge may punch it out."""

    offset: Count


class Signal(Message, frozen=True, kw_only=True, tag="signal"):
    """Send this signal to the agent's process group."""

    name: Literal["INT", "TERM", "KILL"]


class Refused(Message, frozen=True, kw_only=True, tag="refused"):
    """This bridge is not wanted (another process number, unknown session, …): it ends with exit code 3."""

    reason: str


class Bye(Message, frozen=True, kw_only=True, tag="bye"):
    """The exit is kept durably: the bridge ends with code 0."""


FromBridge = BridgeHello | Data | Taken | Unwritable | Exit | Figures
FromIngest = IngestHello | Line | Ack | Signal | Refused | Bye

_Plain = (
    BridgeHello | Taken | Unwritable | Exit | Figures
)  # all of FromBridge that msgspec can read by itself
T = TypeVar("T")


class _DataHead(Message, frozen=True, kw_only=True, tag="data"):
    offset: Count
    end: Count | None = None


_encoder = msgspec.json.Encoder()
_head_decoder: msgspec.json.Decoder[_DataHead | _Plain] = msgspec.json.Decoder(_DataHead | _Plain)
_ingest_decoder: msgspec.json.Decoder[FromIngest] = msgspec.json.Decoder(FromIngest)


def encode(message: _Plain | FromIngest) -> bytes:
    """The bytes of any message but `Data`."""
    return _encoder.encode(message) + b"\n"


def encode_data(offset: int, chunk: bytes, end: int | None = None) -> bytes:
    """The bytes of a `Data` message; ``end`` only where it is not ``offset + len(chunk)``.

    Raises `MisuseError` for a chunk that is not whole lines.
    """
    if not chunk.endswith(b"\n"):
        raise MisuseError("data are whole lines")
    if end is None or end == offset + len(chunk):
        return b'{"t":"data","offset":%d}\n%b' % (offset, chunk)
    return b'{"t":"data","offset":%d,"end":%d}\n%b' % (offset, end, chunk)


def notice(kind: Literal["oversized", "partial", "lost"], size: int) -> bytes:
    """The line that stands for ``size`` bytes which cannot be had, newline included.

    ``oversized``: a line over `MAX_LINE_BYTES`; ``partial``: the agent died in the middle of a line;
    ``lost``: acknowledged once, so punched out, but asked for again.
    """
    return b'{"type":"pointsman_%b","bytes":%d}\n' % (kind.encode(), size)


def decode_from_bridge(message: bytes) -> FromBridge:
    """What a bridge said. Raises `PeerError` (``bad_request``, ``too_large``)."""
    head, newline, raw = _split(message)
    decoded = _decode(_head_decoder, head)
    if not isinstance(decoded, _DataHead):
        if raw:
            raise PeerError("bad_request", f"bytes after a message of type {type(decoded).__name__}")
        return decoded
    if not newline or not raw.endswith(b"\n"):
        raise PeerError("bad_request", "data do not end with a newline")
    end = decoded.offset + len(raw) if decoded.end is None else decoded.end
    if end <= decoded.offset or end > 2**63 - 1:
        raise PeerError("bad_request", f"data from byte {decoded.offset} cannot end at {end}")
    return Data(offset=decoded.offset, end=end, raw=raw)


def decode_from_ingest(message: bytes) -> FromIngest:
    """What ingest said. Raises `PeerError` (``bad_request``, ``too_large``)."""
    head, _, rest = _split(message)
    if rest:
        raise PeerError("bad_request", "bytes after the message")
    return _decode(_ingest_decoder, head)


def check_input_line(data: str) -> str | None:
    """Why this may not be written into an agent's stdin as one line; None when it may.

    The agent ends at the first line that is not JSON, so ingest asks before it keeps a line, and the bridge
    before it writes.
    """
    raw = data.encode("utf-8", "surrogatepass")
    if len(raw) + 1 > MAX_INPUT_LINE_BYTES:
        return f"{len(raw) + 1} bytes; at most {MAX_INPUT_LINE_BYTES} go into the agent's stdin at one go"
    if b"\n" in raw or b"\r" in raw:
        return "more than one line"
    try:
        value: Any = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return f"not JSON: {error}"
    return None if isinstance(value, dict) else "not a JSON object"


def _split(message: bytes) -> tuple[bytes, bytes, bytes]:
    if not isinstance(message, bytes):
        raise PeerError("bad_request", "messages are binary")
    if len(message) > MAX_MESSAGE_BYTES:
        raise PeerError("too_large", f"message of {len(message)} bytes; at most {MAX_MESSAGE_BYTES}")
    return message.partition(b"\n")


def _decode(decoder: msgspec.json.Decoder[T], head: bytes) -> T:
    try:
        return decoder.decode(head)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PeerError("bad_request", str(error)) from None
