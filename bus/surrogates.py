"""Half a surrogate pair in JSON text. Pure.

Agents write JSON as JavaScript does: half of an emoji, left over where a text was cut, or written by a model,
stands there as ``\\ud83d`` alone. That is valid JSON and no Unicode text, and our decoder refuses the whole
line. Not to read such a line would lose a question or a cost, and let a tool call pass the gate unread. So it
is read as what every program gets that JavaScript hands the text on to: U+FFFD.
"""

from __future__ import annotations

import re

# Escapes one after the other, so that an escaped backslash is not taken for the beginning of the next.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)


def whole(text: bytes) -> bytes:
    """JSON text with each lone half replaced, as long as before; the same object where there is none."""
    if b"\\ud" not in text and b"\\uD" not in text:
        return text
    mended = _ESCAPE.sub(lambda found: b"\\ufffd" if found[1] else found[0], text)
    return text if mended == text else mended
