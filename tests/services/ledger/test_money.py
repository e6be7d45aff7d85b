from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ledger import money


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", 0),
        ("0.0067599999999999995", 6_760_000_000),  # as the real CLI says 0.00676
        ("0.02862", 28_620_000_000),
        ("5e-07", 500_000),  # one cached token
        ("1E-13", 0),
        ("100000", 100_000 * money.PICO),
        ("-0.0", 0),
    ],
)
def test_text_becomes_whole_units(text: str, amount: int) -> None:
    assert money.from_text(text) == amount


@pytest.mark.parametrize(
    "text", ["", "abc", "nan", "Infinity", "-0.1", "100000.1", "1e999999", "1" * 50, "--1"]
)
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(ValueError, match="dollars"):
        money.from_text(text)


@given(st.integers(0, money.MAX_REPORTED))
def test_decimal_text_is_taken_exactly(amount: int) -> None:
    assert money.from_text(str(Decimal(amount).scaleb(-12))) == amount


@given(st.integers(0, 10**15))
def test_what_is_shown_reads_back_exactly(amount: int) -> None:
    """Up to a thousand dollars a JSON number tells every unit apart."""
    assert money.from_usd(money.to_usd(amount)) == amount


@given(st.lists(st.integers(1, 10**8), max_size=200))
def test_a_binary_sum_of_token_prices_is_brought_back_to_the_exact_one(prices: list[int]) -> None:
    """What the agent does: adds up floats. What we make of it: the exact sum."""
    running = 0.0
    for price in prices:
        running += price / money.PICO
    assert money.from_text(repr(running)) == sum(prices)


@given(st.floats(0, 1e9))
def test_budgets_keep_their_value(usd: float) -> None:
    assert abs(Decimal(money.from_usd(usd)).scaleb(-12) - Decimal(repr(usd))) <= Decimal("5e-13")
