"""What tokens cost, and did cost: PyPI's genai-prices, as rates in 10⁻¹² dollars a token.

That table because it is kept by people whose product depends on it, has historic prices and Anthropic's
5-minute and 1-hour cache writes apart, and works offline. It is asked once for each model and day: a rate is
a whole number, so what is added up from rates is exact, and a million calls cost a million multiplications.

A call with more than `LONG` tokens of input is dearer for some models. That can only be told of a single
call: of an agent's totals the ordinary price is taken.

A model that the table does not know has no price: None, never 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import NamedTuple

from genai_prices import Usage, calc_price

from services.ledger.model import Use

LONG = 200_000
_PROBE = 1000  # tokens for which the price is asked

# us.anthropic.claude-opus-5-5-v1:0 (Bedrock), claude-opus-5-5@20260801 (Vertex), claude-opus-5-5[1m]
_NAME = re.compile(r"claude-[a-z0-9.-]+?(?=(?:-v\d+(?::\d+)?)?(?:@\d+)?(?:\[\w+\])?$)", re.IGNORECASE)

Price = Callable[[str, datetime, Use], int | None]
"""(model, when, tokens) → 10⁻¹² dollars, or None for a model without a price."""


class Rates(NamedTuple):
    """10⁻¹² dollars a token (a search)."""

    input: int
    output: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int
    search: int


class Prices:
    """Remembers what it has asked for."""

    def __init__(self) -> None:
        self._rates: dict[tuple[str, date, bool, bool], Rates | None] = {}

    def rates(self, model: str, at: datetime, *, long: bool = False, fast: bool = False) -> Rates | None:
        key = (model, at.date(), long, fast)
        if key not in self._rates:
            self._rates[key] = _ask(model, at.date(), LONG + _PROBE if long else 0, fast=fast)
        return self._rates[key]

    def total(self, model: str, at: datetime, use: Use) -> int | None:
        """Of any number of calls. Tokens alone: ``use.cost`` is not looked at."""
        return _times(self.rates(model, at), use, 0)

    def call(
        self, model: str, at: datetime, use: Use, searches: int = 0, *, fast: bool = False
    ) -> int | None:
        """Of one call. ``fast``: it was answered in the faster, dearer way."""
        long = use.input + use.cache_read + use.cache_write > LONG
        return _times(self.rates(model, at, long=long, fast=fast), use, searches)


def _times(rates: Rates | None, use: Use, searches: int) -> int | None:
    if not use.tokens and not searches:
        return 0
    if rates is None:
        return None
    return (
        use.input * rates.input
        + use.output * rates.output
        + use.cache_read * rates.cache_read
        # A write of which nobody says how long it lasts is one of 5 minutes, as it is for the API.
        + (use.cache_write - use.cache_write_1h) * rates.cache_write_5m
        + use.cache_write_1h * rates.cache_write_1h
        + searches * rates.search
    )


def _ask(model: str, day: date, before: int, *, fast: bool) -> Rates | None:
    """``before``: tokens of ordinary input in the same call, whose own price is taken off again."""
    match = _NAME.search(model)
    name, provider = (match[0].lower(), "anthropic") if match else (model, None)
    at = datetime.combine(day, time(12), UTC)

    def price(**tokens: int) -> Decimal:
        tokens["input_tokens"] = tokens.get("input_tokens", 0) + before
        usage = Usage(**tokens)
        context = {"speed": "fast"} if fast else None
        found = calc_price(
            usage, name, provider_id=provider, genai_request_timestamp=at, price_context=context
        )
        return found.total_price

    try:
        base = price()
        rows = [
            price(input_tokens=_PROBE),
            price(output_tokens=_PROBE),
            price(input_tokens=_PROBE, cache_read_tokens=_PROBE),
            price(input_tokens=_PROBE, cache_write_tokens=_PROBE, cache_write_5m_tokens=_PROBE),
            price(input_tokens=_PROBE, cache_write_tokens=_PROBE, cache_write_1h_tokens=_PROBE),
            price(web_searches=_PROBE),
        ]
    except (LookupError, ValueError):  # no such model; or one that has no price for one of these
        return None
    return Rates(*(int(((row - base) / _PROBE).scaleb(12).to_integral_value()) for row in rows))
