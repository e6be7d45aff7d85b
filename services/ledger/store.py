"""The ledger's tables (`migrations` makes them), over SQLite or PostgreSQL (`database`).

``postings`` and ``reports`` only grow, and triggers see to it, whoever writes. Five tables are derived from
the postings: ``spent`` (sums by session and model: a start reads them), ``spent_quarters`` (by quarter of an
hour: for periods and days), ``spent_spans`` (by session and model in each quarter), ``spent_sessions`` (by
session in each day of UTC and each `periods.MONTH`) and ``spent_models`` (by model in each day), for
`queries`. They change in the transaction of their postings, are compared with them
at each start, and are made again from them when they differ. ``checked`` has the sums of the postings that an
earlier start has added up, so that a start adds up the new ones alone. Times are Unix milliseconds, money
10⁻¹² dollars; budgets are text, because a billion dollars does not fit 64 bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from bus.effects import Keep
from services.ledger.columns import ADDED, QUARTER, USE, from_ms, marks, sums_of, to_ms
from services.ledger.database import Database
from services.ledger.loaded import Loaded
from services.ledger.model import (
    KeepBudget,
    KeepPosting,
    KeepReport,
    KeepSession,
    Near,
    Posting,
    Report,
    Sum,
    Use,
    summed,
)
from services.ledger.periods import DAY, KEPT_DAYS, MONTH, quarter_of
from services.ledger.queries import Queries

_USE = ", ".join(USE)
_SUMS = ", ".join(f"{name} = {{0}}.{name} + excluded.{name}" for name in ADDED)
_DERIVED = ", ".join((*ADDED, "notional"))
_A_DAY, _A_MONTH = f"spent_sessions WHERE span = {DAY}", f"spent_sessions WHERE span = {MONTH}"
_SPAN = "span, quarter, uid"
_DAY_OF, _MONTH_OF = f"quarter / {DAY} * {DAY}", f"quarter / {MONTH} * {MONTH}"
MADE = (  # the derived tables, in the order in which they are made: table, key, of what, from, by what
    ("spent_spans", f"{_SPAN}, model", f"1, {QUARTER} AS q, uid, model", "postings", "q, uid, model"),
    ("spent_sessions", _SPAN, f"{DAY}, {_DAY_OF} AS q, uid", "spent_spans", "q, uid"),
    ("spent_sessions", _SPAN, f"{MONTH}, {_MONTH_OF} AS q, uid", _A_DAY, "q, uid"),
    ("spent_models", "quarter, model", f"{_DAY_OF} AS q, model", "spent_spans", "q, model"),
    ("spent", "uid, model", "uid, model", "spent_spans", "uid, model"),
    ("spent_quarters", "quarter", "quarter AS q", "spent_spans", "q"),
)
DERIVED = ("spent", "spent_quarters", "spent_spans", "spent_sessions", "spent_models")
_CHECKED = ("spent", "spent_quarters", "spent_spans", _A_DAY, _A_MONTH, "spent_models")
_REPORT = (
    "uid, session, process, turn, baseline, at, total, models, model, write_5m, write_1h, notional, fact"
)

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
        self.queries = Queries(database)
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
        spans = summed(kept, lambda p: (1, quarter_of(p.at), p.uid, p.model))
        quarters = summed(kept, lambda p: (quarter_of(p.at),))
        models = summed(kept, lambda p: (quarter_of(p.at) // DAY * DAY, p.model))
        sessions = {
            **summed(kept, lambda p: (DAY, quarter_of(p.at) // DAY * DAY, p.uid)),
            **summed(kept, lambda p: (MONTH, quarter_of(p.at) // MONTH * MONTH, p.uid)),
        }
        derived: tuple[tuple[str, str, Mapping[Any, tuple[Sum, int]]], ...] = (
            ("spent", "uid, model", summed(kept, lambda p: (p.uid, p.model))),
            ("spent_quarters", "quarter", quarters),
            ("spent_spans", f"{_SPAN}, model", spans),
            ("spent_sessions", _SPAN, sessions),
            ("spent_models", "quarter, model", models),
        )
        self.queries.changed(quarter for (quarter,) in quarters)
        for table, columns, sums in derived:
            width = len(columns.split(", ")) + len(ADDED) + 1
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
        checked = self._db.execute(f"SELECT {', '.join(('n', *ADDED))} FROM checked").fetchall()  # noqa: S608  # constants
        if len(checked) != 1:
            return False
        n, *before = checked[0]
        new = self._added("postings WHERE n > ?", n)
        said = tuple(a + b for a, b in zip(before, new, strict=True))
        if whole and tuple(before) != self._added("postings WHERE n <= ?", n):
            return False
        return all(self._added(source) == said for source in _CHECKED)

    def _added(self, source: str, *values: int) -> tuple[int, ...]:
        sums = sums_of(ADDED, source.partition(" ")[0])
        return tuple(self._db.execute(f"SELECT {sums} FROM {source}", values).fetchone())  # noqa: S608  # constants

    def note_checked(self) -> None:
        """All postings are added up, and the derived tables agree. Within the caller's transaction."""
        self._db.execute("DELETE FROM checked")
        sums = sums_of(ADDED, "spent")
        self._db.execute(
            f"INSERT INTO checked ({', '.join(('n', *ADDED))}) "  # noqa: S608  # constants
            f"SELECT (SELECT coalesce(max(n), 0) FROM postings), {sums} FROM spent"
        )

    def forget_checked(self) -> None:
        """The next start makes all sums again. Within the caller's transaction."""
        self._db.execute("DELETE FROM checked")

    def rebuild(self) -> None:
        """Make the derived tables again from the postings, within the caller's transaction."""
        for table in DERIVED:
            self._db.execute(f"DELETE FROM {table}")  # noqa: S608  # constants
        for table, key, of, source, grouped in MADE:
            sums = sums_of(ADDED, source)
            self._db.execute(
                f"INSERT INTO {table} ({key}, {_DERIVED}) "  # noqa: S608  # constants
                f"SELECT {of}, {sums}, max(notional) FROM {source} GROUP BY {grouped}"
            )
        self.note_checked()
        self.queries = Queries(self._db)

    def load(self, now: datetime, recent_s: float) -> Loaded:
        """What a start needs."""
        # A clock that is ahead will be set right, and then the days before it are the present ones again.
        (newest,) = self._db.execute("SELECT coalesce(max(quarter), 0) FROM spent_quarters").fetchone()
        first = min(newest, quarter_of(now)) - KEPT_DAYS * DAY
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
