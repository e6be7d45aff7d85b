"""The tables of the second witness. In one transaction with the ledger's others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import msgspec

from bus.effects import Keep
from services.ledger.columns import from_ms, marks, to_ms
from services.ledger.database import Database
from services.ledger.evidence import Archive, Followed, Lost, Message, ReadTo, Witnessed
from services.ledger.files import Place
from services.ledger.importing import KeepBatch, Run
from services.ledger.loaded import Loaded
from services.ledger.model import Use
from services.ledger.store import Store

_MESSAGE = (
    "key, uid, at, model, place, cost, input, output, cache_read, cache_write, cache_write_5m, "
    "cache_write_1h, unpriced, booked"
)
_RUN = "id, paths, at, file, read_to, files, lines, added, duplicates, broken, unreadable, done"
_LOST = "fact, uid, process, turn, at, notional, told, state, uses, beyond, first, messages, whole"
_AT_ONCE = 500  # keys in one question: SQLite allows 32,766 values
_told = msgspec.json.Decoder(dict[str, tuple[int, ...]])
_named = msgspec.json.Decoder(tuple[str, ...])
_uses = msgspec.json.Decoder(dict[str, tuple[tuple[int, ...], int | None]])


class EvidenceStore:
    """Reads at any time; writes within the caller's transaction."""

    def __init__(self, database: Database, store: Store) -> None:
        self._db = database
        self._store = store

    @property
    def archive(self) -> Archive:
        return Archive(self.known, self.spoken, self.between, self.spent)

    # writing

    def keep(self, effect: Keep) -> bool:
        """Whether it was one of ours."""
        match effect:
            case Message():
                self.keep_messages([effect])
            case Followed():
                row = (effect.uid, effect.conversation, effect.cwd, effect.path, to_ms(effect.since))
                self._db.execute(
                    "INSERT INTO followed (uid, conversation, cwd, path, since, booked, n) VALUES "
                    "(?, ?, ?, ?, ?, ?, (SELECT coalesce(max(n), 0) + 1 FROM followed)) "
                    "ON CONFLICT DO NOTHING",
                    (*row, int(effect.booked)),
                )
            case ReadTo(path, uid, place):
                self._db.execute(
                    "INSERT INTO files VALUES (?, ?, ?, ?) ON CONFLICT (path) DO UPDATE SET "
                    "uid = excluded.uid, inode = excluded.inode, read_to = excluded.read_to",
                    (path, uid, place.inode, place.read_to),
                )
            case Lost():
                self._keep_lost(effect)
            case Run():
                self._keep_run(effect)
            case KeepBatch(messages, rows):
                self.keep_messages(messages)
                self._store.keep_postings(rows)
            case _:
                return False
        return True

    def load(self, now: datetime, recent_s: float) -> Loaded:
        """What a start needs, of the ledger's own tables and of these."""
        return replace(
            self._store.load(now, recent_s),
            followed=list(self.followed()),
            lost=list(self.lost()),
            witnessed=list(self.sums()),
            runs=list(self.runs()),
        )

    def keep_messages(self, messages: Sequence[Message]) -> None:
        """Each once: a telling that is larger replaces what was known."""
        sums: dict[str, tuple[int, int]] = {}
        rows = []
        for one in messages:
            cost, last = sums.get(one.uid, (0, 0))
            sums[one.uid] = cost + one.grown().cost, max(last, one.place)
            flags = (int(one.unpriced), int(one.booked))
            rows.append((one.key, one.uid, to_ms(one.at), one.model, one.place, *one.use, *flags))
        changes = ", ".join(f"{name} = excluded.{name}" for name in _MESSAGE.split(", ")[5:])
        self._db.executemany(
            f"INSERT INTO messages ({_MESSAGE}) VALUES ({marks(14)}) "  # noqa: S608  # constants
            f"ON CONFLICT (key) DO UPDATE SET {changes}",
            rows,
        )
        self._db.executemany(
            "INSERT INTO witnessed (uid, cost, last) VALUES (?, ?, ?) ON CONFLICT (uid) DO UPDATE SET "
            "cost = witnessed.cost + excluded.cost, last = CASE WHEN excluded.last > witnessed.last "
            "THEN excluded.last ELSE witnessed.last END",
            [(uid, *sum_) for uid, sum_ in sums.items()],
        )

    def _keep_lost(self, lost: Lost) -> None:
        uses = None if lost.uses is None else msgspec.json.encode(dict(lost.uses)).decode()
        told = msgspec.json.encode(dict(lost.told)).decode()
        named = (lost.messages[0], msgspec.json.encode(lost.messages).decode(), int(lost.whole))
        whose = (lost.fact, lost.uid, lost.process, lost.turn, to_ms(lost.at))
        self._db.execute(
            f"INSERT INTO lost ({_LOST}) VALUES ({marks(13)}) ON CONFLICT (fact) DO UPDATE SET "  # noqa: S608  # constants
            "state = excluded.state, uses = excluded.uses, beyond = excluded.beyond",
            (*whose, int(lost.notional), told, lost.state, uses, lost.beyond, *named),
        )

    def _keep_run(self, run: Run) -> None:
        paths = msgspec.json.encode(run.paths).decode()
        counts = (run.files, run.lines, run.added, run.duplicates, run.broken, run.unreadable)
        changes = ", ".join(f"{name} = excluded.{name}" for name in _RUN.split(", ")[3:])
        self._db.execute(
            f"INSERT INTO imports ({_RUN}) VALUES ({marks(12)}) ON CONFLICT (id) DO UPDATE SET {changes}",  # noqa: S608  # constants
            (run.id, paths, to_ms(run.at), run.file, run.read_to, *counts, int(run.done)),
        )

    # reading

    def runs(self) -> Iterator[Run]:
        """Imports that are not done."""
        rows = self._db.execute(f"SELECT {_RUN} FROM imports WHERE done = 0 ORDER BY at, id")  # noqa: S608  # constants
        for name, paths, at, *rest in rows:
            yield Run(name, msgspec.json.decode(paths, type=tuple[str, ...]), from_ms(at), *rest[:-1])

    def followed(self) -> Iterator[Followed]:
        """In the order in which they were told."""
        for uid, conversation, cwd, path, since, booked in self._db.execute(
            "SELECT uid, conversation, cwd, path, since, booked FROM followed ORDER BY n, since, uid"
        ):
            yield Followed(uid, conversation, cwd, path, from_ms(since), bool(booked))

    def lost(self) -> Iterator[Lost]:
        """What was not taken back: a later total may still cover it."""
        rows = self._db.execute(f"SELECT {_LOST} FROM lost WHERE state <> 'covered' ORDER BY at")  # noqa: S608  # constants
        for fact, uid, process, turn, at, notional, told, state, uses, beyond, first, named, whole in rows:
            said = {} if uses is None else _uses.decode(uses)
            streamed = {model: Use(*use) for model, use in _told.decode(told).items()}
            messages = (first,) if named is None else _named.decode(named)
            whose = (fact, uid, process, turn, messages, bool(whole), from_ms(at), bool(notional))
            booked = {model: (Use(*use), priced) for model, (use, priced) in said.items()}
            yield Lost(*whose, streamed, state, booked, beyond)

    def sums(self) -> Iterator[Witnessed]:
        for uid, cost, last in self._db.execute("SELECT uid, cost, last FROM witnessed"):
            yield Witnessed(uid, cost, last)

    def place(self, path: str) -> tuple[Place, str] | None:
        """How far a file is read, and for which session it was."""
        row = self._db.execute("SELECT inode, read_to, uid FROM files WHERE path = ?", (path,)).fetchone()
        return None if row is None else (Place(*row[:2]), row[2])

    def known(self, keys: Sequence[str]) -> Mapping[str, Message]:
        found: dict[str, Message] = {}
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            where = f"WHERE key IN ({marks(len(some))})"
            found |= {one.key: one for one in self._messages(where, some)}
        return found

    def spoken(self, uid: str, messages: Sequence[str]) -> list[Message]:
        """A session's messages of these ids."""
        found: list[Message] = []
        for start in range(0, len(messages), _AT_ONCE):
            some = messages[start : start + _AT_ONCE]
            within = ", ".join(["(?, ?)"] * len(some))  # both databases name them column1 and column2
            bounds = [end for one in some for end in (f"{one}/", f"{one}0")]  # "/" ends an id, "0" follows it
            rows = self._db.execute(
                f"SELECT {_MESSAGE} FROM (VALUES {within}) AS ids "  # noqa: S608  # constants
                "CROSS JOIN messages WHERE key >= column1 AND key < column2",
                bounds,
            )
            found += [one for one in _read(rows) if one.uid == uid]
        return found

    def between(self, uid: str, first: datetime, last: datetime) -> list[Message]:
        where = "WHERE uid = ? AND at >= ? AND at <= ? ORDER BY at, place, key"
        return list(self._messages(where, (uid, to_ms(first), to_ms(last))))

    def spent(self, uid: str, until: datetime) -> int | None:
        row = self._db.execute(
            "SELECT CAST(sum(cost) AS BIGINT) FROM messages WHERE uid = ? AND at <= ?", (uid, to_ms(until))
        ).fetchone()
        return None if row[0] is None else int(row[0])

    def _messages(self, where: str, values: Sequence[object]) -> Iterable[Message]:
        return _read(self._db.execute(f"SELECT {_MESSAGE} FROM messages {where}", values))  # noqa: S608  # constants


def _read(rows: Iterable[Sequence[Any]]) -> Iterator[Message]:
    for key, uid, at, model, place, *counts in rows:
        use = Use(*counts[:7])
        yield Message(key, uid, from_ms(at), model, use, bool(counts[7]), bool(counts[8]), place)
