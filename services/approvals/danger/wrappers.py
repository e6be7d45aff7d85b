"""Commands that run other commands: where in their arguments those stand. The lists are in
known/wrappers.toml. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.approvals.danger import known
from services.approvals.danger.options import Options
from services.approvals.danger.words import Word

SHELLS = frozenset(
    {
        "sh",
        "bash",
        "zsh",
        "dash",
        "ksh",
        "mksh",
        "ash",
        "fish",
        "csh",
        "tcsh",
        "rbash",
        "yash",
        "elvish",
        "nu",
        "xonsh",
        "pwsh",
        "powershell",
        "cmd.exe",
        "osh",
    }
)
MAX_RUNS = 8
MAX_SCRIPTS = 6
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\+?=")
# what stands before a command within one word: --split-string=, -S, NAME=, an editor's :!
_LEADING = re.compile(r"^(--[\w-]+=|-\w|[A-Za-z_]\w*=)?[\s:!+|;&]*")
_OWN_MODULES = frozenset({"venv", "build", "ensurepip"})  # of Python itself, or low as a module
_SHELL_VALUES = frozenset({"--rcfile", "--init-file"})


@dataclass(frozen=True, slots=True)
class Run:
    """One command behind a wrapper."""

    words: tuple[Word, ...]
    assigns: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True)
class Inner:
    """``scripts`` are shell texts; ``finding`` is what the wrapper adds, "" for nothing."""

    runs: tuple[Run, ...] = ()
    scripts: tuple[str, ...] = ()
    finding: str = ""


@dataclass(frozen=True, slots=True)
class _Transparent:
    prefix: tuple[str, ...]
    letters: str = ""
    longs: frozenset[str] = field(default=frozenset())
    flag_letters: str = ""
    flag_longs: frozenset[str] = field(default=frozenset())
    skip: int = 0
    assigns: bool = False


def _load() -> tuple[dict[str, list[_Transparent]], dict[str, tuple[str, frozenset[str], bool]]]:
    document = known.load("wrappers")
    transparent: dict[str, list[_Transparent]] = {}
    for entry in document["transparent"]:
        values, flags = entry.get("values", [""]), entry.get("flags", [""])
        for names in entry["names"]:
            prefix = tuple(names.split())
            made = _Transparent(
                prefix, values[0], frozenset(values[1:]), flags[0], frozenset(flags[1:]),
                entry.get("skip", 0), entry.get("assigns", False),
            )  # fmt: skip
            transparent.setdefault(prefix[0], []).append(made)
    opaque = {
        name: (entry["finding"], frozenset(entry.get("after", ())), entry.get("first", False))
        for entry in document["opaque"]
        for name in entry["names"]
    }
    return transparent, opaque


_TRANSPARENT, _OPAQUE = _load()


def name_of(text: str) -> str:
    """The program's name without its directory."""
    return text.rpartition("/")[2] or text


def is_assignment(text: str) -> bool:
    return _ASSIGNMENT.match(text) is not None


def script_of(said: Sequence[Word]) -> Word | None:
    """The text after ``sh -c``; None if there is none (then a shell reads a file, or its input)."""
    wants, position = False, 1
    while position < len(said):
        text = said[position].text
        if text in ("--", "-") or not text.startswith(("-", "+")) or text == "":
            break
        if text.startswith("--"):
            wants = wants or text in ("--command", "--commands")
            position += 1 + (text in _SHELL_VALUES)
            continue
        if text.lower() in ("/c", "-command", "-encodedcommand"):
            wants = True
        wants = wants or (text[0] == "-" and "c" in text)
        position += 1 + ("o" in text[1:].lower() and "c" not in text and not text.startswith("-l"))
    if position < len(said) and said[position].text in ("--", "-"):
        position += 1
    if not wants:
        return None
    return said[position] if position < len(said) else Word("", False)


