"""The memory that a broker may hold: all of it, and one client's queue on a real mosquitto."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
import trio
import trio.testing
from paho.mqtt.enums import CallbackAPIVersion

from services.broker.child import LOOK_S, QUEUES_BYTES, SETTLED_S, too_much
from services.broker.core import MAX_QUEUED_BYTES
from tests.support.brokers import EVERYBODY, NODE, ROOT, RunningBroker, mosquitto_broker

MIB = 1024 * 1024
DEADLINE_S = 60.0
AGAIN_S = 0.5


@pytest.mark.parametrize("settled", [10 * MIB, 700 * MIB])
def test_a_broker_holds_twice_what_it_began_with_and_the_queues(settled: int) -> None:
    bound = 2 * settled + QUEUES_BYTES

    async def main() -> None:
        began = trio.current_time()

        def held() -> int:  # while all come, more than it may hold later: that is no reason
            age = trio.current_time() - began
            return (
                bound * 2 if age < SETTLED_S else settled if age < 600 else bound if age < 900 else bound + 1
            )

        assert await too_much(held) == bound + 1
        assert 900 <= trio.current_time() - began <= 900 + LOOK_S

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.real
def test_what_waits_for_a_client_that_is_away_is_bounded(tmp_path: Path) -> None:
    topic, size = f"{ROOT}/{NODE}/approvals/events", 4 * MIB
    with mosquitto_broker(tmp_path, EVERYBODY) as broker:
        with _client(broker, "viewer", persistent=True) as viewer:
            subscribed = threading.Event()
            viewer.on_subscribe = lambda *_: subscribed.set()
            viewer.subscribe(topic, qos=1)
            assert subscribed.wait(DEADLINE_S)
        with _client(broker, "service-approvals") as service:
            for _ in range(2 * MAX_QUEUED_BYTES // size):
                service.publish(topic, bytes(size), qos=1).wait_for_publish(DEADLINE_S)
            received: list[int] = []
            caught_up = threading.Event()

            def on_message(_client: object, _data: object, message: mqtt.MQTTMessage) -> None:
                received.append(len(message.payload))
                if not message.payload:
                    caught_up.set()

            with _client(broker, "viewer", persistent=True, on_message=on_message):
                # It comes after all that waited, or not at all while the queue is still full.
                for _ in range(int(DEADLINE_S / AGAIN_S)):
                    service.publish(topic, b"", qos=1).wait_for_publish(DEADLINE_S)
                    if caught_up.wait(AGAIN_S):
                        break
                assert caught_up.is_set()
        assert 0 < sum(received) <= MAX_QUEUED_BYTES + size


@contextlib.contextmanager
def _client(
    broker: RunningBroker,
    user: str,
    *,
    persistent: bool = False,
    on_message: Callable[[object, object, mqtt.MQTTMessage], None] | None = None,
) -> Iterator[mqtt.Client]:
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=user, clean_session=not persistent)
    client.username_pw_set(user, broker.passwords[user])
    connected, gone = threading.Event(), threading.Event()
    client.on_connect = lambda *_: connected.set()
    client.on_disconnect = lambda *_: gone.set()
    client.on_message = on_message
    client.connect(broker.host, broker.port)
    client.loop_start()
    assert connected.wait(DEADLINE_S)
    yield client
    client.disconnect()
    assert gone.wait(DEADLINE_S)
    client.loop_stop()
