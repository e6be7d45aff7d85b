"""How fast money goes, and when a budget will be used up if it goes on like this.

The rate is what was spent in the last `BURN_S` (since a session's beginning, if that is younger, but over
`YOUNG_S` at least), by the hour; None when nothing was.

The uncertainty. Costs come in lumps, one for each model call or turn, of sizes x at times that are taken as
random (a compound Poisson process). Over the observed time their sum S = Σx has the variance Σx², so the
rate is known to √Σx² / S of itself. What is left of the budget, L, will be spent in lumps as well: by the
same reckoning its time varies by √(L · Σx²/S) / L. Both together are the relative error, taken on a
logarithmic scale, where a rate cannot fall below nothing; ``exhausted_between`` is its 90 % interval. From a
single lump no rate can be told.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from services.ledger import money

BURN_S = 900.0  # long enough for a long turn, short enough to be of now
YOUNG_S = 300.0
HABIT_S = 6 * 3600.0  # how far back a session's habit goes
LUMP_S = 10  # what comes within that is one lump: the pieces of one model call, or of parallel ones
SPELL_S = 300  # the habit is told by spells of this length
QUANTILE = 1.645  # of the normal distribution, for 90 % between both sides
MAX_FORECAST = timedelta(days=3650)


class Burn:
    """What was spent when, lately. ``began``: when the session did, None if that is not known."""

    __slots__ = ("_lumps", "_spells", "began")

    def __init__(self) -> None:
        self.began: datetime | None = None
        self._lumps: dict[int, int] = {}
        self._spells: dict[int, int] = {}

    def add(self, at: datetime, amount: int) -> None:
        """Spent (or, below nothing, taken back)."""
        second = int(at.timestamp())
        for sums, length in ((self._lumps, LUMP_S), (self._spells, SPELL_S)):
            sums[second // length] = sums.get(second // length, 0) + amount

    def __bool__(self) -> bool:
        """Whether there is anything lately."""
        return bool(self._lumps)

    def prune(self, now: datetime) -> None:
        """Forget what is too old (or, after the clock was set back, too far ahead)."""
        for sums, length, kept_s in ((self._lumps, LUMP_S, BURN_S), (self._spells, SPELL_S, HABIT_S)):
            oldest, newest = now.timestamp() - kept_s, now.timestamp() + kept_s
            for key in [key for key in sums if not oldest < (key + 1) * length - 1 <= newest]:
                del sums[key]

    def lumps(self) -> list[int]:
        return [amount for amount in self._lumps.values() if amount > 0]

    def spells(self, now: datetime) -> Iterator[tuple[int, int]]:
        """(age in spells, amount); 0 is the running one."""
        newest = int(now.timestamp()) // SPELL_S
        for key, amount in self._spells.items():
            yield newest - key, amount

    def over_s(self, now: datetime) -> float:
        """The time that the lumps were spent in."""
        if self.began is None:
            return BURN_S
        return min(BURN_S, max(YOUNG_S, (now - self.began).total_seconds()))

    def per_hour(self, now: datetime) -> float | None:
        """Dollars; None when idle."""
        if not self._lumps:
            return None
        return money.to_usd(max(0, round(sum(self._lumps.values()) * 3600 / self.over_s(now))))


def exhausted(
    burn: Burn, left: int | None, now: datetime
) -> tuple[datetime, tuple[datetime, datetime]] | None:
    """When ``left`` will be spent, and between when with 90 %. None where that cannot be told."""
    lumps = burn.lumps()
    total = sum(lumps)
    if left is None or left <= 0 or len(lumps) < 2 or total <= 0:
        return None
    seconds = left / total * burn.over_s(now)
    squares = sum((lump / total) ** 2 for lump in lumps)  # (Σx²) / S²
    error = math.sqrt(squares * (1 + total / left))
    spread = math.exp(min(QUANTILE * error, 50.0))
    if seconds > MAX_FORECAST.total_seconds():
        return None
    return _at(now, seconds), (_at(now, seconds / spread), _at(now, seconds * spread))


def _at(now: datetime, seconds: float) -> datetime:
    latest = datetime(9999, 1, 1, tzinfo=UTC)
    return min(now + timedelta(seconds=min(seconds, 10 * MAX_FORECAST.total_seconds())), latest)
