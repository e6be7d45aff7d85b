"""A settings file of Claude Code: our hooks put in and taken out, everything else as it was. Pure.

JSON has no comments; order and indentation are kept, and where nothing else was changed in between, taking
out gives back the very bytes that were there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

IsOurs = Callable[[Any], bool]


class SettingsError(Exception):
    """The file's fault: the text says what is wrong in it, and where."""


def parse(data: bytes) -> dict[str, Any]:
    """The settings. An empty file counts as none. Raises `SettingsError`."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingsError(f"is not UTF-8 (byte {error.start})") from None
    if not text.strip():
        return {}
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise SettingsError(
            f"is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}"
        ) from None
    except RecursionError:
        raise SettingsError("is nested too deeply") from None
    if not isinstance(value, dict):
        raise SettingsError("holds no JSON object")
    table = value.get("hooks", {})
    if not isinstance(table, dict):
        raise SettingsError('"hooks" is no object')
    for event, groups in table.items():
        sound = isinstance(groups, list) and all(
            isinstance(group, dict) and isinstance(group.get("hooks", []), list) for group in groups
        )
        if not sound:
            raise SettingsError(f'"hooks" → "{event}" is no list of groups of hooks')
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:  # one of the two would be lost
        raise SettingsError(f'has the key "{twice}" twice in one object')
    return dict(pairs)


def with_hooks(data: bytes, hooks: Mapping[str, list[Any]], is_ours: IsOurs) -> bytes:
    """The file with these hooks, after those that stand there; older ones of ours are replaced."""
    settings = parse(data)
    _take_out(settings, is_ours)
    table = settings.setdefault("hooks", {})
    for event, groups in hooks.items():
        table[event] = [*table.get(event, []), *groups]
    return _text(settings, data)


def without_hooks(data: bytes, is_ours: IsOurs) -> bytes:
    """The file without hooks of ours, and without what is empty then."""
    settings = parse(data)
    _take_out(settings, is_ours)
    return _text(settings, data)


def ours(data: bytes, is_ours: IsOurs) -> dict[str, list[Any]]:
    """Event → hooks of ours."""
    found: dict[str, list[Any]] = {}
    for event, groups in parse(data).get("hooks", {}).items():
        for group in groups:
            found.setdefault(event, []).extend(hook for hook in group.get("hooks", []) if is_ours(hook))
    return {event: hooks for event, hooks in found.items() if hooks}


def _take_out(settings: dict[str, Any], is_ours: IsOurs) -> None:
    table = settings.get("hooks")
    if not table:
        return
    touched = False
    for event in list(table):
        groups = []
        for group in table[event]:
            left = [hook for hook in group.get("hooks", []) if not is_ours(hook)]
            if len(left) == len(group.get("hooks", [])):
                groups.append(group)
            elif left:
                groups.append({**group, "hooks": left})
        if groups != table[event]:
            touched = True
            table[event] = groups
            if not groups:
                del table[event]
    if touched and not table:
        del settings["hooks"]


def _text(settings: dict[str, Any], like: bytes) -> bytes:
    """As JSON in the form of the file before: its indentation, its last newline."""
    text = like.decode("utf-8-sig")
    found = re.search(r"\{\s*\n([ \t]+)\"", text)
    indent: str | int | None = found[1] if found else 2
    if not found and text.strip() and "\n" not in text.strip() and len(text.strip()) > 2:
        indent = None  # it stood on one line
    made = json.dumps(settings, indent=indent, ensure_ascii=False)
    if "\r\n" in text:
        made = made.replace("\n", "\r\n")
    end = text[len(text.rstrip()) :] if text.strip() else "\n"
    bom = b"\xef\xbb\xbf" if like.startswith(b"\xef\xbb\xbf") else b""
    return bom + (made + end).encode("utf-8", "surrogatepass")
