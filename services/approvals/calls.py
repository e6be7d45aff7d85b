"""A tool call as the policy sees it: who asks for what, and which commands and paths are in it. Pure.

What stands in a call only partly (a word that a shell puts together, a command that cannot be read) is
``None`` or not ``complete``: a rule that turns on it is not judged to match, but may.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bus.messages import Danger
from services.approvals.danger import commands as shells
from services.approvals.danger.sight import Sight
from services.approvals.danger.wrappers import SHELLS as SCRIPTED
from services.approvals.reading import Parsed

SHELLS = ("Bash", "Monitor")  # tools whose ``command`` is a shell's; any other's is taken for one as well
_PATHS = ("file_path", "notebook_path", "path")
_SEARCHES = ("Glob", "Grep", "LS")


@dataclass(frozen=True, slots=True)
class Command:
    """One simple command. A word that is not literal text is None. ``places``: where it may run, as far as
    that is known.
    """

    words: tuple[str | None, ...]
    places: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Commands:
    """What a shell would run, and the files that it opens itself. ``complete``: there is nothing else in it.
    ``plain``: all of it is literal, and it does nothing but run these (it writes to no file by redirection,
    and sets no variable).
    """

    found: tuple[Command, ...] = ()
    files: tuple[Command, ...] = ()
    complete: bool = True
    plain: bool = True


@dataclass(frozen=True, slots=True)
class Call:
    """``kind`` is tool, question or plan; ``value`` the input; ``auto_approve`` the session's own list.

    ``commands`` None: the tool runs none. ``paths`` are absolute and normal, with where links lead to;
    ``words`` are what the commands name, taken as paths. ``vague``: there may be more of those.
    """

    kind: str
    tool: str
    session: str
    uid: str
    cwd: str
    danger: Danger
    value: dict[str, Any]
    input_sha256: str = ""
    auto_approve: tuple[str, ...] = ()
    commands: Commands | None = None
    paths: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    vague: bool = False
    readable: bool = field(default=True)  # False: the input is no JSON object, or not what it seems


def commands_of(tool: str, parsed: Parsed, sight: Sight, cwd: str) -> Commands | None:
    """The commands that a tool runs; None for a tool that runs none."""
    text = parsed.value.get("command")
    if not isinstance(text, str):
        return Commands(complete=False, plain=False) if tool in SHELLS else None
    shell = shells.read(text, sight, cwd)
    found = tuple(map(_command, shell.commands))
    files = tuple(map(_redirect, shell.redirects))
    assigned = any(command.assigns for command in shell.commands)
    written = any(redirect.writes and not _harmless(redirect) for redirect in shell.redirects)
    return Commands(found, files, _complete(shell), shell.whole and not (assigned or written))


def _command(command: shells.Command) -> Command:
    words = tuple(word.text if word.literal else None for word in command.words)
    return Command(words, () if command.lost else command.places)


def _redirect(redirect: shells.Redirect) -> Command:
    return Command((redirect.target.text if redirect.target.literal else None,), redirect.places)


def _harmless(redirect: shells.Redirect) -> bool:
    """``2>&1`` and ``>/dev/null``."""
    target = redirect.target
    return target.literal and (target.text == "/dev/null" or ("&" in redirect.op and target.text.isdecimal()))


# What the reader may find in a text of which it lists all commands nevertheless: it looks into each of these.
_SEEN_THROUGH = frozenset({"not_literal", "substitution", "function"})


def _complete(shell: shells.Shell) -> bool:
    """Whether there is nothing to run but what is listed."""
    if not _SEEN_THROUGH.issuperset(shell.findings):
        return False
    fed = (command for command in shell.commands if command.stdin in ("pipe", "file"))
    return not any(command.name in SCRIPTED and len(command.words) == 1 for command in fed)


def paths_of(tool: str, parsed: Parsed, cwd: str, user_home: str) -> tuple[str, ...]:
    """What the tool's own fields name, as absolute paths; a search also by what it looks for."""
    found = []
    for name in _PATHS:
        given = parsed.value.get(name)
        if isinstance(given, str):
            found.append(absolute(given, cwd, user_home))
    if tool in _SEARCHES:
        base = found[0] if found else posixpath.normpath(cwd)
        found = found or [base]
        for name in ("pattern", "glob") if tool == "Glob" else ("glob",):
            given = parsed.value.get(name)
            if isinstance(given, str):
                found.append(absolute(given, base, user_home))
    return tuple(dict.fromkeys(found))


def words_of(commands: Commands | None, cwd: str, user_home: str, limit: int) -> tuple[str, ...]:
    """The words of commands that may be paths, taken as such; the first ``limit`` of them."""
    found: dict[str, None] = {}
    if commands is None:
        return ()
    said = dict.fromkeys(  # wrappers give the same words again and again
        (word, place)
        for command in (*commands.found, *commands.files)
        for word in _candidates(command)
        for place in command.places or (cwd,)
    )
    for word, place in said:
        found.setdefault(absolute(word, place, user_home))
        if len(found) >= limit:
            break
    return tuple(found)


def _candidates(command: Command) -> Iterator[str]:
    for word in command.words:
        if word:
            yield word
            name, sign, value = word.partition("=")
            if sign and value and name:
                yield value


def absolute(path: str, cwd: str, user_home: str) -> str:
    if path == "~" or path.startswith("~/"):
        path = user_home + path[1:]
    joined = posixpath.normpath(posixpath.join(cwd, path))
    return "/" + joined.lstrip("/")
