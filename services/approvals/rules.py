"""What needs no person, what no person may allow, and how long a person has.

Theory of operation
===================

Rules are looked at in order, and the first that matches decides: those of the configuration, then what people
had remembered, then the lists of tools that are approved by themselves (only at level ``low``), and when none
matches a person is asked. A condition that cannot be judged (a command that cannot be read, a word that a
shell puts together) matches ``MAYBE``, and then the gate is careful:

| rule | matches | may match |
|---|---|---|
| deny | denied | not denied, but no later rule may allow it: a person is asked |
| ask | a person is asked | a person is asked, unless a later rule denies |
| allow | allowed | passed over |

For the same reason deny and ask rules match when *any* command, argument or path in the call fits, and an
allow rule only when *all* do, and never above its ``max_level`` (``high`` unless it says more).
Allow rules decide about tools alone: a question needs an answer, and a plan a reader.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from bus.messages import level_rank
from services.approvals.calls import Call, Command
from services.approvals.globs import NameGlob, PathGlob
from services.approvals.remember import Remembered

Answer = Literal["allow", "ask", "deny"]
ALLOW_UP_TO = "high"  # critical is let through by no rule that does not say so


_CLUSTER = re.compile(r"-[A-Za-z]{2,}")


class Match(enum.IntEnum):
    NO = 0
    MAYBE = 1
    YES = 2


@dataclass(frozen=True, slots=True)
class Verdict:
    """``rule`` names what decided. ``forced``: a rule asks, whatever the agent would do by itself;
    ``required`` is how many different approvers a yes takes.
    """

    answer: Answer
    rule: str = ""
    reason: str = ""
    required: int = 1
    forced: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the configuration; an empty condition is none. See `services.approvals.policy`."""

    name: str
    decision: Answer
    tool: tuple[NameGlob, ...] = ()
    session: tuple[NameGlob, ...] = ()
    directory: tuple[PathGlob, ...] = ()
    command: tuple[tuple[NameGlob, ...], ...] = ()
    argument: tuple[NameGlob, ...] = ()
    path: tuple[PathGlob, ...] = ()
    min_level: str | None = None
    max_level: str | None = None
    require: int = 1
    reason: str = ""

    def match(self, call: Call) -> Match:
        if not (_any(self.tool, call.tool) and _any(self.session, call.session)):
            return Match.NO
        if self.directory and not any(glob.fits(call.cwd, call.cwd) for glob in self.directory):
            return Match.NO
        level = level_rank(call.danger.level)
        if self.min_level is not None and level < level_rank(self.min_level):
            return Match.NO
        if self.max_level is not None and level > level_rank(self.max_level):
            return Match.NO
        found = Match.YES
        if self.command or self.argument:
            found = min(
                found, self._all_commands(call) if self.decision == "allow" else self._a_command(call)
            )
        if self.path:
            found = min(found, self._all_paths(call) if self.decision == "allow" else self._a_path(call))
        return min(found, Match.MAYBE) if self.decision == "allow" and not call.readable else found

    def _a_command(self, call: Call) -> Match:
        if call.commands is None:
            return Match.NO if call.readable else Match.MAYBE
        found = max((self._loose(command) for command in call.commands.found), default=Match.NO)
        return found if call.commands.complete else max(found, Match.MAYBE)

    def _loose(self, command: Command) -> Match:
        start = max((loosely(words, command.words) for words in self.command), default=Match.YES)
        if not self.argument or start is Match.NO:
            return start
        rest = command.words[1:]
        if any(word is not None and _meant(self.argument, word) for word in rest):
            return start
        return min(start, Match.MAYBE) if None in rest else Match.NO

    def _all_commands(self, call: Call) -> Match:
        if call.commands is None or not call.commands.found:
            return Match.NO
        if not (call.commands.complete and call.commands.plain):
            return Match.MAYBE
        return Match.YES if all(map(self._covers, call.commands.found)) else Match.NO

    def _covers(self, command: Command) -> bool:
        starts = self.command or ((NameGlob.of("*"),),)
        for start in starts:
            given, rest = command.words[: len(start)], command.words[len(start) :]
            if len(given) < len(start):
                continue
            fits = all(word is not None and glob.fits(word) for glob, word in zip(start, given, strict=True))
            if fits and (
                not self.argument or all(word is not None and _any(self.argument, word) for word in rest)
            ):
                return True
        return False

    def _a_path(self, call: Call) -> Match:
        places = (*call.paths, *call.words)
        if any(glob.fits(place, call.cwd) for glob in self.path for place in places):
            return Match.YES
        return Match.MAYBE if call.vague or not call.readable else Match.NO

    def _all_paths(self, call: Call) -> Match:
        if not call.paths or call.commands is not None:
            return Match.NO  # what a command touches is not known from its words
        inside = all(any(glob.fits(place, call.cwd) for glob in self.path) for place in call.paths)
        return Match.YES if inside else Match.NO


