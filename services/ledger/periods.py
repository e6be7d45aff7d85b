"""Days, weeks and months of the node's own time zone, over sums kept by quarter of an hour.

Every zone's offset from UTC is a multiple of 15 minutes, so a local day is a whole number of quarters, on the
days of a clock change too, and sums need not be made again when the zone's rules change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo

QUARTER_S = 900
QUARTER_MS = QUARTER_S * 1000
DAY = 96  # quarters
MONTH = 32 * DAY  # of sums, not of the calendar's: 32 days of UTC from 1970 on
Range = tuple[int, int]

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
    """A stretch of time. ``months``: of sums (`MONTH`), whole, in quarters; ``days``: of UTC, whole, beside
    them; ``quarters``: whole ones beside those; ``cuts``: what is left of others at both ends, in
    milliseconds. All from the first to before the last; none is empty.
    """

    cuts: tuple[Range, ...] = ()
    quarters: tuple[Range, ...] = ()
    days: tuple[Range, ...] = ()
    months: tuple[Range, ...] = ()


def parts(low: int, high: int) -> Parts:
    """Of the time from ``low`` to before ``high`` (ms)."""
    cuts, quarters = _whole((low, high), QUARTER_MS)
    found = tuple((first // QUARTER_MS, last // QUARTER_MS) for first, last in quarters)
    quarters, days = _split(found, DAY)
    days, months = _split(days, MONTH)
    return Parts(cuts, quarters, days, months)


def _split(ranges: tuple[Range, ...], span: int) -> tuple[tuple[Range, ...], tuple[Range, ...]]:
    return _whole(ranges[0], span) if ranges else ((), ())


def _whole(of: Range, span: int) -> tuple[tuple[Range, ...], tuple[Range, ...]]:
    """What is beside the whole spans, and those."""
    first, last = of
    begin, end = -(-first // span) * span, last // span * span
    if begin >= end:
        return _some(of), ()
    return _some((first, begin), (end, last)), ((begin, end),)


def _some(*ranges: Range) -> tuple[Range, ...]:
    return tuple((a, b) for a, b in ranges if a < b)


def days_between(first: int, last: int, zone: tzinfo) -> Iterator[Range]:
    """The local days of the quarters from ``first`` to before ``last``: (first, before which)."""
    while first < last:
        date = datetime.fromtimestamp(first * QUARTER_S, zone).date()
        after = quarter_of(datetime.combine(date + timedelta(days=1), time(), zone))
        after = min(max(after, first + 1), last)  # an offset of old may be no whole number of quarters
        yield first, after
        first = after


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
