"""From the configuration's ``[[approvals.rules]]`` to rules, with every mistake named at once. Pure.

| key | value | meaning |
|---|---|---|
| `decision` | `deny`, `ask`, `allow` | what to do; required |
| `name` | text | how it is called in outcomes; else `rule N` |
| `tool` | name pattern or list | the tool |
| `session` | name pattern or list | the session's name |
| `directory` | path pattern or list | the session's directory |
| `command` | words or list | how a command begins, each word a pattern: `git push` |
| `argument` | pattern or list | a word after the command's name: `--force*` |
| `path` | path pattern or list | what the tool reads or writes |
| `min_level`, `max_level` | danger level | from and up to which |
| `require` | number, with `ask` | how many different approvers a yes takes |
| `reason` | text | what the agent or the person is told |
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from bus.messages import LEVELS
from services.approvals.globs import NameGlob, PathGlob
from services.approvals.rules import Answer, Rule

T = TypeVar("T")
DECISIONS = ("deny", "ask", "allow")
CONDITIONS = ("tool", "session", "directory", "command", "argument", "path", "min_level", "max_level")
KEYS = ("name", "decision", *CONDITIONS, "require", "reason")
MAX_RULES = 1000
MAX_APPROVERS = 10
MAX_TEXT = 500


def compile_rules(raw: Sequence[Mapping[str, Any]], user_home: str) -> tuple[tuple[Rule, ...], list[str]]:
    """The rules, and the mistakes in them (then the rules are of no use)."""
    mistakes: list[str] = []
    rules: list[Rule] = []
    if len(raw) > MAX_RULES:
        mistakes.append(f"approvals.rules: at most {MAX_RULES}, and there are {len(raw)}")
    names: dict[str, int] = {}
    for number, table in enumerate(raw[:MAX_RULES], 1):
        found = _Table(number, table, user_home)
        rule = found.rule()
        other = names.setdefault(rule.name, number)
        if other != number:
            found.mistake("name", f"must differ from that of rule {other}")
        rules.append(rule)
        mistakes += found.mistakes
    return tuple(rules), mistakes


class _Table:
    """One ``[[approvals.rules]]``."""

    def __init__(self, number: int, table: Mapping[str, Any], user_home: str) -> None:
        self.number = number
        self.table = table
        self.home = user_home
        self.mistakes: list[str] = []

    def mistake(self, key: str, allowed: str) -> None:
        given = f" = {self.table[key]!r}" if key in self.table else ""
        self.mistakes.append(f"approvals.rules, rule {self.number}: {key}{given}: {allowed}")

    def rule(self) -> Rule:
        table = self.table
        for key in table:
            if key not in KEYS:
                near = difflib.get_close_matches(key, KEYS, n=1)
                hint = f"did you mean {near[0]}? " if near else ""
                self.mistake(key, f"there is no such key; {hint}allowed: {', '.join(KEYS)}")
        decision = table.get("decision")
        if decision not in DECISIONS:
            self.mistake("decision", "must be one of deny, ask, allow")
            decision = "ask"
        if not any(key in table for key in CONDITIONS):
            self.mistake(
                "decision", 'a rule without a condition is about everything: say tool = "*" for that'
            )
        return Rule(
            name=self.text("name") or f"rule {self.number}",
            decision=cast(Answer, decision),
            tool=self.many("tool", NameGlob.of),
            session=self.many("session", NameGlob.of),
            directory=self.many("directory", self.place),
            command=self.many("command", _words),
            argument=self.many("argument", NameGlob.of),
            path=self.many("path", lambda text: PathGlob.of(text, self.home)),
            min_level=self.level("min_level"),
            max_level=self.level("max_level"),
            require=self.require(decision),
            reason=self.text("reason") or "",
        )

    def text(self, key: str) -> str | None:
        value = self.table.get(key)
        if value is None:
            return None
        if not isinstance(value, str) or not value or len(value) > MAX_TEXT or not value.isprintable():
            self.mistake(key, f"must be one line of text, at most {MAX_TEXT} characters")
            return None
        return value

    def many(self, key: str, make: Callable[[str], T]) -> tuple[T, ...]:
        value = self.table.get(key, [])
        texts = [value] if isinstance(value, str) else value
        good = isinstance(texts, list) and all(isinstance(v, str) and v and v.isprintable() for v in texts)
        if not good or (key in self.table and not texts):
            self.mistake(key, "must be text, or a list of texts")
            return ()
        found = []
        for text in texts:
            try:
                found.append(make(text))
            except ValueError as error:
                self.mistake(key, str(error))
        return tuple(found)

    def place(self, text: str) -> PathGlob:
        glob = PathGlob.of(text, self.home)
        if glob.relative:
            raise ValueError("must begin with /, ~/ or **/: a session's directory is relative to nothing")
        return glob

    def level(self, key: str) -> str | None:
        value = self.table.get(key)
        if value is None or value in LEVELS:
            return value
        self.mistake(key, f"must be one of {', '.join(LEVELS)}")
        return None

    def require(self, decision: str) -> int:
        value = self.table.get("require", 1)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_APPROVERS:
            self.mistake("require", f"must be a whole number from 1 to {MAX_APPROVERS}")
            return 1
        if "require" in self.table and decision != "ask":
            self.mistake("require", 'goes with decision = "ask": nobody is asked otherwise')
        return value


def _words(text: str) -> tuple[NameGlob, ...]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"these are no words of a command ({error})") from None
    if not words:
        raise ValueError("must have at least one word")
    return tuple(NameGlob.of(word) for word in words)
