"""Text of agents made fit for a terminal, and numbers and times for people. Pure."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any

# Everything that a terminal acts on instead of showing it (C0 and C1 controls, so every escape sequence), and
# what makes text look other than it is (bidirectional controls, line separators; https://trojansource.codes).
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


def _shown(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def clean(text: str) -> str:
    """The text with unsafe characters written out; newlines and tabs stay."""
    return _UNSAFE.sub(_shown, text.replace("\r\n", "\n"))


def one_line(text: str, limit: int = 0) -> str:
    """The text on one line, cut to ``limit`` characters if that is not 0."""
    line = " ".join(clean(text).split())
    return line if not limit or len(line) <= limit else line[: limit - 1] + "…"


def named(tool: str, summary: str, limit: int = 0) -> str:
    """A tool and what it does; a summary that names its tool already is enough."""
    name, what = one_line(tool), one_line(summary)
    if not what or what == name:
        return name
    return one_line(what if what.startswith(f"{name}:") else f"{name}: {what}", limit)


def to_json(document: Any, *, indent: int | None = 2) -> str:
    """JSON for a terminal or a program: readable, and as harmless as it is exact."""
    raw = json.dumps(document, ensure_ascii=False, indent=indent)
    return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", raw)


def span(seconds: float) -> str:
    """A duration in its two largest units: ``45 s``, ``12 min``, ``3 h 5 min``, ``2 d 4 h``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86400:
        hours, minutes = whole // 3600, whole % 3600 // 60
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = whole // 86400, whole % 86400 // 3600
    return f"{days} d {hours} h" if hours else f"{days} d"


def ago(at: datetime, now: datetime) -> str:
    return span((now - at).total_seconds())


def usd(amount: float | None) -> str:
    """Money: cents, and more digits for less than a dollar, because turns cost fractions of a cent."""
    if amount is None:
        return "–"
    return f"${amount:,.2f}" if amount == 0 or abs(amount) >= 1 else f"${amount:.4f}"


def short(count: int) -> str:
    """A number of things in six characters at most: 9,999, then 10.0k, 2.5M, 18.0G."""
    if abs(count) < 10_000:
        return f"{count:,}"
    value = float(count)
    for unit in ("k", "M", "G"):
        value /= 1000
        if abs(value) < 999.95:
            return f"{value:.1f}{unit}"
    return f"{value / 1000:,.1f}T"


def size(count: float) -> str:
    """Bytes, in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
