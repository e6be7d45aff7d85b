"""What is kept comes back the same, costs nothing once decided, and cannot be rewritten."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bus import messages as m
from bus.durable import Mailbox
from services._process.store import open_store
from services.approvals import audit
from services.approvals.audit import Seal
from services.approvals.model import Audit, Save
from services.approvals.store import MIGRATIONS, Store
from tests.bus.test_durable import BEFORE
from tests.services.approvals.support import KEY, World


def test_an_approval_comes_back_as_it_was() -> None:
    world = World()
    text = '{"q":"\\u00e9", "n":1e400}'
    world.ask(input_json=text, suggestions=[{"type": "addRules"}], auto_approve=["TodoWrite"])
    saved = [e.approval for e in world.said if isinstance(e, Save)]
    assert world.store.find("a1") == saved[-1]
    world.decide(decision="deny", reason="no")
    saved = [e.approval for e in world.said if isinstance(e, Save)]
    assert world.store.find("a1") == saved[-1]
    assert saved[-1].input_json == text
    assert world.store.find("a2") is None


def test_pending_comes_oldest_first_and_by_its_own_index() -> None:
    world = World()
    for number in (3, 1, 2):
        world.ask(f"a{number}")
    world.decide("a1")
    assert [a.id for a in world.store.pending()] == ["a3", "a2"]
    plan = world.db.execute(
        "EXPLAIN QUERY PLAN SELECT record, json FROM approvals JOIN inputs ON approval = id "
        "WHERE state = 'pending' ORDER BY n"
    ).fetchall()
    assert any("approvals_pending" in str(row) for row in plan)


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE approvals SET state = 'approved' WHERE id = 'a1'",
        "UPDATE approvals SET state = 'pending' WHERE id = 'a1'",
        "DELETE FROM approvals",
        "UPDATE inputs SET json = '{}'",
        "UPDATE audit SET data = '{}'",
        "DELETE FROM audit",
    ],
)
def test_what_must_not_change_cannot_by_accident(sql: str) -> None:
    world = World()
    world.ask()
    world.decide(decision="deny")
    with pytest.raises(sqlite3.IntegrityError):
        world.db.execute(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM audit WHERE n = (SELECT max(n) FROM audit)",
        "DELETE FROM audit WHERE n = 2",
        "UPDATE audit SET data = replace(data, 'denied', 'approved')",
    ],
)
def test_who_takes_the_triggers_away_is_found_out(sql: str) -> None:
    world = World()
    world.ask()
    world.decide(decision="deny")
    assert audit.verify(world.store.audit_rows(), world.store.audit_head()).broken is None
    world.db.executescript("DROP TRIGGER audit_fixed; DROP TRIGGER audit_kept")
    world.db.execute(sql)
    assert audit.verify(world.store.audit_rows(), world.store.audit_head()).broken is not None


def test_a_transaction_that_fails_leaves_the_chain_whole() -> None:
    world = World()
    world.ask()
    before = world.store.audit_head()
    with pytest.raises(sqlite3.IntegrityError):
        world.act(
            [Audit(world.now, "decision", "a1"), Save(world.approval(), new=True)]
        )  # it is there already
    assert world.store.audit_head() == before
    assert audit.verify(world.store.audit_rows(), before).broken is None


def test_a_file_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "approvals.sqlite"
    for _ in range(2):
        connection = open_store(path, MIGRATIONS, durable=True)
        assert Store(connection, Seal([KEY])).pending() == []
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        connection.close()


GROW = {"approvals", "inputs", "audit", "outbox", "inbox", "commands", "calls"}


def test_nothing_on_the_way_of_an_approval_goes_through_a_table_that_grows() -> None:
    """What was decided before costs its place on the disk alone."""
    world = World()
    for number in range(30):
        world.ask(f"a{number}")
        world.decide(f"a{number}")
    said: list[str] = []
    world.db.set_trace_callback(said.append)
    world.ask("b1")
    world.decide("b1")
    world.apply("b1")
    world.restart()
    world.db.set_trace_callback(None)
    read = [sql for sql in said if not sql.startswith(("BEGIN", "COMMIT", "PRAGMA"))]
    assert len(read) > 10
    for sql in read:
        for *_, plan in world.db.execute(f"EXPLAIN QUERY PLAN {sql}"):
            assert not (plan.startswith("SCAN ") and plan.split()[1] in GROW and " USING " not in plan), sql


def earlier(path: Path) -> World:
    """A store as an earlier version kept it: a1 is decided, a0 and a2 wait, and so does the answer to a1."""
    world = World()
    for number in range(3):
        world.ask(f"a{number}")
    world.decide("a1")
    old = open_store(path, MIGRATIONS[:6], durable=True)
    old.executescript(f"DROP TABLE outbox; DROP TABLE inbox; {BEFORE}")
    for read, write in (
        (
            "SELECT n, id, state, created_at, record FROM approvals",
            "INSERT INTO approvals VALUES (?, ?, 'uid', 'toolu', ?, ?, ?)",
        ),
        ("SELECT * FROM inputs", "INSERT INTO inputs VALUES (?, ?)"),
        ("SELECT * FROM outbox", "INSERT INTO outbox VALUES (?, ?, ?, ?, ?)"),
    ):
        old.executemany(write, world.db.execute(read).fetchall())
    old.close()
    return world


def holds(path: Path, world: World) -> None:
    """What was kept has come along, and what guards it."""
    connection = open_store(path, MIGRATIONS, durable=True)
    store = Store(connection, Seal([KEY]))
    assert [a.id for a in store.pending()] == ["a0", "a2"]
    assert [store.find(f"a{number}") for number in range(3)] == [
        world.store.find(f"a{number}") for number in range(3)
    ]
    assert [n for n, _ in store.past(None, None, 9)] == [3, 2, 1]
    waiting = [
        msgspec.json.decode(fact, type=m.Fact).id for fact in Mailbox(connection).due("ingest", again=True)
    ]
    assert waiting == ["answer-a1"]
    for sql in ("DELETE FROM approvals", "UPDATE approvals SET state = 'denied' WHERE id = 'a1'"):
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(sql)
    shape = "SELECT name, sql FROM sqlite_master WHERE tbl_name IN ('approvals', 'outbox') ORDER BY name"
    assert connection.execute(shape).fetchall() == world.db.execute(shape).fetchall()
    connection.close()


def test_the_tables_of_an_earlier_version_are_carried_over(tmp_path: Path) -> None:
    path = tmp_path / "approvals.sqlite"
    holds(path, earlier(path))


def test_a_kill_at_any_moment_of_that_is_made_good_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each statement the files are copied: they are what a killed process leaves behind."""
    path = tmp_path / "approvals.sqlite"
    world = earlier(path)
    left: list[Path] = []
    connect = sqlite3.connect

    def kill(statement: str) -> None:
        left.append(tmp_path / str(len(left)))
        left[-1].mkdir()
        for name in (path.name, f"{path.name}-wal"):
            if (tmp_path / name).exists():
                shutil.copy(tmp_path / name, left[-1])

    def watched(*where: Any, **how: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*where, **how)
        connection.set_trace_callback(kill)
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", watched)
        open_store(path, MIGRATIONS, durable=True).close()
    assert len(left) > 20
    for folder in left:
        holds(folder / path.name, world)
