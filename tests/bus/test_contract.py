"""What every bus promises (bus/api.py), proven on the memory bus, on mosquitto and on amqtt alike."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial, wraps
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
import pytest
import trio

from bus import codec
from bus import messages as m
from bus import topics as t
from bus.api import Connected, Received
from bus.base import IN_MAX, BusBase
from bus.durable import Mailbox
from bus.effects import Keep, Post, ReplyTo
from bus.errors import MisuseError, RefusedError
from bus.memory import MemoryBroker, MemoryBus
from bus.requests import Requester
from bus.topics import Topic
from services._process.station import Station
from tests.support.brokers import NODE, ROOT, RunningBroker, amqtt_broker, mosquitto_broker
from tests.support.connections import connected
from tests.support.contexts import context_for
from tests.support.waiting import eventually

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
DEADLINE_S = 60.0
INDEX = m.SessionIndex(sessions=[], at=NOW)
B = TypeVar("B", bound=BusBase)


class World(Protocol):
    """A broker that clients can be given, and that can die."""

    name: str

    def client(
        self, service: str | None = None, *, all_nodes: bool = False
    ) -> AbstractAsyncContextManager[BusBase]: ...

    async def restart(self) -> None:
        """kill -9, and a new, empty one."""
        ...

    async def cut(self, bus: BusBase) -> None:
        """Break one connection without a word, so that its will is published."""
        ...


class MemoryWorld:
    name = "memory"

    def __init__(self) -> None:
        self.broker = MemoryBroker(ROOT)

    @asynccontextmanager
    async def client(self, service: str | None = None, *, all_nodes: bool = False) -> AsyncIterator[BusBase]:
        bus = self.broker.client(NODE, service=service, all_nodes=all_nodes)
        yield bus
        await bus.stop()

    async def restart(self) -> None:
        self.broker.restart()
        await trio.lowlevel.checkpoint()

    async def cut(self, bus: BusBase) -> None:
        assert isinstance(bus, MemoryBus)
        self.broker.drop(bus)
        self.broker.restore(bus)


class RealWorld:
    def __init__(self, broker: RunningBroker) -> None:
        self.broker = broker
        self.name = broker.kind.value

    @asynccontextmanager
    async def client(self, service: str | None = None, *, all_nodes: bool = False) -> AsyncIterator[BusBase]:
        async with connected(self.broker.bus(service, all_nodes=all_nodes)) as bus:
            yield bus

    async def restart(self) -> None:
        await self.broker.restart_beside()

    async def cut(self, bus: BusBase) -> None:
        link = getattr(bus, "_link")  # noqa: B009  # the socket is the world, and no business of the interface
        assert link is not None
        link.sock.shutdown(2)


@pytest.fixture(params=["memory", "mosquitto", "amqtt"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    if request.param == "memory":
        yield MemoryWorld()
        return
    start = mosquitto_broker if request.param == "mosquitto" else amqtt_broker
    with start(tmp_path / "broker") as broker:
        yield RealWorld(broker)


def in_trio(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test with a deadline."""

    @wraps(test)
    def run(**fixtures: Any) -> None:
        async def main() -> None:
            with trio.fail_after(DEADLINE_S):
                await test(**fixtures)

        trio.run(main)

    return run


async def get(bus: BusBase, row: Topic, wanted: Callable[[Received], bool] = lambda _: True) -> Received:
    """The next message of a row that is wanted; everything before it is passed over."""
    while True:
        message = await bus.receive()
        if isinstance(message, Received) and message.row is row and wanted(message):
            return message


async def standing(world: World, row: Topic, **values: str) -> bytes:
    """What a newcomer finds retained; b"" for nothing within half a second."""
    async with world.client() as bus:
        bus.subscribe(row, **values)
        with trio.move_on_after(0.5):
            while True:
                message = await bus.receive()
                if isinstance(message, Received):
                    return message.payload
    return b""


def status_is(payload: bytes) -> Callable[[Received], bool]:
    return lambda message: message.payload == payload


# ── Connections ──────────────────────────────────────────────────────────────────────────────────────────


@in_trio
async def test_connected_comes_first_and_after_each_reconnect(world: World) -> None:
    async with world.client() as bus:
        bus.subscribe(t.SESSIONS_INDEX)
        assert await bus.receive() == Connected(1)
        await world.restart()
        assert await bus.receive() == Connected(2)
        assert bus.connected


