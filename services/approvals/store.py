"""The gate's tables: approvals, their inputs, the audit chain. Opened durable (`open_store`).

Decided approvals stand here alone and cost nothing but their place on the disk: a start reads the pending
ones by a partial index, and a decided one is found by its id when somebody asks.
Triggers hold what must never
happen, whoever writes: a decision does not change, an input does not change, the audit only grows.
"""

from __future__ import annotations

import sqlite3  # noqa: TID251  # the store is where SQL stands
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime

import msgspec

from bus import messages as m
from bus.effects import Keep
from services._process.store import transaction
from services.approvals import chain
from services.approvals.audit import Row, Seal
from services.approvals.chain import Chain
from services.approvals.model import (
    Approval,
    Audit,
    DeviceDecided,
    DropRule,
    GoodPolicy,
    Save,
    SaveCalls,
    SavePolicy,
    SaveRule,
    SaveUsers,
    SealAnew,
)
from services.approvals.passed import MAX_CALLS, Passed
from services.approvals.remember import Remembered

MIGRATIONS = (
    """
CREATE TABLE approvals (
  n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, uid TEXT NOT NULL, tool_use_id TEXT,
  state TEXT NOT NULL, created_at TEXT NOT NULL, record BLOB NOT NULL
);
CREATE INDEX approvals_pending ON approvals (n) WHERE state = 'pending';
CREATE INDEX approvals_tool_use ON approvals (tool_use_id) WHERE tool_use_id IS NOT NULL;
CREATE TABLE inputs (approval TEXT PRIMARY KEY, json TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE audit (
  n INTEGER PRIMARY KEY, at TEXT NOT NULL, action TEXT NOT NULL, approval TEXT NOT NULL, data TEXT NOT NULL,
  hash BLOB NOT NULL
);
CREATE INDEX audit_approval ON audit (approval);
CREATE TABLE audit_head (one INTEGER PRIMARY KEY CHECK (one = 1), n INTEGER NOT NULL, hash BLOB NOT NULL);
INSERT INTO audit_head VALUES (1, 0, zeroblob(32));
CREATE TRIGGER approvals_final BEFORE UPDATE ON approvals
  WHEN old.state <> 'pending' AND new.state IS NOT old.state
  BEGIN SELECT RAISE (ABORT, 'a decision never changes'); END;
CREATE TRIGGER approvals_kept BEFORE DELETE ON approvals
  BEGIN SELECT RAISE (ABORT, 'approvals are kept'); END;
CREATE TRIGGER inputs_fixed BEFORE UPDATE ON inputs
  BEGIN SELECT RAISE (ABORT, 'an input never changes'); END;
CREATE TRIGGER audit_fixed BEFORE UPDATE ON audit
  BEGIN SELECT RAISE (ABORT, 'the audit only grows'); END;
CREATE TRIGGER audit_kept BEFORE DELETE ON audit
  BEGIN SELECT RAISE (ABORT, 'the audit only grows'); END;
""",
    """
CREATE TABLE users (
  user TEXT PRIMARY KEY, role TEXT NOT NULL, max_level TEXT, since TEXT NOT NULL, decided_at TEXT
) WITHOUT ROWID;
""",
    chain.MIGRATION,
    """
CREATE TABLE remembered (n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, record BLOB NOT NULL);
CREATE TABLE policy (one INTEGER PRIMARY KEY CHECK (one = 1), record BLOB NOT NULL);
""",
    """
CREATE TABLE calls (
  n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, uid TEXT NOT NULL, tool_use_id TEXT,
  at TEXT NOT NULL, record BLOB NOT NULL
);
""",
    "DROP INDEX audit_approval;",  # nothing asked by it, and every row of the audit paid for it
    # As little as an approval needs: each index is a page more that its agent waits for.
    """
DROP INDEX approvals_tool_use;
DROP TRIGGER approvals_final;
DROP TRIGGER approvals_kept;
ALTER TABLE approvals RENAME TO before;
DROP INDEX approvals_pending;
CREATE TABLE approvals (
  n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, state TEXT NOT NULL, created_at TEXT NOT NULL,
  record BLOB NOT NULL
);
INSERT INTO approvals SELECT n, id, state, created_at, record FROM before;
DROP TABLE before;
CREATE INDEX approvals_pending ON approvals (n) WHERE state = 'pending';
CREATE TRIGGER approvals_final BEFORE UPDATE ON approvals
  WHEN old.state <> 'pending' AND new.state IS NOT old.state
  BEGIN SELECT RAISE (ABORT, 'a decision never changes'); END;
CREATE TRIGGER approvals_kept BEFORE DELETE ON approvals
  BEGIN SELECT RAISE (ABORT, 'approvals are kept'); END;
""",
)

_FIND = "SELECT record, json FROM approvals JOIN inputs ON approval = id"


