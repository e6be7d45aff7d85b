"""A tool's input, three ways: the agent's own text, a value to judge, and a view for a person to read.

The text is what is hashed, kept and sent back; nothing here changes it. The view has secrets masked and long
values cut, and each place where it is not the original carries a mark in ``⟦ ⟧``: so whoever reads it sees
that something is missing, and an input built from it can be recognised (`carries_marks`).

A mask never covers white space or a sign that means something to a shell: what is hidden may be a password
and can not be a second command.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass
from typing import Any

import msgspec

MAX_SUGGESTIONS = 100  # an agent has two or three
CUT_BYTES = 64 * 1024  # contract, section 6: longer values are cut
TOTAL_BYTES = 1024 * 1024  # a snapshot that every reader gets on connecting; the codec takes 4 MiB at most
MAX_VALUES = 5000  # that are shown one by one, 20 µs each; more are shown as cut text
MAX_DEPTH = 64  # deeper values are shown as text: readers' decoders have limits of their own
SUMMARY_CHARS = 200  # one line on a telephone, twice
EXACT_DIGITS = 18  # integers up to here fit 64 bits everywhere; longer ones are shown as text

_MARK = re.compile(r"⟦(?:masked|cut: \d+ bytes|number [^⟧]*|char [^⟧]*|text: [^⟧]*)⟧")
_SURROGATE = re.compile("[\ud800-\udfff]")

# A value that a mask may cover: no white space, no quotes, nothing that a shell acts on.
_VALUE = r"[A-Za-z0-9_\-+/=.~%:@!,]"
_KNOWN_TOKENS = re.compile(
    r"\b(?:sk-ant-|sk-|rk_live_|sk_live_|gh[pousr]_|github_pat_|glpat-|xox[abprs]-|npm_|pypi-|hf_|AKIA|ASIA|AIza|"
    r"eyJ[A-Za-z0-9_-]{8,}\.eyJ)" + r"[A-Za-z0-9_\-.]{12,}"
)
_AUTHORIZATION = re.compile(
    r"(?i)(authorization[\"']?[ ]?[:=][ ]?[\"']?(?:bearer |basic |token )?)(" + _VALUE + r"{8,})"
)
# Not after "= " or a line's end: there the next word would be a command of its own.
_ASSIGNED = re.compile(
    r"(?i)((?:password|passwd|pwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key)[\"']?"
    r"(?:=|:[ ]?| = |(?<=-password) |(?<=-token) |(?<=-secret) |(?<=-api-key) )[\"']?)(" + _VALUE + r"{6,})"
)
_URL_PASSWORD = re.compile(r"(://[^\s/:@]{0,64}:)([^\s/:@$`(){};&|<>'\"\\]{1,256})(?=@)")
_PEM = re.compile(r"(PRIVATE KEY-----)((?:(?:\s|\\n){0,4}[A-Za-z0-9+/=]{40,128})+)")
_SECRET_NAME = re.compile(
    r"(?i)^(?:.*[_-])?(?:password|passwd|secret|token|api_?key|access_?key|private_?key|authorization)$"
)
_SECRET_VALUE = re.compile(_VALUE + r"{4,}(?: " + _VALUE + r"+)?")


@dataclass(frozen=True, slots=True)
class Parsed:
    """``value`` is the input as the agent will read it. ``doubt`` says why it may not be what it seems."""

    value: dict[str, Any]
    doubt: str | None


@dataclass(frozen=True, slots=True)
class View:
    """What a person reads; ``partial`` when anything in it is not the original."""

    value: Any
    partial: bool


def sha256(text: str) -> str:
    """Over the UTF-8 bytes of the text, hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def parse(input_json: str) -> Parsed:
    """Read the agent's JSON text. Never raises: what cannot be read has a doubt and an empty value.

    Numbers that do not survive a float or 64 bits stay text behind a mark; of a repeated key the last counts,
    as in every JSON reader that an agent uses, but it is doubtful.
    """
    repeated = False

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeated
        made = dict(items)
        repeated = repeated or len(made) != len(items)
        return made

    try:
        value = json.loads(
            input_json,
            object_pairs_hook=pairs,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_constant,
        )
    except (ValueError, RecursionError) as error:
        return Parsed({}, f"the input is not readable JSON ({type(error).__name__})")
    if not isinstance(value, dict):
        return Parsed({}, "the input is not a JSON object")
    return Parsed(value, "the input names a field twice" if repeated else None)


