"""Money inside is an int of 10⁻¹² US dollars: one cached token costs less than 10⁻⁶ dollars.

Prices per token are whole numbers of it, so a sum of priced tokens is exact. An agent's figure is a sum of
binary fractions, off by some 10⁻¹⁷ of it (``0.0067599999999999995``): taken as decimal text and brought to
the nearest 10⁻¹² it is what was meant. Running totals are brought there, never differences, so nothing adds
up.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

PICO = 10**12  # units in a dollar
MAX_REPORTED = 100_000 * PICO  # a running total beyond this is a mistake, or a lie
MAX_TOTAL = 9_000_000 * PICO  # a database's 64-bit sums hold 9.2 million dollars


def from_text(text: str) -> int:
    """Dollars as decimal text. Raises `ValueError` for what is no amount from 0 to `MAX_REPORTED`."""
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{text[:40]!r} is no amount of dollars") from None
    if not amount.is_finite() or amount < 0 or amount > MAX_REPORTED // PICO:
        raise ValueError(f"{text[:40]!r} is not between 0 and {MAX_REPORTED // PICO} dollars")
    return int(amount.scaleb(12).to_integral_value())


def from_usd(usd: float) -> int:
    """Dollars as JSON has them: what their shortest decimal text says."""
    return int(Decimal(repr(float(usd))).scaleb(12).to_integral_value())


def to_usd(amount: int) -> float:
    """For showing: the JSON number nearest to the amount, rounded once."""
    return amount / PICO
