"""What ingest keeps: one row per session, its events, and what is on its way to the agent."""

from __future__ import annotations

import sqlite3  # noqa: TID251  # the store is where SQL stands
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from bus.effects import Keep
from services.ingest.model import (
    DropLines,
    DropSeen,
    Forget,
    KeepEvent,
    KeepLine,
    KeepPrompt,
    KeepSeen,
    KeepSession,
    Line,
    Prompt,
    Record,
)  # fmt: skip

T = TypeVar("T")

MIGRATIONS = (
    """
    CREATE TABLE sessions (uid TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE events (uid TEXT NOT NULL, seq INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (uid, seq))
      WITHOUT ROWID;
    CREATE TABLE prompts (uid TEXT NOT NULL, uuid TEXT NOT NULL, data BLOB NOT NULL, PRIMARY KEY (uid, uuid))
      WITHOUT ROWID;
    CREATE TABLE lines (uid TEXT NOT NULL, n INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (uid, n))
      WITHOUT ROWID;
    CREATE TABLE seen (uid TEXT NOT NULL, uuid TEXT NOT NULL, PRIMARY KEY (uid, uuid)) WITHOUT ROWID;
    """,
    # With a rowid a record of up to 4 KB stays on its page: each change of a longer one in an index gives a
    # page back and takes another, on the way of every question.
    """
    CREATE TABLE records (uid TEXT PRIMARY KEY, data BLOB NOT NULL);
    INSERT INTO records SELECT uid, data FROM sessions;
    DROP TABLE sessions;
    ALTER TABLE records RENAME TO sessions;
    """,
)
KEPT_EVENTS = 10_000  # per session; about 5 MB
TRIM_EVERY = 500
MAX_HISTORY_BYTES = 2 * 1024 * 1024  # half of a bus payload


class Store:
    """Reads at the start and for `history`; writes `Keep` effects within the caller's transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._write: dict[type[Keep], Callable[[Any], None]] = {
            KeepSession: self._session,
            KeepEvent: self._event,
            KeepPrompt: self._prompt,
            KeepLine: self._line,
            DropLines: self._drop_lines,
            KeepSeen: self._seen,
            DropSeen: self._drop_seen,
            Forget: self._forget,
        }

    def keep(self, effect: Keep) -> None:
        self._write[type(effect)](effect)

    def _session(self, e: KeepSession) -> None:
        self._db.execute(
            "INSERT INTO sessions VALUES (?, ?) ON CONFLICT (uid) DO UPDATE SET data = excluded.data",
            (e.uid, e.data),
        )

    def _event(self, e: KeepEvent) -> None:
        self._db.execute("INSERT INTO events VALUES (?, ?, ?)", (e.uid, e.seq, e.data))
        if e.seq % TRIM_EVERY == 0:
            self._db.execute("DELETE FROM events WHERE uid = ? AND seq <= ?", (e.uid, e.seq - KEPT_EVENTS))

    def _prompt(self, e: KeepPrompt) -> None:
        if e.data is None:
            self._db.execute("DELETE FROM prompts WHERE uid = ? AND uuid = ?", (e.uid, e.uuid))
        else:
            self._db.execute("INSERT OR REPLACE INTO prompts VALUES (?, ?, ?)", (e.uid, e.uuid, e.data))

    def _line(self, e: KeepLine) -> None:
        self._db.execute("INSERT OR REPLACE INTO lines VALUES (?, ?, ?)", (e.uid, e.n, e.data))

    def _drop_lines(self, e: DropLines) -> None:
        self._db.executemany("DELETE FROM lines WHERE uid = ? AND n = ?", [(e.uid, n) for n in e.numbers])

    def _seen(self, e: KeepSeen) -> None:
        self._db.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (e.uid, e.uuid))

    def _drop_seen(self, e: DropSeen) -> None:
        self._db.execute("DELETE FROM seen WHERE uid = ?", (e.uid,))

    def _forget(self, e: Forget) -> None:
        for table in ("sessions", "events", "prompts", "lines", "seen"):
            self._db.execute(f"DELETE FROM {table} WHERE uid = ?", (e.uid,))  # noqa: S608  # names from above

    # reading

    def records(self) -> list[Record]:
        return [_read(data, Record) for (data,) in self._db.execute("SELECT data FROM sessions")]

    def prompts(self) -> list[tuple[str, Prompt]]:
        return [(uid, _read(data, Prompt)) for uid, data in self._db.execute("SELECT uid, data FROM prompts")]

    def lines(self) -> list[tuple[str, Line]]:
        return [(uid, _read(data, Line)) for uid, data in self._db.execute("SELECT uid, data FROM lines")]

    def seen(self, uid: str) -> set[str]:
        return {uuid for (uuid,) in self._db.execute("SELECT uuid FROM seen WHERE uid = ?", (uid,))}

    def history(self, uid: str, after_seq: int, limit: int) -> list[msgspec.Raw]:
        """Events after ``after_seq``, oldest first, at most ``limit`` and `MAX_HISTORY_BYTES` of them."""
        found: list[msgspec.Raw] = []
        size = 0
        rows = self._db.execute(
            "SELECT data FROM events WHERE uid = ? AND seq > ? ORDER BY seq LIMIT ?", (uid, after_seq, limit)
        )
        for (data,) in rows:
            size += len(data)
            if found and size > MAX_HISTORY_BYTES:
                break
            found.append(msgspec.Raw(data))
        return found


def _read(data: bytes, kind: type[T]) -> T:
    return msgspec.json.decode(data, type=kind)
