"""What makes commands and facts safe over a bus that promises nothing: three tables in a service's own store.

Theory of operation. A service does everything in transactions of its SQLite database; this module's tables
stand in that same database, so that what was decided, what must be told and what was answered are kept
together or not at all.

- ``outbox``: facts that this service must get across. `Mailbox.post` inserts within the caller's transaction.
  They are sent in order on every connect, every `RESEND_S`, and as soon as they are posted; a fact leaves the
  table when its owner acknowledges it by id on the bus. A PUBACK proves nothing and is not looked at. A fact
  that the owner refuses moves to ``refused``, where a person can see it.
- ``inbox``: ids of facts that this service owns and has dealt with: kept, or refused and why. The id is
  inserted in the transaction that carries the fact's effect, and acknowledged after its commit: a fact that
  comes again is answered the same again and has no second effect. Each fact names the one before it
  (`bus.messages.Fact.after`), and is passed over until that one was dealt with; the producer sends it again.
- ``commands``: ids of commands acted on in the last `REMEMBER_S`, with a hash of their content and the reply
  once there is one: the same id acts once, is answered again, and is refused with another content.

Ids are forgotten by the wall clock, and that may be wrong for a while: the newest `KEPT_ANYWAY` stay. Nothing
older can still be on its way, because a producer sends at most `WINDOW` facts ahead of what was acknowledged.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from bus import messages as m

RESEND_S = 5.0  # contract, section 2
REMEMBER_S = 24 * 3600.0  # contract, section 2: the same command id acts once for 24 hours
INBOX_KEPT_S = 30 * 24 * 3600.0  # a producer that was away for longer than this has other problems
KEPT_ANYWAY = 1000  # the newest ids of commands and of each producer's facts, whatever the clock says
WINDOW = 200  # facts sent and not yet acknowledged, per owner: bounds a flood after an outage

OUTBOX = """
CREATE TABLE IF NOT EXISTS outbox (
  n INTEGER PRIMARY KEY, id TEXT NOT NULL, owner TEXT NOT NULL, payload BLOB NOT NULL,
  posted_at TEXT NOT NULL, UNIQUE (owner, id)
);
"""
SCHEMA = f"""
{OUTBOX}
CREATE TABLE IF NOT EXISTS refused (
  id TEXT NOT NULL, owner TEXT NOT NULL, payload BLOB NOT NULL, code TEXT NOT NULL, message TEXT NOT NULL,
  refused_at TEXT NOT NULL, PRIMARY KEY (owner, id)
);
CREATE TABLE IF NOT EXISTS inbox (
  id TEXT NOT NULL, producer TEXT NOT NULL, kept_at TEXT NOT NULL, PRIMARY KEY (producer, id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS commands (
  id TEXT PRIMARY KEY, sha256 TEXT NOT NULL, reply BLOB, at TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS inbox_refused (
  id TEXT NOT NULL, producer TEXT NOT NULL, code TEXT NOT NULL, message TEXT NOT NULL,
  PRIMARY KEY (producer, id)
) WITHOUT ROWID;
"""
# What tables of earlier versions had beyond that. An index costs every fact a page that its sender waits for;
# the hourly sweep, which alone went by time, reads a million ids in half a second.
LEANER = """
DROP INDEX IF EXISTS commands_at;
DROP INDEX IF EXISTS inbox_kept_at;
"""
# All of it or nothing: who is killed in the midst of it, and starts the earlier version again, has its facts.
CARRY_OVER = f"""
BEGIN;
ALTER TABLE outbox RENAME TO outbox_before;
{OUTBOX}
INSERT INTO outbox SELECT n, id, owner, payload, posted_at FROM outbox_before;
DROP TABLE outbox_before;
COMMIT;
"""  # noqa: S608  # of constants


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of a command id: ``reply`` None means it is still being worked on."""

    same_content: bool
    reply: bytes | None


@dataclass(slots=True)
class _Line:
    """The facts for one owner, as far as known without asking the database."""

    handed: int = 0  # highest n handed to the bus since the last resend
    fresh: list[tuple[int, bytes]] | None = None  # posted since; None: ask, more may wait than these
    last: str | None = None  # the newest of all that wait
    waiting: int = 0


class Mailbox:
    """The three tables of one service. Every method runs in the caller's transaction, and none commits.

    Whoever loses a transaction must not go on with this object: it remembers what it has written, because
    each statement that need not be asked is some 50 µs of an approval's way.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._lines: dict[str, _Line] = {}  # by owner
        (self._posted,) = connection.execute("SELECT coalesce(max(n), 0) FROM outbox").fetchone()
        self._kept_last: dict[str, str] = {}  # producer → its fact that was dealt with last

    @staticmethod
    def create_tables(connection: sqlite3.Connection) -> None:
        """Make them, or bring those of an earlier version up to date."""
        outbox = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'outbox'").fetchone()
        if outbox and "AUTOINCREMENT" in outbox[0]:
            connection.executescript(CARRY_OVER)
        connection.executescript(SCHEMA + LEANER)

    # facts that we produce

    def post(self, owner: str, fact: m.Fact) -> None:
        """Keep a fact until ``owner`` acknowledges it. Posting the same id again changes nothing."""
        payload = msgspec.json.encode(fact)
        done = self._db.execute(
            "INSERT INTO outbox VALUES (?, ?, ?, ?, ?) ON CONFLICT (owner, id) DO NOTHING",
            (self._posted + 1, fact.id, owner, payload, fact.at.isoformat()),
        )
        if not done.rowcount:
            return
        self._posted += 1  # numbers only grow, also where the table has become empty: see `due`
        line = self._lines.get(owner)
        if line is None or line.fresh is None:
            return
        line.fresh.append((self._posted, _after(payload, line.last)))
        line.last = fact.id
        line.waiting += 1
        if line.waiting > WINDOW:
            line.fresh = None

    def owners(self) -> list[str]:
        return [row[0] for row in self._db.execute("SELECT DISTINCT owner FROM outbox")]

    def due(self, owner: str, *, again: bool) -> Iterator[bytes]:
        """Facts to hand to the bus now, oldest first: those not handed over yet, or, with ``again``, the
        oldest `WINDOW` of all that wait for an acknowledgement. Each names the one before it.
        """
        line = self._lines.setdefault(owner, _Line())
        if line.fresh is not None and not again:
            fresh, line.fresh = line.fresh, []
            for n, payload in fresh:
                line.handed = n
                yield payload
            return
        if again:
            line.handed = 0
        rows = self._db.execute(
            "SELECT n, id, payload FROM outbox WHERE owner = ? ORDER BY n LIMIT ?", (owner, WINDOW)
        ).fetchall()
        line.last, line.waiting = None, len(rows)
        line.fresh = [] if len(rows) < WINDOW else None
        for n, fact_id, payload in rows:
            if n > line.handed:
                line.handed = n
                yield _after(payload, line.last)
            line.last = fact_id

    def acknowledged(self, owner: str, ack: m.Ack, now: datetime) -> list[m.Refused]:
        """The owner has kept these. Returns those it refused and that were now set aside."""
        gone = self._db.executemany(
            "DELETE FROM outbox WHERE owner = ? AND id = ?", [(owner, i) for i in ack.ids]
        ).rowcount
        aside: list[m.Refused] = []
        for refused in ack.refused:
            moved = self._db.execute(
                "INSERT OR REPLACE INTO refused SELECT id, owner, payload, ?, ?, ? FROM outbox "
                "WHERE owner = ? AND id = ?",
                (refused.code, refused.message, now.isoformat(), owner, refused.id),
            ).rowcount
            self._db.execute("DELETE FROM outbox WHERE owner = ? AND id = ?", (owner, refused.id))
            if moved:
                aside.append(refused)
        line = self._lines.get(owner)
        if line is not None:
            line.waiting -= gone + len(aside)
            if line.last in ack.ids or any(refused.id == line.last for refused in aside):
                line.last = None  # and so all before it: they are dealt with in order
        return aside

    def waits(self, owner: str, fact_id: str) -> bool:
        """Whether this fact is not acknowledged yet."""
        found = self._db.execute("SELECT 1 FROM outbox WHERE owner = ? AND id = ?", (owner, fact_id))
        return found.fetchone() is not None

    def waiting(self) -> int:
        """Facts that wait for an acknowledgement."""
        return int(self._db.execute("SELECT count(*) FROM outbox").fetchone()[0])

    # facts that we own

    def kept(self, producer: str, fact_id: str) -> bool:
        """Whether this fact was already dealt with: it had its effect, or was refused (`refusal`)."""
        found = self._db.execute("SELECT 1 FROM inbox WHERE producer = ? AND id = ?", (producer, fact_id))
        return found.fetchone() is not None

    def keep(self, producer: str, fact_id: str, now: datetime) -> bool:
        """Whether this is the first time: else the fact was dealt with, and may have no second effect."""
        row = (fact_id, producer, now.isoformat())
        if not self._db.execute("INSERT OR IGNORE INTO inbox VALUES (?, ?, ?)", row).rowcount:
            return False
        self._kept_last[producer] = fact_id
        return True

    def refuse(self, producer: str, refused: m.Refused, now: datetime) -> None:
        """Deal with a fact by refusing it, for good: it is answered the same whenever it comes again."""
        self.keep(producer, refused.id, now)
        self._db.execute(
            "INSERT OR REPLACE INTO inbox_refused VALUES (?, ?, ?, ?)",
            (refused.id, producer, refused.code, refused.message),
        )

    def refusal(self, producer: str, fact_id: str) -> m.Refused | None:
        """Why this fact was refused, if it was."""
        row = self._db.execute(
            "SELECT code, message FROM inbox_refused WHERE producer = ? AND id = ?", (producer, fact_id)
        ).fetchone()
        return m.Refused(id=fact_id, code=row[0], message=row[1]) if row else None

    def in_order(self, producer: str, fact: m.Fact) -> bool:
        """Whether the fact before this one was dealt with (or there was none, or this one was already)."""
        return (
            not isinstance(fact.after, str)
            or fact.after == self._kept_last.get(producer)
            or self.kept(producer, fact.after)
            or self.kept(producer, fact.id)
        )

    def producers(self) -> list[str]:
        """Those whose facts were dealt with so far."""
        return [row[0] for row in self._db.execute("SELECT DISTINCT producer FROM inbox")]

    # commands that we act on

    def seen(self, command_id: str, content: bytes) -> Seen | None:
        """None if the id is new, else whether it had the same content, and its reply."""
        row = self._db.execute("SELECT sha256, reply FROM commands WHERE id = ?", (command_id,)).fetchone()
        return Seen(row[0] == hashlib.sha256(content).hexdigest(), row[1]) if row else None

    def begin(self, command_id: str, content: bytes, now: datetime) -> None:
        """Remember the id before acting on it."""
        self._db.execute(
            "INSERT INTO commands (id, sha256, at) VALUES (?, ?, ?)",
            (command_id, hashlib.sha256(content).hexdigest(), now.isoformat()),
        )

    def answer(self, reply: m.Reply, now: datetime) -> None:
        """Remember the reply, so that the same command gets the same answer."""
        self._db.execute(
            "UPDATE commands SET reply = ?, at = ? WHERE id = ?",
            (msgspec.json.encode(reply), now.isoformat(), reply.id),
        )

    def forget_old(self, now: datetime) -> None:
        """Drop ids that need not be remembered any more."""
        self._db.execute(
            "DELETE FROM commands WHERE at < ? AND at < "
            "coalesce((SELECT at FROM commands ORDER BY at DESC LIMIT 1 OFFSET ?), '')",
            ((now - timedelta(seconds=REMEMBER_S)).isoformat(), KEPT_ANYWAY - 1),
        )
        before = (now - timedelta(seconds=INBOX_KEPT_S)).isoformat()
        for producer in self.producers():
            (newest,) = self._db.execute(
                "SELECT (SELECT kept_at FROM inbox WHERE producer = ? "
                "ORDER BY kept_at DESC LIMIT 1 OFFSET ?)",
                (producer, KEPT_ANYWAY - 1),
            ).fetchone()
            until = min(before, newest or "")
            self._db.execute(
                "DELETE FROM inbox_refused WHERE producer = ? AND id IN "
                "(SELECT id FROM inbox WHERE producer = ? AND kept_at < ?)",
                (producer, producer, until),
            )
            self._db.execute("DELETE FROM inbox WHERE producer = ? AND kept_at < ?", (producer, until))


def _after(payload: bytes, before: str | None) -> bytes:
    """The fact, naming the one before it."""
    return payload if before is None else payload[:-1] + b',"after":"' + before.encode() + b'"}'