class Store:
    """Reads at any time; writes within `transaction`."""

    def __init__(self, connection: sqlite3.Connection, seal: Seal) -> None:
        self._db = connection
        self.chain = Chain(connection, seal)
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(Approval)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and the head of the audit with it."""
        try:
            with transaction(self._db):
                yield
                self.chain.close(kept=True)
        finally:
            self.chain.close(kept=False)

    def pending(self) -> list[Approval]:
        """Oldest first."""
        rows = self._db.execute(
            f"{_FIND} WHERE state = 'pending' ORDER BY n"
        )  # spelled out, for the partial index
        return [self._approval(*row) for row in rows]

    def find(self, approval_id: str) -> Approval | None:
        row = self._db.execute(f"{_FIND} WHERE id = ?", (approval_id,)).fetchone()
        return self._approval(*row) if row else None

    def keep(self, effect: Keep) -> None:
        """Carry out one of the gate's `Keep` effects."""
        if isinstance(effect, Save):
            self._save(effect.approval, effect.new)
        elif isinstance(effect, Audit):
            self.chain.append(effect.at, effect.action, effect.approval, effect.data)
        elif isinstance(effect, SealAnew):
            self.chain.seal_anew()
        elif isinstance(effect, SaveUsers):
            self._save_users(effect.users)
        elif isinstance(effect, DeviceDecided):
            at = effect.at.isoformat()
            self._db.execute("UPDATE users SET decided_at = ? WHERE user = ?", (at, effect.device))
        elif isinstance(effect, SaveRule):
            record = self._encoder.encode(effect.rule)
            self._db.execute(
                "INSERT OR REPLACE INTO remembered (id, record) VALUES (?, ?)", (effect.rule.id, record)
            )
        elif isinstance(effect, DropRule):
            self._db.execute("DELETE FROM remembered WHERE id = ?", (effect.rule_id,))
        elif isinstance(effect, SaveCalls):
            self._save_calls(effect.calls)
        elif isinstance(effect, SavePolicy):
            self._db.execute(
                "INSERT OR REPLACE INTO policy VALUES (1, ?)", (self._encoder.encode(effect.policy),)
            )
        else:
            raise TypeError(f"{effect!r} is not kept here")

    def _save(self, a: Approval, new: bool) -> None:
        record = self._encoder.encode(msgspec.structs.replace(a, input_json=""))
        if not new:
            self._db.execute(
                "UPDATE approvals SET state = ?, record = ? WHERE id = ?", (a.state, record, a.id)
            )
            return
        self._db.execute("INSERT INTO inputs VALUES (?, ?)", (a.id, a.input_json))
        self._db.execute(
            "INSERT INTO approvals (id, state, created_at, record) VALUES (?, ?, ?, ?)",
            (a.id, a.state, a.created_at.isoformat(), record),
        )

    def users(self) -> list[m.BusUser]:
        """As the broker service has last told them."""
        rows = self._db.execute("SELECT user, role, max_level, since FROM users ORDER BY since, user")
        return [m.BusUser(user=u, role=r, max_level=level, since=since) for u, r, level, since in rows]

    def decided_at(self) -> dict[str, datetime]:
        """When each device last decided."""
        rows = self._db.execute("SELECT user, decided_at FROM users WHERE decided_at IS NOT NULL")
        return {user: datetime.fromisoformat(at) for user, at in rows}

    def _save_users(self, users: Iterable[m.BusUser]) -> None:
        last = {(u.user, u.since): at for u in self.users() if (at := self.decided_at().get(u.user))}
        self._db.execute("DELETE FROM users")
        self._db.executemany(
            "INSERT INTO users VALUES (?, ?, ?, ?, ?)",
            [
                (u.user, u.role, u.max_level, u.since, at.isoformat() if at else None)
                for u in users
                for at in [last.get((u.user, u.since))]
            ],
        )

    def _approval(self, record: bytes, input_json: str) -> Approval:
        return msgspec.structs.replace(self._decoder.decode(record), input_json=input_json)

    def past(self, since: datetime | None, before: int | None, limit: int) -> list[tuple[int, Approval]]:
        """Approvals with their numbers, newest first, of those below ``before``."""
        rows = self._db.execute(
            "SELECT n, record, json FROM approvals JOIN inputs ON approval = id "
            "WHERE n < ? AND created_at >= ? ORDER BY n DESC LIMIT ?",
            (before if before is not None else 2**62, since.isoformat() if since else "", limit),
        )
        return [(n, self._approval(record, input_json)) for n, record, input_json in rows]

    def _save_calls(self, calls: Iterable[Passed]) -> None:
        self._db.executemany(  # one that was asked about again is there
            "INSERT OR IGNORE INTO calls (id, uid, tool_use_id, at, record) VALUES (?, ?, ?, ?, ?)",
            [
                (call.id, call.uid, call.tool_use_id, call.at.isoformat(), self._encoder.encode(call))
                for call in calls
            ],
        )
        self._db.execute("DELETE FROM calls WHERE n <= (SELECT max(n) FROM calls) - ?", (MAX_CALLS,))

    def passed(self, since: datetime | None, before: int | None, limit: int) -> list[tuple[int, Passed]]:
        """Calls with their numbers, as `past`; among them some that were asked about after all."""
        rows = self._db.execute(
            "SELECT n, record FROM calls WHERE n < ? AND at >= ? ORDER BY n DESC LIMIT ?",
            (before if before is not None else 2**62, since.isoformat() if since else "", limit),
        )
        return [(n, msgspec.json.decode(record, type=Passed)) for n, record in rows]

    def remembered(self) -> tuple[Remembered, ...]:
        """Oldest first."""
        rows = self._db.execute("SELECT record FROM remembered ORDER BY n")
        return tuple(msgspec.json.decode(record, type=Remembered) for (record,) in rows)

    def policy(self) -> GoodPolicy | None:
        """What was in force last."""
        row = self._db.execute("SELECT record FROM policy").fetchone()
        return msgspec.json.decode(row[0], type=GoodPolicy) if row else None

    @property
    def empty(self) -> bool:
        """Nothing was ever kept here."""
        first = "SELECT EXISTS (SELECT 1 FROM approvals) OR EXISTS (SELECT 1 FROM audit)"
        return self.chain.head()[0] == 0 and not self._db.execute(first).fetchone()[0]

    def audit_head(self) -> tuple[int, bytes]:
        """Number and hash of the last row, as kept beside the table."""
        return self.chain.head()

    def audit_rows(self, after: int = 0) -> Iterator[Row]:
        """In order."""
        return self.chain.rows(after)
