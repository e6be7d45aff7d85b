"""Brokers that take everything and pass on nothing, and ten thousand facts at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from bus import client
from bus import messages as m
from bus import topics as t
from bus.address import BusAddress
from bus.client import IN_FLIGHT_MAX, MqttBus
from bus.durable import WINDOW
from bus.requests import Requester
from tests.bus.test_contract import answer
from tests.faults.owner import OWNER, PRODUCER, Party
from tests.support.brokers import NODE, ROOT, RunningBroker, mosquitto_broker
from tests.support.waiting import eventually

pytestmark = pytest.mark.real

CONNECT, PUBLISH, SUBSCRIBE, PING = 1, 3, 8, 12
BURST = 10_000
BURST_S = 120.0


class Swallower:
    """A broker that lets everyone in and answers pings, and neither acknowledges nor passes on what is
    published. After ``subscriptions`` of a connection it acknowledges no more of them.
    """

    def __init__(self, subscriptions: int = 1000) -> None:
        self.swallowed: list[bytes] = []
        self.port = 0
        self._subscriptions = subscriptions

    def address(self) -> BusAddress:
        return BusAddress("127.0.0.1", self.port, "anybody", "")

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._serve, [listener])

    async def _serve(self, stream: trio.SocketStream) -> None:
        data, asked = b"", 0
        async for more in stream:
            data += more
            while (found := packet(data)) is not None:
                kind, body, data = found
                if kind == CONNECT:
                    await stream.send_all(b"\x20\x02\x00\x00")
                elif kind == SUBSCRIBE:
                    asked += 1
                    if asked > self._subscriptions:
                        continue
                    count = sum(1 for _ in filters(body[2:]))
                    await stream.send_all(bytes([0x90, 2 + count]) + body[:2] + b"\x01" * count)
                elif kind == PING:
                    await stream.send_all(b"\xd0\x00")
                elif kind == PUBLISH:
                    self.swallowed.append(body)


def packet(data: bytes) -> tuple[int, bytes, bytes] | None:
    """Kind and body of the first whole packet, and what follows it."""
    length = shift = 0
    for at in range(1, min(len(data), 5)):
        length |= (data[at] & 0x7F) << shift
        shift += 7
        if data[at] < 0x80:
            end = at + 1 + length
            return (data[0] >> 4, data[at + 1 : end], data[end:]) if len(data) >= end else None
    return None


def filters(body: bytes) -> Iterator[bytes]:
    while body:
        end = 2 + int.from_bytes(body[:2])
        yield body[2:end]
        body = body[end + 1 :]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RunningBroker]:
    with mosquitto_broker(tmp_path / "broker") as broker:
        yield broker


def test_a_broker_that_never_acknowledges_is_left_and_loses_no_fact(
    broker: RunningBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PUBACK_LOOKS", 2)  # 20 in truth
    count = WINDOW + 100
    facts = f"/facts/{PRODUCER}/{OWNER}".encode()

    async def main() -> None:
        bad = Swallower()
        good: Callable[[], BusAddress] = broker.address(f"service-{PRODUCER}")
        troubles: list[str] = []

        def swallowed() -> int:
            return sum(facts in body[:80] for body in bad.swallowed)

        def address() -> BusAddress:
            if bus.trouble is not None:
                troubles.append(str(bus.trouble))
            return good() if troubles and swallowed() >= WINDOW else bad.address()

        bus = MqttBus(address, root=ROOT, node=NODE, service=PRODUCER)
        producer = Party(bus, PRODUCER, tmp_path)
        other = broker.bus(OWNER)
        owner = Party(other, OWNER, tmp_path)
        async with trio.open_nursery() as nursery:
            await nursery.start(bad.run)
            for one, party in ((bus, producer), (other, owner)):
                nursery.start_soon(one.run)
                nursery.start_soon(party.station.run)
            await eventually(lambda: bus.connected)
            producer.post(count)
            await eventually(lambda: swallowed() >= WINDOW)
            assert len(bus._in_flight) <= IN_FLIGHT_MAX
            assert producer.station.mailbox.waiting() == count
            await eventually(lambda: len(owner.effects()) >= count, BURST_S)
            await eventually(lambda: producer.station.mailbox.waiting() == 0)
            assert owner.effects() == [str(number) for number in range(count)]
            nursery.cancel_scope.cancel()
        assert "acknowledged nothing for 2 s, while messages waited" in troubles[0]
        producer.db.close()
        owner.db.close()

    trio.run(main)


def test_a_broker_that_takes_no_more_subscriptions_is_left_and_the_question_answered(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part of it that serves one connection may die, and pings are answered all the same."""
    monkeypatch.setattr(client, "SUBACK_LOOKS", 2)

    async def main() -> None:
        bad = Swallower(subscriptions=0)
        good = broker.address("operator")

        def address() -> BusAddress:
            return bad.address() if bus.trouble is None else good()

        bus = MqttBus(address, root=ROOT, node=NODE)
        async with trio.open_nursery() as nursery:
            await nursery.start(bad.run)
            owner = broker.bus("ingest")
            nursery.start_soon(owner.run)
            nursery.start_soon(bus.run)
            nursery.start_soon(answer, owner, {"queued_prompts": 0})
            await eventually(lambda: bus.connected)
            command = m.Prompt(id="one", text="hello")
            result = await Requester(bus).ask(t.SESSION_PROMPT, command, session="s", timeout_s=BURST_S)
            assert result == {"queued_prompts": 0}
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_ten_thousand_facts_at_once(broker: RunningBroker, tmp_path: Path) -> None:
    """Each has its effect once and in order, over a broker that is killed in their midst."""

    async def main() -> None:
        ours, theirs = broker.bus(PRODUCER), broker.bus(OWNER)
        producer, owner = Party(ours, PRODUCER, tmp_path), Party(theirs, OWNER, tmp_path)

        def count() -> int:
            found: int = owner.db.execute("SELECT count(*) FROM effects").fetchone()[0]
            return found

        async with trio.open_nursery() as nursery:
            for bus, party in ((ours, producer), (theirs, owner)):
                nursery.start_soon(bus.run)
                nursery.start_soon(party.station.run)
            await eventually(lambda: ours.connected and theirs.connected)
            producer.post(BURST)
            await eventually(lambda: count() > BURST // 4, BURST_S)
            await broker.restart_beside()
            await eventually(lambda: count() >= BURST, BURST_S)
            await eventually(lambda: producer.station.mailbox.waiting() == 0)
            assert owner.effects() == [str(number) for number in range(BURST)]
            assert max(ours.queued, theirs.queued) <= WINDOW
            nursery.cancel_scope.cancel()
        producer.db.close()
        owner.db.close()

    trio.run(main)
