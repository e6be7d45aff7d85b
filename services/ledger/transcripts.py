"""What a line of Claude Code's transcripts says of cost. Pure.

A transcript has a line for each block of an answer, and all lines of an answer repeat its usage; a resumed or
forked conversation repeats the lines of the one before it, under another session's id; a subagent's file may
repeat its parent's. So a call of the model is known by the ids of its message and its request, wherever it
stands (`Call.key`), and of several tellings the largest counts, the last among equals: the first may be from
before the answer was whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw, Struct

from bus import surrogates
from services.ledger.model import Use

MAX_ID = 200
MAX_TOKENS = 10**9  # of one call: a thousand times what any model takes
_MARK = b'"usage"'


class Call(NamedTuple):
    """One call of the model. ``at`` in Unix milliseconds; ``said``: 10⁻¹² dollars, where the line says it."""

    key: str
    at: int
    model: str
    use: Use
    searches: int
    fast: bool
    conversation: str
    cwd: str
    said: int | None


class BrokenLineError(ValueError):
    """The line is no JSON object, or tells of a cost in a way that cannot be."""


class _Line(Struct):
    type: Any = None
    message: Raw = Raw()
    timestamp: Any = None
    requestId: Any = None  # noqa: N815  # the agent's name
    uuid: Any = None
    sessionId: Any = None  # noqa: N815  # as above
    cwd: Any = None
    costUSD: Any = None  # noqa: N815  # older versions


class _Writes(Struct):
    ephemeral_5m_input_tokens: int | None = None
    ephemeral_1h_input_tokens: int | None = None


class _Searches(Struct):
    web_search_requests: int | None = None


class _Usage(Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation: _Writes | None = None
    server_tool_use: _Searches | None = None
    speed: Any = None


class _Message(Struct):
    id: str | None = None
    model: str | None = None
    usage: _Usage | None = None


_line = msgspec.json.Decoder(_Line)
_message = msgspec.json.Decoder(_Message)


def read_line(line: bytes) -> Call | None:
    """None for a line that tells of no call. Raises `BrokenLineError`."""
    line = surrogates.whole(line)
    try:
        found = _line.decode(line)
        if found.type != "assistant" or _MARK not in line or not found.message:
            return None
        message = _message.decode(found.message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BrokenLineError(str(error)) from None
    usage = message.usage
    if usage is None:
        return None
    writes = usage.cache_creation or _Writes()
    w5, w1 = writes.ephemeral_5m_input_tokens or 0, writes.ephemeral_1h_input_tokens or 0
    use = Use(
        0,
        usage.input_tokens or 0,
        usage.output_tokens or 0,
        usage.cache_read_input_tokens or 0,
        max(usage.cache_creation_input_tokens or 0, w5 + w1),
        w5,
        w1,
    )
    searches = (usage.server_tool_use and usage.server_tool_use.web_search_requests) or 0
    if any(not 0 <= count <= MAX_TOKENS for count in (*use, searches)):
        raise BrokenLineError("a number of tokens that cannot be")
    if not use.tokens and not searches:
        return None  # what the program itself said, of an error
    return Call(
        _key(message.id, found),
        _time(found.timestamp),
        _text(message.model) or "unknown",
        use,
        searches,
        usage.speed == "fast",
        _text(found.sessionId),
        _text(found.cwd),
        _said(found.costUSD),
    )


def _key(message: str | None, line: _Line) -> str:
    name = _text(message) or "-" + _text(line.uuid)
    if name == "-":
        raise BrokenLineError("a message without an id")
    return f"{name}/{_text(line.requestId)}"


def _text(value: object) -> str:
    return value[:MAX_ID].replace("\0", "") if isinstance(value, str) else ""


def _time(value: object) -> int:
    try:
        at = datetime.fromisoformat(value)  # type: ignore[arg-type]  # anything else is a TypeError
        return int(at.timestamp() * 1000 + 0.5) if at.tzinfo is not None else _no_time(value)
    except (TypeError, ValueError, OverflowError, OSError):
        return _no_time(value)


def _no_time(value: object) -> int:
    raise BrokenLineError(f"no time: {str(value)[:40]!r}")


def _said(usd: object) -> int | None:
    if isinstance(usd, bool) or not isinstance(usd, int | float) or not 0 <= usd < 1e6:
        return None
    return round(usd * 10**12)


def merge(calls: Iterable[Call]) -> dict[str, Call]:
    """Each call once: the largest telling, the last among equals, at the time of the first."""
    found: dict[str, Call] = {}
    for call in calls:
        known = found.get(call.key)
        if known is None:
            found[call.key] = call
        elif larger(call.use, known.use):
            found[call.key] = call._replace(at=min(call.at, known.at))
    return found


def larger(new: Use, known: Use) -> bool:
    """Whether a telling replaces the one that is known."""
    return new.tokens >= known.tokens and new[1:] != known[1:]