def _any(globs: Collection[NameGlob], text: str) -> bool:
    return not globs or any(glob.fits(text) for glob in globs)


def _meant(globs: Collection[NameGlob], word: str) -> bool:
    """Whether an argument is one of these, as a suspicious reader takes it: ``-uf`` holds ``-f``, and to many
    programs ``--for`` is ``--force``.
    """
    if _any(globs, word):
        return True
    if word.startswith("--"):
        name = word.partition("=")[0]
        return len(name) > 2 and any(glob.text.startswith(name) for glob in globs)
    return _CLUSTER.fullmatch(word) is not None and any(_any(globs, f"-{letter}") for letter in word[1:])


def loosely(pattern: Sequence[NameGlob], words: Sequence[str | None]) -> Match:
    """Whether a command begins with these words, as a suspicious reader takes it: the program by its last
    name, and options (with one value each) passed over: ``git push`` fits ``/usr/bin/git -C dir push -f``.
    """
    if not words:
        return Match.NO
    if words[0] is None:
        return Match.MAYBE
    if not (pattern[0].fits(words[0]) or pattern[0].fits(words[0].rpartition("/")[2])):
        return Match.NO
    wanted, given = pattern[1:], words[1:]
    # best[j]: how the pattern's words from i on fit the words from j on
    best = [Match.YES] * (len(given) + 1)
    for glob in reversed(wanted):
        after, best = best, [Match.NO] * (len(given) + 2)
        for j in range(len(given) - 1, -1, -1):
            word = given[j]
            if word is None:
                best[j] = Match.MAYBE
                continue
            if glob.fits(word):
                best[j] = after[j + 1]
            if word.startswith("-"):
                best[j] = max(best[j], best[j + 1], best[j + 2])
    return best[0]


@dataclass(frozen=True, slots=True)
class Looked:
    """One rule as it was looked at, for `explain`."""

    rule: str
    decision: str
    match: str  # yes | maybe | no


@dataclass(frozen=True, slots=True)
class Rules:
    """All of a policy. ``timeout_for(kind, level)`` is how many seconds a person has; None: as long as it
    takes. ``remembered``: newest last.
    """

    auto_approve: Collection[str]
    timeout_for: Callable[[str, str], float | None]
    rules: tuple[Rule, ...] = ()
    remembered: tuple[Remembered, ...] = ()
    looked: Callable[[Looked], None] | None = field(default=None, compare=False)

    @property
    def interfere(self) -> bool:
        """Whether any rule could stop what an agent would do by itself; else its calls need not be read."""
        return any(rule.decision != "allow" for rule in self.rules) or any(
            entry.decision != "allow" for entry in self.remembered
        )

    def judge(self, call: Call) -> Verdict:
        doubt: Verdict | None = None
        for rule in self.rules:
            match = rule.match(call)
            self._look(rule.name, rule.decision, match)
            if match is Match.NO:
                continue
            if rule.decision == "allow":
                if match is Match.YES and _may_allow(rule, call):
                    return doubt or Verdict("allow", rule.name, rule.reason or f"{rule.name} allows it")
            elif match is Match.MAYBE:
                doubt = doubt or _doubtful(rule)
            elif rule.decision == "deny":
                return Verdict("deny", rule.name, rule.reason or f"{rule.name} forbids it")
            else:
                required = max(rule.require, doubt.required if doubt else 1)
                return Verdict("ask", rule.name, rule.reason, required, forced=True)
        return doubt or self._remembered(call) or self._listed(call) or Verdict("ask")

    def _remembered(self, call: Call) -> Verdict | None:
        for entry in reversed(self.remembered):
            matches = entry.matches(call)
            self._look(entry.id, entry.decision, Match.YES if matches else Match.NO)
            if matches:
                return Verdict(entry.decision, entry.id, f"remembered by {entry.by}: {entry.summary}")
        return None

    def _listed(self, call: Call) -> Verdict | None:
        if call.kind != "tool" or call.danger.level != "low":
            return None
        if call.tool in self.auto_approve:
            return Verdict("allow", "approvals.auto_approve", f"{call.tool} is on the configuration's list")
        if call.tool in call.auto_approve:
            return Verdict("allow", "session.auto_approve", f"{call.tool} is on this session's list")
        return None

    def _look(self, rule: str, decision: str, match: Match) -> None:
        if self.looked is not None:
            self.looked(Looked(rule, decision, match.name.lower()))


def _may_allow(rule: Rule, call: Call) -> bool:
    limit = rule.max_level or ALLOW_UP_TO
    return call.kind == "tool" and level_rank(call.danger.level) <= level_rank(limit)


def _doubtful(rule: Rule) -> Verdict:
    says = "forbids" if rule.decision == "deny" else "asks about"
    reason = f"it cannot be read whole, and {rule.name} {says} what it may hold"
    return Verdict("ask", rule.name, reason, rule.require, forced=True)


def describe(entries: Iterable[object]) -> list[str]:
    """Globs as they were written."""
    return [getattr(entry, "text", str(entry)) for entry in entries]
