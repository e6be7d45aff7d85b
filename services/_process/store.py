"""A service's own SQLite database: WAL, migrated on opening, one writer (the service's lock sees to that)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from bus.durable import Mailbox
from services._process.damage import refusal, set_aside, sync_directory

# A checkpoint within a commit takes some 10 ms, and who waits for the commit waits for it. So `checkpoint`
# comes first when nothing else happens, and the log is written over from its beginning, which is also quicker
# to sync than a growing file. This many pages (16 MB) are for a store that is never quiet.
AUTOCHECKPOINT_PAGES = 4000
BUSY_TIMEOUT_MS = 5000  # a person may look into the file with the sqlite3 program
CHECKED_MAX_BYTES = 16 * 1024 * 1024  # a file up to this is looked through when it is opened: within 0.1 s

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_UNWRITABLE = "Who owns it and its directory, and is its disk mounted for writing?"
_DISK = "Make room on its disk, or look after the disk. Nothing was confirmed that is not in it"
_WHAT_TO_DO = {
    sqlite3.SQLITE_FULL: _DISK,
    sqlite3.SQLITE_IOERR: _DISK,
    sqlite3.SQLITE_BUSY: "Another program holds it locked; `fuser -v` on it names that program: close it",
    sqlite3.SQLITE_READONLY: _UNWRITABLE,
    sqlite3.SQLITE_CANTOPEN: _UNWRITABLE,
    sqlite3.SQLITE_PERM: _UNWRITABLE,
}
_opened: list[tuple[Path, str]] = []  # what an error of SQLite is about, which does not say so (`trouble`)
HELD = "what this service kept"


class StoreError(Exception):
    """The world's or the user's fault: the text says what is wrong with the file and what to do."""


def connect_store(path: Path, *, durable: bool, gone: str = HELD) -> sqlite3.Connection:
    """Open (or make) the database with the mailbox's tables, and none of its own yet.

    ``durable`` makes every commit survive a power cut (synchronous=FULL); without it commits survive any
    crash of processes (contract, section 2). ``gone``: what its user loses without it, in words. Raises
    `StoreError` for a file that cannot be read, and as long as nothing stands for one that was damaged.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    refused = refusal(path, gone)
    if refused is not None:
        raise StoreError(refused)
    _opened[:] = [(path, gone)]
    try:
        if not path.exists():
            _make(path)
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=True)
    except sqlite3.DatabaseError as error:
        raise unusable(error) from error
    try:
        path.chmod(0o600)
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA journal_mode = WAL")
        if path.stat().st_size <= CHECKED_MAX_BYTES:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise StoreError(set_aside(path, f"it is damaged ({' '.join(found.split())})", gone))
        connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA wal_autocheckpoint = {AUTOCHECKPOINT_PAGES}")
        Mailbox.create_tables(connection)
    except sqlite3.DatabaseError as error:
        connection.close()
        raise unusable(error) from error
    except StoreError:
        connection.close()
        raise
    return connection


def _make(path: Path) -> None:
    """A database comes into being whole: an empty file in its place is none (`services._process.damage`)."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with closing(sqlite3.connect(new)) as connection:
        new.chmod(0o600)
        connection.execute("PRAGMA journal_mode = WAL")
    new.rename(path)
    sync_directory(path.parent)


def unusable(error: sqlite3.DatabaseError) -> StoreError:
    """What to tell the user when the database cannot be opened. A damaged one is set aside."""
    return trouble(error) or StoreError(
        f"{_opened[0][0]} cannot be used: {error}. It is not as this Pointsman makes it: put a backup in its "
        "place (keep this one!), or report it"
    )


def trouble(error: sqlite3.Error) -> StoreError | None:
    """What to tell the user of an error at opening or in the midst of work; None: it is a bug of ours. A
    damaged database is set aside.
    """
    if not _opened:
        return None
    path, gone = _opened[0]
    if _code(error) in _DAMAGED:
        return StoreError(set_aside(path, str(error), gone))
    what = _WHAT_TO_DO.get(_code(error))
    if what is _UNWRITABLE and not path.exists():
        what = "It was taken away while it was in use: put it back, with its -wal and -shm files"
    return None if what is None else StoreError(f"{path} cannot be used: {error}. {what}")


def _code(error: sqlite3.Error) -> int:
    """SQLite's own, without its finer shades; what Python's module itself raises has none."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF


def open_store(
    path: Path, migrations: Sequence[str], *, durable: bool, gone: str = HELD
) -> sqlite3.Connection:
    """`connect_store`, and bring the database up to date.

    ``migrations[i]`` is the SQL that leads from version i to i + 1. Raises `StoreError` for a database
    written by a newer version, or one that cannot be read.
    """
    connection = connect_store(path, durable=durable, gone=gone)
    try:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version > len(migrations):
            raise StoreError(
                f"{path} was written by a newer Pointsman (schema {version}, this one knows "
                f"{len(migrations)}): start that version, or move the file away to begin anew"
            )
        for number, sql in enumerate(migrations[version:], start=version + 1):
            connection.executescript(f"BEGIN;\n{sql}\n;PRAGMA user_version = {number};\nCOMMIT;")
    except sqlite3.DatabaseError as error:
        connection.close()
        raise unusable(error) from error
    except StoreError:
        connection.close()
        raise
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing. Nested use is a bug and raises sqlite3.OperationalError."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:  # whatever it was, nothing of it is kept
        if connection.in_transaction:  # not if the disk is full: SQLite has rolled back by itself then
            with suppress(sqlite3.Error):  # the first error tells
                connection.execute("ROLLBACK")
        raise


def file_of(connection: sqlite3.Connection) -> str | None:
    """The path of an open database; None for one in memory."""
    return connection.execute("PRAGMA database_list").fetchone()[2] or None


def checkpoint(path: str) -> None:
    """Carry the log over into the database, beside the writer and without holding it up. For a thread.

    Raises sqlite3.DatabaseError for a file that is damaged, or not there any more: its writer, which works
    with its memory and the log, would not notice for long. Anything else its next commit meets as well.
    """
    try:
        with closing(sqlite3.connect(f"{Path(path).as_uri()}?mode=rw", timeout=0, uri=True)) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    except sqlite3.Error as error:
        if _code(error) in _DAMAGED or not Path(path).exists():
            raise
