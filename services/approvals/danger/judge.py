"""How dangerous the commands of a shell text are: `commands.read`'s list against the knowledge base. Pure."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import msgspec

from bus.messages import level_rank
from services.approvals.danger import commands, known, paths
from services.approvals.danger.checks import CHECKS
from services.approvals.danger.checks.common import by_name
from services.approvals.danger.checks.programs import managed
from services.approvals.danger.checks.reach import over_sources, reach
from services.approvals.danger.checks.servers import local_only
from services.approvals.danger.commands import Command, Redirect
from services.approvals.danger.known import STRUCTURE, Entry, Form
from services.approvals.danger.options import Options
from services.approvals.danger.paths import Finding, Ground
from services.approvals.danger.words import Word

HIDDEN_CHARS = 64 * 1024  # a longer text is not parsed, and high for that
MAX_PATHS = 400  # that are followed through symbolic links: 10 µs each
_ODD = frozenset({"Cf", "Cc", "Co", "Cs", "Cn", "Zl", "Zp"})
_FILLERS = frozenset("\u115f\u1160\u3164\uffa0\u2800\u034f\u17b4\u17b5")
_RUN_WHAT_IS_THERE = frozenset(
    {"interpreter", "targets", "shell", "git_read", "git_checkout", "git_remote", "runner"}
)
_TELLS_PLACES = frozenset(
    {"operand", "skipped", "value", "load", "other"}
)  # arguments that are no text, nor made
_OFTEN_LOCAL = ("gradlew", "mvnw", "configure", "manage.py")  # programs of a project that have these names
_OWN_BIN = re.compile(r"(^|/)(\.?venv|env|node_modules|vendor)/(\.?bin)/[^/]+$")


def shell(text: str, ground: Ground) -> Iterator[Finding]:
    """Everything that is dangerous about a shell text; nothing for what people do every minute. Raises
    `TooLongError` in the midst of it.
    """
    if hidden(text[:HIDDEN_CHARS]):
        yield said("hidden")
    read = commands.read(text, ground.sight, ground.cwd)
    budget = _Budget()
    yield from map(said, read.findings)
    for command in read.commands:
        ground.sight.check()
        yield from _command(command, ground, budget)
    for redirect in read.redirects:
        ground.sight.check()
        yield from _redirect(redirect, ground)
    if budget.spent > MAX_PATHS:
        yield said("too_much")


def hidden(text: str) -> bool:
    """Signs that cannot be seen, or that change what is. A tab and a line's end can be; so can an emoji's
    variation selector, which is a mark of its own kind.
    """
    return any(
        sign in _FILLERS
        or (unicodedata.category(sign) in _ODD and sign not in "\t\n")
        or (unicodedata.category(sign) == "Zs" and sign != " ")
        or "\U000e0100" <= sign <= "\U000e01ef"
        for sign in text
        if sign > "~" or sign < " "
    )


def said(name: str, subject: str = "") -> Finding:
    """An entry of structure.toml."""
    entry = STRUCTURE[name]
    return Finding(entry.level, f"{subject} {entry.reason}".strip(), entry.impact)


@dataclass
class _Budget:
    spent: int = 0


def _command(command: Command, ground: Ground, budget: _Budget) -> Iterator[Finding]:
    ground = replace(ground, places=command.places, lost=command.lost)
    for assign in command.assigns:
        if known.HARMLESS_VARIABLES.search(assign) is None:
            dangerous = known.DANGEROUS_VARIABLES.search(assign) is not None
            yield said("dangerous_variable" if dangerous else "variable", assign.partition("=")[0])
    head, name = command.words[0].text, command.name
    if any(sign > "~" or sign <= " " for sign in head):
        yield said("foreign_name")
    if "://" in head:
        yield said("outside_program")
    found = known.find(command.argv, name)
    local = "/" in head and not paths.is_system_program(posixpath.normpath(head))
    if local:
        yield from by_name(head)
        if found is None:
            yield from managed(name, " ".join(command.argv[1:]))
        yield from paths.judge(head, "run", ground)
        if found is not None and name not in _OFTEN_LOCAL and _OWN_BIN.search(head) is None:
            yield said("local_program")
    if found is not None:
        yield from _known(command, found, ground, budget)
        return
    if not local:
        yield said("unknown", f"`{_short(name)}`")
    options = Options(command.words[1:], Entry([], "low", "", ""))
    yield from _arguments(command, options, "none", ground, budget, False)


def _known(command: Command, found: known.Found, ground: Ground, budget: _Budget) -> Iterator[Finding]:
    """A command that stands in the knowledge base."""
    entry = found.entry
    subject = f"`{found.name}`"
    if found.before:
        yield said("option_before", f"`{found.name.split()[0]}`")
    for position in found.led:
        text = command.words[position].text
        yield from paths.judge(text.partition("=")[2] or text, "run", ground)
    rest = [command.words[index] for index in found.rest]
    options = Options(rest, entry)
    if entry.check == "fetch" and local_only(command, options):
        yield Finding("low", f"{subject} asks a server of this machine", "Nothing leaves this machine.")
        return
    form = _form(entry, options)
    if form is not None:
        yield Finding(form.level, f"{subject} {form.reason}", form.impact or entry.impact)
        if level_rank(form.level) < level_rank(entry.level):
            entry = msgspec.structs.replace(entry, level=form.level)
    if form is None or form.level != entry.level:
        yield Finding(entry.level, f"{subject} {entry.reason}", entry.impact)
    if entry.check:
        for finding in CHECKS[entry.check](command, rest, options, ground):
            yield Finding(finding.level, f"{subject} {finding.reason}", finding.impact)
    if entry.runs:
        told = [word.text for word, kind in options.parts() if kind in _TELLS_PLACES]
        yield from reach(told, ground)
        yield from over_sources(options.joined)
    tree = bool(entry.recurse) and ("*" in entry.recurse or options.has(entry.recurse))
    yield from _arguments(command, options, entry.operands, ground, budget, tree)
    if tree and not options.operands[entry.skip :]:
        yield from paths.judge(".", "read" if entry.operands == "read" else "list", ground, tree=True)
    if entry.operands == "run" or entry.check in _RUN_WHAT_IS_THERE:
        yield from paths.judge(".", "run", ground)  # `cd ../other && make`


def _form(entry: Entry, options: Options) -> Form | None:
    """The worst form that applies; one that lowers the level counts if no other does."""
    fitting = [form for form in entry.forms if options.fits(form)]
    raising = [form for form in fitting if level_rank(form.level) >= level_rank(entry.level)]
    pool = raising or fitting
    return max(pool, key=lambda form: level_rank(form.level), default=None)


def _arguments(
    command: Command, options: Options, mode: known.Mode, ground: Ground, budget: _Budget, tree: bool
) -> Iterator[Finding]:
    """Every word of a command as a path. What its table calls text for people is left out."""
    entry = options.entry
    for word, kind in options.parts():
        budget.spent += 1
        if budget.spent > MAX_PATHS:
            return
        as_mode: known.Mode = {"operand": mode, "output": "write", "product": "make", "load": "run"}.get(
            kind, "none"
        )
        if kind == "operand" and mode in ("text", "none") and "=" in word.text:
            yield from paths.judge(word.text.partition("=")[2], "none", ground)
        if kind in ("prose", "skipped"):
            continue
        if kind in ("value", "other") and "/" in word.text:  # a place that an option names is at least read
            as_mode = "read" if mode in ("list", "none") else mode
        if (kind == "load" and re.match(r"[{\[(]|\w+://", word.text)) or (
            kind == "operand" and mode == "run" and re.match(r"@[^/]*$|@[./~]", word.text)
        ):
            yield said("loaded")
        # a quoted pattern is for the program itself: `rg -g '.e*'`
        pattern = word.glob or (
            kind in ("value", "other") and entry.operands == "read" and paths.wild(word.text)
        )
        for text in _spelled(word.text, kind):
            yield from paths.judge(text, as_mode, ground, glob=pattern, tree=tree)
        if word.glob and kind == "operand" and _may_be_option(word, entry):
            yield said("option_like_glob")


def _spelled(text: str, kind: str) -> Sequence[str]:
    """The paths that an argument may hold: itself, what stands behind ``@`` or ``host:``."""
    texts = [text]
    if text.startswith("@"):
        texts.append(text[1:])
    if kind != "output" and ":" in text and "://" not in text:
        texts += [part for part in text.split(":")[1:] if part]
    return texts


def _may_be_option(word: Word, entry: Entry) -> bool:
    """``rg foo *``: a file may be called ``--pre=x``. Harmless where the command has no harmful option."""
    return _starts_wild(word.text) and bool(entry.forms or entry.outputs or entry.loads or entry.check)


def _starts_wild(text: str) -> bool:
    return text[:1] in ("*", "?", "[")


def _redirect(redirect: Redirect, ground: Ground) -> Iterator[Finding]:
    ground = replace(ground, places=redirect.places, lost=redirect.lost)
    mode: known.Mode = "write" if redirect.writes else "read"
    yield from paths.judge(redirect.target.text, mode, ground, glob=redirect.target.glob)


def _short(name: str) -> str:
    return name if len(name) <= 40 and name.isprintable() else f"{name[:20]!a}…"
