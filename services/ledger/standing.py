"""What stands between postings: who is held, what running turns have cost, usage limits.

These tables always stand in the SQLite file of the outbox, also where the postings are on a server: a hold
and the fact that tells of it are kept in one transaction, so they cannot disagree. Times are Unix
milliseconds; budgets are text, because a billion dollars does not fit 64 bits.
"""

from __future__ import annotations

import sqlite3  # noqa: TID251  # the store is where SQL stands
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from bus.effects import Keep
from services.ledger.budgets import Hold, KeepHold
from services.ledger.limits import KeepLimit
from services.ledger.running import KeepRunning

_TABLES = """
CREATE TABLE IF NOT EXISTS holds (
  uid TEXT PRIMARY KEY, n INTEGER NOT NULL, scope TEXT, budget TEXT, until INTEGER
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS running (
  uid TEXT NOT NULL, process INTEGER NOT NULL, amount INTEGER NOT NULL, notional INTEGER NOT NULL,
  PRIMARY KEY (uid, process)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS limits (
  uid TEXT NOT NULL, window TEXT NOT NULL, status TEXT NOT NULL, utilization REAL, resets_at INTEGER,
  at INTEGER NOT NULL, PRIMARY KEY (uid, window)
) WITHOUT ROWID;
"""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Stood:
    """What a start reads. ``notional``: uids whose running turns are paid by a subscription."""

    holds: Mapping[str, tuple[int, Hold | None]] = field(default_factory=dict)
    running: Mapping[tuple[str, int], int] = field(default_factory=dict)
    notional: frozenset[str] = frozenset()
    limits: Sequence[KeepLimit] = ()


@dataclass(frozen=True, slots=True)
class Forget(Keep):
    """A session is removed. The number of its last hold stays: a fact's id is never used twice."""

    uid: str


class Standing:
    """Writes within the caller's transaction."""

    KEEPS = (KeepHold, KeepRunning, KeepLimit, Forget)

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        connection.executescript(_TABLES)

    def keep(self, effect: Keep) -> None:
        match effect:
            case KeepHold(uid, n, hold):
                row = (None, None, None) if hold is None else (hold.scope, str(hold.budget), _ms(hold.until))
                self._db.execute("INSERT OR REPLACE INTO holds VALUES (?, ?, ?, ?, ?)", (uid, n, *row))
            case KeepRunning(uid, process, 0):
                self._db.execute("DELETE FROM running WHERE uid = ? AND process = ?", (uid, process))
            case KeepRunning(uid, process, amount, notional):
                self._db.execute(
                    "INSERT OR REPLACE INTO running VALUES (?, ?, ?, ?)", (uid, process, amount, notional)
                )
            case KeepLimit(uid, window, status, utilization, resets_at, at):
                self._db.execute(
                    "INSERT OR REPLACE INTO limits VALUES (?, ?, ?, ?, ?, ?)",
                    (uid, window, status, utilization, _ms(resets_at), _ms(at)),
                )
            case Forget(uid):
                self._db.execute("DELETE FROM running WHERE uid = ?", (uid,))
                self._db.execute("DELETE FROM limits WHERE uid = ?", (uid,))
            case _:
                raise TypeError(f"not one of these: {effect!r}")

    def load(self) -> Stood:
        holds = {
            uid: (n, None if scope is None else Hold(scope, int(budget), _at(until)))
            for uid, n, scope, budget, until in self._db.execute(
                "SELECT uid, n, scope, budget, until FROM holds"
            )
        }
        running = self._db.execute("SELECT uid, process, amount, notional FROM running").fetchall()
        limits = [
            KeepLimit(uid, window, status, utilization, _at(resets_at), _at(at) or _EPOCH)
            for uid, window, status, utilization, resets_at, at in self._db.execute(
                "SELECT uid, window, status, utilization, resets_at, at FROM limits"
            )
        ]
        amounts = {(uid, process): amount for uid, process, amount, _ in running}
        notional = frozenset(uid for uid, _, _, notional in running if notional)
        return Stood(holds, amounts, notional, limits)


def _ms(at: datetime | None) -> int | None:
    return None if at is None else (at - _EPOCH) // _MS


def _at(ms: int | None) -> datetime | None:
    return None if ms is None else _EPOCH + ms * _MS
