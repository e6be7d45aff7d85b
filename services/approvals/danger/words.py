"""A shell word and what is known of its text before anything runs. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_ANSI = re.compile(
    r"\\(?:x([0-9A-Fa-f]{1,2})|u([0-9A-Fa-f]{1,4})|U([0-9A-Fa-f]{1,8})|([0-7]{1,3})|c(.)|(.))", re.DOTALL
)
_ANSI_NAMED = {
    "n": "\n",
    "t": "\t",
    "r": "\r",
    "a": "\a",
    "b": "\b",
    "e": "\x1b",
    "E": "\x1b",
    "f": "\f",
    "v": "\v",
}
_GLOB = re.compile(r"[*?]|\[.*\]", re.DOTALL)
_MARK = "\0"  # stands for a character that is quoted: no glob, no brace, no tilde


@dataclass(frozen=True, slots=True)
class Word:
    """``text`` is what the program gets if ``literal``, else the best guess (variables that the same input
    sets are filled in, an unknown part is left out). ``glob``: unquoted ``* ? [``, to be matched against
    files; such a word is not literal. ``quoted``: some of it stood in quotes.
    """

    text: str
    literal: bool = True
    glob: bool = False
    quoted: bool = False


def plain(text: str) -> Word:
    """A word that is exactly this text."""
    return Word(text)


def read(parts: list[Any], known: Mapping[str, str], user_home: str) -> Word:
    """``parts`` as in shfmt's Word; ``known`` are variables whose value is known beforehand."""
    text, shape = [], []  # shape: the text with every quoted character covered
    literal, quoted = True, False
    for position, part in enumerate(parts):
        kind = part.get("Type")
        if kind == "Lit":
            said, covered = _unescaped(part.get("Value", ""))
            if position == 0 and covered.startswith("~"):
                name = covered[1:].partition("/")[0]
                if name or not user_home or (len(parts) > 1 and "/" not in covered):
                    literal = False
                else:
                    said, covered = user_home + said[1:], _MARK * len(user_home) + covered[1:]
            text.append(said)
            shape.append(covered)
            continue
        if kind == "SglQuoted":
            quoted = True
            said = part.get("Value", "")
            if part.get("Dollar") is True:
                literal, said = False, _ansi(said)
        elif kind == "DblQuoted":
            quoted = True
            said, exact = _within_quotes(part.get("Parts") or [], known)
            literal = literal and exact and part.get("Dollar") is not True
        else:
            said, exact = _expansion(part, known)
            literal = literal and exact
        text.append(said)
        shape.append(_MARK * len(said))
    covered = "".join(shape)
    glob = _GLOB.search(covered) is not None
    literal = literal and not _braces(covered)
    return Word("".join(text), literal and not glob, glob, quoted)


def heredoc(parts: list[Any], known: Mapping[str, str], *, quoted: bool) -> Word:
    """The body of a here-document."""
    if quoted:
        return Word("".join(part.get("Value", "") for part in parts), True, quoted=True)
    said, exact = _within_quotes(parts, known)
    return Word(said, exact, quoted=True)


def _braces(covered: str) -> bool:
    """Whether bash may expand ``{a,b}`` or ``{1..3}`` here; ``HEAD@{1}`` it does not."""
    if "{" not in covered or "}" not in covered:
        return False
    open_ones: list[bool] = []  # of each open brace, whether a comma or .. stood in it
    for position, sign in enumerate(covered):
        if sign == "{":
            open_ones.append(False)
        elif open_ones and (sign == "," or covered.startswith("..", position)):
            open_ones[-1] = True
        elif sign == "}" and open_ones and open_ones.pop():
            return True
    return any(open_ones)


def _unescaped(raw: str) -> tuple[str, str]:
    """An unquoted literal without its backslashes, and the same with what they protected covered."""
    if "\\" not in raw:
        return raw, raw
    text, shape, position = [], [], 0
    while position < len(raw):
        if raw[position] == "\\" and position + 1 < len(raw):
            position += 1
            if raw[position] != "\n":
                text.append(raw[position])
                shape.append(_MARK)
        else:
            text.append(raw[position])
            shape.append(raw[position])
        position += 1
    return "".join(text), "".join(shape)


def _within_quotes(parts: list[Any], known: Mapping[str, str]) -> tuple[str, bool]:
    text, exact = [], True
    for part in parts:
        if part.get("Type") == "Lit":
            text.append(re.sub(r"\\([$`\"\\\n])", lambda m: m[1].strip("\n"), part.get("Value", "")))
        else:
            said, sure = _expansion(part, known)
            text.append(said)
            exact = exact and sure
    return "".join(text), exact


def _expansion(part: Mapping[str, Any], known: Mapping[str, str]) -> tuple[str, bool]:
    """What an expansion probably gives. It is exact only where nothing runs: ``$(cat <<'E' … E)``."""
    kind = part.get("Type")
    if kind == "ParamExp":
        name = (part.get("Param") or {}).get("Value", "")
        value = known.get(name, "")
        inner = part.get("Exp") or {}
        if not value and "Word" in inner:  # ${x:-rm}
            value = read((inner["Word"] or {}).get("Parts") or [], known, "").text
        if not value and name == "IFS":
            value = " "
        return value, False
    if kind == "CmdSubst":
        body = _cat_of_heredoc(part)
        if body is not None:
            return body.rstrip("\n"), True
        return _printed(part, known), False
    if kind == "ExtGlob":
        return str((part.get("Pattern") or {}).get("Value", "")).partition("|")[0], False
    return "", False


def is_text(substitution: Mapping[str, Any]) -> bool:
    """Whether ``$(…)`` is but another way to write text down."""
    return _cat_of_heredoc(substitution) is not None


def _one_call(part: Mapping[str, Any]) -> tuple[list[Any], list[Any]] | None:
    """Arguments and redirections where a substitution holds one simple command and nothing else."""
    statements = part.get("Stmts") or []
    if len(statements) != 1:
        return None
    call = statements[0].get("Cmd") or {}
    if call.get("Type") != "CallExpr" or call.get("Assigns"):
        return None
    return call.get("Args") or [], statements[0].get("Redirs") or []


def _cat_of_heredoc(part: Mapping[str, Any]) -> str | None:
    """The way in which Claude Code writes every longer commit message: it is but text."""
    found = _one_call(part)
    if found is None or len(found[0]) != 1 or len(found[1]) != 1:
        return None
    name, (redirect,) = found[0][0].get("Parts") or [], found[1]
    if [p.get("Value") for p in name] != ["cat"] or name[0].get("Type") != "Lit":
        return None
    if redirect.get("Op") not in ("<<", "<<-") or not is_quoted(redirect.get("Word") or {}):
        return None
    parts = (redirect.get("Hdoc") or {}).get("Parts") or []
    body = "".join(p.get("Value", "") for p in parts if p.get("Type") == "Lit")
    return re.sub(r"(?m)^\t+", "", body) if redirect["Op"] == "<<-" else body


def _printed(part: Mapping[str, Any], known: Mapping[str, str]) -> str:
    """What ``$(echo rm)`` or ``$(printf rm)`` gives: a guess that may only make things worse."""
    found = _one_call(part)
    if found is None or not found[0]:
        return ""
    said = [read(arg.get("Parts") or [], known, "").text for arg in found[0]]
    if said[0] in ("echo", "printf"):
        return " ".join(word for word in said[1:] if not word.startswith("-"))
    if said[0] in ("which", "command"):
        return said[-1]
    return ""


def is_quoted(word: Mapping[str, Any]) -> bool:
    """Whether any of a here-document's delimiter is quoted: then its body is text."""
    return any(
        part.get("Type") in ("SglQuoted", "DblQuoted") or "\\" in part.get("Value", "")
        for part in word.get("Parts") or []
    )


def _ansi(text: str) -> str:
    """The text of ``$'…'``."""

    def one(found: re.Match[str]) -> str:
        hexadecimal = found[1] or found[2] or found[3]
        if hexadecimal:
            number = int(hexadecimal, 16)
        elif found[4]:
            number = int(found[4], 8) & 0xFF
        elif found[5]:
            number = ord(found[5]) & 0x1F
        else:
            return _ANSI_NAMED.get(found[6], found[6])
        return chr(number) if number < 0x110000 else ""

    return _ANSI.sub(one, text)
