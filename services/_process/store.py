"""A service's own SQLite database: WAL, migrated on opening, one writer (the service's lock sees to that)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from bus.durable import Mailbox

# A checkpoint within a commit takes some 10 ms, and who waits for the commit waits for it. So `checkpoint`
# comes first when nothing else happens, and the log is written over from its beginning, which is also quicker
# to sync than a growing file. This many pages (16 MB) are for a store that is never quiet.
AUTOCHECKPOINT_PAGES = 4000
BUSY_TIMEOUT_MS = 5000  # a person may look into the file with the sqlite3 program


class StoreError(Exception):
    """The world's or the user's fault: the text says what is wrong with the file and what to do."""


def connect_store(path: Path, *, durable: bool) -> sqlite3.Connection:
    """Open (or make) the database with the mailbox's tables, and none of its own yet.

    ``durable`` makes every commit survive a power cut (synchronous=FULL); without it commits survive any
    crash of processes (contract, section 2). Raises `StoreError` for a file that cannot be read.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=True)
    try:
        path.chmod(0o600)
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA wal_autocheckpoint = {AUTOCHECKPOINT_PAGES}")
        Mailbox.create_tables(connection)
    except sqlite3.DatabaseError as error:
        connection.close()
        raise _unusable(path, error) from error
    return connection


def _unusable(path: Path, error: sqlite3.DatabaseError) -> StoreError:
    return StoreError(f"{path} cannot be used: {error}. Move it away (keep it!) and start again")


def open_store(path: Path, migrations: Sequence[str], *, durable: bool) -> sqlite3.Connection:
    """`connect_store`, and bring the database up to date.

    ``migrations[i]`` is the SQL that leads from version i to i + 1. Raises `StoreError` for a database
    written by a newer version, or one that cannot be read.
    """
    connection = connect_store(path, durable=durable)
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
        raise _unusable(path, error) from error
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
    except BaseException:  # whatever it was, nothing of it is kept
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def file_of(connection: sqlite3.Connection) -> str | None:
    """The path of an open database; None for one in memory."""
    return connection.execute("PRAGMA database_list").fetchone()[2] or None


def checkpoint(path: str) -> None:
    """Carry the log over into the database, beside the writer and without holding it up. For a thread."""
    with closing(sqlite3.connect(path, timeout=0)) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
