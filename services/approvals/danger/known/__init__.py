"""The knowledge base: what commands do, in TOML files by theme. README.md here says how to extend it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from importlib import resources
from typing import Any, Literal

import msgspec

THEMES = (
    "shell", "files", "text", "git", "build", "packages", "interpreters", "network", "system", "containers",
    "cloud", "databases", "secrets",
)  # fmt: skip
Level = Literal["low", "medium", "high", "critical"]
Mode = Literal["text", "none", "list", "read", "make", "write", "delete", "run"]


class Form(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One dangerous form of a command. It applies when everything that it names is there.

    ``options``: any of these (letters, or long names without dashes); ``operand``: a pattern that an operand
    matches from its beginning; ``text``: a pattern anywhere in the arguments joined by spaces.
    """

    level: Level
    reason: str
    impact: str = ""
    options: list[str] = []
    operand: str = ""
    text: str = ""


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of a command, or of a subcommand ("git push"). README.md explains every field."""

    names: list[str]
    level: Level
    reason: str
    impact: str
    operands: Mode = "none"
    skip: int = 0
    single: bool = False
    globals: dict[str, str] = {}
    values: list[str] = []
    prose: list[str] = []
    outputs: list[str] = []
    products: list[str] = []
    loads: list[str] = []
    recurse: list[str] = []
    check: str = ""
    forms: list[Form] = []

    @property
    def runs(self) -> bool:
        """Whether it runs the project's code, with options of its own, as builds and test runners do."""
        return self.operands == "run" or self.check == "targets"


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Files that are more than files; a level for each way to touch them. ``samples`` are found by globs."""

    pattern: str
    reason: str
    impact: str
    list: Level = "low"
    read: Level = "low"
    write: Level = "medium"
    delete: Level = "medium"
    samples: tuple[str, ...] = ()


class Said(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is said of something that is no command."""

    level: Level
    reason: str
    impact: str


def load(name: str) -> dict[str, Any]:
    """One of the files beside this module."""
    return tomllib.loads(resources.files(__name__).joinpath(f"{name}.toml").read_text("utf-8"))


def _entries() -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for theme in THEMES:
        for entry in msgspec.convert(load(theme)["command"], list[Entry]):
            for name in entry.names:
                if name in entries:
                    raise ValueError(f"{theme}.toml: {name} stands in the tables twice")
                entries[name] = entry
    return entries


ENTRIES = _entries()
"""By name; a subcommand has its program's name before it."""
NAMES = frozenset(name.split()[0] for name in ENTRIES)
"""Every program that the tables know."""
TOOLS = frozenset(
    name
    for theme in ("build", "interpreters")
    for entry in msgspec.convert(load(theme)["command"], list[Entry])
    if entry.level == "low"
    for name in entry.names
) - {"node", "python", "python3", "perl", "ruby", "php", "make", "lua"}
"""What a project's own packages usually bring, and `npx` may run."""
_BEGINNINGS = frozenset(
    " ".join(name.split()[:length]) for name in ENTRIES for length in range(1, len(name.split()))
)
PLACES = [
    (re.compile(place.pattern, re.IGNORECASE), place)
    for place in msgspec.convert(load("places")["place"], list[Place])
]
STRUCTURE = msgspec.convert(load("structure")["finding"], dict[str, Said])
HARMLESS_VARIABLES = re.compile("|".join(load("structure")["variables"]["harmless"]))
DANGEROUS_VARIABLES = re.compile("|".join(load("structure")["variables"]["dangerous"]))


class Found(msgspec.Struct, frozen=True):
    """``rest`` are the positions in the arguments that do not belong to the command's name; ``before`` those
    of options that stand before a subcommand and are not known to be harmless.
    """

    entry: Entry
    name: str
    rest: list[int]
    before: list[int]
    led: list[int] = []


def find(argv: Sequence[str], name: str) -> Found | None:
    """The entry with the longest name. ``name`` is the program's, without its directory."""
    program = ENTRIES.get(name)
    allowed = program.globals if program is not None else {}
    best = Found(program, name, list(range(1, len(argv))), []) if program is not None else None
    words, used = [name], {0}
    before: list[int] = []
    led: list[int] = []
    position = 1
    while position < len(argv) and " ".join(words) in _BEGINNINGS:
        text = argv[position]
        named = " ".join([*words, text]) in _BEGINNINGS or " ".join([*words, text]) in ENTRIES
        if text.startswith("-") and len(text) > 1 and not named:
            option, equals, value = text.partition("=")
            wanted = allowed.get(option)
            if wanted is None:
                before.append(position)
            else:
                used.add(position)
                if wanted and not equals:
                    position += 1
                    value = argv[position] if position < len(argv) else ""
                    used.add(position)
                if wanted not in ("", "path") and not re.match(wanted, value):
                    before.append(position)
                elif wanted == "path":
                    led.append(position)
            position += 1
            continue
        words.append(text)
        used.add(position)
        entry = ENTRIES.get(" ".join(words))
        if entry is not None:
            rest = [index for index in range(1, len(argv)) if index not in used]
            best = Found(entry, " ".join(words), rest, list(before), list(led))
        position += 1
    return best
