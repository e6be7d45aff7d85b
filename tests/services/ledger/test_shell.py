"""The ledger on a bus, over a real database, with virtual time."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import trio
import trio.testing
from prometheus_client import CollectorRegistry, Counter

from bus import messages as m
from bus import topics as t
from bus.memory import MemoryBroker
from services._process.config import load_config
from services._process.context import Context
from services._process.home import Home
from services._process.logs import captured_log
from services.ledger.shell import serve
from tests.services.ledger import corpus
from tests.services.ledger.support import UID, fact_of, report

NODE = "pointsman/node"
BEGIN = datetime(2026, 11, 21, 23, 0, tzinfo=UTC)


class Stand:
    """A broker, the ledger, and someone who asks."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.broker = MemoryBroker()
        self.client = self.broker.client(name="someone")
        self.registry = CollectorRegistry()
        self.log: list[dict[str, Any]] = []

    def context(self) -> Context:
        environ = {"POINTSMAN_HOME": str(self.home), "POINTSMAN_NODE_NAME": "node", "HOME": str(self.home)}
        log, lines = captured_log("ledger")
        self.log = lines
        self.registry = CollectorRegistry()
        return Context(
            service="ledger",
            config=load_config(environ),
            home=Home(self.home),
            bus=self.broker.client(service="ledger"),
            log=log,
            registry=self.registry,
            errors=Counter("pointsman_errors", "x", ["code"], registry=self.registry),
            now=lambda: BEGIN + timedelta(seconds=trio.current_time()),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            context = self.context()
            nursery.start_soon(serve, context)
            await trio.sleep(0.1)
            await trio.testing.wait_all_tasks_blocked()
            yield
            nursery.cancel_scope.cancel()
        self.broker.drop(context.bus)  # type: ignore[arg-type]  # the broker's own client

    async def fact(self, fact: m.Fact) -> m.Ack:
        before = len(self.broker.said(t.ACKS))
        self.broker.publish(f"{NODE}/facts/ingest/ledger", msgspec.json.encode(fact))
        await trio.sleep(0.1)
        (ack,) = self.broker.said(t.ACKS)[before:]
        return msgspec.json.decode(ack, type=m.Ack)

    async def ask(self, topic: str, command: dict[str, Any]) -> dict[str, Any]:
        self.broker.publish(f"{NODE}/{topic}", msgspec.json.encode(command))
        await trio.sleep(0.1)
        await trio.testing.wait_all_tasks_blocked()
        reply: dict[str, Any] = msgspec.json.decode(self.broker.said(t.REPLIES, id=command["id"])[-1])
        return reply

    def standing(self, session: str = "web") -> dict[str, Any] | None:
        raw = self.broker.standing(t.LEDGER_SESSION, session=session)
        return None if raw is None else msgspec.json.decode(raw)

    def total(self) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(self.broker.standing(t.LEDGER_TOTAL) or b"{}")
        return found


def with_stand(tmp_path: Path, test: Callable[[Stand], Awaitable[None]], *, threads: bool = False) -> None:
    """In virtual time; in real time where ``threads`` work, which virtual time would not wait for."""

    async def main() -> None:
        with trio.fail_after(120 if threads else 7200):
            await test(Stand(tmp_path))

    trio.run(main, clock=None if threads else trio.testing.MockClock(autojump_threshold=0))


def opened(**more: Any) -> m.Fact:
    data = m.SessionOpened(session="web", cwd="/work/app", kind="managed", **more)
    return fact_of(f"opened-{UID}", "opened", data, BEGIN)


def cost(turn: int, total: str, **more: Any) -> m.Fact:
    return fact_of(f"cost-{turn}", "cost", report(turn, total, **more), BEGIN)


def test_from_fact_to_snapshot_and_over_a_crash(tmp_path: Path) -> None:
    async def test(stand: Stand) -> None:
        async with stand.running():
            assert (await stand.fact(opened(budget_usd=1.0))).ids == [f"opened-{UID}"]
            ack = await stand.fact(cost(1, "0.5"))
            assert ack.ids == ["cost-1"], ack
            said = stand.standing()
            assert said is not None
            assert (said["spent_usd"], said["level"], said["uid"]) == (0.5, "moderate", UID)
            assert (await stand.fact(cost(1, "0.5"))).ids == ["cost-1"]  # again: acknowledged, not counted
            assert (said := stand.standing()) is not None
            assert said["spent_usd"] == 0.5
            events = [msgspec.json.decode(raw) for raw in stand.broker.said(t.LEDGER_EVENTS)]
            assert [(e["action"], e["from"], e["to"], e["session"]) for e in events] == [
                ("level", "abundant", "moderate", "web")
            ]
            assert stand.registry.get_sample_value("pointsman_postings_total", {"source": "agent"}) == 1
            assert stand.registry.get_sample_value("pointsman_spent_dollars", {"period": "day"}) == 0.5
            assert stand.registry.get_sample_value("pointsman_budget_sessions", {"level": "moderate"}) == 1
        stand.broker.retained.clear()  # kill -9 of the broker
        async with stand.running():
            assert (said := stand.standing()) is not None
            assert said["spent_usd"] == 0.5
            assert stand.total()["spent_usd"] == 0.5
            assert set(stand.total()["periods"]) == {"day", "week", "month", "total"}
            await stand.fact(cost(1, "0.5"))
            await stand.fact(cost(2, "0.75"))
            assert stand.total()["spent_usd"] == 0.75

    with_stand(tmp_path, test)


def test_bad_facts_are_refused_and_the_ledger_goes_on(tmp_path: Path) -> None:
    async def test(stand: Stand) -> None:
        async with stand.running():
            await stand.fact(opened())
            ack = await stand.fact(cost(1, "nan"))
            assert (ack.ids, ack.refused[0].code) == ([], "bad_request")
            ack = await stand.fact(m.Fact(id="odd", type="cost", uid=UID, at=BEGIN))
            assert ack.refused[0].id == "odd"
            ack = await stand.fact(m.Fact(id="strange", type="exited", uid=UID, at=BEGIN))
            assert ack.refused[0].id == "strange"
            for topic in (
                "facts/ingest/ledger",
                "sessions/index",
                "ledger/sessions/web/budget",
                "ledger/query",
            ):
                for raw in (b"{", b"\xff", b"[]", b'{"at":"2026-11-21T12:00:00","sessions":[]}'):
                    stand.broker.publish(f"{NODE}/{topic}", raw)
            await trio.sleep(1)
            ack = await stand.fact(cost(2, "0.5"))
            assert ack.ids == ["cost-2"]

    with_stand(tmp_path, test)


def test_budget_commands(tmp_path: Path) -> None:
    async def test(stand: Stand) -> None:
        async with stand.running():
            await stand.fact(opened())
            await stand.fact(cost(1, "2"))
            reply = await stand.ask("ledger/sessions/web/budget", {"id": "c1", "budget_usd": 4})
            assert (reply["ok"], reply["result"]["level"]) == (True, "moderate")
            reply = await stand.ask("ledger/sessions/nobody/budget", {"id": "c2", "budget_usd": 4})
            assert reply["error"]["code"] == "unknown_session"
            reply = await stand.ask("ledger/sessions/web/budget", {"id": "c3", "budget_usd": -1})
            assert reply["error"]["code"] == "bad_request"
            reply = await stand.ask("ledger/budgets/day", {"id": "c4", "budget_usd": 2})
            assert reply["result"]["periods"]["day"]["budget_usd"] == 2
            stand.broker.publish(f"{NODE}/ledger/budgets/year", b'{"id":"c5","budget_usd":2}')
        async with stand.running():
            said = stand.standing()
            assert said is not None
            assert said["budget_usd"] == 4
            assert stand.total()["periods"]["day"]["budget_usd"] == 2
            events = [msgspec.json.decode(raw) for raw in stand.broker.said(t.LEDGER_EVENTS)]
            assert [(e["from"], e["to"]) for e in events] == [
                ("abundant", "moderate"),
                ("unlimited", "exhausted"),
            ]

    with_stand(tmp_path, test)


def test_queries(tmp_path: Path) -> None:
    async def test(stand: Stand) -> None:
        async with stand.running():
            await stand.fact(opened())
            await stand.fact(cost(1, "2"))
            reply = await stand.ask("ledger/query", {"id": "q1", "by": "session"})
            (row,) = reply["result"]["rows"]
            assert (row["key"], row["uid"], row["spent_usd"], row["turns"]) == ("web", UID, 2, 1)
            reply = await stand.ask(
                "ledger/query", {"id": "q2", "by": "day", "since": "2026-11-22T00:00:00Z"}
            )
            assert reply["result"] == {"by": "day", "rows": [], "total_usd": 0}
            reply = await stand.ask("ledger/query", {"id": "q3", "by": "day", "since": "2026-11-22T00:00:00"})
            assert reply["error"]["code"] == "bad_request"
            reply = await stand.ask("ledger/query", {"id": "q4", "by": "colour"})
            assert reply["error"]["code"] == "bad_request"

    with_stand(tmp_path, test)


def test_a_removed_session_and_what_stood_there_before(tmp_path: Path) -> None:
    async def test(stand: Stand) -> None:
        stand.broker.publish(f"{NODE}/ledger/sessions/ghost", b'{"session":"ghost"}', retain=True)
        async with stand.running():
            await stand.fact(opened())
            await trio.sleep(1)
            assert stand.standing("ghost") is None
            assert stand.standing() is not None
            index = m.SessionIndex(sessions=[], at=BEGIN + timedelta(seconds=1))
            stand.broker.publish(f"{NODE}/sessions/index", msgspec.json.encode(index), retain=True)
            await trio.sleep(1)
            assert stand.standing() is None
        async with stand.running():
            assert stand.standing() is None

    with_stand(tmp_path, test)


def test_the_burn_rate_falls_by_itself(tmp_path: Path) -> None:
    async def test(stand: Stand) -> None:
        async with stand.running():
            await stand.fact(opened())
            await stand.fact(cost(1, "2"))
            assert (said := stand.standing()) is not None
            assert said["burn_usd_per_h"] == 24  # two dollars in five minutes
            await trio.sleep(1000)
            assert (said := stand.standing()) is not None
            assert said["burn_usd_per_h"] is None
            assert stand.total()["burn_usd_per_h"] is None
            await trio.sleep(3600)  # past midnight
            assert stand.total()["periods"]["day"]["spent_usd"] == 0
            assert stand.total()["periods"]["total"]["spent_usd"] == 2

    with_stand(tmp_path, test)


def test_damaged_sums_are_made_again_at_start(tmp_path: Path) -> None:
    async def test(stand: Stand) -> None:
        async with stand.running():
            await stand.fact(opened())
            await stand.fact(cost(1, "2"))
        context = stand.context()
        with sqlite3.connect(context.config.ledger.database) as db:
            db.execute("UPDATE spent SET cost = 0")
        db.close()
        async with stand.running():
            assert stand.total()["spent_usd"] == 2
            assert stand.registry.get_sample_value("pointsman_ledger_rebuilds_total") == 1
            assert any("made again" in line["event"] for line in stand.log)

    with_stand(tmp_path, test)


def test_an_import_over_the_bus(tmp_path: Path) -> None:
    projects = tmp_path / "projects"
    corpus.write(projects)

    async def test(stand: Stand) -> None:
        async with stand.running():
            for n, paths in enumerate((["projects"], [str(tmp_path / "never")], [])):
                reply = await stand.ask("ledger/import", {"id": f"bad{n}", "paths": paths})
                assert reply["error"]["code"] == "bad_request"
            stand.broker.publish(
                f"{NODE}/ledger/import", msgspec.json.encode({"id": "i1", "paths": [str(projects)]})
            )
            while not stand.broker.said(t.REPLIES, id="i1"):  # noqa: ASYNC110  # a thread reads
                await trio.sleep(0.01)
            reply = msgspec.json.decode(stand.broker.said(t.REPLIES, id="i1")[-1])
            assert (reply["ok"], reply["result"]["added"]) == (True, len(corpus.CALLS))
            assert stand.total()["spent_usd"] == corpus.TOTAL_USD
            events = [msgspec.json.decode(raw) for raw in stand.broker.said(t.LEDGER_EVENTS)]
            assert {event["id"] for event in events if event["action"] == "import_progress"} == {"i1"}
        async with stand.running():
            assert stand.total()["spent_usd"] == corpus.TOTAL_USD

    with_stand(tmp_path, test, threads=True)