@in_trio
async def test_subscriptions_stand_when_connected_is_said(world: World) -> None:
    async with world.client() as reader, world.client("ingest") as writer:
        reader.subscribe(t.SESSION_EVENT)
        reader.subscribe(t.APPROVAL_OUTCOME)
        await reader.subscriptions_stand()
        await world.restart()
        await get_connected(reader, 2)
        await get_connected(writer, 2)
        writer.publish(t.SESSION_EVENT, b"{}", session="s", type="delta")
        assert (await get(reader, t.SESSION_EVENT)).values == {"session": "s", "type": "delta"}


@in_trio
async def test_what_is_delivered_is_what_would_be_received(world: World) -> None:
    """What waited before and what comes later, in order; then `receive` again."""
    async with world.client() as reader, world.client("approvals") as writer:
        reader.subscribe(t.APPROVAL_OUTCOME)
        await reader.subscriptions_stand()
        got: list[bytes] = []

        def take(message: Received | Connected) -> None:
            if isinstance(message, Received):
                got.append(message.payload)

        for number in range(3):
            writer.publish(t.APPROVAL_OUTCOME, b"%d" % number, id="a")
        await eventually(lambda: reader.counters.received[t.APPROVAL_OUTCOME] == 3)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader.deliver, take)
            await eventually(lambda: len(got) == 3)
            for number in range(3, 100):
                writer.publish(t.APPROVAL_OUTCOME, b"%d" % number, id="a")
            await eventually(lambda: len(got) == 100)
            nursery.cancel_scope.cancel()
        assert got == [b"%d" % number for number in range(100)]
        writer.publish(t.APPROVAL_OUTCOME, b"100", id="a")
        assert (await get(reader, t.APPROVAL_OUTCOME)).payload == b"100"


@in_trio
async def test_what_a_handler_raises_is_raised_where_it_was_handed_in(world: World) -> None:
    """And the connection lives on: who ends over it can still say why."""
    async with world.client() as reader, world.client("approvals") as writer:
        reader.subscribe(t.APPROVAL_OUTCOME)
        await reader.subscriptions_stand()

        def refuse(message: Received | Connected) -> None:
            if message != Connected(1):
                raise LookupError("the first")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish_soon, writer)
            with pytest.raises(LookupError, match="the first"):
                await reader.deliver(refuse)
        assert reader.connected
        writer.publish(t.APPROVAL_OUTCOME, b"second", id="a")
        assert (await get(reader, t.APPROVAL_OUTCOME)).payload == b"second"


async def publish_soon(writer: BusBase) -> None:
    writer.publish(t.APPROVAL_OUTCOME, b"first", id="a")


async def get_connected(bus: BusBase, count: int) -> None:
    while (message := await bus.receive()) != Connected(count):
        assert message is not None


@in_trio
async def test_a_service_is_online_offline_by_its_will_and_online_again(world: World) -> None:
    async with world.client() as watcher:
        watcher.subscribe(t.SERVICE_STATUS)
        async with world.client("ingest") as service:
            assert (await get(watcher, t.SERVICE_STATUS, status_is(b"online"))).values == {"self": "ingest"}
            await world.cut(service)
            await get(watcher, t.SERVICE_STATUS, status_is(b"offline"))
            await get(watcher, t.SERVICE_STATUS, status_is(b"online"))
        await get(watcher, t.SERVICE_STATUS, status_is(b"offline"))  # it said goodbye
    assert await standing(world, t.SERVICE_STATUS, self="ingest") == b"offline"


@in_trio
async def test_a_service_that_sees_its_own_offline_says_online_again(world: World) -> None:
    async with world.client("ingest") as service, world.client("ingest") as forger, world.client() as watcher:
        await service.subscriptions_stand()
        watcher.subscribe(t.SERVICE_STATUS)
        await get(watcher, t.SERVICE_STATUS, status_is(b"online"))
        forger._out.put(t.SERVICE_STATUS, f"{ROOT}/{NODE}/services/ingest/status", b"offline")
        forger._wake()
        await get(watcher, t.SERVICE_STATUS, status_is(b"offline"))
        await get(watcher, t.SERVICE_STATUS, status_is(b"online"))


