"""The bridge's core: transcripts of single matters, then any interleaving of growth, loss, crashes and
acknowledgements."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus import bridge_wire as wire
from services.bridge import core, model
from services.bridge.model import Effect, Event, State

NOW = datetime(2026, 11, 21, tzinfo=UTC)
FIGURES = wire.Figures(
    version="1", bridge=wire.Used(rss_bytes=1, cpu_s=1.0, open_fds=1, started_s=1.0), keeper=None,
    journal_bytes=1, unacknowledged_bytes=0, waiting_lines=0, lines_out=0, bytes_out=0, lines_in=0,
    bytes_in=0, unwritable=0, connections=1, failed_connections=0,
)  # fmt: skip


class Playbook:
    """A core and what it has done since the last look."""

    def __init__(self, **state: object) -> None:
        self.state = replace(State(process=1, agent_pid=99), **state)  # type: ignore[arg-type]
        self.now = NOW
        self.state, self.done = core.start(self.state, 0, NOW)

    def happens(self, *events: Event) -> list[Effect]:
        self.done = []
        for event in events:
            self.state, effects = core.step(self.state, event, self.now)
            self.done += effects
        return self.done

    def up(self, offset: int = 0) -> list[Effect]:
        return self.happens(
            model.Connected(), model.Sent(), model.Received(wire.IngestHello(process=1, offset=offset))
        )

    def said(self) -> list[wire.FromBridge]:
        return [wire.decode_from_bridge(do.message) for do in self.done if isinstance(do, model.Send)]

    def did(self, kind: type[Effect]) -> list[Effect]:
        return [do for do in self.done if isinstance(do, kind)]


def test_the_first_message_says_where_we_are() -> None:
    book = Playbook(written=4, kept=10)
    assert book.done == [model.Connect(0.0)]
    book.happens(model.Grew(50), model.Connected())
    assert book.said() == [wire.BridgeHello(process=1, written=4, agent_pid=99, size=50, kept=10)]


def test_whole_lines_go_out_and_halves_wait() -> None:
    book = Playbook()
    book.up()
    assert book.happens(model.Grew(10)) == [model.Read(0, 10)]
    book.happens(model.Chunk(0, b'{"a":1}\n{"'))
    assert book.said() == [wire.Data(offset=0, end=8, raw=b'{"a":1}\n')]
    book.happens(model.Sent(), model.Grew(16))
    assert book.done == [model.Read(10, 6)]
    book.happens(model.Chunk(10, b'b":2}\n'))
    assert book.said() == [wire.Data(offset=8, end=16, raw=b'{"b":2}\n')]


def test_nothing_more_is_read_while_something_is_being_sent() -> None:
    book = Playbook()
    book.up()
    book.happens(model.Grew(3), model.Chunk(0, b"{}\n"))
    assert book.happens(model.Grew(1000)) == []
    assert book.happens(model.Sent()) == [model.Read(3, 997)]


def test_a_bridge_behind_sends_batches() -> None:
    book = Playbook()
    book.happens(model.Grew(5 * wire.BATCH_BYTES))
    assert book.up()[-1] == model.Read(0, wire.BATCH_BYTES)


def test_too_long_a_line_is_replaced_and_the_offsets_stay_right() -> None:
    with patch.object(wire, "MAX_LINE_BYTES", 20):
        book = Playbook()
        book.up()
        book.happens(model.Grew(30), model.Chunk(0, b"x" * 15))
        book.happens(model.Chunk(15, b"x" * 9))
        assert not book.state.pieces, "not kept"
        book.happens(model.Chunk(24, b"x\n{}\n{"))
        assert book.said() == [
            wire.Data(offset=0, end=26, raw=wire.notice("oversized", 26)),
            wire.Data(offset=26, end=29, raw=b"{}\n"),
        ]
        assert book.state.pieces == (b"{",)


def test_figures_are_for_an_ingest_that_asked() -> None:
    book = Playbook()
    book.happens(model.Measured(FIGURES))
    book.up()
    assert book.happens(model.Measured(FIGURES)) == []
    book.happens(model.Lost("away"), model.Connected(), model.Sent())
    book.happens(model.Received(wire.IngestHello(process=1, offset=0, figures=True)))
    book.happens(model.Measured(FIGURES))
    assert book.said() == [FIGURES]
    assert book.happens(model.Grew(3)) == [], "one message at a time"
    assert book.happens(model.Sent()) == [model.Read(0, 3)]


def test_what_is_acknowledged_counts_for_the_present_connection() -> None:
    book = Playbook()
    book.up()
    book.happens(model.Grew(6), model.Chunk(0, b"{}\n{}\n"), model.Received(wire.Ack(offset=3)))
    assert book.state.acked == 3
    book.happens(model.Received(wire.Ack(offset=99)))
    assert book.state.acked == 6, "never more than was sent"
    book.happens(model.Lost("away"))
    book.up(3)
    assert book.state.acked == 3


def test_acknowledged_parts_are_punched_in_steps_after_they_are_remembered() -> None:
    book = Playbook()
    book.up()
    size = core.PUNCH_STEP + 10
    line = b'"' + b"x" * (size - 3) + b'"\n'
    book.happens(model.Grew(size), model.Chunk(0, line), model.Sent())
    assert book.happens(model.Received(wire.Ack(offset=core.PUNCH_STEP - 1))) == []
    book.happens(model.Received(wire.Ack(offset=10**12)))
    assert book.done == [model.Save(0, size, ()), model.Punch(size)]


def test_what_is_punched_out_and_asked_for_again_is_told_as_lost() -> None:
    book = Playbook(kept=500)
    book.up(offset=100)
    assert book.said()[1:] == [wire.Data(offset=100, end=500, raw=wire.notice("lost", 400))]
    book.happens(model.Sent(), model.Grew(503))
    assert book.done == [model.Read(500, 3)]


def test_lines_are_written_one_at_a_time_in_order_and_once() -> None:
    book = Playbook(written=2)
    book.up()
    one, two = wire.Line(n=3, data='{"a":3}'), wire.Line(n=4, data='{"a":4}')
    book.happens(model.Received(wire.Line(n=2, data="{}")), model.Received(one), model.Received(two))
    assert book.done == [model.Write(3, '{"a":3}')]
    assert book.happens(model.Received(one), model.Received(two)) == []
    assert book.happens(model.Wrote(3, 8)) == [model.Save(3, 0, ()), model.Write(4, '{"a":4}')]
    book.happens(model.Wrote(4, 8))
    assert book.happens(model.Received(two)) == []


def test_taken_is_said_when_the_agent_has_read_that_far_and_again_after_a_reconnect() -> None:
    book = Playbook()
    book.up()
    book.happens(model.Received(wire.Line(n=1, data="{}")), model.Received(wire.Line(n=2, data="{}")))
    book.happens(model.Wrote(1, 3), model.Wrote(2, 3), model.Unread(5))
    assert book.said() == []
    book.happens(model.Unread(2))
    assert book.said() == [wire.Taken(n=1)]
    book.happens(model.Lost("gone"), model.Unread(0))
    assert book.said() == []
    book.up()
    assert wire.Taken(n=2) in book.said()


def test_what_an_earlier_bridge_wrote_is_taken_when_the_agent_has_read_it() -> None:
    state, _ = core.start(State(process=1, agent_pid=99, written=7), 40, NOW)
    state, _ = core.step(state, model.Unread(1), NOW)
    assert state.taken == 0
    state, _ = core.step(state, model.Unread(0), NOW)
    assert state.taken == 7


def test_a_line_that_cannot_be_written_is_left_out_and_said_again() -> None:
    book = Playbook()
    book.up()
    book.happens(
        model.Received(wire.Line(n=1, data="no")),
        model.Received(wire.Line(n=2, data="{}")),
        model.NotWritten(1, "not JSON"),
    )
    assert book.did(model.Save) == [model.Save(1, 0, ((1, "not JSON"),))]
    assert book.said() == [wire.Unwritable(n=1, reason="not JSON")]
    assert book.did(model.Write)[-1] == model.Write(2, "{}")
    book.happens(model.Lost("gone"))
    book.up()
    assert wire.Unwritable(n=1, reason="not JSON") in book.said()


def test_the_exit_comes_after_all_data_at_each_connection_until_bye() -> None:
    book = Playbook()
    book.up()
    book.happens(model.Grew(3), model.Exited(143, 5, "killed"))
    assert book.said() == []
    book.happens(model.Chunk(0, b"{}\n{h"), model.Sent())
    said = wire.Exit(process=1, code=143, size=5, error="killed")
    assert book.said() == [
        wire.Data(offset=0, end=3, raw=b"{}\n"),
        wire.Data(offset=3, end=5, raw=wire.notice("partial", 2)),
        said,
    ]
    book.happens(model.Lost("gone"))
    assert book.happens(model.Received(wire.Bye())) == []
    book.up(offset=5)
    assert book.said()[-1] == said
    assert book.happens(model.Received(wire.Bye())) == [model.Stop(0, "the agent has ended (exit code 143)")]
    assert book.happens(model.Lost("whatever"), model.Grew(9)) == []


def test_signals_reach_only_a_living_agent() -> None:
    book = Playbook()
    book.up()
    assert book.happens(model.Received(wire.Signal(name="INT"))) == [model.Kill("INT")]
    book.happens(model.Exited(0, 0, None))
    assert book.happens(model.Received(wire.Signal(name="KILL"))) == []


@pytest.mark.parametrize(
    "message", [wire.Refused(reason="unknown session"), wire.IngestHello(process=2, offset=0)]
)
def test_a_bridge_that_is_not_wanted_stops_with_3(message: wire.FromIngest) -> None:
    book = Playbook()
    book.happens(model.Connected(), model.Sent(), model.Received(message))
    [stop] = book.done[-1:]
    assert isinstance(stop, model.Stop)
    assert stop.code == 3


def test_backoff_doubles_to_five_seconds_and_starts_anew_after_a_greeting() -> None:
    book = Playbook()
    delays = []
    for _ in range(8):
        [connect] = [do for do in book.happens(model.Lost("no", 0.5)) if isinstance(do, model.Connect)]
        delays.append(connect.after_s)
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    book.up()
    assert book.happens(model.Lost("no", 0.5)) == [model.Connect(0.1)]
    assert core.delay_s(10**6, 0.0) == 3.75


def test_only_a_long_outage_is_told_and_its_end() -> None:
    book = Playbook()
    book.up()
    assert book.did(model.Tell) == []
    book.happens(model.Lost("closed"))
    book.now += timedelta(seconds=3)
    book.happens(model.Lost("closed"), model.Lost("closed"))
    assert len(book.did(model.Tell)) == 1
    book.up()
    assert book.did(model.Tell) == [model.Tell("connected again")]


# ── any interleaving ─────────────────────────────────────────────────────────────────────────────────────


class Sim:
    """A bridge that may die, an agent, and an ingest that commits what it takes and forgets the rest."""

    def __init__(self) -> None:
        self.truth = bytearray()  # all that the agent ever said
        self.disk = bytearray()  # the same, punched
        self.saved = model.Save(0, 0, ())
        self.fifo: list[tuple[int, int]] = []  # (n, size) written, not read
        self.stdin: list[int] = []  # line numbers in the order of their writing
        self.crashed_after_write: set[int] = set()
        self.given = 0  # lines that ingest has made
        self.taken = 0
        self.committed = bytearray()  # ingest's copy: raw lines
        self.offset = 0
        self.exit: int | None = None
        self.told_exit = False
        self.connected = False
        self.wanted = False
        self.outbox: list[bytes] = []
        self.write: model.Write | None = None
        self.events: list[Event] = []
        self.boot()

    def boot(self) -> None:
        self.connected, self.outbox, self.write = False, [], None
        unread = sum(size for _, size in self.fifo)
        kept = self.saved
        state = State(
            process=1, agent_pid=1, written=kept.written, kept=kept.kept, unwritable=kept.unwritable
        )
        self.state, effects = core.start(state, unread, NOW)
        self.do(effects)
        self.feed(model.Grew(len(self.disk)))
        if self.exit is not None:
            self.feed(model.Exited(self.exit, len(self.disk), None))

    def feed(self, event: Event) -> None:
        self.events.append(event)
        while self.events:
            self.state, effects = core.step(self.state, self.events.pop(0), NOW)
            self.do(effects)

    def do(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case model.Send():
                    assert self.connected
                    self.outbox.append(effect.message)
                case model.Read():
                    data = bytes(self.disk[effect.offset : effect.offset + effect.limit])
                    assert data, "read beyond the end"
                    self.events.append(model.Chunk(effect.offset, data))
                case model.Write():
                    assert self.write is None
                    self.write = effect
                case model.Save():
                    self.saved = effect
                case model.Punch():
                    assert effect.end <= self.saved.kept
                    assert effect.end <= self.offset, "punched what ingest has not kept"
                    self.disk[: effect.end] = bytes(effect.end)
                case model.Connect():
                    self.wanted = True
                case model.Stop():
                    assert effect.code == 0

    # what the world may do

    def agent_says(self, data: bytes) -> None:
        if self.exit is None:
            self.truth += data
            self.disk += data
            self.feed(model.Grew(len(self.disk)))

    def agent_reads(self) -> None:
        if self.fifo:
            self.fifo.pop(0)
        self.feed(model.Unread(sum(size for _, size in self.fifo)))

    def agent_exits(self) -> None:
        if self.exit is None:
            self.exit = 7
            self.feed(model.Exited(7, len(self.disk), None))

    def connect(self) -> None:
        if self.wanted and not self.state.stopped:
            self.wanted, self.connected = False, True
            self.feed(model.Connected())

    def drop(self) -> None:
        if self.connected:
            self.connected, self.outbox = False, []
            self.feed(model.Lost("dropped"))

    def deliver(self, *, seen: bool = True) -> None:
        """Ingest gets the next message and commits; or it dies with it (``seen`` false), having committed
        nothing.
        """
        if not self.connected or not self.outbox:
            return
        message = wire.decode_from_bridge(self.outbox.pop(0))
        self.feed(model.Sent())
        if not seen:
            self.drop()
            return
        match message:
            case wire.BridgeHello():
                self.feed(model.Received(wire.IngestHello(process=1, offset=self.offset, figures=True)))
                for n in range(message.written + 1, self.given + 1):
                    self.feed(model.Received(self.line(n)))
            case wire.Data():
                assert message.offset == self.offset, "a gap or a repetition"
                if message.raw.startswith(b'{"type":"pointsman_'):  # perhaps as long as what it is for
                    head = msgspec.json.decode(message.raw)
                    assert head["bytes"] == message.end - message.offset
                    self.committed += self.truth[message.offset : message.end]
                else:
                    self.committed += message.raw
                self.offset = message.end
            case wire.Taken():
                assert message.n not in {n for n, _ in self.fifo}
                self.taken = max(self.taken, message.n)
            case wire.Exit():
                assert message.size == self.offset == len(self.truth)
                self.told_exit = True

    def measure(self) -> None:
        self.feed(model.Measured(FIGURES))

    @staticmethod
    def line(n: int) -> wire.Line:
        return wire.Line(n=n, data=f'{{"n":{n}}}')

    def acknowledge(self) -> None:
        if self.connected:
            self.feed(model.Received(wire.Ack(offset=self.offset)))

    def ingest_asks(self) -> None:
        self.given += 1
        if self.connected and self.state.link is model.Link.UP:
            self.feed(model.Received(self.line(self.given)))

    def written(self, *, crash: bool = False) -> None:
        if self.write is None or self.exit is not None:
            return
        asked, self.write = self.write, None
        size = len(asked.data) + 1
        self.stdin.append(asked.n)
        self.fifo.append((asked.n, size))
        if crash:
            self.crashed_after_write.add(asked.n)
            self.boot()
        else:
            self.feed(model.Wrote(asked.n, size))

    def settle(self) -> None:
        """No more trouble: everything arrives."""
        for _ in range(10_000):
            before = (len(self.outbox), self.offset, len(self.stdin), len(self.fifo), self.taken, self.state)
            self.connect()
            self.deliver()
            self.written()
            self.agent_reads()
            self.acknowledge()
            if before == (
                len(self.outbox), self.offset, len(self.stdin), len(self.fifo), self.taken, self.state
            ):  # fmt: skip
                return
        raise AssertionError("never settles")


_said = st.one_of(
    st.sampled_from([b"{}\n", b'{"type":"x"}\n', b"{", b"}", b"\n", b"{}\n{}\n{}\n"]),
    st.integers(1, 150).map(lambda size: b"x" * size),
    st.integers(1, 150).map(lambda size: b"y" * size + b"\n"),
)
_ops = st.lists(
    st.one_of(
        st.tuples(st.just("agent_says"), _said),
        st.sampled_from(
            [
                "connect", "deliver", "connect", "deliver", "deliver", "drop", "deliver_unseen",
                "acknowledge", "ingest_asks", "written", "written_crash", "crash", "agent_reads",
                "measure",
            ]
        ).map(lambda name: (name, b"")),
    ),
    max_size=80,
)  # fmt: skip


def _run(sim: Sim, ops: list[tuple[str, bytes]]) -> None:
    for name, data in ops:
        match name:
            case "agent_says":
                sim.agent_says(data)
            case "deliver_unseen":
                sim.deliver(seen=False)
            case "written_crash":
                sim.written(crash=True)
            case "crash":
                sim.boot()
            case _:
                getattr(sim, name)()


@settings(max_examples=400, deadline=None)
@given(_ops, st.booleans())
def test_every_byte_arrives_once_in_order_and_every_line_is_written(
    ops: list[tuple[str, bytes]], ends: bool
) -> None:
    with (
        patch.object(wire, "BATCH_BYTES", 64),
        patch.object(wire, "MAX_LINE_BYTES", 200),
        patch.object(core, "PUNCH_STEP", 32),
    ):
        sim = Sim()
        _run(sim, ops)
        if ends:
            sim.written()
            sim.agent_exits()
        sim.settle()
    whole = len(sim.truth) if ends else sim.truth.rfind(b"\n") + 1
    assert bytes(sim.committed) == bytes(sim.truth[:whole])
    assert sim.told_exit == ends
    if not ends:
        assert sorted(set(sim.stdin)) == list(range(1, sim.given + 1))
        assert sim.taken == sim.given
    assert sim.stdin == sorted(sim.stdin), "out of order"
    twice = {n for n in sim.stdin if sim.stdin.count(n) > 1}
    assert twice <= sim.crashed_after_write
    assert sim.offset - sim.saved.kept < 32 + 250  # what is kept on disk is bounded by step and last message


@given(st.binary(max_size=60), st.lists(st.integers(1, 7), max_size=40))
def test_any_split_gives_the_same_lines(data: bytes, cuts: list[int]) -> None:
    book = Playbook()
    book.up()
    raw, at = b"", 0
    for size in [*cuts, len(data)]:
        chunk = data[at : at + size]
        if chunk:
            at += len(chunk)
            book.happens(model.Chunk(at - len(chunk), chunk), *[model.Sent()] * 3)
            raw += b"".join(piece.raw for piece in book.said() if isinstance(piece, wire.Data))
    assert raw == data[: data.rfind(b"\n") + 1]
