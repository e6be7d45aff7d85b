"""A database that is full, locked or damaged: what was not kept is not confirmed, and no file is replaced."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio

from bus import codec
from bus import topics as t
from bus.api import Received
from bus.memory import MemoryBroker
from services._process import run, store
from services._process.store import StoreError, open_store, transaction, trouble
from tests.faults.owner import OWNER, PRODUCER, SCHEMA, Party, withdrawn

PAGE = 4096


def sent(number: int) -> Received:
    """A fact on its way to the owner."""
    values = {"producer": PRODUCER, "owner": OWNER}
    raw = codec.encode(t.FACTS, withdrawn(number))
    return Received(t.FACTS, values, raw, retained=False, topic=t.FACTS.path(**values), node="node")


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def owner(broker: MemoryBroker, tmp_path: Path) -> Iterator[Party]:
    party = Party(broker.client(service=OWNER), OWNER, tmp_path, weight=100 * PAGE)
    yield party
    party.db.close()


def told(error: sqlite3.Error) -> str:
    """In which words the process ends of it; exit code 4, which supervisord starts again."""
    cause = run._worlds(error)
    assert run._code(cause) == run.EXIT_WORLD
    return str(cause)


def acknowledged(broker: MemoryBroker, owner: Party) -> list[bytes]:
    owner.station.acknowledge()
    return broker.said(t.ACKS, "node", owner=OWNER, producer=PRODUCER)


def test_a_full_disk_keeps_nothing_and_confirms_nothing(broker: MemoryBroker, owner: Party) -> None:
    (pages,) = owner.db.execute("PRAGMA page_count").fetchone()
    owner.db.execute(f"PRAGMA max_page_count = {pages + 10}")
    with pytest.raises(sqlite3.OperationalError) as full:
        owner.station.receive(sent(0))
    assert "approvals.sqlite cannot be used any more: database or disk is full. Make room" in told(full.value)
    assert not owner.db.in_transaction
    assert owner.effects() == []
    assert acknowledged(broker, owner) == []
    owner.db.execute("PRAGMA max_page_count = 100000")
    owner.station.receive(sent(0))  # there is room, and it comes again
    assert owner.effects() == ["0"]
    assert len(acknowledged(broker, owner)) == 1


def test_a_commit_that_fails_is_rolled_back(owner: Party) -> None:
    owner.db.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
    owner.db.execute("CREATE TABLE child (id INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)")
    with (
        pytest.raises(sqlite3.IntegrityError),
        transaction(owner.db),
    ):  # fails at COMMIT alone, as a full disk may
        owner.db.execute("INSERT INTO child VALUES (1)")
    assert not owner.db.in_transaction
    with transaction(owner.db):
        owner.db.execute("INSERT INTO parent VALUES (1)")
    assert owner.db.execute("SELECT count(*) FROM child").fetchone() == (0,)


def test_a_locked_database_is_waited_for_then_told(broker: MemoryBroker, owner: Party) -> None:
    owner.db.execute("PRAGMA busy_timeout = 1")  # 5 s in truth
    with closing(sqlite3.connect(owner.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError) as locked:
            owner.station.receive(sent(0))
        assert "approvals.sqlite cannot be used any more: database is locked. Another program" in told(
            locked.value
        )
        assert acknowledged(broker, owner) == []
        other.execute("COMMIT")
    owner.station.receive(sent(0))
    assert owner.effects() == ["0"]


def test_a_database_that_another_has_for_itself_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "BUSY_TIMEOUT_MS", 1)
    path = tmp_path / "approvals.sqlite"
    open_store(path, [SCHEMA], durable=True).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(
            StoreError, match=r"approvals\.sqlite cannot be used: database is locked\. Another program"
        ):
            open_store(path, [SCHEMA], durable=True)


def header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\xff" * 100)


def pages(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(PAGE)
        file.write(b"\xa5" * (path.stat().st_size - PAGE))


def half(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2 // PAGE * PAGE)


@pytest.mark.parametrize("damage", [header, pages, half])
def test_a_damaged_database_is_left_as_it_is(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = tmp_path / "approvals.sqlite"
    with closing(open_store(path, [SCHEMA], durable=True)) as connection, transaction(connection):
        connection.executemany("INSERT INTO effects (text) VALUES (?)", [("x" * 500,)] * 200)
    copy = path.read_bytes()
    damage(path)
    broken = path.read_bytes()
    for _ in range(2):  # supervisord starts it again
        with pytest.raises(
            StoreError, match=r"(?s)approvals\.sqlite cannot be used: .* left as it is.* Move it away"
        ):
            open_store(path, [SCHEMA], durable=True)
        assert path.read_bytes() == broken
    path.write_bytes(copy)  # a person puts a copy back
    with closing(open_store(path, [SCHEMA], durable=True)) as connection:
        assert connection.execute("SELECT count(*) FROM effects").fetchone() == (200,)


def test_damage_that_shows_while_at_work_ends_the_service_in_clear_words(owner: Party) -> None:
    owner.station.receive(sent(0))
    owner.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    pages(owner.path)
    with closing(sqlite3.connect(owner.path)) as fresh, pytest.raises(sqlite3.DatabaseError) as damaged:
        fresh.execute("SELECT sum(length(weight)) FROM effects").fetchone()
    assert "left as it is, and nothing was put in its place" in told(damaged.value)


def test_what_is_our_own_mistake_stays_one(owner: Party) -> None:
    with pytest.raises(sqlite3.Error) as wrong:
        owner.db.execute("SELECT nothing FROM nowhere")
    assert trouble(wrong.value) is None
    assert run._code(run._worlds(wrong.value)) == run.EXIT_BUG
    assert trouble(sqlite3.ProgrammingError("of Python's own module")) is None


@pytest.mark.parametrize(("number", "says"), [(28, "make room on the disk"), (24, "ulimit -n")])
def test_what_the_kernel_refuses_is_the_worlds_fault(number: int, says: str) -> None:
    cause = run._worlds(OSError(number, "no"))
    assert run._code(cause) == run.EXIT_WORLD
    assert says in str(cause)
    assert run._code(run._worlds(OSError(2, "no such file"))) == run.EXIT_BUG


def test_supervisord_is_not_kept_busy_by_a_database_that_stays_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setenv("SUPERVISOR_ENABLED", "1")
    group = BaseExceptionGroup("of a nursery", [StoreError("it is damaged"), trio.BrokenResourceError()])
    assert run._explain("approvals", group.exceptions[0], None) == run.EXIT_WORLD
    assert pauses == [run.STORE_PAUSE_S]
    assert "approvals: it is damaged" in capsys.readouterr().err
    assert run._explain("approvals", group, None) == run.EXIT_BUG
    assert len(pauses) == 1, "a bug may be gone the next time"
