"""What is mended of amqtt: a newcomer gets what it asked for and nothing else, and is let in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from amqtt.broker import Broker

from bus import messages as m
from bus import topics as t
from services.broker.amqtt_server import MendedBroker, Subscriptions
from tests.support.brokers import RunningBroker, amqtt_broker
from tests.support.connections import connected

RETAINED = 20


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RunningBroker]:
    with amqtt_broker(tmp_path / "broker") as broker:
        yield broker


@pytest.mark.real
def test_a_newcomer_is_told_what_it_asked_for(broker: RunningBroker) -> None:
    async def main() -> None:
        async with connected(broker.bus("ingest")) as owner, connected(broker.bus()) as reader:
            reader.subscribe(t.SESSION_STATE)
            await reader.subscriptions_stand()
            for number in range(RETAINED):
                owner.publish(t.SESSION_STATE, b"{}", session=f"s{number}")
            await owner.drained()
            async with connected(broker.bus("ledger")) as newcomer:
                newcomer.subscribe(t.SERVICE_STATUS)
                await newcomer.subscriptions_stand()
                newcomer.publish(t.REPLIES, m.Reply(id="end", ok=True), id="end")
                await newcomer.drained()
                assert newcomer.counters.received[t.SESSION_STATE] == 0
                assert newcomer.counters.unknown_topics == 0
                newcomer.subscribe(t.SESSION_STATE)
                with trio.fail_after(60):
                    while newcomer.counters.received[t.SESSION_STATE] < RETAINED:
                        await newcomer.receive()

    trio.run(main)


def test_subscriptions_may_change_while_somebody_goes_through_them() -> None:
    subscriptions = Subscriptions({"a": [], "b": []})
    for name in subscriptions:
        subscriptions[f"{name}/new"] = []
    assert list(subscriptions) == ["a", "b", "a/new", "b/new"]


def test_amqtt_still_has_what_is_mended() -> None:
    """A new version may call it something else: then look whether it must still be mended."""
    name = "_publish_retained_messages_for_subscription"
    assert vars(MendedBroker)[name].__name__ in vars(Broker)
