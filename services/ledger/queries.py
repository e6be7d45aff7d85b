"""Questions about the past: sums by session, model, day or project, in any stretch of time.

Theory of operation. A stretch is taken apart (`periods.parts`) into months of sums, days, quarters of an hour
and what its bounds cut out of a quarter. Each part is read where it is summed already; only the last is read
from the postings:

| | cuts | quarters | days | months |
|---|---|---|---|---|
| session, project | ``postings`` | ``spent_spans`` | ``spent_sessions`` | ``spent_sessions`` |
| model | ``postings`` | ``spent_spans`` | ``spent_models`` | ``spent_models``, by its days |
| day | ``postings`` | ``spent_quarters`` | ``spent_quarters`` | ``spent_quarters`` |

What takes a database long is sorting wide rows into groups. So sessions, of which there may be ten thousand,
are ranked by their cost alone, all sums are read of the dearest only, and the others are what is left of the
whole. Local days are added up one by one, without sorting, and remembered until something is posted in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, tzinfo
from typing import NamedTuple

from services.ledger.columns import QUARTER, USE, marks, sums_of, to_ms
from services.ledger.database import Database
from services.ledger.model import NOTHING, Use
from services.ledger.periods import DAY, MONTH, Range, days_between, parts
from services.ledger.say import MAX_ROWS, OTHERS, QueryRow

MAX_DAYS = 10_000  # remembered: of 27 years
_WITHIN = "quarter >= ? AND quarter < ?"


class Source(NamedTuple):
    """Which rows of a table with sums: ``values`` are those of the marks in ``where``."""

    table: str
    where: str
    values: tuple[object, ...]

    def of(self, uids: Sequence[str]) -> Source:
        """Those of some sessions."""
        return Source(self.table, f"{self.where} AND uid IN ({marks(len(uids))})", (*self.values, *uids))


class Key(NamedTuple):
    """What rows are summed by: the key's column, the uid's (or none), and where they stand."""

    name: str
    uid: str = "''"
    joined: str = ""
    sums: tuple[str, ...] = (*USE, "turns", "unpriced")


_JOINED = " JOIN sessions USING (uid)"
_SESSION = Key("session", "uid", _JOINED)
_PROJECT = Key("cwd", joined=_JOINED)
_MODEL = Key("model", sums=(*USE, "share", "unpriced"))  # a model's turns are those in which it took part
_QUARTER = Key(QUARTER)
_ALL = Key(f"'{OTHERS}'")
_FIRST = Key("min(quarter)")


class Queries:
    """``most`` sessions are told one by one."""

    def __init__(self, database: Database, most: int = MAX_ROWS) -> None:
        self._db = database
        self._most = most
        self._days: dict[Range, QueryRow] = {}

    def changed(self, quarters: Iterable[int]) -> None:
        """Something is posted in these quarters: what is remembered of their days holds no more."""
        for quarter in quarters:
            for day in [day for day in self._days if day[0] <= quarter < day[1]]:
                del self._days[day]

    def ask(self, by: str, since: datetime | None, until: datetime | None, zone: tzinfo) -> list[QueryRow]:
        """Sums from ``since`` to before ``until``, of any number of rows per key. Days are those of ``zone``;
        their key is one of their quarters.
        """
        low = -(2**62) if since is None else to_ms(since)
        high = 2**62 if until is None else to_ms(until)
        found = parts(low, high)
        cuts = [Source("postings", "at >= ? AND at < ?", cut) for cut in found.cuts]
        if by == "day":
            whole = (*found.quarters, *found.days, *found.months)
            return [*self._sums(_QUARTER, cuts), *(row for one in whole for row in self._by_day(one, zone))]
        cuts += [Source("spent_spans", f"span = 1 AND {_WITHIN}", bounds) for bounds in found.quarters]
        models = [*cuts, *(Source("spent_models", _WITHIN, one) for one in found.days + found.months)]
        if by == "model":
            return list(self._sums(_MODEL, models))
        spans = [(DAY, *bounds) for bounds in found.days] + [(MONTH, *bounds) for bounds in found.months]
        sums = [Source("spent_sessions", f"span = ? AND {_WITHIN}", values) for values in spans]
        sources = [*cuts, *sums]
        return list(self._sums(_PROJECT, sources)) if by == "project" else self._by_session(sources, models)

    def _sums(self, key: Key, sources: Iterable[Source], *, grouped: bool = True) -> Iterator[QueryRow]:
        for source in sources:
            sums = sums_of(key.sums, source.table)
            sql = f"SELECT {key.name}, {key.uid}, {sums} FROM {source.table}{key.joined} WHERE {source.where}"  # noqa: S608  # constants
            keys = [column for column in (key.name, key.uid) if column != "''"]
            group = f" GROUP BY {', '.join(keys)}" if grouped else ""
            for name, uid, *row in self._db.execute(sql + group, source.values):
                yield name, uid, Use(*row[:7]), row[7], row[8]

    def _by_session(self, sources: Sequence[Source], whole: Sequence[Source]) -> list[QueryRow]:
        """``whole``: where the sum of all is quicker to be had."""
        if not sources:  # no time at all
            return []
        costs = " UNION ALL ".join(f"SELECT uid, cost FROM {s.table} WHERE {s.where}" for s in sources)  # noqa: S608  # constants
        ranked = self._db.execute(
            f"SELECT uid FROM ({costs}) AS costs GROUP BY uid ORDER BY sum(cost) DESC, uid LIMIT ?",  # noqa: S608  # constants
            [*(value for source in sources for value in source.values), self._most + 1],
        ).fetchall()
        if len(ranked) <= self._most:
            return list(self._sums(_SESSION, sources))
        uids = [uid for (uid,) in ranked[: self._most]]
        dearest = list(self._sums(_SESSION, [source.of(uids) for source in sources]))
        use, turns, unpriced = NOTHING, 0, 0
        for _, _, more, *counts in self._sums(_ALL, whole, grouped=False):
            use, turns, unpriced = use.plus(more), turns + counts[0], unpriced + counts[1]
        for _, _, less, *counts in dearest:
            use, turns, unpriced = use.minus(less), turns - counts[0], unpriced - counts[1]
        return [*dearest, (OTHERS, "", use, turns, unpriced)]

    def _by_day(self, bounds: Range, zone: tzinfo) -> Iterator[QueryRow]:
        """Of whole quarters."""
        least, most = self._db.execute(
            f"SELECT min(quarter), max(quarter) FROM spent_quarters WHERE {_WITHIN}",  # noqa: S608  # constants
            bounds,
        ).fetchone()
        if least is None:
            return
        if len(self._days) > MAX_DAYS:
            self._days.clear()
        for day in days_between(least, most + 1, zone):
            if day not in self._days:
                source = Source("spent_quarters", _WITHIN, day)
                (self._days[day],) = self._sums(_FIRST, [source], grouped=False)
            if self._days[day][0] is not None:
                yield self._days[day]
