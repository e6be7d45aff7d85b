"""Text for a terminal: made harmless, wrapped, coloured. Pure."""

from __future__ import annotations

import itertools
import re
import unicodedata

RESET = "\x1b[0m"
BOLD = "\x1b[1m"
DIM = "\x1b[2m"
RED = "\x1b[31m"
GREEN = "\x1b[32m"
YELLOW = "\x1b[33m"
CYAN = "\x1b[36m"

# C0 but newline, DEL, C1; marks that reorder or hide text (Unicode's bidirectional controls, tags, zero-width
# no-break space, line and paragraph separators); lone surrogates, which no terminal can be sent.
_HARMFUL = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)
_NO_WIDTH = ("Mn", "Me", "Cf")  # marks on the character before, joiners
_WIDTHS = {"W": 2, "F": 2}  # columns by East Asian width; else 1
_PARTS = re.compile(r"\n| +|[^ \n]+")


def harmless(text: str) -> str:
    """The text without anything that a terminal acts on but newlines; control characters become their
    pictures.
    """
    return _HARMFUL.sub(_picture, text.replace("\r\n", "\n"))


def one_line(text: str, most: int) -> str:
    """Harmless, on one line, at most ``most`` columns wide."""
    text = " ".join(harmless(text[: most * 4]).split())
    if width_of(text) <= most:
        return text
    widths = itertools.accumulate(map(width_of, text))
    return text[: sum(width < most for width in widths)] + "…"


def _picture(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code == 0x09:
        return "    "
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else "\ufffd"


def width_of(text: str) -> int:
    """Columns that it takes in a terminal."""
    if text.isascii():
        return len(text)
    visible = (char for char in text if unicodedata.category(char) not in _NO_WIDTH)
    return sum(_WIDTHS.get(unicodedata.east_asian_width(char), 1) for char in visible)


class Wrapper:
    """Wraps text that comes in pieces. A word is held back until its end is seen, so that it stays whole; one
    that is wider than a line is broken anyway, and shown as it comes.
    """

    def __init__(self, width: int, indent: str) -> None:
        self._width = max(20, width)
        self._indent = indent
        self._column = width_of(indent)
        self._word = ""
        self._broken = False  # the last word shown was wider than a line, and may go on

    def feed(self, text: str) -> str:
        """What can be shown now. ``text`` is harmless already."""
        parts = _PARTS.findall(self._word + text)
        self._word = ""
        if not parts:
            return ""
        out = ""
        if self._broken and parts[0][0] not in " \n":
            out = self._fill(parts.pop(0))
        self._broken = self._broken and not parts
        if parts and parts[-1][0] not in " \n":
            if width_of(parts[-1]) < self._width:
                self._word = parts.pop()
            else:
                self._broken = True
        return out + "".join(map(self._place, parts))

    def finish(self) -> str:
        """The rest."""
        word, self._word = self._word, ""
        return self._place(word) if word else ""

    def _place(self, part: str) -> str:
        if part == "\n":
            self._column = width_of(self._indent)
            return "\n" + self._indent
        width = width_of(part)
        out = ""
        if self._column + width > self._width and self._column > width_of(self._indent):
            out = "\n" + self._indent
            self._column = width_of(self._indent)
            if part[0] == " ":
                return out
        return out + self._fill(part)

    def _fill(self, part: str) -> str:
        """Go on where the line stands, then on the next: all that can be done with a word wider than one."""
        width = width_of(part)
        out = ""
        while self._column + width > self._width:
            head = part[:1]
            while len(head) < len(part) and self._column + width_of(part[: len(head) + 1]) <= self._width:
                head = part[: len(head) + 1]
            out += head
            part = part[len(head) :]
            width = width_of(part)
            if part:
                out += "\n" + self._indent
                self._column = width_of(self._indent)
        self._column += width
        return out + part


def wrapped(text: str, width: int, indent: str, first: str | None = None) -> str:
    """Harmless text in lines of at most ``width`` columns, ended by a newline. ``first`` stands before the
    first line and is as wide as ``indent``.
    """
    wrapper = Wrapper(width, indent)
    body = wrapper.feed(harmless(text).rstrip()) + wrapper.finish()
    return (indent if first is None else first) + body + "\n"
