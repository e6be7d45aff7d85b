"""The ledger on a bus, over a real database, with virtual time."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from pathlib import Path

import msgspec
import trio
import trio.testing

from bus import messages as m
from bus import topics as t
from tests.services.ledger import corpus
from tests.services.ledger.stand import BEGIN, NODE, Stand, cost, opened, with_stand
from tests.services.ledger.support import UID


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
