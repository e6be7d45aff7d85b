"""Words that the ledger's SQL is made of: columns, sums of them, times.

Times are Unix milliseconds, money 10⁻¹² dollars.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from services.ledger.periods import QUARTER_MS

USE = ("cost", "input", "output", "cache_read", "cache_write", "cache_write_5m", "cache_write_1h")
ADDED = (*USE, "turns", "share", "estimated", "priced", "unpriced", "postings")
"""What is added up, in every table of sums."""

OF_POSTINGS = {
    "estimated": "CASE estimated WHEN 0 THEN 0 ELSE cost END",
    "priced": "coalesce(priced, 0)",
    "unpriced": "CASE WHEN priced IS NULL THEN input + output + cache_read + cache_write ELSE 0 END",
    "postings": "1",
}
"""How a posting's columns make those that are added up, where the names differ."""

QUARTER = f"at / {QUARTER_MS}"  # of a posting

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


def sum_of(column: str) -> str:
    """PostgreSQL's sums of 64 bits are wider than that, and come as decimals."""
    return f"CAST(coalesce(sum({column}), 0) AS BIGINT)"


def sums_of(columns: tuple[str, ...], table: str) -> str:
    """Sums of these columns of a table of sums, or of the postings."""
    of = OF_POSTINGS if table == "postings" else {}
    return ", ".join(sum_of(of.get(name, name)) for name in columns)


def marks(count: int) -> str:
    return ", ".join("?" * count)


def to_ms(at: datetime) -> int:
    return (at - EPOCH) // _MS


def from_ms(ms: int) -> datetime:
    return EPOCH + ms * _MS
