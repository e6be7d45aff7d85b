"""What it means to list, read, write, delete or run the files that a path names. Pure.

A path is looked at twice: as it is written, and as it is behind symbolic links (`Sight.resolve`). ``cwd`` is
the session's directory: "outside" is outside of that, wherever a ``cd`` may have led.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

from services.approvals.danger.known import PLACES, Level, Mode
from services.approvals.danger.sight import Sight

# Temporary places: what stands there is nobody's only copy. And what every program may use.
_SCRATCH = re.compile(r"^(/private)?/(tmp|var/tmp|var/folders)(/|$)")
_DEVICES = re.compile(r"^/dev/(null|stdin|stdout|stderr|tty|zero|full|u?random|fd(/\d*)?)$")
_NET_DEVICES = re.compile(r"^/dev/(tcp|udp)/")
_PROGRAMS = re.compile(r"^(/usr|/usr/local|/opt/homebrew|/opt/local|/snap)?/s?bin/[^/]+$")
_PUBLIC = re.compile(
    r"^/(usr|lib|lib64|bin|sbin|opt|nix|System|Library)(/|$)"
    r"|^/etc/(os-release|hosts|hostname|resolv\.conf|timezone|localtime|services|protocols|issue|debian_version"
    r"|lsb-release|shells|environment|fstab|passwd|group|nsswitch\.conf|apt|default|ssl/certs)(/|$)"
    r"|^/proc/(cpuinfo|meminfo|version|loadavg|uptime|mounts|stat|filesystems|swaps|self/status|net/dev)$"
    r"|^/sys/(class|devices|fs/cgroup)(/|$)"
)
_WILD = re.compile(r"[*?\[{]")
_CHOICE = re.compile(r"\{([^{}]*)\}")
MAX_CHOICES = 64  # of a pattern with braces,
MAX_CHOICE_CHARS = 1000  # of so many signs at most: each pair of braces is a step through all of them

_HOME = ("reaches into Pointsman's own home", "It can read the keys that approvals rest on, or change them.")
_ABOVE = ("takes in a tree that holds Pointsman's own home", _HOME[1])
_OUTSIDE: dict[Mode, tuple[Level, str, str]] = {
    "make": ("medium", "makes something outside the working directory", "It stays there."),
    "read": ("medium", "reads outside the working directory", "The agent learns what stands there."),
    "write": (
        "high",
        "writes outside the working directory",
        "No project's history has what stood there before.",
    ),
    "delete": (
        "high",
        "deletes outside the working directory",
        "No project's history has what stood there before.",
    ),
    "run": ("high", "runs what stands outside the working directory", "It does what stands in that file."),
}
_IN_SCRATCH: dict[Mode, tuple[Level, str, str]] = {
    "write": ("medium", "writes a temporary file", "What stood there before is gone."),
    "delete": ("medium", "deletes temporary files", "Other programs may use them."),
    "run": ("medium", "runs what stands in a temporary directory", "Any program may have put it there."),
}  # fmt: skip
_TREE_GONE = (
    "deletes the root, your home, the project or a directory that holds it",
    "Everything in it is gone for good.",
)
_WRITES: dict[Mode, tuple[Level, str, str]] = {
    "write": ("medium", "changes a file", "What stood there before is replaced."),
    "delete": ("medium", "deletes files", "What is deleted is gone, unless git has it."),
}


class Finding(NamedTuple):
    """One thing that is dangerous. ``reason`` and ``impact`` are for a person."""

    level: Level
    reason: str
    impact: str


_TOO_MANY = Finding("high", "names more files than can be looked at", "One of them may be more than a file.")


@dataclass(frozen=True, slots=True)
class Ground:
    """Where a command stands: the session's directory, Pointsman's home, and what may be seen."""

    cwd: str
    home: str
    sight: Sight
    places: tuple[str, ...] = ()
    lost: bool = False

    @property
    def starts(self) -> tuple[str, ...]:
        return self.places or (self.cwd,)


def is_system_program(path: str) -> bool:
    """Whether a normal path is that of a program which was installed for the whole machine."""
    return _PROGRAMS.match(path) is not None


def scratch(path: str) -> bool:
    """Whether it lies where every program may write."""
    return _SCRATCH.match(posixpath.normpath(path)) is not None


def wild(text: str) -> bool:
    return _WILD.search(text) is not None


def inside(path: str, tree: str) -> bool:
    return path == tree or path.startswith(tree.rstrip("/") + "/")


def judge(text: str, mode: Mode, ground: Ground, *, glob: bool = False, tree: bool = False) -> list[Finding]:
    """``tree``: everything below is meant too. In modes ``none`` and ``list`` outside is no harm."""
    if not text or "\0" in text or mode == "text":
        return []
    if text.startswith("~"):
        head, slash, rest = text.partition("/")
        if head == "~" and ground.sight.user_home:
            text = ground.sight.user_home + slash + rest
    if glob and _CHOICE.search(text):
        choices = _choices(text)
        if choices is None:
            return [_TOO_MANY]
        return [found for one in choices for found in judge(one, mode, ground, glob=True, tree=tree)]
    found: list[Finding] = []
    whole = False
    if glob and wild(text):
        found += _globbed(text, mode)
        path_text, whole = _before(text)
    else:
        path_text = text
    for path in dict.fromkeys(_candidates(path_text, ground)):
        found += _one(path, mode, ground, tree=tree, everything=whole)
    if ground.lost and not path_text.startswith("/") and mode in _OUTSIDE:
        found.append(Finding(*_OUTSIDE[mode]))
    return found


def _choices(text: str) -> list[str] | None:
    """What ``{a,b}.txt`` stands for, to the matcher of a search. None: too much."""
    waiting: list[str] = [text]
    made: list[str] = []
    while waiting:
        one = waiting.pop()
        choice = _CHOICE.search(one)
        if choice is None:
            made.append(re.sub(r"[{}]", "", one))
        else:
            waiting += [
                one[: choice.start()] + option + one[choice.end() :] for option in choice[1].split(",")
            ]
        if len(waiting) + len(made) > MAX_CHOICES or len(one) > MAX_CHOICE_CHARS:
            return None
    return made


def _before(text: str) -> tuple[str, bool]:
    """The directory before the first wildcard, and whether the pattern means everything in there."""
    parts = text.split("/")
    first = next((index for index, part in enumerate(parts) if _WILD.search(part)), len(parts) - 1)
    directory = "/".join(parts[:first]) or ("/" if text.startswith("/") else ".")
    rest = parts[first:]
    everything = all(not re.search(r"[^*?.\[\]!]", part) for part in rest) and "*" in rest[0]
    return directory, everything


def _globbed(pattern: str, mode: Mode) -> Iterator[Finding]:
    """Whether a pattern may find files that are more than files: ``.e*``, ``*.pem``, ``id_?sa``."""
    does = "names" if mode == "none" else f"{mode}s"
    parts = pattern.split("/")
    named_parts = "/".join("_" if _WILD.search(part) else part for part in parts)
    for sought, place in PLACES:  # `**/.env`, `**/.ssh/*`
        if sought.search(named_parts) and _level(place, mode) != "low":
            yield Finding(_level(place, mode), f"may find what it {does}: {place.reason}", place.impact)
    for part in parts:
        named = re.sub(r"[*?\[\]!^]", "", part)
        if not _WILD.search(part) or not named or (named == "." and not part.startswith(".")):
            continue
        bare = part.replace("[^", "[!")
        for _, place in PLACES:
            if any(fnmatchcase(sample, bare) for sample in place.samples):
                level = _level(place, mode)
                if level != "low":
                    yield Finding(level, f"may find what it {does}: {place.reason}", place.impact)
                break


def _candidates(text: str, ground: Ground) -> Iterator[str]:
    for start in ground.starts:
        path = posixpath.normpath(posixpath.join(start, text))
        path = "/" + path.lstrip("/") if path.startswith("//") else path
        yield path
        if not path.startswith(
            ("/dev/", "/proc/")
        ):  # there the links are of whoever asks: of the gate itself
            # not normalised first: `link/..` is the directory above what the link leads to
            yield ground.sight.resolve(posixpath.join(start, text))


def _level(place: object, mode: Mode) -> Level:
    wanted = {"none": "read", "run": "read", "make": "write"}.get(mode, mode)
    level: Level = getattr(place, wanted, "low")
    return level


def _one(path: str, mode: Mode, ground: Ground, *, tree: bool, everything: bool) -> Iterator[Finding]:
    home = ground.home
    homes = {home, ground.sight.resolve(home)}
    if any(inside(path, place) for place in homes):
        yield Finding("critical", *_HOME)
        return
    if any(inside(place, path) for place in homes):
        if mode == "delete":
            yield Finding("critical", *_ABOVE)
        elif tree or everything:
            yield Finding("high", *_ABOVE)
    device = _device(path, mode)
    yield from _file(path, mode, ground) if device is None else device


def _device(path: str, mode: Mode) -> tuple[Finding, ...] | None:
    """What is to be said of a path that is no file on a disk; None: it may be one."""
    if mode == "run" and path.startswith(("/dev/", "/proc/")):
        return (Finding("high", "runs what comes from its input", "What would run cannot be read here."),)
    if _DEVICES.match(path):
        return ()
    if _NET_DEVICES.match(path):
        return (Finding("high", "opens a connection to the network", "What is sent leaves this machine."),)
    if path.startswith("/dev/") and mode in ("write", "delete"):
        return (Finding("critical", "writes to a device", "Everything on a disk may be lost."),)
    return None


def _file(path: str, mode: Mode, ground: Ground) -> Iterator[Finding]:
    user_home = ground.sight.user_home
    if mode == "delete" and (
        inside(ground.cwd, path) or (user_home and inside(user_home, path)) or re.fullmatch(r"/[^/]*", path)
    ):
        yield Finding("critical", *_TREE_GONE)
    temporary = scratch(path)
    within = inside(path, ground.cwd) or inside(path, ground.sight.resolve(ground.cwd))
    public = _PUBLIC.match(path) is not None
    # in the project's own path nothing is special: a project may lie in /opt, or in a directory named .git
    looked_at = path[len(ground.cwd) :].lstrip("/") if inside(path, ground.cwd) else path
    for pattern, place in PLACES:
        if pattern.search(looked_at):
            level = _level(place, mode)
            if level != "low":
                yield Finding(level, place.reason, place.impact)
    if within or mode in ("none", "list"):
        entry = _WRITES.get(mode) if within else None
    elif temporary:
        entry = _IN_SCRATCH.get(mode)
    elif (mode == "run" and is_system_program(path)) or (mode == "read" and public):
        entry = None
    else:
        entry = _OUTSIDE.get(mode)
    if entry is not None:
        yield Finding(*entry)


def worst(found: Sequence[Finding]) -> Level:
    """The highest level, ``low`` for none."""
    order: tuple[Level, ...] = ("low", "medium", "high", "critical")
    return max((finding.level for finding in found), key=order.index, default="low")
