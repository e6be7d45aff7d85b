"""What takes long with a big ledger: done beside the beating heart of the service, and told."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from bus import topics as t
from services.ledger import upkeep
from services.ledger.database import Database
from services.ledger.shell import serve
from tests.services.ledger.stand import Stand, cost, opened, with_stand
from tests.services.ledger.support import World, busy

FINE = {"spent": 0, "spent_quarters": 0, "spent_spans": 0, "spent_sessions": 0, "spent_models": 0}


def checked(place: Path | str) -> tuple[int, dict[str, int], list[tuple[int, int]]]:
    told: list[tuple[int, int]] = []
    postings, differing = upkeep.check(place, lambda done, of: told.append((done, of)))
    return postings, differing, told


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ("UPDATE spent SET cost = cost + 1", {"spent": 3}),
        ("DELETE FROM spent_quarters", {"spent_quarters": 2}),
        (
            "UPDATE spent_spans SET cost = cost + (CASE model WHEN 'claude-opus-5-5' THEN 1 ELSE -1 END)",
            {"spent_spans": 4},
        ),
        ("UPDATE spent_spans SET quarter = quarter + 100000", {"spent_spans": 8}),
        ("UPDATE spent_sessions SET notional = 1", {"spent_sessions": 2}),  # its months are made of its days
        ("UPDATE spent_models SET share = 0", {"spent_models": 2}),
    ],
)
def test_every_sum_is_compared(
    reopen: Callable[[], Database], place: Path | str, damage: str, found: dict[str, int]
) -> None:
    world = busy(reopen())
    assert checked(place)[:2] == (4, FINE)
    world.db.execute(damage)
    postings, differing, told = checked(place)
    assert postings == 4
    assert {table: count for table, count in differing.items() if count and table in found} == found
    assert told[-1][0] == told[-1][1]
    with world.db.transaction():
        world.store.forget_checked()
    said: list[str] = []
    assert not upkeep.compare(world.db, said.append)
    assert "making the sums" in said[0]
    assert checked(place)[1] == FINE


def test_an_empty_ledger_agrees(reopen: Callable[[], Database], place: Path | str) -> None:
    World(database=reopen())
    assert checked(place)[:2] == (0, FINE)


def test_one_moment_is_compared_while_the_ledger_goes_on(
    reopen: Callable[[], Database], place: Path | str
) -> None:
    world = busy(reopen())
    turn = 10

    def meanwhile(_done: int, _of: int) -> None:
        nonlocal turn
        turn += 1
        world.cost(turn, str(turn))

    assert upkeep.check(place, meanwhile) == (4, FINE)
    assert turn > 10
    assert checked(place)[0] == 4 + turn - 10


def test_asked_for_over_the_bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def at_once(sync: Callable[..., Any], *args: Any, **_more: Any) -> Any:
        async def done() -> Any:
            return sync(*args)

        return done()

    def damage() -> None:
        with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as raw:
            raw.execute("UPDATE spent_models SET cost = cost + 1")
            raw.commit()

    async def test(stand: Stand) -> None:
        monkeypatch.setattr(trio.to_thread, "run_sync", at_once)  # virtual time does not wait for threads
        monkeypatch.setattr(trio.from_thread, "run_sync", lambda call, *args: call(*args))
        async with stand.running():
            await stand.fact(opened())
            await stand.fact(cost(1, "2"))
            reply = await stand.ask("ledger/check", {"id": "k1"})
            assert reply["result"] == {"ok": True, "postings": 1, "differing": FINE, "rebuilding": False}
            events = [msgspec.json.decode(raw) for raw in stand.broker.said(t.LEDGER_EVENTS)]
            steps = [(e["id"], e["done"], e["of"]) for e in events if e["action"] == "check_progress"]
            assert steps[-1] == ("k1", steps[-1][2], steps[-1][2])
            damage()
            reply = await stand.ask("ledger/check", {"id": "k2"})
            assert reply["result"]["differing"] == {**FINE, "spent_models": 1}
            assert not reply["result"]["rebuilding"]

    with_stand(tmp_path, test)


def test_a_big_database_is_brought_up_beside_the_beating_heart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service is taken for hung, and ended, if nothing of it moves for 25 s."""
    stand, go_on = Stand(tmp_path), threading.Event()
    told: list[str] = []

    def bring_up(_place: Path, _mailbox: Path, tell: Callable[[str], None]) -> bool:
        tell("bringing it up")
        assert go_on.wait(60)
        return True

    monkeypatch.setattr(upkeep, "bring_up", bring_up)
    monkeypatch.setattr(upkeep, "due", lambda _place: True)

    async def main() -> None:
        context = replace(stand.context(), doing=told.append)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve, context)
                while told != ["bringing it up"]:  # noqa: ASYNC110  # a thread says it
                    await trio.sleep(0.01)
                go_on.set()  # from the loop: it was not held up
                while stand.broker.standing(t.LEDGER_TOTAL) is None:  # noqa: ASYNC110  # a broker of dicts
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()

    trio.run(main)
    assert told == ["bringing it up", ""]


def test_only_a_big_database_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.sqlite"
    assert not upkeep.due(path)
    path.write_bytes(b"x" * 100)
    assert not upkeep.due(path)
    monkeypatch.setattr(upkeep, "LARGE_BYTES", 100)
    assert upkeep.due(path)
    assert upkeep.due("postgresql://somewhere/else")
