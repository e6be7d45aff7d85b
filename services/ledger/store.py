"""The ledger's tables (`migrations` makes them), over SQLite or PostgreSQL (`database`).

``postings`` and ``reports`` only grow, and triggers see to it, whoever writes. Two tables are derived from
the postings: ``spent`` (sums by session and model: a start reads them, and questions without bounds) and
``spent_quarters`` (by quarter of an hour: for periods and days). They change in the transaction of their
postings, are compared with them at each start, and are made again from them when they differ. Questions with
bounds in time read the postings themselves. Times are Unix milliseconds, money 10⁻¹² dollars; budgets are
text, because a billion dollars does not fit 64 bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
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
from services.ledger.periods import KEPT_DAYS, QUARTER_S, quarter_of
from services.ledger.say import QueryRow

_USE = "cost, input, output, cache_read, cache_write, cache_write_5m, cache_write_1h"
_QUARTER = f"at / {QUARTER_S * 1000}"
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


_USE_SUMS = ", ".join(_sum(name) for name in _USE.split(", "))
_FROM_POSTINGS = ", ".join((*(_sum(_OF_POSTINGS.get(name, name)) for name in _ADDED), "max(notional)"))
_REPORT = (
    "uid, session, process, turn, baseline, at, total, models, model, write_5m, write_1h, notional, fact"
)
_BY = {  # columns of a question's key and uid
    "session": ("session", "uid"),
    "model": ("model", "''"),
    "project": ("cwd", "''"),
    "day": (_QUARTER, "''"),
}

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
        derived: tuple[tuple[str, str, Mapping[Any, tuple[Sum, int]]], ...] = (
            ("spent", "uid, model", models),
            ("spent_quarters", "quarter", quarters),
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

    def derived_agrees(self) -> bool:
        """Whether both derived tables say what the postings say: their number, and every sum."""
        found = [
            self._db.execute(f"SELECT {', '.join(columns)} FROM {table}").fetchone()  # noqa: S608  # constants
            for table, columns in (
                ("postings", [_sum(_OF_POSTINGS.get(name, name)) for name in _ADDED]),
                ("spent", [_sum(name) for name in _ADDED]),
                ("spent_quarters", [_sum(name) for name in _ADDED]),
            )
        ]
        return bool(found[0] == found[1] == found[2])

    def rebuild(self) -> None:
        """Make the derived tables again from the postings, within the caller's transaction."""
        for table, key, of in (
            ("spent", "uid, model", "uid, model"),
            ("spent_quarters", "quarter", _QUARTER),
        ):
            self._db.execute(f"DELETE FROM {table}")  # noqa: S608  # constants
            self._db.execute(
                f"INSERT INTO {table} ({key}, {_DERIVED}) "  # noqa: S608  # constants
                f"SELECT {of}, {_FROM_POSTINGS} FROM postings GROUP BY {of}"
            )

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

    def query(self, by: str, since: datetime | None, until: datetime | None) -> Iterator[QueryRow]:
        """Sums from ``since`` to before ``until``, of any number of rows per key."""
        key, uid = _BY[by]
        turns = "share" if by == "model" else "turns"
        bounds: tuple[int, ...]
        if since is None and until is None:
            source, where, bounds = ("spent_quarters" if by == "day" else "spent"), "", ()
            key = "quarter" if by == "day" else key
        else:
            low = -(2**62) if since is None else to_ms(since)
            high = 2**62 if until is None else to_ms(until)
            source, where, bounds = "postings", "WHERE at >= ? AND at < ?", (low, high)
        unpriced = _sum(_OF_POSTINGS["unpriced"] if source == "postings" else "unpriced")
        join = "JOIN sessions USING (uid)" if by in {"session", "project"} else ""
        sql = (
            f"SELECT {key} AS k, {uid} AS u, {_USE_SUMS}, {_sum(turns)}, {unpriced} "  # noqa: S608  # constants
            f"FROM {source} {join} {where} GROUP BY k, u"
        )
        for k, u, *row in self._db.execute(sql, bounds):
            yield k, u, Use(*row[:7]), row[7], row[8]
