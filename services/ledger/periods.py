"""Days, weeks and months of the node's own time zone, over sums kept by quarter of an hour.

Every zone's offset from UTC is a multiple of 15 minutes, so a local day is a whole number of quarters, on the
days of a clock change too, and sums need not be made again when the zone's rules change.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo

QUARTER_S = 900
QUARTER_MS = QUARTER_S * 1000
DAY = 96  # quarters
PERIODS = ("day", "week", "month", "total")
KEPT_DAYS = 32  # a month, and the day that a time zone may add


def quarter_of(at: datetime) -> int:
    """Number of the quarter of an hour since 1970."""
    return int(at.timestamp()) // QUARTER_S


def day_of(quarter: int, zone: tzinfo) -> str:
    """The local day of a quarter: ``2026-11-21``."""
    return datetime.fromtimestamp(quarter * QUARTER_S, zone).date().isoformat()


def days_of(zone: tzinfo) -> Callable[[int], str]:
    """`day_of` for many quarters: those of the same day as the one before cost nothing."""
    first = until = 0
    name = ""

    def day(quarter: int) -> str:
        nonlocal first, until, name
        if not first <= quarter < until:
            date = datetime.fromtimestamp(quarter * QUARTER_S, zone).date()
            name = date.isoformat()
            first = quarter_of(datetime.combine(date, time(), zone))
            until = quarter_of(datetime.combine(date + timedelta(days=1), time(), zone))
        return name

    return day


@dataclass(frozen=True, slots=True)
class Parts:
    """A stretch of time. ``days``: of UTC, whole, in quarters; ``quarters``: whole ones beside them;
    ``cuts``: what is left of others at both ends, in milliseconds. All from the first to before the last;
    none is empty.
    """

    cuts: tuple[tuple[int, int], ...]
    quarters: tuple[tuple[int, int], ...]
    days: tuple[tuple[int, int], ...]


def parts(low: int, high: int) -> Parts:
    """Of the time from ``low`` to before ``high`` (ms)."""
    first, last = -(-low // QUARTER_MS), high // QUARTER_MS
    if first > last:  # within one quarter
        return Parts(_some((low, high)), (), ())
    cuts = _some((low, first * QUARTER_MS), (last * QUARTER_MS, high))
    begin, end = -(-first // DAY) * DAY, last // DAY * DAY
    if begin >= end:
        return Parts(cuts, _some((first, last)), ())
    return Parts(cuts, _some((first, begin), (end, last)), ((begin, end),))


def _some(*ranges: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    return tuple((a, b) for a, b in ranges if a < b)


def offsets(first: int, last: int, zone: tzinfo) -> Iterator[tuple[int, int, int]]:
    """The quarters from ``first`` to before ``last``, in stretches of one offset from UTC: (first, before
    which, offset in quarters). An old offset that is no whole number of quarters is rounded down: the first
    moment of a quarter is on the same day all the same.
    """

    def offset(quarter: int) -> int:
        shift = datetime.fromtimestamp(quarter * QUARTER_S, zone).utcoffset() or timedelta()
        return shift // timedelta(seconds=QUARTER_S)

    start, here = first, offset(first)
    for begin in range(first, last, DAY):
        end = min(begin + DAY, last)
        if offset(end - 1) == here:
            continue
        change = begin + bisect.bisect_left(range(begin, end), True, key=lambda q: offset(q) != here)
        yield start, change, here
        start, here = change, offset(change)
    yield start, last, here


def since(period: str, now: datetime, zone: tzinfo) -> datetime | None:
    """When the running period began (UTC); a week begins on Monday; ``total`` never began."""
    today = now.astimezone(zone).date()
    if period == "day":
        first = today
    elif period == "week":
        first = today - timedelta(days=today.weekday())
    elif period == "month":
        first = today.replace(day=1)
    else:
        return None
    return datetime.combine(first, time(), zone).astimezone(UTC)


def until(period: str, now: datetime, zone: tzinfo) -> datetime | None:
    """When the running period ends, and the next one begins (UTC); ``total`` never ends."""
    today = now.astimezone(zone).date()
    if period == "day":
        after = today + timedelta(days=1)
    elif period == "week":
        after = today + timedelta(days=7 - today.weekday())
    elif period == "month":
        after = (today.replace(day=1) + timedelta(days=32)).replace(day=1)
    else:
        return None
    return datetime.combine(after, time(), zone).astimezone(UTC)
