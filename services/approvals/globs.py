"""Patterns of policy rules: of names, of words of a command, of paths. Pure.

Names and words: as in a shell, ``*`` any characters, ``?`` one, ``[abc]`` one of these. Paths: ``*`` and
``?`` stay within a level, ``**`` crosses levels, and a pattern covers what lies inside the directory that it
names.
A path pattern without a slash is meant at any depth (``.env``); one with a slash that begins neither with
``/``, ``~/`` nor ``**/`` is relative to the session's directory.
"""

from __future__ import annotations

import fnmatch
import posixpath
import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NameGlob:
    text: str
    regex: re.Pattern[str]

    @classmethod
    def of(cls, text: str) -> NameGlob:
        return cls(text, re.compile(fnmatch.translate(text)))

    def fits(self, name: str) -> bool:
        return self.regex.match(name) is not None


@dataclass(frozen=True, slots=True)
class PathGlob:
    """``relative``: to the session's directory."""

    text: str
    relative: bool
    regex: re.Pattern[str]

    @classmethod
    def of(cls, text: str, user_home: str) -> PathGlob:
        """Raises ValueError for a pattern that could not mean anything."""
        pattern = text
        if pattern == "~" or pattern.startswith("~/"):
            pattern = user_home.rstrip("/") + pattern[1:]
        pattern = pattern.removeprefix("./").rstrip("/") or "/"
        if ".." in pattern.split("/"):
            raise ValueError("`..` leads out of any pattern: write the place itself")
        relative = False
        if "/" not in pattern:
            pattern = f"/**/{pattern}"
        elif pattern.startswith("**/"):
            pattern = "/" + pattern
        elif not pattern.startswith("/"):
            relative = True
            pattern = "/" + pattern
        return cls(text, relative, re.compile(_regex(pattern)))

    def fits(self, path: str, cwd: str) -> bool:
        """``path`` is absolute and normal, ``cwd`` the session's directory."""
        if self.relative:
            base = posixpath.normpath(cwd)
            inside = path.removeprefix("/" if base == "/" else base + "/")
            if inside == path:
                return False
            path = "/" + inside
        return self.regex.fullmatch(path) is not None


def _regex(pattern: str) -> str:
    if pattern == "/":
        return r"/.*"
    made = ""
    for level in pattern[1:].split("/"):
        if level == "**":
            made += r"(?:/[^/]+)*"
        else:
            made += "/" + _level(level)
    return rf"(?s:{made}(?:/.*)?)"


def _level(level: str) -> str:
    """One level of a path; what `fnmatch` makes of it, but ``*`` and ``?`` take no slash."""
    parts = re.split(r"(\*+|\?|\[!?\]?[^\]]*\])", level)
    return "".join(
        r"[^/]*" if part.startswith("*")
        else r"[^/]" if part == "?"
        else _set(part) if part.startswith("[") and part.endswith("]") and len(part) > 2
        else re.escape(part)
        for part in parts
    )  # fmt: skip


def _set(text: str) -> str:
    inside = text[1:-1].replace("\\", r"\\").replace("[", r"\[")
    return f"(?!/)[{'^' + inside[1:] if inside.startswith('!') else inside}]"
