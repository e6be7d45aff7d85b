"""The watchdog on a bus, with virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from prometheus_client import CollectorRegistry, Counter

from bus import messages as m
from bus import topics as t
from bus.errors import RefusedError
from bus.memory import MemoryBroker, MemoryBus
from bus.requests import Requester
from bus.topics import Topic
from services._process.config import load_config
from services._process.context import Context
from services._process.home import Home
from services._process.logs import silent_log
from services.watchdog.shell import serve
from tests.services.watchdog.support import SERVICES, heartbeat

NODE = "pointsman/node"
BEGIN = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


class Stand:
    """A broker, the watchdog, and services that beat."""

    def __init__(self, home: Path) -> None:
        self.home = Home(home)
        self.broker = MemoryBroker()
        self.services: dict[str, MemoryBus] = {}
        self.hung: set[str] = set()
        self.registry = CollectorRegistry()

    def now(self) -> datetime:
        return BEGIN + timedelta(seconds=trio.current_time())

    def context(self) -> Context:
        path = str(self.home.path)
        environ = {
            "POINTSMAN_HOME": path,
            "POINTSMAN_NODE_NAME": "node",
            "POINTSMAN_WATCHDOG_MEMORY_BUDGET": "1GiB",
            "HOME": path,
        }
        return Context(
            service="watchdog",
            config=load_config(environ),
            home=self.home,
            bus=self.services["watchdog"],
            log=silent_log("watchdog"),
            registry=self.registry,
            errors=Counter("pointsman_errors", "x", ["code"], registry=self.registry),
            now=self.now,
        )

    async def beat(self, name: str) -> None:
        """As the process shell does."""
        while True:
            if name not in self.hung and name in self.services:
                self.services[name].publish(t.SERVICE_HEALTH, heartbeat(name, self.now()), self=name)
            await trio.sleep(10)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            for name in SERVICES:
                self.services[name] = self.broker.client(service=name)
                nursery.start_soon(self.beat, name)
            await trio.testing.wait_all_tasks_blocked()  # everybody else came first: their words are retained
            nursery.start_soon(serve, self.context())
            await trio.sleep(2)
            yield
            nursery.cancel_scope.cancel()

    def standing(self, row: Topic) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(self.broker.standing(row) or b"{}")
        return found

    def events(self) -> list[tuple[str, str]]:
        said = [msgspec.json.decode(raw) for raw in self.broker.said(t.WATCHDOG_EVENTS)]
        return [(event["action"], event.get("service", "")) for event in said]


def with_stand(tmp_path: Path, test: Callable[[Stand], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(7200):  # virtual seconds
            await test(Stand(tmp_path))

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_healthy_node(tmp_path: Path) -> None:
    async def test(stand: Stand) -> None:
        stand.home.update_endpoints("bus", {"port": 1883, "broker": "mosquitto"})
        async with stand.running():
            health = stand.standing(t.HEALTH)
            assert (health["status"], health["reasons"]) == ("healthy", [])
            assert health["services"] == dict.fromkeys(sorted(SERVICES), "online")
            assert health["disk_free_bytes"] > 0
            info = stand.standing(t.INFO)
            assert (info["node"], info["contract"], info["broker"]) == ("node", 1, "mosquitto")
            assert info["endpoints"]["bus"]["port"] == 1883
            assert stand.standing(t.BREAKER)["state"] == "closed"
            assert stand.standing(t.BREAKER)["budget_bytes"] == 1 << 30
            stand.home.update_endpoints("ingest", {"port": 6180})
            index = m.SessionIndex(
                sessions=[m.IndexEntry(session="web", uid="u", kind="managed", status="working")],
                at=stand.now(),
            )
            stand.broker.publish(f"{NODE}/sessions/index", msgspec.json.encode(index), retain=True)
            await trio.sleep(2)
            assert stand.standing(t.INFO)["endpoints"]["ingest"]["port"] == 6180
            assert stand.standing(t.HEALTH)["sessions"] == {"working": 1}
            value = stand.registry.get_sample_value
            assert value("pointsman_service_online", {"name": "ledger"}) == 1
            assert value("pointsman_breaker_state", {"state": "closed"}) == 1
            assert value("pointsman_memory_budget_bytes") == 1 << 30

    with_stand(tmp_path, test)


def test_hung_killed_and_back(tmp_path: Path) -> None:
    async def test(stand: Stand) -> None:
        async with stand.running():
            await trio.sleep(30)
            stand.hung.add("ledger")
            await trio.sleep(36)
            assert stand.standing(t.HEALTH)["services"]["ledger"] == "stale"
            assert stand.standing(t.HEALTH)["status"] == "critical"
            assert stand.events() == [("service_stale", "ledger")]
            assert stand.registry.get_sample_value("pointsman_service_stale_total") == 1
            stand.hung.clear()
            await trio.sleep(11)
            assert stand.standing(t.HEALTH)["status"] == "healthy"
            stand.broker.drop(stand.services["ledger"])  # kill -9: the broker publishes its will
            await trio.sleep(1)
            assert stand.standing(t.HEALTH)["services"]["ledger"] == "online"
            await trio.sleep(13)
            assert stand.standing(t.HEALTH)["services"]["ledger"] == "offline"
            stand.broker.restore(stand.services["ledger"])
            await trio.sleep(2)
            assert stand.standing(t.HEALTH)["status"] == "healthy"

    with_stand(tmp_path, test)


def test_the_broker_is_killed(tmp_path: Path) -> None:
    async def test(stand: Stand) -> None:
        async with stand.running():
            stand.broker.restart()
            await trio.sleep(60)
            assert stand.standing(t.HEALTH)["status"] == "healthy"
            assert stand.standing(t.INFO)["node"] == "node"
            assert stand.events() == []

    with_stand(tmp_path, test)


def test_away_from_the_broker_for_long(tmp_path: Path) -> None:
    async def test(stand: Stand) -> None:
        async with stand.running():
            stand.services["watchdog"].down()
            await trio.sleep(300)
            stand.services["watchdog"].up()
            await trio.sleep(15)
            assert stand.standing(t.HEALTH)["status"] == "healthy"
            assert stand.events() == []

    with_stand(tmp_path, test)


def test_what_it_begins_with_is_what_stands(tmp_path: Path) -> None:
    async def test(stand: Stand) -> None:
        stand.broker.publish(f"{NODE}/health", b'{"status":"healthy"}', retain=True)
        gone = heartbeat("homeassistant", BEGIN - timedelta(seconds=100))
        stand.broker.publish(f"{NODE}/services/homeassistant/health", msgspec.json.encode(gone), retain=True)
        stand.broker.publish(f"{NODE}/services/homeassistant/status", b"offline", retain=True)
        stand.hung.add("tmux")
        async with stand.running():
            health = stand.standing(t.HEALTH)
            assert health["services"]["homeassistant"] == "offline"
            assert health["services"]["tmux"] == "offline"  # awaited: its retained word proves nothing
            assert stand.standing(t.HEALTH)["status"] == "degraded"
            await trio.sleep(40)
            assert stand.standing(t.HEALTH)["services"]["tmux"] == "stale"
            assert stand.events() == [("service_stale", "tmux")]

    with_stand(tmp_path, test)


def test_bad_payloads_are_no_heartbeats(tmp_path: Path) -> None:
    async def test(stand: Stand) -> None:
        async with stand.running():
            stand.hung.add("ledger")
            for _ in range(40):
                for topic in ("services/ledger/health", "sessions/index"):
                    for raw in (b"", b"{", b"\xff\xfe", b"[]", b'{"at":"2026-11-21T12:00:00"}'):
                        stand.broker.publish(f"{NODE}/{topic}", raw)
                await trio.sleep(1)
            assert stand.standing(t.HEALTH)["services"]["ledger"] == "stale"
            stand.hung.clear()
            await trio.sleep(11)
            assert stand.standing(t.HEALTH)["services"]["ledger"] == "online"

    with_stand(tmp_path, test)


def test_admission_orphans_and_sessions_over_the_bus(tmp_path: Path) -> None:
    """While the breaker is open a service is refused; what others clean away becomes an event."""

    async def test(stand: Stand) -> None:
        async with stand.running():
            ask = Requester(stand.services["tmux"], by="service-tmux", via="bus").ask
            wanted = m.Admit(session="web", what="create")
            assert await ask(t.ADMIT, wanted) == {}
            stand.services["ledger"].publish(
                t.SERVICE_HEALTH, heartbeat("ledger", stand.now(), rss_bytes=900 << 20), self="ledger"
            )
            await trio.sleep(3)
            with pytest.raises(RefusedError) as refused:
                await ask(t.ADMIT, wanted)
            assert refused.value.code == "breaker_open"
            assert stand.standing(t.BREAKER)["state"] == "open"
            assert stand.registry.get_sample_value("pointsman_breaker_state", {"state": "open"}) == 1
            stand.services["tmux"].publish(t.ORPHAN_REMOVED, m.OrphanRemoved(reason="agent of nobody"))
            await trio.sleep(1)
            assert stand.events() == [("breaker_opened", ""), ("orphan_removed", "")]
            assert stand.registry.get_sample_value("pointsman_orphans_removed_total") == 1

    with_stand(tmp_path, test)
