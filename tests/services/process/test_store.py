"""The store: migrations once and in order, and messages for files that cannot be used."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio
import trio.testing

from bus.effects import Keep
from bus.memory import MemoryBroker
from services._process.station import QUIET_S, Station
from services._process.store import StoreError, checkpoint, file_of, open_store, transaction
from tests.support.contexts import context_for

DAY_S = 24 * 3600.0  # of virtual time, which runs on while a thread is waited for
FIRST = "CREATE TABLE spent (usd REAL CHECK (usd > 0));\nINSERT INTO spent VALUES (1.5)"
SECOND = "ALTER TABLE spent ADD COLUMN session TEXT"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "ledger.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(open_store(path, [FIRST], durable=True)) as connection:
        yield connection


def pragma(connection: sqlite3.Connection, name: str) -> object:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


@pytest.mark.parametrize(("durable", "synchronous"), [(True, 2), (False, 1)])
def test_a_new_store(path: Path, durable: bool, synchronous: int) -> None:
    with closing(open_store(path, [FIRST, SECOND], durable=durable)) as store:
        assert store.execute("SELECT usd, session FROM spent").fetchall() == [(1.5, None)]
        found = [
            pragma(store, name) for name in ("user_version", "journal_mode", "synchronous", "foreign_keys")
        ]
        assert found == [2, "wal", synchronous, 1]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_migrations_run_once(path: Path) -> None:
    for migrations in ([FIRST], [FIRST], [FIRST, SECOND], [FIRST, SECOND]):
        with closing(open_store(path, migrations, durable=True)) as store:
            assert pragma(store, "user_version") == len(migrations)
            assert store.execute("SELECT count(*) FROM spent").fetchone() == (1,)


def test_a_migration_happens_whole_or_not_at_all(path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be used"):
        open_store(path, [FIRST, "CREATE TABLE more (x); CREATE TABLE spent (y)"], durable=True)
    with closing(open_store(path, [FIRST], durable=True)) as store:
        assert pragma(store, "user_version") == 1
        assert store.execute("SELECT name FROM sqlite_master WHERE name = 'more'").fetchone() is None


def test_a_newer_database_is_refused(path: Path) -> None:
    open_store(path, [FIRST, SECOND], durable=True).close()
    with pytest.raises(StoreError, match=r"written by a newer Pointsman \(schema 2, this one knows 1\)"):
        open_store(path, [FIRST], durable=True)


def test_what_is_no_database_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no database" * 500)
    with pytest.raises(
        StoreError, match=r"ledger\.sqlite cannot be used: file is not a database. It was set aside"
    ):
        open_store(path, [FIRST], durable=True)


def test_a_transaction_is_all_or_nothing(store: sqlite3.Connection) -> None:
    with transaction(store):
        store.execute("INSERT INTO spent VALUES (2)")
    with pytest.raises(sqlite3.IntegrityError), transaction(store):
        store.executemany("INSERT INTO spent VALUES (?)", [(3,), (-1,)])
    assert store.execute("SELECT usd FROM spent").fetchall() == [(1.5,), (2.0,)]


def test_transactions_do_not_nest(store: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.OperationalError), transaction(store), transaction(store):
        pass
    assert not store.in_transaction


def in_the_file(path: Path) -> int:
    """Rows that stand in the database itself, without its log."""
    alone = path.with_name("alone.db")
    alone.write_bytes(path.read_bytes())
    with closing(sqlite3.connect(alone)) as connection:
        return int(connection.execute("SELECT count(*) FROM spent").fetchone()[0])


def test_a_checkpoint_carries_the_log_over_beside_its_writer(path: Path) -> None:
    with closing(open_store(path, [FIRST], durable=True)) as store:
        checkpoint(str(path))
        with transaction(store):
            store.execute("INSERT INTO spent VALUES (2)")
        assert in_the_file(path) == 1
        assert file_of(store) == str(path)
        store.execute("BEGIN IMMEDIATE")  # somebody is writing
        checkpoint(str(path))
        store.execute("COMMIT")
        assert in_the_file(path) == 2


def test_a_store_in_memory_has_no_file() -> None:
    with closing(sqlite3.connect(":memory:")) as store:
        assert file_of(store) is None


def test_an_owner_that_is_quiet_carries_its_log_over(path: Path, tmp_path: Path) -> None:
    def file() -> bytes:
        return path.read_bytes()

    async def main(store: sqlite3.Connection) -> None:
        def keep(_: Keep) -> None:
            store.execute("INSERT INTO spent VALUES (2)")

        station = Station(context_for(MemoryBroker().client(), "ledger", tmp_path), store, keep=keep)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(station.run)
            await trio.testing.wait_all_tasks_blocked()
            checkpoint(str(path))
            station.act([Keep()])
            before = file()
            with trio.fail_after(DAY_S):
                while file() == before:  # noqa: ASYNC110  # a thread does it, and tells nobody
                    await trio.sleep(QUIET_S)
            nursery.cancel_scope.cancel()

    with closing(open_store(path, [FIRST], durable=True)) as store:
        trio.run(main, store, clock=trio.testing.MockClock(autojump_threshold=0))
        assert in_the_file(path) == 2