@in_trio
async def test_a_client_has_no_will_and_no_status(world: World) -> None:
    async with world.client() as bus:
        await world.cut(bus)
        await get_connected(bus, 2)
    async with world.client() as watcher:
        watcher.subscribe(t.SERVICE_STATUS)
        with trio.move_on_after(0.3):
            raise AssertionError(await get(watcher, t.SERVICE_STATUS))


# ── Snapshots ────────────────────────────────────────────────────────────────────────────────────────────


@in_trio
async def test_snapshots_are_found_by_newcomers_and_cleared_ones_are_not(world: World) -> None:
    async with world.client("ledger") as owner:
        owner.publish(t.LEDGER_SESSION, b'{"a":1}', session="a")
        owner.publish(t.LEDGER_SESSION, b'{"b":1}', session="b")
        owner.publish(t.LEDGER_SESSION, b'{"b":2}', session="b")
        owner.publish(t.LEDGER_SESSION, None, session="a")
        await all_out(owner)
        assert await standing(world, t.LEDGER_SESSION, session="b") == b'{"b":2}'
        assert await standing(world, t.LEDGER_SESSION, session="a") == b""


async def all_out(bus: BusBase) -> None:
    """Until everything was handed over, and acknowledged where it is."""
    await eventually(lambda: not len(bus._out) and not getattr(bus, "_in_flight", ()))


@in_trio
async def test_snapshots_are_said_again_to_a_broker_that_came_back_empty(world: World) -> None:
    async with world.client("ingest") as owner:
        owner.publish(t.SESSIONS_INDEX, INDEX)
        await all_out(owner)
        await world.restart()
        await get_connected(owner, 2)
        await all_out(owner)
        assert await standing(world, t.SESSIONS_INDEX) == codec.encode(t.SESSIONS_INDEX, INDEX)


@in_trio
async def test_what_was_cleared_while_disconnected_is_cleared_on_reconnecting(world: World) -> None:
    async with world.client("ledger") as owner:
        owner.publish(t.LEDGER_SESSION, b'{"a":1}', session="a")
        await all_out(owner)
        await world.cut(owner)
        owner.publish(t.LEDGER_SESSION, None, session="a")
        await get_connected(owner, 2)
        await all_out(owner)
        assert await standing(world, t.LEDGER_SESSION, session="a") == b""


@in_trio
async def test_an_owner_clears_what_it_did_not_say_and_restores_what_was_changed(world: World) -> None:
    async with world.client("ledger") as before:
        before.publish(t.LEDGER_SESSION, b'{"old":1}', session="left-over")
        before.publish(t.LEDGER_SESSION, b'{"old":1}', session="kept")
        await all_out(before)
    async with world.client("ledger") as owner, world.client("ledger") as forger:
        owner.publish(t.LEDGER_SESSION, b'{"new":1}', session="kept")
        owner.own(t.LEDGER_SESSION)
        await all_out(owner)
        await until(world, t.LEDGER_SESSION, b"", session="left-over")
        assert await standing(world, t.LEDGER_SESSION, session="kept") == b'{"new":1}'
        forger.publish(t.LEDGER_SESSION, b'{"forged":1}', session="kept")
        forger.publish(t.LEDGER_SESSION, b'{"forged":1}', session="invented")
        await all_out(forger)
        await until(world, t.LEDGER_SESSION, b'{"new":1}', session="kept")
        await until(world, t.LEDGER_SESSION, b"", session="invented")
        assert owner.counters.corrected


async def until(world: World, row: Topic, payload: bytes, **values: str) -> None:
    while await standing(world, row, **values) != payload:
        pass


@in_trio
async def test_an_owner_that_changes_its_mind_quickly_is_believed(world: World) -> None:
    async with world.client("ledger") as owner:
        owner.own(t.LEDGER_TOTAL)
        await owner.subscriptions_stand()
        for number in range(300):
            owner.publish(t.LEDGER_TOTAL, b'{"n":%d}' % number)
            if number % 7 == 0:
                await trio.lowlevel.checkpoint()
        await all_out(owner)
        await until(world, t.LEDGER_TOTAL, b'{"n":299}')
        assert owner.counters.corrected < 300


# ── Messages ─────────────────────────────────────────────────────────────────────────────────────────────