def _integer(text: str) -> Any:
    return int(text) if len(text) <= EXACT_DIGITS else f"⟦number {text[:64]}⟧"


def _float(text: str) -> Any:
    number = float(text)
    return number if math.isfinite(number) else f"⟦number {text[:64]}⟧"


def _constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def view(input_json: str, parsed: Parsed) -> View:
    """The input for reading: secrets masked, long values cut."""
    if parsed.doubt is not None and not parsed.value:
        return View({"unreadable": _text(input_json)}, True)
    shown = fields(parsed.value)
    return View(shown, carries_marks(shown))


def fields(value: dict[str, Any]) -> dict[str, Any]:
    """`mask` for each field of an input, so that a long one does not take the others with it."""
    room = MAX_VALUES - len(value)
    if room < 0:
        return {"cut": _as_text(value)}
    shown: dict[str, Any] = {}
    for key, item in value.items():
        room -= (count := _values(item, room))
        if room < 0:
            room += count
            shown[_text(key)] = _as_text(item)
        else:
            shown[_text(key)] = _limited(_shown(item, key, 1))
    encoded = msgspec.json.encode(shown)
    return shown if len(encoded) <= TOTAL_BYTES else {"cut": _cut(encoded.decode(), CUT_BYTES)}


def mask(value: Any) -> Any:
    """Any JSON value with secrets masked and long values cut, for snapshots and events."""
    if _values(value, MAX_VALUES) > MAX_VALUES:
        return _as_text(value)
    return _limited(_shown(value, "", 0))


def mask_list(values: list[Any]) -> list[Any]:
    """`mask` for each of an agent's suggestions, as many as fit."""
    shown: list[Any] = []
    room = CUT_BYTES
    for value in map(mask, values[:MAX_SUGGESTIONS]):
        room -= len(msgspec.json.encode(value))
        if room < 0:
            break
        shown.append(value)
    return shown


def whole(input_json: str, parsed: Parsed) -> View:
    """The whole input for `show`: the agent's own text where every reader can read it."""
    try:
        msgspec.json.decode(input_json)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        if parsed.value:
            return View(_printable(parsed.value), True)
        return View({"unreadable": input_json}, True)
    return View(msgspec.Raw(input_json.encode()), False)


def carries_marks(value: Any) -> bool:
    """Whether a value was built from a view in which something was masked or cut."""
    return _MARK.search(msgspec.json.encode(value).decode()) is not None


def summary(kind: str, tool: str, parsed: Parsed) -> str:
    """One line that says what is asked."""
    value = parsed.value
    text = ""
    if kind == "question":
        text = " / ".join(questions(parsed))
    elif kind == "plan" and not parsed.doubt:
        plan = value.get("plan")
        text = plan if isinstance(plan, str) and plan.strip() else "a plan without a text"
    else:
        for name in (
            "command",
            "file_path",
            "notebook_path",
            "path",
            "pattern",
            "url",
            "query",
            "description",
        ):
            if isinstance(value.get(name), str):
                text = value[name]
                break
    if not text:
        text = parsed.doubt or msgspec.json.encode(mask(value)).decode()
    line = " ".join(_masked(_plain(text[:CUT_BYTES])).split())
    line = f"{tool}: {line}" if kind == "tool" else line
    return line if len(line) <= SUMMARY_CHARS else line[: SUMMARY_CHARS - 1] + "…"


