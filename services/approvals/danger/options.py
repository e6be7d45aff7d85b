"""A command's arguments, told apart: options, their values, operands. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from services.approvals.danger.known import Entry, Form
from services.approvals.danger.words import Word


class Options:
    """``entry`` says which options take the next word, and what their values are.

    GNU programs take ``--checkpoint-act`` for ``--checkpoint-action``, and git ``--ha`` for ``--hard``: an
    abbreviation counts as the option, however short.
    In a cluster (``-xvf``) every letter counts, also one that is a value in truth: that errs towards asking.
    """

    def __init__(self, words: Sequence[Word], entry: Entry) -> None:
        self.entry = entry
        self.words = list(words)
        self.operands: list[Word] = []
        self._letters: set[str] = set()
        self._longs: set[str] = set()
        self._short_for: set[str] = set()  # what stood behind two dashes, and so may be an abbreviation
        self._parts: list[tuple[Word, str]] = []
        self.joined = " ".join(word.text for word in words)
        self._read()

    def _read(self) -> None:
        waiting = iter(self.words)
        only_operands = False
        for word in waiting:
            text = word.text
            if only_operands or not text.startswith("-") or text == "-":
                self.operands.append(word)
                kind = "skipped" if len(self.operands) <= self.entry.skip and not self._given() else "operand"
                self._parts.append((word, kind))
            elif text == "--":
                only_operands = True
            else:
                self._option(word, waiting)

    def _given(self) -> bool:
        """grep -e: then the first operand is a file as well."""
        return (
            bool({"e", "f"} & self._letters or {"regexp", "file", "from-file"} & self._longs)
            and self.entry.skip > 0
        )

    def _option(self, word: Word, waiting: Iterator[Word]) -> None:
        name, equals, value = word.text.partition("=")
        long = name.startswith("--") or self.entry.single
        bare = name.lstrip("-")
        if long:
            self._longs.add(bare)
            self._short_for.add(bare)
            names: Iterable[str] = (bare,)
        else:
            self._letters.update(letter for letter in name[1:])
            self._longs.add(bare)
            names = (bare[-1:], bare) if not equals else (bare,)
        kind = self._kind(names, 1 if long else 3)
        if equals:
            self._parts.append((Word(value, word.literal, word.glob), kind or "other"))
        elif kind:
            following = next(waiting, None)
            if following is not None:
                self._parts.append((following, kind))
                if not following.text.startswith("-"):
                    return
                self._letters.update(following.text[1:])  # it may be an option of its own after all
                self._longs.add(following.text.lstrip("-").partition("=")[0])
        if self.entry.single and not name.startswith("--") and "/" in bare:  # mvn -f../pom.xml
            self._parts.append((Word(bare[1:], word.literal, word.glob), "load"))
        if not long and len(bare) > 1:  # -ofile
            attached = self._kind((bare[0],), 3)
            if attached or "/" in bare or "." in bare:
                self._parts.append((Word(bare[1:], word.literal, word.glob), attached or "other"))

    def _kind(self, names: Iterable[str], least: int) -> str:
        """What the value of an option of these names is; of ``least`` letters, one may be an abbreviation."""
        entry = self.entry
        for name in names:
            for kind, listed in (
                ("output", entry.outputs),
                ("product", entry.products),
                ("load", entry.loads),
                ("prose", entry.prose),
                ("value", entry.values),
            ):
                if name in listed or (
                    kind in ("output", "load")
                    and len(name) >= least
                    and any(len(one) > 1 and one.startswith(name) for one in listed)
                ):
                    return kind
        return ""

    def has(self, names: Iterable[str]) -> bool:
        """Whether any of these options is given."""
        for name in names:
            if len(name) == 1 and (name in self._letters or name in self._longs):
                return True
            if any(name == long or (len(long) >= 3 and name.startswith(long)) for long in self._longs):
                return True
            if len(name) > 1 and any(long and name.startswith(long) for long in self._short_for):
                return True
        return False

    def unknown(self, allowed: Iterable[str]) -> bool:
        """Whether any option is given that is not among these."""
        names = set(allowed)
        for word in self.words:
            text = word.text
            if text.startswith("--") and len(text) > 2:
                if text[2:].partition("=")[0] not in names:
                    return True
            elif text.startswith("-") and len(text) > 1 and text[1] not in names:
                return True
        return False

    def fits(self, form: Form) -> bool:
        if form.options and not self.has(form.options):
            return False
        if form.operand and not any(re.match(form.operand, word.text) for word in self.operands):
            return False
        if form.text and re.search(form.text, self.joined) is None:
            return False
        return bool(form.options or form.operand or form.text)

    def parts(self) -> list[tuple[Word, str]]:
        """Every argument but options, with its kind: operand, skipped, output, product, load, value, …"""
        return self._parts
