"""Takes secrets out of what is logged: known values, telling names, and shapes that only secrets have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime

MASK = "[redacted]"
MIN_SECRET = 4  # a shorter "secret" would black out half of every line

_SECRET_NAME = re.compile(
    r"(^|_)(token|password|passwd|passphrase|secret|authorization|api_?key|private_?key|access_?key|cookie"
    r"|credentials?)$"
)
_SHAPES = re.compile(
    r"""
    (?P<plain> sk-ant-[A-Za-z0-9_-]+ | sk-[A-Za-z0-9_-]{20,} | gh[pousr]_[A-Za-z0-9]{20,}
        | github_pat_\w{20,} )
    | (?P<before> \b(?:bearer|basic)\s+ ) [A-Za-z0-9._~+/=-]+
    | (?P<url> \b[a-z][a-z0-9+.-]*://[^\s/:@]*: ) [^\s/@]+ (?=@)
    | (?P<pair> ["']? \b[A-Za-z0-9_-]*
        (?:token|password|passwd|passphrase|secret|authorization|api[_-]?key|private[_-]?key|cookie) ["']?
        \s*[=:]\s* ) (?:(?:bearer|basic)\s+)? (?: "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*' | [^\s,;&"'}\])]+ )
    """,
    re.VERBOSE | re.IGNORECASE,
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def is_secret_name(name: str) -> bool:
    """Does a field of this name hold a secret? ``apiKey`` and ``x-api-key`` do, ``output_tokens`` not."""
    return _SECRET_NAME.search(_CAMEL.sub("_", name).lower().replace("-", "_")) is not None


class Redactor:
    """Knows this process's secrets. `clean` never raises and always returns something that JSON can hold."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()
        self._known: re.Pattern[str] | None = None

    def register(self, *secrets: str) -> None:
        """From now on these values are masked wherever they stand. Values under four characters are not."""
        self._secrets.update(secret for secret in secrets if len(secret) >= MIN_SECRET)
        longest_first = sorted(self._secrets, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def text(self, text: str) -> str:
        """The text with every secret masked."""
        if self._known is not None:
            text = self._known.sub(MASK, text)
        return _SHAPES.sub(_mask, text)

    def clean(self, value: object, depth: int = 8) -> object:
        """A copy of ``value`` for JSON: secrets masked, unknown objects as their str, cut at ``depth``."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, bytes | bytearray | memoryview):
            return self.text(bytes(value).decode("utf-8", "replace"))
        if isinstance(value, datetime):
            return value.isoformat()
        if depth == 0:
            return "…"
        if isinstance(value, Mapping):
            return {self.text(str(key)): self._field(str(key), part, depth) for key, part in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.clean(part, depth - 1) for part in value]
        return self.text(str(value))

    def fields(self, fields: Mapping[str, object]) -> dict[str, object]:
        """`clean` for the fields of one event."""
        return {self.text(key): self._field(key, value, 8) for key, value in fields.items()}

    def _field(self, key: str, value: object, depth: int) -> object:
        if is_secret_name(key) and value is not None and not isinstance(value, bool):
            return MASK
        return self.clean(value, depth - 1)


def _mask(found: re.Match[str]) -> str:
    kept = found["before"] or found["url"] or found["pair"] or ""
    return kept + MASK
