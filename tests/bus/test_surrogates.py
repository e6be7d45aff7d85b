"""Half a surrogate pair, as JavaScript writes it, is read as what JavaScript's programs hand on: U+FFFD."""

from __future__ import annotations

import json
import re

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bus.surrogates import whole

PIECES = st.sampled_from(
    ["\ud83d", "\ude00", "\udbff", "\udc00", "\\", "\\u", "ud83d", '"', "a", "\n", "😀", "é"]
)
ESCAPE = re.compile(rb"\\(?:u(....)|.)")  # whole: behind an escaped backslash, "ud83d" is text
HALF = re.compile("[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]")


@given(st.lists(PIECES).map("".join), st.booleans())
@example(text="\\ud83d", capitals=True)
def test_any_text_of_javascript_is_read(text: str, capitals: bool) -> None:
    # two halves that meet are one sign
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    written = json.dumps([text]).encode()
    if capitals:
        written = ESCAPE.sub(lambda found: b"\\u" + found[1].upper() if found[1] else found[0], written)
    mended = whole(written)
    assert len(mended) == len(written)
    assert msgspec.json.decode(mended) == [HALF.sub("\ufffd", text)]


@pytest.mark.parametrize(
    "text", [b"{}", b'"\\ud83d\\ude00"', b'"\\\\ud83d"', b'"\xf0\x9f\x98\x80"', b'"\\ude', b"\\"]
)
def test_all_else_stays(text: bytes) -> None:
    assert whole(text) is text
