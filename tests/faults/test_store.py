"""A database that is full, locked or damaged: what was not kept is not confirmed, and no file is replaced.

A damaged one is set aside, and only a person puts another in its place.
"""

from __future__ import annotations

import errno
import re
import sqlite3
import stat
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
from services._process import damage, run, store
from services._process.store import StoreError, checkpoint, open_store, transaction, trouble
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
    assert "approvals.sqlite cannot be used: database or disk is full. Make room" in told(full.value)
    assert not owner.db.in_transaction
    assert owner.effects() == []
    assert acknowledged(broker, owner) == []
    owner.db.execute("PRAGMA max_page_count = 100000")
    owner.station.receive(sent(0))  # there is room, and it comes again
    assert owner.effects() == ["0"]
    assert len(acknowledged(broker, owner)) == 1


@pytest.mark.parametrize(
    "fails",
    [
        (sqlite3.SQLITE_TRANSACTION, "BEGIN"),
        (sqlite3.SQLITE_INSERT, "inbox"),
        (sqlite3.SQLITE_INSERT, "effects"),
        (sqlite3.SQLITE_TRANSACTION, "COMMIT"),
    ],
    ids=["at its beginning", "at the id", "at the effect", "at its end"],
)
def test_wherever_its_transaction_fails_a_fact_has_its_effect_when_it_comes_again(
    broker: MemoryBroker, owner: Party, fails: tuple[int, str]
) -> None:
    def deny(did: int, what: str | None, *_: object) -> int:
        return sqlite3.SQLITE_DENY if (did, what) == fails else sqlite3.SQLITE_OK

    owner.db.set_authorizer(deny)
    with pytest.raises(sqlite3.DatabaseError):
        owner.station.receive(sent(0))
    owner.db.set_authorizer(None)
    assert not owner.db.in_transaction
    assert owner.effects() == []
    assert acknowledged(broker, owner) == []
    owner.db.close()
    again = Party(broker.client(service=OWNER), OWNER, owner.path.parent)
    assert again.station.mailbox.producers() == []
    for _ in range(2):
        again.station.receive(sent(0))
    assert again.effects() == ["0"]
    assert len(acknowledged(broker, again)) == 1
    again.db.close()


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
        assert "approvals.sqlite cannot be used: database is locked. Another program" in told(locked.value)
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


def nothing(path: Path) -> None:
    path.write_bytes(b"")


