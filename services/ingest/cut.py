"""Cutting what is published to a bearable size. The whole stays in the agent's own transcript."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

MAX_TEXT = 64 * 1024  # characters of a message's or a tool result's text in an event
MAX_VALUE_BYTES = 16 * 1024  # an input above this is published with its long strings cut
MAX_STRING = 2000
MAX_ITEMS = 50
SUMMARY = 120
LAST_MESSAGE = 500
MAX_BLOCKS = 1024 * 1024  # characters of all blocks of a message: an event stays below a bus payload


def decoded(raw: bytes) -> Any:
    """A JSON value; None for what is none."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def text(value: str, limit: int = MAX_TEXT) -> str:
    return value if len(value) <= limit else f"{value[:limit]}… ({len(value) - limit} more characters)"


def value(raw: bytes) -> Any:
    """A JSON value for an event: as it is when short, else with long strings, lists and objects cut."""
    if len(raw) <= MAX_VALUE_BYTES:
        return msgspec.Raw(bytes(raw))
    return _shorter(decoded(raw), 0)


def _shorter(item: Any, depth: int) -> Any:
    if isinstance(item, str):
        return text(item, MAX_STRING)
    if depth > 6 and isinstance(item, dict | list):
        return "…"
    if isinstance(item, dict):
        return {text(key, 200): _shorter(entry, depth + 1) for key, entry in list(item.items())[:MAX_ITEMS]}
    if isinstance(item, list):
        return [_shorter(entry, depth + 1) for entry in item[:MAX_ITEMS]]
    return item


def blocks(given: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    """(type, text) of a message's blocks, for an event: each text cut, and no more of them than fit."""
    found: list[dict[str, str]] = []
    room = MAX_BLOCKS
    for kind, said in given:
        short = {"type": text(kind, 100), "text": text(said)}
        room -= len(short["type"]) + len(short["text"])
        if room < 0:
            break
        found.append(short)
    return found


def plain(raw: bytes) -> str:
    """A JSON value as text: a string's own, else as it was written. Any depth: it is not taken apart."""
    if raw[:1] == b'"':
        return str(decoded(raw))
    return raw.decode("utf-8", "replace")


def result_text(raw: bytes) -> str:
    """A tool result's content: a string, or blocks of which the texts count."""
    content = decoded(raw)
    if isinstance(content, str):
        return text(content)
    if not isinstance(content, list):
        return ""
    blocks = [block for block in content if isinstance(block, dict)]
    parts = [str(block["text"]) if "text" in block else f"[{block.get('type', 'block')}]" for block in blocks]
    return text("\n".join(parts))


def summary(tool: str, raw: bytes) -> str:
    """One line that says what a tool call is about."""
    given = decoded(raw)
    if isinstance(given, dict):
        names = (
            "command",
            "file_path",
            "notebook_path",
            "pattern",
            "url",
            "query",
            "description",
            "path",
            "prompt",
        )
        for name in names:
            if isinstance(given.get(name), str) and given[name].strip():
                return text(" ".join(given[name].split()), SUMMARY)
    return tool