@in_trio
async def test_a_subscription_gives_what_it_names_and_nothing_else(world: World) -> None:
    async with world.client() as reader, world.client("ingest") as writer:
        reader.subscribe(t.SESSION_EVENT, session="mine")
        reader.subscribe(t.APPROVAL_OUTCOME)
        await reader.subscriptions_stand()
        writer.publish(t.SESSION_EVENT, b'{"n":1}', session="other", type="tool")
        writer.publish(t.ERRORS, b"{}")
        writer.publish(t.SESSION_EVENT, b'{"n":2}', session="mine", type="tool")
        message = await get(reader, t.SESSION_EVENT)
        assert message == Received(
            t.SESSION_EVENT,
            {"session": "mine", "type": "tool"},
            b'{"n":2}',
            retained=False,
            topic="sessions/mine/events/tool",
            node=NODE,
        )
        assert writer.counters.published[t.SESSION_EVENT] == 2
        assert reader.counters.received[t.SESSION_EVENT] >= 1


@in_trio
async def test_what_a_row_does_not_carry_is_refused_before_it_is_said(world: World) -> None:
    async with world.client("ingest") as bus:
        for row, payload, values in (
            (t.SESSIONS_INDEX, m.Ack(ids=[]), {}),
            (t.SESSION_EVENT, None, {"session": "s", "type": "delta"}),
            (t.SESSION_STATE, b"{}", {"session": "a/b"}),
            (t.SESSION_STATE, b"{}", {}),
        ):
            with pytest.raises(MisuseError):
                bus.publish(row, payload, **values)
        with pytest.raises(MisuseError):
            bus.subscribe(t.SESSIONS_INDEX, session="x")
        with pytest.raises(MisuseError):
            bus.own(t.SESSION_EVENT)


