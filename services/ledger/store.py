"""The ledger's tables (`migrations` makes them), over SQLite or PostgreSQL (`database`).

``postings`` and ``reports`` only grow, and triggers see to it, whoever writes. Three tables are derived from
the postings: ``spent`` (sums by session and model: a start reads them, and questions without bounds),
``spent_quarters`` (by quarter of an hour: for periods and days) and ``spent_spans`` (by session and model in
each quarter, and in each day of UTC: for questions with bounds, of which only what a bound cuts out of a
quarter is read from the postings). They change in the transaction of their postings, are compared with them
at each start, and are made again from them when they differ. ``checked`` has the sums of the postings that an
earlier start has added up, so that a start adds up the new ones alone. Times are Unix milliseconds, money
10⁻¹² dollars; budgets are text, because a billion dollars does not fit 64 bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import msgspec

from bus.effects import Keep
from services.ledger.database import Database
from services.ledger.model import (
    KeepBudget,
    KeepPosting,
    KeepReport,
    KeepSession,
    Loaded,
    Near,
    Posting,
    Report,
    Sum,
    Use,
    summed,
)
from services.ledger.periods import DAY, KEPT_DAYS, QUARTER_MS, offsets, parts, quarter_of
from services.ledger.say import QueryRow

_USE = "cost, input, output, cache_read, cache_write, cache_write_5m, cache_write_1h"
_QUARTER = f"at / {QUARTER_MS}"
_ADDED = (*_USE.split(", "), "turns", "share", "estimated", "priced", "unpriced", "postings")
_SUMS = ", ".join(f"{name} = {{0}}.{name} + excluded.{name}" for name in _ADDED)
_DERIVED = ", ".join((*_ADDED, "notional"))
_OF_POSTINGS = {  # how a posting's columns make those that are added up
    "estimated": "CASE estimated WHEN 0 THEN 0 ELSE cost END",
    "priced": "coalesce(priced, 0)",
    "unpriced": "CASE WHEN priced IS NULL THEN input + output + cache_read + cache_write ELSE 0 END",
    "postings": "1",
}


def _sum(column: str) -> str:
    """PostgreSQL's sums of 64 bits are wider than that, and come as decimals."""
    return f"CAST(coalesce(sum({column}), 0) AS BIGINT)"


_FROM_POSTINGS = ", ".join((*(_sum(_OF_POSTINGS.get(name, name)) for name in _ADDED), "max(notional)"))
_FROM_SUMS = ", ".join((*(_sum(name) for name in _ADDED), "max(notional)"))
_QUARTERS, _DAYS = "spent_spans WHERE span = 1", f"spent_spans WHERE span = {DAY}"
_SPAN = "span, quarter, uid, model"
_MADE = (  # the derived tables, in the order in which they are made: table, key, of what, from, by what
    ("spent_spans", _SPAN, f"1, {_QUARTER} AS q, uid, model", "postings", "q, uid, model"),
    ("spent_spans", _SPAN, f"{DAY}, quarter / {DAY} * {DAY} AS q, uid, model", _QUARTERS, "q, uid, model"),
    ("spent", "uid, model", "uid, model", _DAYS, "uid, model"),
    ("spent_quarters", "quarter", "quarter AS q", _QUARTERS, "q"),
)
_REPORT = (
    "uid, session, process, turn, baseline, at, total, models, model, write_5m, write_1h, notional, fact"
)
_WHOSE = {"session": "uid", "project": "uid", "model": "model"}  # what a question's sums are grouped by

_ASKED = f"{_USE}, turns, unpriced"


def _asked(by: str, source: str) -> str:
    """The sums that answer a question: a model's turns are those in which it took part."""
    turns = "share" if by == "model" else "turns"
    unpriced = _OF_POSTINGS["unpriced"] if source == "postings" else "unpriced"
    uses = ", ".join(f"{_sum(name)} AS {name}" for name in _USE.split(", "))
    return f"{uses}, {_sum(turns)} AS turns, {_sum(unpriced)} AS unpriced"


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


def to_ms(at: datetime) -> int:
    return (at - EPOCH) // _MS


def from_ms(ms: int) -> datetime:
    return EPOCH + ms * _MS


def marks(count: int) -> str:
    return ", ".join("?" * count)


