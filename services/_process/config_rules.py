"""What a configuration value may be: each rule knows the sentence for the user and the check behind it."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

BYTE_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
              "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40,
              "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}  # fmt: skip
MIN_MEMORY = 2**20  # fewer bytes than that were surely meant as something else
MAX_SECONDS = 10 * 365 * 86400.0  # ten years: longer timers overflow somewhere


@dataclass(frozen=True)
class Rule:
    """``parse(value, user_home)`` returns what the section keeps, or raises ValueError (its text is added).

    ``from_text`` makes of an environment variable what TOML would have given; what it cannot read it leaves
    as text, and ``parse`` refuses it.
    """

    allowed: str
    parse: Callable[[object, Path], object]
    from_text: Callable[[str], object]


def _number(text: str) -> object:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _boolean(text: str) -> object:
    return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError
    return value


def whole(low: int, high: int) -> Rule:
    """A whole number in a range, both ends included."""

    def parse(value: object, _: Path) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError
        return value

    return Rule(f"a whole number from {low} to {high}", parse, _number)


def one_of(*words: str) -> Rule:
    """One of these words."""

    def parse(value: object, _: Path) -> str:
        if value not in words:
            raise ValueError
        return str(value)

    return Rule("one of " + ", ".join(words), parse, str)


def matching(pattern: str, allowed: str) -> Rule:
    """Text that fits a pattern from end to end."""

    def parse(value: object, _: Path) -> str:
        if not re.fullmatch(pattern, text := _text(value)):
            raise ValueError
        return text

    return Rule(allowed, parse, str)


def _seconds(value: object, _: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_SECONDS:
        raise ValueError  # NaN fails the comparison
    return float(value)


def _bool(value: object, _: Path) -> bool:
    if not isinstance(value, bool):
        raise ValueError  # noqa: TRY004  # parse promises ValueError
    return value


def _path(value: object, home: Path) -> Path:
    text = _text(value)
    if text == "~" or text.startswith("~/"):
        return home / text[2:]
    path = Path(text)
    if not path.is_absolute():
        raise ValueError("a relative one would mean another place for each program")
    return path


def _database(value: object, home: Path) -> Path | str:
    text = _text(value)
    return text if text.startswith(("postgresql://", "postgres://")) else _path(text, home)


def _program(value: object, home: Path) -> str:
    text = _text(value)
    if "/" in text or text.startswith("~"):
        return str(_path(text, home))
    return text


def _host(value: object, _: Path) -> str:
    text = _text(value)
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        label = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
        # What looks like an IPv4 address but is none would be asked of the DNS, and nobody would understand.
        if not re.fullmatch(rf"{label}(\.{label})*", text) or re.fullmatch(r"[0-9.]+", text):
            raise ValueError from None
    return text


def _address(value: object, home: Path) -> str:
    text = _text(value)
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not re.fullmatch("[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise ValueError
    if ":" in bare and bare == host:
        raise ValueError("an IPv6 address stands in brackets")
    _host(bare, home)
    return text


def _names(value: object, _: Path) -> tuple[str, ...]:
    if isinstance(value, str):
        raise ValueError("a list can only be set in the file")  # noqa: TRY004  # parse promises ValueError
    if not isinstance(value, list) or not all(isinstance(v, str) and v and v.isprintable() for v in value):
        raise ValueError
    return tuple(value)


def _tables(value: object, _: Path) -> tuple[dict[str, object], ...]:
    if isinstance(value, str):
        raise ValueError("can only be set in the file")  # noqa: TRY004  # parse promises ValueError
    if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
        raise ValueError
    return tuple(value)


def _budget(value: object, _: Path) -> float | None:
    if value == "unlimited":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e9:
        raise ValueError
    return float(value)


def _memory(value: object, _: Path) -> float | int:
    if isinstance(value, str):
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)", value)
        if not found or found[2].lower() not in BYTE_UNITS:
            raise ValueError
        value = int(float(found[1]) * BYTE_UNITS[found[2].lower()])
        if value < MIN_MEMORY:
            raise ValueError("less than 1 MiB")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError
    if 0 < value <= 1:
        return float(value)
    if value < MIN_MEMORY or value != int(value):
        raise ValueError
    return int(value)


PORT = whole(1, 65535)
SECONDS = Rule("seconds, 0 or more", _seconds, _number)
BOOL = Rule("true or false", _bool, _boolean)
TEXT = Rule("some text", lambda value, _: _text(value), str)
PATH = Rule("an absolute path, or one that starts with ~/", _path, str)
DATABASE = Rule("an absolute path, or one that starts with ~/, or postgresql://…", _database, str)
PROGRAM = Rule("a program's name, or its absolute path", _program, str)
HOST = Rule("a host name or IP address", _host, str)
ADDRESS = Rule("host:port, such as 0.0.0.0:8883 or [::]:8883", _address, str)
NAMES = Rule('a list of names, such as ["Read", "Glob"]', _names, str)
TABLES = Rule("tables, each under a [[heading]] of its own", _tables, str)
SLUG = matching(r"[a-z0-9][a-z0-9-]{0,62}", "a slug: lower-case letters, digits and hyphens, at most 63")
BUDGET = Rule('US dollars, 0 or more, or "unlimited"', _budget, _number)
MEMORY = Rule('a share of the memory (above 0, up to 1), or bytes: 4294967296, "4GiB"', _memory, _number)