def questions(parsed: Parsed) -> list[str]:
    """The texts of the questions that an agent's question asks."""
    asked = parsed.value.get("questions")
    if not isinstance(asked, list):
        return []
    texts = [entry.get("question") for entry in asked if isinstance(entry, dict)]
    return [text for text in texts if isinstance(text, str)]


def with_answers(input_json: str, answers: dict[str, str]) -> str:
    """``{...input, "answers": {…}}``, the rest of the text as it came. ``input_json`` is a JSON object."""
    body = input_json.rstrip()[:-1].rstrip()
    comma = "" if body.lstrip() == "{" else ","
    return f'{body}{comma}"answers":{msgspec.json.encode(answers).decode()}}}'


# masking and cutting


def _values(value: Any, most: int) -> int:
    """How many values are in a list or object, and in those; more than ``most`` are not counted."""
    waiting, count = [value], 0
    while waiting and count <= most:
        item = waiting.pop()
        if isinstance(item, dict | list):
            count += len(item)
            waiting.extend(item.values() if isinstance(item, dict) else item)
    return count


def _as_text(value: Any) -> str:
    """Too many values to show one by one."""
    try:
        try:
            text = msgspec.json.encode(value).decode()
        except UnicodeEncodeError:  # half a surrogate pair: rare, and going through all values is slow
            text = msgspec.json.encode(_printable(value)).decode()
    except RecursionError:
        return "⟦text: nested too deeply to show⟧"
    shown = _text(text)
    return shown if _MARK.search(shown) else f"⟦text: many values⟧{shown}"


def _shown(value: Any, name: str, depth: int) -> Any:
    if isinstance(value, str):
        if _SECRET_NAME.match(name) and _SECRET_VALUE.fullmatch(value):
            return "⟦masked⟧"
        return _text(value)
    if depth >= MAX_DEPTH and isinstance(value, dict | list):
        return "⟦text: nested too deeply to show⟧"
    if isinstance(value, dict):
        return {_text(key): _shown(item, key, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_shown(item, name, depth + 1) for item in value]
    return value


def _text(text: str) -> str:
    if len(text) * 4 <= CUT_BYTES or len(text.encode("utf-8", "surrogatepass")) <= CUT_BYTES:
        return _masked(_plain(text))
    return _cut(text, CUT_BYTES)


def _cut(text: str, limit: int) -> str:
    """Head and tail, masked; what stands last is as telling as what stands first."""
    half = limit // 4  # characters
    margin = 1024  # a secret that begins or ends within the half is masked whole
    size = len(text.encode("utf-8", "surrogatepass"))
    head = _masked(_plain(text[: half + margin]))[:half]
    tail = _masked(_plain(text[-half - margin :]))[-half:]
    return f"{head}⟦cut: {size} bytes⟧{tail}"


def _limited(value: Any) -> Any:
    """A list or object over the limit, as cut text."""
    if isinstance(value, dict | list):
        encoded = msgspec.json.encode(value)
        if len(encoded) > CUT_BYTES:
            return _cut(encoded.decode(), CUT_BYTES)
    return value


def _masked(text: str) -> str:
    text = _PEM.sub(r"\1⟦masked⟧", text)
    text = _KNOWN_TOKENS.sub("⟦masked⟧", text)
    text = _AUTHORIZATION.sub(r"\1⟦masked⟧", text)
    text = _ASSIGNED.sub(r"\1⟦masked⟧", text)
    return _URL_PASSWORD.sub(r"\1⟦masked⟧", text)


def _plain(text: str) -> str:
    """Half a surrogate pair has no UTF-8: shown by number."""
    return _SURROGATE.sub(lambda found: f"⟦char {ord(found[0]):04x}⟧", text)


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return _plain(value)
    if isinstance(value, dict):
        return {_plain(key): _printable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_printable(item) for item in value]
    return value
