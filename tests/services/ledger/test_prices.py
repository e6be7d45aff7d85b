from __future__ import annotations

from datetime import UTC, datetime

import pytest
from genai_prices import Usage, calc_price
from hypothesis import given
from hypothesis import strategies as st

from services.demo.scripted import script
from services.ledger.model import Use
from services.ledger.prices import Prices

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
MODELS = [
    "claude-opus-5-5",
    "claude-sonnet-4-5",
    "claude-opus-4-6",
    "claude-haiku-4-5-20251001",
    "claude-3-5-sonnet-20241022",
]
PRICES = Prices()
TOKENS = st.integers(0, 150_000)


@pytest.mark.parametrize("model", script.PRICES)
def test_the_scripted_api_bills_by_the_same_table(model: str) -> None:
    assert PRICES.rates(model, NOW) == (*script.PRICES[model], 10_000_000_000)


@given(
    st.sampled_from(MODELS),
    st.sampled_from([datetime(2025, 12, 1, tzinfo=UTC), datetime(2026, 3, 12, tzinfo=UTC), NOW]),
    *[TOKENS] * 5,
    st.integers(0, 5),
)
def test_a_call_costs_what_the_table_says(
    model: str, at: datetime, plain: int, output: int, read: int, w5: int, w1: int, searches: int
) -> None:
    use = Use(0, plain, output, read, w5 + w1, w5, w1)
    usage = Usage(
        input_tokens=plain + read + w5 + w1,
        output_tokens=output,
        cache_read_tokens=read,
        cache_write_tokens=w5 + w1,
        cache_write_5m_tokens=w5,
        cache_write_1h_tokens=w1,
        web_searches=searches,
    )
    said = calc_price(usage, model, provider_id="anthropic", genai_request_timestamp=at).total_price
    assert PRICES.call(model, at, use, searches) == said.scaleb(12)


@pytest.mark.parametrize(
    "name",
    [
        "claude-opus-5-5[1m]",
        "us.anthropic.claude-opus-5-5-v1:0",
        "anthropic/claude-opus-5-5",
        "claude-opus-5-5@20260801",
    ],
)
def test_other_names_of_a_model(name: str) -> None:
    assert PRICES.rates(name, NOW) == PRICES.rates("claude-opus-5-5", NOW)


@pytest.mark.parametrize("name", ["claude-nonsense", "<synthetic>", "", "\x00", "my-own-model"])
def test_an_unknown_model_has_no_price_and_is_never_free(name: str) -> None:
    assert PRICES.call(name, NOW, Use(input=1)) is None
    assert PRICES.total(name, NOW, Use(output=1)) is None
    assert PRICES.call(name, NOW, Use()) == 0  # nothing costs nothing


def test_prices_of_then() -> None:
    use = Use(input=300_000)
    assert PRICES.call("claude-opus-4-6", datetime(2026, 3, 12, tzinfo=UTC), use) == 2 * (
        PRICES.call("claude-opus-4-6", datetime(2026, 3, 13, tzinfo=UTC), use) or 0
    )


def test_of_totals_the_ordinary_price_is_taken() -> None:
    use = Use(input=300_000)
    assert PRICES.total("claude-sonnet-4-5", NOW, use) == 300_000 * 3_000_000
    assert PRICES.call("claude-sonnet-4-5", NOW, use) == 300_000 * 6_000_000


def test_writes_of_unknown_length_cost_as_those_of_five_minutes() -> None:
    assert (
        PRICES.call("claude-opus-5-5", NOW, Use(cache_write=3, cache_write_1h=1)) == 2 * 5_000_000 + 8_000_000
    )


def test_a_fast_answer_is_dearer() -> None:
    use = Use(input=1, output=1)
    assert PRICES.call("claude-opus-5-5", NOW, use, fast=True) == 8_000_000 + 40_000_000
    assert PRICES.call("claude-haiku-4-5", NOW, use, fast=True) == 6_000_000  # there is no faster way