@in_trio
async def test_payloads_of_any_size_come_whole_and_longer_ones_do_not_go_out(world: World) -> None:
    async with world.client() as reader, world.client("approvals") as writer:
        reader.subscribe(t.APPROVAL_OUTCOME)
        await reader.subscriptions_stand()
        for size in (0, 1, 127, 128, 70_000, codec.MAX_PAYLOAD_BYTES):
            body = bytes(range(256)) * (size // 256 + 1)
            writer.publish(t.APPROVAL_OUTCOME, body[:size], id="x")
            assert (await get(reader, t.APPROVAL_OUTCOME)).payload == body[:size]
        writer.publish(t.APPROVAL_OUTCOME, b"x" * (codec.MAX_PAYLOAD_BYTES + 1), id="x")
        assert writer.dropped["too_large"] == 1
        assert len(writer._out) == 0


@in_trio
async def test_an_urgent_message_overtakes_deltas(world: World) -> None:
    async with world.client() as reader, world.client("ingest") as writer:
        reader.subscribe(t.SESSION_EVENT)
        reader.subscribe(t.SESSIONS_INDEX)
        await reader.subscriptions_stand()
        for _ in range(1000):
            writer.publish(t.SESSION_EVENT, b"{}" * 500, session="s", type="delta")
        writer.publish(t.SESSIONS_INDEX, b"{}")
        before = 0
        while True:
            message = await reader.receive()
            if isinstance(message, Received):
                if message.row is t.SESSIONS_INDEX:
                    break
                before += 1
        assert before < 100


@in_trio
async def test_a_slow_reader_loses_nothing_of_qos_1(world: World) -> None:
    count = 3 * IN_MAX
    async with world.client() as reader, world.client("approvals") as writer:
        reader.subscribe(t.APPROVAL_OUTCOME)
        await reader.subscriptions_stand()
        for number in range(count):
            writer.publish(t.APPROVAL_OUTCOME, b"%d" % number, id="a")
        await all_out(writer)
        assert len(reader._in) <= IN_MAX + 600  # the bound, and what one read may bring beyond it
        got = [int((await get(reader, t.APPROVAL_OUTCOME)).payload) for _ in range(count)]
        assert got == list(range(count))


@in_trio
async def test_what_is_said_while_disconnected(world: World) -> None:
    async with world.client() as reader, world.client("approvals") as writer:
        reader.subscribe(t.APPROVAL_OUTCOME)
        reader.subscribe(t.SESSION_EVENT)
        reader.subscribe(t.ERRORS)
        await reader.subscriptions_stand()
        await all_out(writer)
        writer._end_connection()  # as the connection's task does it
        writer._out.lost(())
        writer.publish(t.ERRORS, b'{"lost":1}')
        writer.publish(t.FACTS, b"{}", producer="approvals", owner="ingest")
        writer.publish(t.APPROVAL_OUTCOME, b'{"kept":1}', id="a")
        assert (len(writer._out), writer.dropped["disconnected"]) == (1, 1)
        await world.cut(writer)
        assert (await get(reader, t.APPROVAL_OUTCOME)).payload == b'{"kept":1}'


@in_trio
async def test_a_reader_of_all_nodes_is_told_which(world: World) -> None:
    async with world.client(all_nodes=True) as reader, world.client("ingest") as writer:
        if world.name == "mosquitto":
            return  # our access rules allow the own node alone: see test_acl
        reader.subscribe(t.SESSIONS_INDEX)
        await reader.subscriptions_stand()
        writer._out.put(t.SESSIONS_INDEX, f"{ROOT}/elsewhere/sessions/index", b"{}")
        writer._wake()
        assert (await get(reader, t.SESSIONS_INDEX)).node == "elsewhere"


@in_trio
async def test_rubbish_on_the_bus_stops_nobody(world: World) -> None:
    async with world.client() as reader, world.client("ingest") as writer:
        reader.subscribe(t.SESSION_EVENT)
        await reader.subscriptions_stand()
        for topic in ("sessions/BAD NAME/events/tool", "sessions/s/events/TOOL", "sessions/ä/events/tool"):
            writer._out.put(t.SESSION_EVENT, f"{ROOT}/{NODE}/{topic}", b"\x00\xff")
        writer.publish(t.SESSION_EVENT, b"\x00\xff", session="s", type="tool")
        assert (await get(reader, t.SESSION_EVENT)).payload == b"\x00\xff"
        assert reader.counters.unknown_topics == 3


# ── Questions and answers ────────────────────────────────────────────────────────────────────────────────


async def answer(bus: BusBase, result: Any, *, silent: int = 0) -> None:
    """An owner of prompts that passes over the first ``silent`` ones."""
    bus.subscribe(t.SESSION_PROMPT)
    while True:
        message = await get(bus, t.SESSION_PROMPT)
        if silent:
            silent -= 1
            continue
        prompt = codec.decode(t.SESSION_PROMPT, message.payload, m.Prompt)
        assert prompt.id
        bus.publish(t.REPLIES, m.Reply(id=prompt.id, ok=True, result=result), id=prompt.id)


@in_trio
async def test_a_question_is_answered(world: World) -> None:
    async with world.client() as asker, world.client("ingest") as owner, trio.open_nursery() as nursery:
        nursery.start_soon(partial(answer, owner, {"queued_prompts": 1}))
        owner.subscribe(t.SESSION_PROMPT)
        await owner.subscriptions_stand()
        requester = Requester(asker, by="me")
        for _ in range(3):
            assert await requester.ask(t.SESSION_PROMPT, m.Prompt(text="x"), session="s") == {
                "queued_prompts": 1
            }
        assert not any(isinstance(message, Received) for message in asker._in)  # nothing for receive()
        nursery.cancel_scope.cancel()


@in_trio
async def test_the_owners_refusal_is_raised(world: World) -> None:
    async with world.client() as asker, world.client("ingest") as owner, trio.open_nursery() as nursery:

        async def refuse() -> None:
            owner.subscribe(t.SESSION_PROMPT)
            message = await get(owner, t.SESSION_PROMPT)
            request = codec.request_id(message.payload) or ""
            error = m.ErrorBody(code="unknown_session", message="no such", details={"near": "s2"})
            owner.publish(t.REPLIES, b"rubbish", id=request)
            owner.publish(t.REPLIES, m.Reply(id=request, ok=False, error=error), id=request)

        nursery.start_soon(refuse)
        await owner.subscriptions_stand()
        with pytest.raises(RefusedError) as caught:
            await Requester(asker).ask(t.SESSION_PROMPT, m.Prompt(text="x"), session="s")
        assert (caught.value.code, caught.value.details) == ("unknown_session", {"near": "s2"})


@in_trio
async def test_a_question_outlives_the_broker(world: World) -> None:
    async with world.client() as asker, world.client("ingest") as owner, trio.open_nursery() as nursery:
        nursery.start_soon(partial(answer, owner, "late", silent=1))
        await owner.subscriptions_stand()

        async def die() -> None:
            await eventually(lambda: owner.counters.received[t.SESSION_PROMPT])
            await world.restart()

        nursery.start_soon(die)
        assert await Requester(asker).ask(t.SESSION_PROMPT, m.Prompt(text="x"), session="s") == "late"
        nursery.cancel_scope.cancel()


@in_trio
async def test_nobody_answers(world: World) -> None:
    async with world.client() as asker:
        with pytest.raises(RefusedError, match="no answer from the ingest service") as caught:
            await Requester(asker).ask(t.SESSION_PROMPT, m.Prompt(text="x"), session="s", timeout_s=0.5)
        assert caught.value.code == "unavailable"


@in_trio
async def test_an_answer_too_long_for_any_reader_says_so(world: World) -> None:
    async with world.client() as asker, world.client("ingest") as owner, trio.open_nursery() as nursery:
        nursery.start_soon(partial(answer, owner, "x" * codec.MAX_PAYLOAD_BYTES))
        with pytest.raises(RefusedError) as caught:
            await Requester(asker).ask(t.SESSION_PROMPT, m.Prompt(text="x"), session="s")
        assert caught.value.code == "too_large"
        nursery.cancel_scope.cancel()


# ── Facts ────────────────────────────────────────────────────────────────────────────────────────────────


class Row(Keep):
    def __init__(self, text: str) -> None:
        self.text = text


def station(bus: BusBase, service: str, home: Path) -> tuple[Station, sqlite3.Connection]:
    db = sqlite3.connect(":memory:", isolation_level=None)
    Mailbox.create_tables(db)
    db.execute("CREATE TABLE effects (n INTEGER PRIMARY KEY, text TEXT)")

    def keep(effect: Keep) -> None:
        assert isinstance(effect, Row)
        db.execute("INSERT INTO effects (text) VALUES (?)", (effect.text,))

    return Station(context_for(bus, service, home), db, keep=keep), db


@in_trio
async def test_facts_have_their_effect_once_and_in_order_though_the_broker_is_killed(
    world: World, tmp_path: Path
) -> None:
    count, kills = 400, 2
    async with AsyncExitStack() as stack:
        producers = [await stack.enter_async_context(world.client(name)) for name in ("ingest", "tmux")]
        bus = await stack.enter_async_context(world.client("approvals"))
        owner, db = station(bus, "approvals", tmp_path / "home")
        owner.on_fact("withdrawn", m.QuestionWithdrawn, lambda fact, _data, _now: [Row(fact.id)])
        stations = [
            station(p, name, tmp_path / "home")[0]
            for p, name in zip(producers, ("ingest", "tmux"), strict=True)
        ]
        nursery = await stack.enter_async_context(trio.open_nursery())
        for each in (owner, *stations):
            nursery.start_soon(each.run)

        async def produce(producer: Station, name: str) -> None:
            data = codec.encode_data(m.QuestionWithdrawn(approval="a", reason="r"))
            for number in range(count):
                fact = m.Fact(id=f"{name}-{number:04}", type="withdrawn", at=NOW, data=data)
                producer.act([Post("approvals", fact), ReplyTo(None)])
                await trio.sleep(0.001)

        for each, name in zip(stations, ("ingest", "tmux"), strict=True):
            nursery.start_soon(produce, each, name)
        for number in range(kills):
            await eventually(partial(reached, db, count // 4 * (number + 1)))
            await world.restart()
        await eventually(lambda: len(effects(db)) >= 2 * count)
        await eventually(lambda: not any(each.mailbox.waiting() for each in stations))
        for name in ("ingest", "tmux"):
            own = [text for text in effects(db) if text.startswith(name)]
            assert own == [f"{name}-{number:04}" for number in range(count)]
        nursery.cancel_scope.cancel()


def reached(db: sqlite3.Connection, count: int) -> bool:
    return len(effects(db)) >= count


def effects(db: sqlite3.Connection) -> list[str]:
    return [row[0] for row in db.execute("SELECT text FROM effects ORDER BY n")]


def test_an_encoded_reply_is_what_the_contract_says() -> None:
    reply = m.Reply(id="x", ok=False, error=m.ErrorBody(code="busy", message="not now"))
    assert msgspec.json.encode(reply) == b'{"id":"x","ok":false,"error":{"code":"busy","message":"not now"}}'