def set_aside_of(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.damaged-*"))


def filled(path: Path) -> None:
    with closing(open_store(path, [SCHEMA], durable=True)) as connection, transaction(connection):
        connection.executemany("INSERT INTO effects (text) VALUES (?)", [("x" * 500,)] * 200)


def rows(path: Path) -> int:
    with closing(open_store(path, [SCHEMA], durable=True)) as connection:
        found: int = connection.execute("SELECT count(*) FROM effects").fetchone()[0]
        return found


@pytest.mark.parametrize("harm", [header, pages, half, nothing])
def test_a_damaged_database_is_set_aside_and_nothing_takes_its_place(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    path = tmp_path / "approvals.sqlite"
    filled(path)
    copy = path.read_bytes()
    harm(path)
    broken = path.read_bytes()
    with pytest.raises(
        StoreError, match=r"approvals\.sqlite cannot be used: .* It was set aside as"
    ) as first:
        open_store(path, [SCHEMA], durable=True, gone="all that was said")
    assert "these are gone: all that was said." in str(first.value)
    (aside,) = [place for place in set_aside_of(path) if not place.name.endswith(("-wal", "-shm"))]
    assert str(aside) in str(first.value)
    assert aside.read_bytes() == broken
    assert stat.S_IMODE(aside.stat().st_mode) == 0o600
    for _ in range(2):  # supervisord starts it again
        with pytest.raises(StoreError, match=f"was found damaged, and lies as {aside}. .* Put a backup at"):
            open_store(path, [SCHEMA], durable=True)
        assert not path.exists()
    path.write_bytes(copy)  # a person puts a copy back
    assert rows(path) == 200
    assert aside.read_bytes() == broken


def test_an_empty_one_is_begun_only_when_the_damaged_one_was_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "home" / "approvals.sqlite"
    filled(path)
    header(path)
    for _ in range(2):
        with pytest.raises(StoreError):
            open_store(path, [SCHEMA], durable=True)
    for place in set_aside_of(path):
        place.rename(tmp_path / place.name)
    assert rows(path) == 0
    header(path)  # and that one as well
    with pytest.raises(StoreError, match="It was set aside"):
        open_store(path, [SCHEMA], durable=True)


def test_a_second_damaged_one_does_not_overwrite_the_first(tmp_path: Path) -> None:
    path = tmp_path / "approvals.sqlite"
    for text in (b"one", b"two", b"three"):  # within one second
        path.write_bytes(text * 1000)
        with pytest.raises(StoreError, match="It was set aside"):
            open_store(path, [SCHEMA], durable=True)
    assert [place.read_bytes()[:3] for place in set_aside_of(path)] == [b"one", b"two", b"thr"]
    with pytest.raises(StoreError, match=re.escape(str(set_aside_of(path)[-1]))):
        open_store(path, [SCHEMA], durable=True)


@pytest.mark.parametrize("moved", [0, 1])
def test_killed_while_it_was_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int) -> None:
    """The log, which has what was kept last, comes after its database and to no other."""
    path = tmp_path / "approvals.sqlite"
    filled(path)
    with closing(open_store(path, [SCHEMA], durable=True)) as writer:
        with transaction(writer):
            writer.execute("INSERT INTO effects (text) VALUES ('last')")
        log = path.with_name(path.name + "-wal").read_bytes()
        whole = path.read_bytes()
        rename, count = Path.rename, 0

        def dies(self: Path, target: Path) -> Path:
            nonlocal count
            count += 1
            if count > moved:
                raise KeyboardInterrupt
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", dies)
        with pytest.raises(KeyboardInterrupt):
            damage.set_aside(path, "it is damaged", "nothing")
        monkeypatch.undo()
    path.with_name(path.name + "-wal").write_bytes(log)  # as if the writer had not lived to close it
    if not moved:
        path.write_bytes(whole)
        assert rows(path) == 201, "it stands as it stood"
        return
    set_aside_of(path)[0].write_bytes(whole)
    with pytest.raises(StoreError, match="was found damaged"):
        open_store(path, [SCHEMA], durable=True)
    assert not path.with_name(path.name + "-wal").exists()
    aside = set_aside_of(path)[0]
    with closing(sqlite3.connect(aside)) as reader:
        assert reader.execute("SELECT count(*) FROM effects").fetchone() == (201,)


def test_a_log_without_its_database_is_not_thrown_away(tmp_path: Path) -> None:
    """SQLite would: it begins a new database, and deletes the log."""
    path = tmp_path / "approvals.sqlite"
    log = path.with_name(path.name + "-wal")
    log.write_bytes(b"what was kept last")
    for says in ("it is gone, and only its log is left", "was found damaged"):
        with pytest.raises(StoreError, match=says):
            open_store(path, [SCHEMA], durable=True)
    assert [place.read_bytes() for place in set_aside_of(path)] == [b"what was kept last"]


def test_one_that_cannot_be_moved_stays_and_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "approvals.sqlite"
    path.write_bytes(b"broken" * 1000)

    def refuses(self: Path, target: Path) -> Path:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "rename", refuses)
    for _ in range(2):
        with pytest.raises(StoreError, match=r"could not be set aside \(.*Read-only"):
            open_store(path, [SCHEMA], durable=True)
    assert path.read_bytes() == b"broken" * 1000


def test_damage_that_shows_while_at_work_ends_the_service_in_clear_words(owner: Party) -> None:
    owner.station.receive(sent(0))
    owner.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    pages(owner.path)
    with closing(sqlite3.connect(owner.path)) as fresh, pytest.raises(sqlite3.DatabaseError) as damaged:
        fresh.execute("SELECT sum(length(weight)) FROM effects").fetchone()
    said = told(damaged.value)
    (aside, *_) = set_aside_of(owner.path)
    assert f"It was set aside as {aside}, and nothing was put in its place" in said
    assert told(damaged.value).startswith(f"{owner.path} cannot be used: "), (
        "another task came across it, too"
    )
    assert set_aside_of(owner.path)[0] == aside
    with pytest.raises(StoreError, match="was found damaged"):
        open_store(owner.path, [SCHEMA], durable=False)


def test_a_quiet_owner_finds_that_its_file_is_damaged_or_gone(owner: Party) -> None:
    """It works with what it has in memory and in the log, so it would not notice for long."""
    owner.station.receive(sent(0))
    checkpoint(str(owner.path))
    header(owner.path)
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        checkpoint(str(owner.path))
    owner.path.unlink()
    with pytest.raises(sqlite3.OperationalError) as gone:
        checkpoint(str(owner.path))
    assert "It was taken away while it was in use" in told(gone.value)
    assert not owner.path.exists()


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