_INSERT_POSTING = (
    f"INSERT INTO postings (id, uid, process, turn, model, at, {_USE}, turns, share, source, estimated, "  # noqa: S608  # constants
    f"priced, notional, fact) VALUES ({marks(20)}) ON CONFLICT DO NOTHING"
)


def _row(p: Posting) -> tuple[object, ...]:
    whose = (p.id, p.uid, p.process, p.turn, p.model, to_ms(p.at), *p.use, p.turns, p.share, p.source)
    return (*whose, int(p.estimated), p.priced, int(p.notional), p.fact)


class Store:
    """Reads at any time; writes within the caller's transaction."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._models = msgspec.json.Decoder(dict[str, tuple[int, ...]])

    # writing

    def keep(self, effect: Keep) -> None:
        match effect:
            case KeepSession():
                self._keep_session(effect)
            case KeepReport(report):
                self._keep_report(report)
            case KeepPosting():
                self._keep_posting(effect)
            case KeepBudget():
                budget = None if effect.budget is None else str(effect.budget)
                self._db.execute(
                    "INSERT INTO budgets (scope, budget, source, by_, via, at) VALUES (?, ?, ?, ?, ?, ?)",
                    (effect.scope, budget, effect.source, effect.by, effect.via, to_ms(effect.at)),
                )
            case _:
                raise TypeError(f"not the ledger's: {effect!r}")

    def _keep_session(self, s: KeepSession) -> None:
        opened = None if s.opened_at is None else to_ms(s.opened_at)
        self._db.execute(
            "INSERT INTO sessions (uid, session, cwd, kind, opened_at, shown) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (uid) DO UPDATE SET session = excluded.session, cwd = excluded.cwd, "
            "kind = excluded.kind, opened_at = excluded.opened_at, shown = excluded.shown",
            (s.uid, s.session, s.cwd, s.kind, opened, int(s.shown)),
        )

    def _keep_report(self, r: Report) -> None:
        models = msgspec.json.encode(dict(r.models)).decode()
        row = (r.uid, r.session, r.process, r.turn, int(r.baseline), to_ms(r.at), r.total, models, r.model)
        self._db.execute(
            f"INSERT INTO reports ({_REPORT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "  # noqa: S608  # constant
            "ON CONFLICT DO NOTHING",
            (*row, r.write_5m, r.write_1h, int(r.notional), r.fact),
        )

    def _keep_posting(self, effect: KeepPosting) -> None:
        p = effect.posting
        new = self._db.execute(_INSERT_POSTING, _row(p)).rowcount
        if not new:
            return  # kept before: it counts once
        self._add([p])

    def keep_postings(self, rows: Sequence[Posting]) -> None:
        """Many at once, of which the caller knows that none is kept."""
        self._db.executemany(_INSERT_POSTING, [_row(p) for p in rows])
        self._add(rows)

    def _add(self, rows: Iterable[Posting]) -> None:
        """Add to the derived tables."""
        kept = list(rows)
        models = summed(kept, lambda p: (p.uid, p.model))
        quarters = summed(kept, lambda p: (quarter_of(p.at),))
        spans = {
            **summed(kept, lambda p: (1, quarter_of(p.at), p.uid, p.model)),
            **summed(kept, lambda p: (DAY, quarter_of(p.at) // DAY * DAY, p.uid, p.model)),
        }
        derived: tuple[tuple[str, str, Mapping[Any, tuple[Sum, int]]], ...] = (
            ("spent", "uid, model", models),
            ("spent_quarters", "quarter", quarters),
            ("spent_spans", "span, quarter, uid, model", spans),
        )
        for table, columns, sums in derived:
            width = len(columns.split(", ")) + len(_ADDED) + 1
            self._db.executemany(
                f"INSERT INTO {table} ({columns}, {_DERIVED}) VALUES ({marks(width)}) "  # noqa: S608  # constants
                f"ON CONFLICT ({columns}) DO UPDATE SET {_SUMS.format(table)}, notional = CASE "
                f"WHEN {table}.notional > excluded.notional THEN {table}.notional "
                "ELSE excluded.notional END",
                [
                    (
                        *key,
                        *s.use,
                        s.turns,
                        s.share,
                        s.estimated,
                        s.priced,
                        s.unpriced,
                        count,
                        int(s.notional),
                    )
                    for key, (s, count) in sums.items()
                ],
            )

    # the chain

    def near(self, report: Report) -> Near:
        """The reports around one that is not kept yet; `Near.same` if it, or another of its turn, is."""
        place = (report.turn, int(report.baseline), to_ms(report.at), report.fact)
        if report.baseline:
            same = self._one("AND turn = ? AND baseline = ? AND at = ? AND fact = ?", report, *place)
        else:
            same = self._one("AND turn = ? AND baseline = 0", report, report.turn)
        key = "(turn, baseline, at, fact)"
        order = "ORDER BY turn {0}, baseline {0}, at {0}, fact {0}"
        return Near(
            same,
            self._one(f"AND {key} < (?, ?, ?, ?) {order.format('DESC')}", report, *place),
            self._one(f"AND {key} > (?, ?, ?, ?) {order.format('ASC')}", report, *place),
        )

    def _one(self, where: str, report: Report, *values: object) -> Report | None:
        row = self._db.execute(
            f"SELECT {_REPORT} FROM reports WHERE uid = ? AND process = ? {where} LIMIT 1",  # noqa: S608  # constants
            (report.uid, report.process, *values),
        ).fetchone()
        if row is None:
            return None
        uid, session, process, turn, baseline, at, total, models, model, w5, w1, notional, fact = row
        uses = {name: Use(*use) for name, use in self._models.decode(models).items()}
        place = (uid, session, process, turn, bool(baseline), from_ms(at))
        return Report(*place, total, uses, model, w5, w1, bool(notional), fact)

    # starting

    def derived_agrees(self, *, whole: bool = False) -> bool:
        """Whether every derived table says what the postings say: their number, and every sum.

        Of the postings only those are added up that came after the last `note_checked`, unless ``whole``.
        """
        checked = self._db.execute(f"SELECT {', '.join(('n', *_ADDED))} FROM checked").fetchall()  # noqa: S608  # constants
        if len(checked) != 1:
            return False
        n, *before = checked[0]
        new = self._added("postings WHERE n > ?", n)
        said = tuple(a + b for a, b in zip(before, new, strict=True))
        if whole and tuple(before) != self._added("postings WHERE n <= ?", n):
            return False
        return all(self._added(source) == said for source in ("spent", "spent_quarters", _QUARTERS, _DAYS))

    def _added(self, source: str, *values: int) -> tuple[int, ...]:
        of = _OF_POSTINGS if source.startswith("postings") else {}
        sums = ", ".join(_sum(of.get(name, name)) for name in _ADDED)
        return tuple(self._db.execute(f"SELECT {sums} FROM {source}", values).fetchone())  # noqa: S608  # constants

    def note_checked(self) -> None:
        """All postings are added up, and the derived tables agree. Within the caller's transaction."""
        self._db.execute("DELETE FROM checked")
        sums = ", ".join(_sum(name) for name in _ADDED)
        self._db.execute(
            f"INSERT INTO checked ({', '.join(('n', *_ADDED))}) "  # noqa: S608  # constants
            f"SELECT (SELECT coalesce(max(n), 0) FROM postings), {sums} FROM spent"
        )

    def rebuild(self) -> None:
        """Make the derived tables again from the postings, within the caller's transaction."""
        for table in ("spent", "spent_quarters", "spent_spans"):
            self._db.execute(f"DELETE FROM {table}")  # noqa: S608  # constants
        for table, key, of, source, grouped in _MADE:
            sums = _FROM_POSTINGS if source == "postings" else _FROM_SUMS
            self._db.execute(
                f"INSERT INTO {table} ({key}, {_DERIVED}) "  # noqa: S608  # constants
                f"SELECT {of}, {sums} FROM {source} GROUP BY {grouped}"
            )
        self.note_checked()

    def load(self, now: datetime, recent_s: float) -> Loaded:
        """What a start needs."""
        first = quarter_of(now - timedelta(days=KEPT_DAYS))
        sums = self._db.execute(
            f"SELECT uid, model, {_USE}, turns, share, estimated, priced, unpriced, notional FROM spent "  # noqa: S608  # constants
            "ORDER BY uid, model"
        )
        budgets = self._db.execute(
            "SELECT scope, budget, source FROM budgets WHERE n IN (SELECT max(n) FROM budgets GROUP BY scope)"
        ).fetchall()
        return Loaded(
            sessions=[
                KeepSession(uid, session, cwd, kind, None if opened is None else from_ms(opened), bool(shown))
                for uid, session, cwd, kind, opened, shown in self._db.execute(
                    "SELECT uid, session, cwd, kind, opened_at, shown FROM sessions ORDER BY n"
                )
            ],
            sums=[
                Sum(uid, model, Use(*row[:7]), row[7], row[8], row[9], row[10], row[11], bool(row[12]))
                for uid, model, *row in sums
            ],
            budgets={scope: None if budget is None else int(budget) for scope, budget, _ in budgets},
            defaults=frozenset(scope for scope, _, source in budgets if source == "default"),
            quarters=dict(
                self._db.execute(
                    "SELECT quarter, cost FROM spent_quarters WHERE quarter >= ? ORDER BY quarter", (first,)
                )
            ),
            recent=[
                (uid, from_ms(at), cost)
                for uid, at, cost in self._db.execute(
                    "SELECT uid, at, cost FROM postings WHERE at >= ? ORDER BY at, n",
                    (to_ms(now - timedelta(seconds=recent_s)),),
                )
            ],
        )

    # questions

    def query(
        self, by: str, since: datetime | None, until: datetime | None, zone: tzinfo = UTC
    ) -> Iterator[QueryRow]:
        """Sums from ``since`` to before ``until``, of any number of rows per key. Days are those of ``zone``;
        their key is one of their quarters.
        """
        if since is None and until is None and by != "day":
            yield from self._sums(by, "spent", "")
            return
        low = -(2**62) if since is None else to_ms(since)
        high = 2**62 if until is None else to_ms(until)
        found = parts(low, high)
        for cut in found.cuts:
            yield from self._sums(by, "postings", "WHERE at >= ? AND at < ?", *cut)
        if by == "day":
            for first, last in found.quarters + found.days:
                yield from self._days(first, last, zone)
            return
        for span, ranges in ((1, found.quarters), (DAY, found.days)):
            for bounds in ranges:
                where = "WHERE span = ? AND quarter >= ? AND quarter < ?"
                yield from self._sums(by, "spent_spans", where, span, *bounds)

    def _sums(self, by: str, source: str, where: str, *values: int) -> Iterator[QueryRow]:
        whose = _WHOSE.get(by, _QUARTER)
        inner = f"SELECT {whose} AS whose, {_asked(by, source)} FROM {source} {where} GROUP BY whose"  # noqa: S608  # constants
        if by == "session":
            joined = f"FROM ({inner}) AS sums JOIN sessions ON sessions.uid = whose"
            sql = f"SELECT session, whose, {_ASKED} {joined}"
        elif by == "project":
            joined = f"FROM ({inner}) AS sums JOIN sessions ON sessions.uid = whose GROUP BY cwd"
            sql = f"SELECT cwd, '', {', '.join(_sum(name) for name in _ASKED.split(', '))} {joined}"
        else:
            sql = f"SELECT whose, '', {_ASKED} FROM ({inner}) AS sums"  # noqa: S608  # constants
        return self._rows(sql, values)

    def _days(self, first: int, last: int, zone: tzinfo) -> Iterator[QueryRow]:
        """Of whole quarters, from ``first`` to before ``last``."""
        least, most = self._db.execute(
            "SELECT min(quarter), max(quarter) FROM spent_quarters WHERE quarter >= ? AND quarter < ?",
            (first, last),
        ).fetchone()
        if least is None:
            return
        for start, end, offset in offsets(least, most + 1, zone):
            sql = (
                f"SELECT min(quarter), '', {_asked('day', 'spent_quarters')} FROM spent_quarters "  # noqa: S608  # constants
                f"WHERE quarter >= ? AND quarter < ? GROUP BY (quarter + {offset}) / {DAY}"
            )
            yield from self._rows(sql, (start, end))

    def _rows(self, sql: str, values: Sequence[int]) -> Iterator[QueryRow]:
        for key, uid, *row in self._db.execute(sql, values):
            yield key, uid, Use(*row[:7]), row[7], row[8]