def inner(said: Sequence[Word]) -> Inner | None:
    """What a wrapper runs; None if this is no wrapper."""
    name = name_of(said[0].text)
    if len(said) == 2 and said[1].text in ("--version", "--help", "-V"):
        return None
    if name.startswith("python") and len(said) > 2 and said[1].text == "-m":
        module = said[2].text
        return (
            Inner((Run(tuple(said[2:])),)) if module in known.NAMES and module not in _OWN_MODULES else None
        )
    if name == "command" and said[1:] and said[1].text in ("-v", "-V"):
        return None  # it only tells where a command is
    for wrapper in _TRANSPARENT.get(name, ()):
        if tuple(word.text for word in said[1 : len(wrapper.prefix)]) == wrapper.prefix[1:]:
            found = _through(wrapper, said)
            if found is not None:
                return found
            return _all_that_may_run(said, "unclear_wrapper")
    if name in _OPAQUE:
        finding, after, first = _OPAQUE[name]
        if first:
            operand = next((index for index, word in enumerate(said) if index and word.text[:1] != "-"), None)
            return None if operand is None else Inner((Run(tuple(said[operand:])),), (), finding)
        if not after:
            return _all_that_may_run(said, finding)
        behind = next((index for index, word in enumerate(said) if index and word.text in after), None)
        return None if behind is None else _all_that_may_run(said[behind:], finding)
    if name not in known.NAMES:
        return _all_that_may_run(said, "")
    return _texts_to_run(said, name)


def _through(wrapper: _Transparent, said: Sequence[Word]) -> Inner | None:
    position, skip = len(wrapper.prefix), wrapper.skip
    assigns: list[Word] = []
    while position < len(said):
        word = said[position]
        text = word.text
        if text == "--":
            position += 1
            break
        if text.startswith("--"):
            option, _, value = text[2:].partition("=")
            if option in wrapper.longs:
                position += 1 if value else 2
            elif option in wrapper.flag_longs:
                position += 1
            else:
                return None
        elif text.startswith("-") and len(text) > 1:
            if text[1] in wrapper.letters:
                position += 2 if len(text) == 2 else 1
            elif all(letter in wrapper.flag_letters for letter in text[1:]):
                position += 1
            else:
                return None
        elif wrapper.assigns and is_assignment(text):
            assigns.append(word)
            position += 1
        elif skip:
            skip -= 1
            position += 1
        else:
            break
    rest = tuple(said[position:])
    return Inner((Run(rest, tuple(assigns)),)) if rest else Inner()


def _texts_to_run(said: Sequence[Word], name: str) -> Inner | None:
    """``make test ARGS='; rm x'``: what runs code hands its arguments on, and some of it to a shell. So what
    reads as a command there is judged as one; what is text for people is not.
    """
    found = known.find([word.text for word in said], name)
    if found is None or not found.entry.runs:
        return None
    given = Options([said[index] for index in found.rest], found.entry).parts()
    texts = [_LEADING.sub("", word.text) for word, kind in given if kind != "prose"]
    scripts = tuple(
        text
        for text in texts
        if re.search(r"[\s;|&`]|\$\(", text)
        and name_of(re.split(r"[\s;|&]", text, maxsplit=1)[0]) in known.NAMES
    )
    return (
        Inner((), scripts[:MAX_SCRIPTS], "too_much" if len(scripts) > MAX_SCRIPTS else "")
        if scripts
        else None
    )


def _all_that_may_run(said: Sequence[Word], finding: str) -> Inner:
    """Every tail of the arguments that begins with a command we know, and every argument that may be shell
    text.
    """
    runs: list[Run] = []
    scripts: list[str] = []
    for position in range(1, len(said)):
        text = said[position].text
        if re.search(r"[\s;|&`]|\$\(", text):
            if re.search(r"\w", text):
                scripts.append(_LEADING.sub("", text))
        elif name_of(text) in known.NAMES:
            runs.append(Run(tuple(said[position:])))
    if len(runs) > MAX_RUNS or len(scripts) > MAX_SCRIPTS:
        finding = "too_much"
    return Inner(tuple(runs[:MAX_RUNS]), tuple(scripts[:MAX_SCRIPTS]), finding)
