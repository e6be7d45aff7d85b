"""Text for terminals: nothing that a terminal acts on comes through, whatever an agent says."""

from __future__ import annotations

import json
import unicodedata
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli import text

NOW = datetime(2026, 11, 21, tzinfo=UTC)
HARMLESS = {"\n", "\t"}


def harmless(shown: str) -> bool:
    bidi = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    return all(
        (c in HARMLESS or unicodedata.category(c) not in {"Cc", "Cs"})
        and unicodedata.bidirectional(c) not in bidi
        for c in shown
    )


@given(st.text(st.characters(exclude_categories=[])))
def test_whatever_is_said(said: str) -> None:
    assert harmless(text.clean(said))
    assert harmless(text.one_line(said))
    assert "\n" not in text.one_line(said)


@given(
    st.recursive(
        st.text() | st.integers() | st.none(), lambda part: st.lists(part) | st.dictionaries(st.text(), part)
    )
)
def test_json_is_exact_and_harmless(document: object) -> None:
    shown = text.to_json(document)
    assert json.loads(shown) == document
    assert harmless(shown)


def test_what_is_shown_of_it() -> None:
    assert text.clean("a\x1b[31mred\x07\u202e") == "a\\x1b[31mred\\x07\\u202e"
    assert text.clean("Grüße, 世界 👋") == "Grüße, 世界 👋"
    assert text.one_line("a\n  b\tc", 4) == "a b…"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-5, "0 s"), (59, "59 s"), (60, "1 min"), (3600, "1 h"), (3900, "1 h 5 min"), (90000, "1 d 1 h")],
)
def test_span(seconds: float, shown: str) -> None:
    assert text.span(seconds) == shown


@pytest.mark.parametrize(
    ("amount", "shown"),
    [(None, "–"), (0, "$0.00"), (0.0162, "$0.0162"), (12.5, "$12.50"), (1234.5, "$1,234.50")],
)
def test_usd(amount: float | None, shown: str) -> None:
    assert text.usd(amount) == shown


def test_size() -> None:
    assert text.size(40 * 2**20) == "40 MiB"


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0"),
        (9_999, "9,999"),
        (10_000, "10.0k"),
        (999_949, "999.9k"),
        (999_950, "1.0M"),
        (18_000_000, "18.0M"),
        (2_460_000_000, "2.5G"),
        (10**13, "10.0T"),
        (-12_345, "-12.3k"),
    ],
)
def test_numbers_of_things_fit_their_column(count: int, said: str) -> None:
    assert text.short(count) == said
