"""What the bridge decides. Pure: state, event and the time in; new state and effects out.

Theory of operation
-------------------
Two streams, independent of each other.

**Outwards**, journal → ingest. The journal is a file that only grows; `State.size` is how far, `State.sent`
how far whole lines were given to the present connection. Ingest says after each connect from where it goes
on; nothing of an earlier connection counts, so a crash on either side repeats lines and loses none. One
piece at a time: what is read goes out, and only when it is out (`Sent`) is more read, so that a slow
connection costs no memory and a bridge that has fallen behind sends full batches. Of a line whose end has
not come yet the pieces wait in `State.pieces`; too long a line is not kept but counted. What ingest has
acknowledged is punched out in steps of `PUNCH_STEP`, after `kept` is durable: whoever reads the journal from
`kept` finds lines.

**Inwards**, ingest → agent's stdin. Lines wait in `State.queue` until the shell has written them, one at a
time, in order. A line is known by its number: what is not above the last one accepted is dropped. `written`
is made durable after the write; a crash between them writes the line twice, which agents forgive, and never
leaves one out. Written is not taken: the shell says how many bytes the agent has not read yet, and each line
whose end is before them is `taken`.

The link is down, greeting or up:

    state      event            next       does
    DOWN       Connected        GREETING   says hello
    GREETING   IngestHello      UP         sends from its offset; says again what is taken, unwritable, exited
    GREETING   Lost             DOWN       connects after the backoff
    UP         Lost             DOWN       connects after the first backoff
    any        Refused, other process      stops, code 3
    UP         Bye after Exit              stops, code 0
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from bus import bridge_wire as wire
from services.bridge.model import (
    Chunk,
    Connect,
    Connected,
    Effect,
    Event,
    Exited,
    Grew,
    Kill,
    Link,
    Lost,
    Measured,
    NotWritten,
    Punch,
    Read,
    Received,
    Save,
    Send,
    Sent,
    State,
    Stop,
    Tell,
    Unread,
    Write,
    Wrote,
)

BACKOFF_FIRST_S = 0.1
BACKOFF_LAST_S = 5.0
OUTAGE_TOLD_AFTER_S = 2.0  # a restart of ingest takes less; nobody at the window needs to know
PUNCH_STEP = 64 * 1024  # bytes; a hole punched for each acknowledgement would be a system call per frame
UNWRITABLE_KEPT = 32  # notices of lines left out that are said again after a reconnect


def start(state: State, unread: int, now: datetime) -> tuple[State, list[Effect]]:
    """Begin. ``unread``: bytes that an earlier bridge left in the FIFO."""
    untaken = ((state.written, unread),) if state.written else ()
    return replace(state, poured=unread, untaken=untaken, down_since=now), [Connect(0.0)]


def step(state: State, event: Event, now: datetime) -> tuple[State, list[Effect]]:
    """The next state and what to do. Events that no longer matter (of a lost connection, after the stop) do
    nothing.
    """
    if state.stopped:
        return state, []
    effects: list[Effect] = []
    match event:
        case Connected():
            state = replace(state, link=Link.GREETING, sending=1)
            effects.append(Send(_hello(state)))
        case Lost():
            state = _lost(state, event, now, effects)
        case Received():
            state = _received(state, event.message, now, effects)
        case Sent():
            state = replace(state, sending=max(0, state.sending - 1))
        case Grew():
            state = replace(state, size=max(state.size, event.size))
        case Chunk():
            state = _chunk(state, event, effects)
        case Wrote():
            poured = state.poured + event.size
            untaken = (*state.untaken, (event.n, poured))
            state = _written(replace(state, poured=poured, untaken=untaken), event.n, effects)
        case NotWritten():
            notices = (*state.unwritable, (event.n, event.reason))[-UNWRITABLE_KEPT:]
            state = _written(replace(state, unwritable=notices), event.n, effects)
            if state.link is Link.UP:
                state = _say(state, wire.Unwritable(n=event.n, reason=event.reason), effects)
        case Unread():
            state = _unread(state, event.size, effects)
        case Exited():
            state = replace(state, exited=event, size=event.size)
        case Measured():
            if state.link is Link.UP and state.figures:
                state = _say(state, event.figures, effects)
    if not state.stopped:
        state = _go_on(state, effects)
    return state, effects


def delay_s(attempts: int, roll: float) -> float:
    """Seconds to wait before the next attempt after ``attempts`` failed ones: doubled up to a limit, spread
    by a quarter.
    """
    return min(BACKOFF_LAST_S, BACKOFF_FIRST_S * 2.0 ** min(attempts, 16)) * (0.75 + 0.5 * roll)


def _hello(state: State) -> bytes:
    return wire.encode(
        wire.BridgeHello(
            process=state.process,
            written=state.written,
            agent_pid=state.agent_pid,
            size=state.size,
            kept=state.kept,
        )
    )


def _say(
    state: State, message: wire.Taken | wire.Unwritable | wire.Exit | wire.Figures, effects: list[Effect]
) -> State:
    effects.append(Send(wire.encode(message)))
    return replace(state, sending=state.sending + 1)


def _lost(state: State, event: Lost, now: datetime, effects: list[Effect]) -> State:
    effects.append(Connect(delay_s(state.attempts, event.roll)))
    since = state.down_since or now
    told = state.outage_told
    if not told and (now - since).total_seconds() >= OUTAGE_TOLD_AFTER_S:
        effects.append(Tell(f"Pointsman cannot be reached ({event.reason}); the agent goes on, trying again"))
        told = True
    return replace(
        state,
        link=Link.DOWN,
        attempts=state.attempts + 1,
        down_since=since,
        outage_told=told,
        sending=0,
        pieces=(),
        pieces_size=0,
        exit_said=False,
    )


def _received(state: State, message: wire.FromIngest, now: datetime, effects: list[Effect]) -> State:
    match message:
        case wire.IngestHello():
            return _greeted(state, message, effects)
        case wire.Line():
            last = state.queue[-1].n if state.queue else state.written
            return replace(state, queue=(*state.queue, message)) if message.n > last else state
        case wire.Ack():
            return _acknowledged(state, message.offset, effects)
        case wire.Signal():
            if state.exited is None:
                effects.append(Kill(message.name))
            return state
        case wire.Refused():
            return _stop(state, 3, f"Pointsman refused this bridge: {message.reason}", effects)
        case wire.Bye():
            if state.exited is None or not state.exit_said:
                return state
            code = state.exited.code
            return _stop(
                state, 0, f"the agent has ended (exit code {'unknown' if code is None else code})", effects
            )


def _stop(state: State, code: int, reason: str, effects: list[Effect]) -> State:
    effects.append(Stop(code, reason))
    return replace(state, stopped=True)


def _greeted(state: State, hello: wire.IngestHello, effects: list[Effect]) -> State:
    if hello.process != state.process:
        reason = f"it is at agent process {hello.process}, this is the bridge of process {state.process}"
        return _stop(state, 3, f"Pointsman refused this bridge: {reason}", effects)
    if state.link is not Link.GREETING:
        return state
    if state.outage_told:
        effects.append(Tell("connected again"))
    state = replace(
        state,
        link=Link.UP,
        attempts=0,
        down_since=None,
        outage_told=False,
        sent=hello.offset,
        acked=hello.offset,
        figures=hello.figures,
    )
    if hello.offset < state.kept:
        lost = wire.notice("lost", state.kept - hello.offset)
        effects.append(Send(wire.encode_data(hello.offset, lost, state.kept)))
        state = replace(state, sent=state.kept, sending=state.sending + 1)
    for n, reason in state.unwritable:
        state = _say(state, wire.Unwritable(n=n, reason=reason), effects)
    if state.taken:
        state = _say(state, wire.Taken(n=state.taken), effects)
    return state


def _acknowledged(state: State, offset: int, effects: list[Effect]) -> State:
    offset = min(offset, state.sent)  # what was never sent cannot have been kept
    state = replace(state, acked=max(state.acked, offset))
    if state.link is not Link.UP or offset - state.kept < PUNCH_STEP:
        return state
    state = replace(state, kept=offset)
    effects += [_save(state), Punch(offset)]
    return state


def _save(state: State) -> Save:
    return Save(state.written, state.kept, state.unwritable)


def _written(state: State, n: int, effects: list[Effect]) -> State:
    state = replace(state, written=n, writing=False, queue=state.queue[1:])
    effects.append(_save(state))
    return state


def _unread(state: State, size: int, effects: list[Effect]) -> State:
    read = state.poured - size
    done = [n for n, end in state.untaken if end <= read]
    if not done:
        return state
    state = replace(state, taken=done[-1], untaken=state.untaken[len(done) :])
    return _say(state, wire.Taken(n=state.taken), effects) if state.link is Link.UP else state


def _chunk(state: State, event: Chunk, effects: list[Effect]) -> State:
    """Send the lines that are whole now, keep the rest."""
    if state.link is not Link.UP or event.offset != state.sent + state.pieces_size:
        return state
    data = event.data
    first_end = data.find(b"\n") + 1
    if not first_end:
        size = state.pieces_size + len(data)
        pieces = (*state.pieces, data) if size <= wire.MAX_LINE_BYTES else ()
        return replace(state, pieces=pieces, pieces_size=size)
    if state.pieces_size:  # the line that we have waited for goes by itself
        state = _send_first(state, data[:first_end], effects)
        data = data[first_end:]
    whole, _, rest = data.rpartition(b"\n")
    if whole or data.startswith(b"\n"):
        lines = data[: len(whole) + 1]
        effects.append(Send(wire.encode_data(state.sent, lines)))
        state = replace(state, sent=state.sent + len(lines), sending=state.sending + 1)
    return replace(state, pieces=(rest,) if rest else (), pieces_size=len(rest))


def _send_first(state: State, last_piece: bytes, effects: list[Effect]) -> State:
    size = state.pieces_size + len(last_piece)
    if size > wire.MAX_LINE_BYTES:
        line = wire.notice("oversized", size)
    else:
        line = b"".join((*state.pieces, last_piece))
    effects.append(Send(wire.encode_data(state.sent, line, state.sent + size)))
    return replace(state, sent=state.sent + size, pieces=(), pieces_size=0, sending=state.sending + 1)


def _go_on(state: State, effects: list[Effect]) -> State:
    """What can be done next, whatever has happened."""
    if state.queue and not state.writing and state.exited is None:
        state = replace(state, writing=True)
        effects.append(Write(state.queue[0].n, state.queue[0].data))
    if state.link is not Link.UP or state.sending:
        return state
    at = state.sent + state.pieces_size
    if at < state.size:
        effects.append(Read(at, min(wire.BATCH_BYTES, state.size - at)))
        return state
    gone = state.exited
    if gone is None or state.exit_said:
        return state
    if state.pieces_size:
        line = wire.notice("partial", state.pieces_size)
        effects.append(Send(wire.encode_data(state.sent, line, at)))
        state = replace(state, sent=at, pieces=(), pieces_size=0, sending=state.sending + 1)
    said = wire.Exit(process=state.process, code=gone.code, size=gone.size, error=gone.error)
    return _say(replace(state, exit_said=True), said, effects)
