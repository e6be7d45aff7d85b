"""What the MQTT client does beyond the contract of every bus: addresses, errors, sockets (bus/client.py)."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from bus import topics as t
from bus.api import Connected
from bus.client import BusAddress, MqttBus, RefusedByBrokerError
from bus.errors import BusDownError
from bus.requests import Requester
from tests.support.brokers import NODE, ROOT, RunningBroker, free_port, mosquitto_broker
from tests.support.connections import connected
from tests.support.waiting import eventually


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RunningBroker]:
    with mosquitto_broker(tmp_path / "broker") as running:
        yield running


class Lines:
    """A log that is a list."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def info(self, event: str, /, **fields: Any) -> None:
        self.lines.append((event, fields))

    def warning(self, event: str, /, **fields: Any) -> None:
        self.lines.append((event, fields))

    def events(self) -> list[str]:
        return [event for event, _ in self.lines]


def nowhere(port: int | None = None, *, own: bool = False) -> BusAddress:
    return BusAddress(
        "127.0.0.1", port or free_port(), "operator", "secret", None, "/home/secrets/bus/operator", own
    )


async def fails(bus: MqttBus, timeout_s: float) -> BusDownError:
    with pytest.raises(BusDownError) as caught:
        async with connected(bus, timeout_s):
            pass
    return caught.value


@pytest.mark.parametrize(("own", "mend"), [(True, "make run"), (False, "bus.host and bus.port")])
def test_no_broker_says_where_and_how_to_start_it(own: bool, mend: str) -> None:
    error = trio.run(fails, MqttBus(lambda: nowhere(own=own), root=ROOT, node=NODE), 0.3)
    assert "no broker answers at 127.0.0.1:" in str(error)
    assert "Connection refused" in str(error)
    assert mend in str(error)
    assert not isinstance(error, RefusedByBrokerError)


def test_an_unreadable_address_counts_as_no_broker() -> None:
    def address() -> BusAddress:
        raise FileNotFoundError(2, "No such file", "/home/endpoints.json")

    assert "/home/endpoints.json" in str(trio.run(fails, MqttBus(address, root=ROOT, node=NODE), 0.3))


def test_a_wrong_password_is_told_at_once_and_by_its_file(broker: RunningBroker) -> None:
    bus = MqttBus(lambda: nowhere(broker.port), root=ROOT, node=NODE)
    error = trio.run(fails, bus, 30.0)
    assert isinstance(error, RefusedByBrokerError)
    assert "/home/secrets/bus/operator" in str(error)
    assert "secret'" not in str(error)


def test_a_server_that_speaks_no_mqtt_is_no_broker() -> None:
    async def main() -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]

        async def web(stream: trio.SocketStream) -> None:
            await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, web, listeners)
            assert "broke" in str(await fails(MqttBus(lambda: nowhere(port), root=ROOT, node=NODE), 0.5))
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_the_address_is_read_again_because_the_broker_may_move(tmp_path: Path) -> None:
    with mosquitto_broker(tmp_path / "one") as one, mosquitto_broker(tmp_path / "two") as two:
        now = [one]
        log = Lines()
        bus = MqttBus(lambda: now[0].address("operator")(), root=ROOT, node=NODE, log=log)

        async def main() -> None:
            with trio.fail_after(20):
                async with connected(bus):
                    assert await bus.receive() == Connected(1)
                    now[0] = two
                    one.kill()
                    assert await bus.receive() == Connected(2)
                    assert bus.trouble is None

        trio.run(main)
        assert log.events() == ["bus connected", "bus down", "bus connected"]


def test_a_broker_that_is_not_there_yet_is_not_complained_about_at_once(tmp_path: Path) -> None:
    log = Lines()

    async def main() -> None:
        bus = MqttBus(nowhere, root=ROOT, node=NODE, log=log)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bus.run)
            await eventually(lambda: bus.counters.failed_attempts == 1)
            assert log.events() == []
            await eventually(lambda: log.lines)
            assert bus.counters.failed_attempts >= 4
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_the_socket_does_not_wait_for_more_to_send(broker: RunningBroker) -> None:
    async def main() -> None:
        async with connected(broker.bus()) as bus:
            assert bus._link is not None
            assert bus._link.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    trio.run(main)


def test_what_somebody_waits_for_leaves_at_once_with_what_was_said_before_it(broker: RunningBroker) -> None:
    async def main() -> None:
        async with connected(broker.bus("approvals")) as bus:
            await bus.drained()
            bus.publish(t.APPROVAL_REQUEST, b"{}", id="a")
            assert len(bus._out) == 1
            bus.publish(t.APPROVAL_TOKEN, b"{}", id="a", user="operator")
            assert len(bus._out) == 0
            bus.publish(t.APPROVALS_PENDING, b"{}")
            assert len(bus._out) == 1
            bus.publish(t.APPROVAL_TOKEN, None, id="a", user="operator")  # for a cleared one nobody waits
            assert len(bus._out) == 2
            await bus.drained()
            assert len(bus._out) == 0

    trio.run(main)


def test_an_error_of_the_block_comes_out_as_it_is(broker: RunningBroker) -> None:
    async def main() -> None:
        async with connected(broker.bus()):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        trio.run(main)


def test_asking_without_a_connection_says_that_there_is_none() -> None:
    async def main() -> None:
        bus = MqttBus(nowhere, root=ROOT, node=NODE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bus.run)
            with pytest.raises(BusDownError, match="no broker answers"):
                await Requester(bus).ask(t.SESSION_INTERRUPT, _command(), session="s", timeout_s=0.3)
            nursery.cancel_scope.cancel()

    trio.run(main)


def _command() -> Any:
    assert t.SESSION_INTERRUPT.payload is not None
    return t.SESSION_INTERRUPT.payload()


def test_a_user_who_may_not_read_a_row_is_told(broker: RunningBroker) -> None:
    """mosquitto 2.0 grants it and withholds the messages, others refuse it: both leave us whole."""

    async def main() -> None:
        async with connected(broker.bus()) as bus:
            bus.subscribe(t.FACTS)
            await bus.subscriptions_stand()
            assert bus.refused_filters <= {f"{ROOT}/{NODE}/facts/+/+"}

    trio.run(main)


def test_what_is_queued_goes_out_before_the_goodbye(broker: RunningBroker) -> None:
    async def main() -> None:
        async with connected(broker.bus()) as reader:
            reader.subscribe(t.APPROVAL_OUTCOME)
            await reader.subscriptions_stand()
            async with connected(broker.bus("approvals")) as bus:
                for number in range(500):
                    bus.publish(t.APPROVAL_OUTCOME, b"%d" % number, id="a")
            await eventually(lambda: reader.counters.received[t.APPROVAL_OUTCOME] == 500)

    trio.run(main)
