"""The memory bus as a tool for tests: any clock, no clock, and a world that can be made to fail."""

from __future__ import annotations

import trio
import trio.testing

from bus import messages as m
from bus import topics as t
from bus.errors import RefusedError
from bus.memory import MemoryBroker, matches
from bus.requests import Requester


def test_outside_of_trio_what_is_said_is_there_at_once() -> None:
    broker = MemoryBroker()
    owner, reader = broker.client(service="ledger"), broker.client()
    reader.subscribe(t.LEDGER_SESSION)
    owner.publish(t.LEDGER_SESSION, b'{"a":1}', session="a")
    assert broker.standing(t.LEDGER_SESSION, session="a") == b'{"a":1}'
    assert broker.said(t.LEDGER_SESSION) == [b'{"a":1}']
    assert broker.standing(t.SERVICE_STATUS, self="ledger") == b"online"
    owner.publish(t.LEDGER_SESSION, None, session="a")
    assert broker.standing(t.LEDGER_SESSION, session="a") is None


def test_time_is_the_tests_own() -> None:
    async def main() -> float:
        broker = MemoryBroker()
        began = trio.current_time()
        try:
            await Requester(broker.client()).ask(
                t.SESSION_PROMPT, m.Prompt(text="x"), session="s", timeout_s=3600
            )
        except RefusedError as error:
            assert error.code == "unavailable"  # noqa: PT017  # its time is what is looked at
        assert len(broker.said(t.SESSION_PROMPT)) > 700  # again and again
        return trio.current_time() - began

    assert trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0)) == 3600


def test_a_dropped_client_leaves_its_will_and_comes_back() -> None:
    broker = MemoryBroker()
    owner = broker.client(service="ledger")
    broker.drop(owner)
    assert not owner.connected
    assert broker.standing(t.SERVICE_STATUS, self="ledger") == b"offline"
    owner.publish(t.LEDGER_SESSION, b'{"a":1}', session="a")
    assert broker.standing(t.LEDGER_SESSION, session="a") is None
    broker.restore(owner)
    assert broker.standing(t.LEDGER_SESSION, session="a") == b'{"a":1}'
    assert broker.standing(t.SERVICE_STATUS, self="ledger") == b"online"


def test_a_restarted_broker_is_told_everything_again() -> None:
    broker = MemoryBroker()
    owner = broker.client(service="ledger")
    owner.publish(t.LEDGER_SESSION, b'{"a":1}', session="a")
    broker.restart()
    assert broker.standing(t.LEDGER_SESSION, session="a") == b'{"a":1}'


def test_filters() -> None:
    for pattern, topic, right in (
        ("a/b", "a/b", True), ("a/+", "a/b", True), ("a/+", "a/b/c", False), ("a/#", "a/b/c", True),
        ("a/#", "a", True), ("+/b", "a/b", True), ("a", "b", False), ("#", "a/b", True),
        ("a/+/c", "a/b/d", False),
    ):  # fmt: skip
        assert matches(pattern, topic) is right, (pattern, topic)
