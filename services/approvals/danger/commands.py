"""Which commands a shell text would run: from shfmt's syntax tree to a list of simple commands. Pure.

`read(text, sight, cwd)` gives a `Shell`: every simple command that stands anywhere in the text (in pipes,
lists, loops, functions, substitutions, here-documents for a shell, ``sh -c``, and behind wrappers such as
sudo, env or xargs), in the order of the text. ``whole`` is what a rule that allows must look at: True only if
every word of every command is plain literal text and nothing else in the text can bring in a command that is
not in the list. A rule that denies may look at ``commands`` alone.

    read("cd app && FOO=1 timeout 5 rm -r build | tee log", sight, "/work")
    Shell(commands=(Command(words=(cd, app)), Command(words=(timeout, 5, rm, -r, build), …),
                    Command(words=(rm, -r, build), via=("timeout",), assigns=("FOO",), …), Command(words=(tee,
                    log), …)),
          redirects=(), findings=(), whole=True)

``str(command)`` is its words joined by spaces, ``command.argv`` the tuple of them, ``command.name`` the
program without its directory. The wrapper itself stands in the list too, before what it runs.

The tree is walked generically: a node that this module does not know is walked like every other, so that no
command in it is missed. What the text is made of beside commands is told by ``findings``, keys of
``known/structure.toml``.

Over 400 lines because the walk is one piece: each kind of node leads into every other.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from services.approvals.danger import words as w
from services.approvals.danger.sight import LOOK_EVERY, Sight, TooLongError, Tree, Unparsed
from services.approvals.danger.words import Word
from services.approvals.danger.wrappers import SHELLS, inner, name_of, script_of

MAX_DEPTH = 150  # of the tree: a person's deepest is below 40; CPython's own limit is far above
MAX_PARSES = 12  # texts within texts (sh -c, eval, …) that one input may lead to
MAX_PLACES = 12  # directories that `cd` may lead to
MAX_COMMANDS = 2000
MAX_VALUE = 2000  # characters of a variable that are remembered: `a=$a$a` doubles it each time
MAX_WORDS = 20_000  # of all commands: wrappers around wrappers give the same words again and again
REMEMBERED = 32  # texts that were read

_RUNS_TEXT = frozenset({"eval", "trap", "watch", "alias", "su", "runuser", "flock", "at", "batch", "sudo"})
_NOT_TEXT = frozenset({"ParamExp", "CmdSubst", "ProcSubst", "ArithmExp", "ExtGlob", "ArithmCmd", "LetClause"})
_NUMERIC_TESTS = frozenset({"-eq", "-ne", "-lt", "-le", "-gt", "-ge", "-v", "-R"})


@dataclass(frozen=True, slots=True)
class Command:
    """One simple command. ``via``: the wrappers it stands behind. ``assigns``: variables set for it.

    ``stdin``: ``""``, ``pipe``, ``file`` or ``text`` (then ``fed`` is the text, if it is known); ``upstream``
    are the names of the commands that write into its pipe. ``places`` are the directories in which it may
    run; ``lost``: or anywhere.
    """

    words: tuple[Word, ...]
    via: tuple[str, ...] = ()
    assigns: tuple[str, ...] = ()
    stdin: str = ""
    fed: str | None = None
    upstream: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    lost: bool = False

    @property
    def argv(self) -> tuple[str, ...]:
        return tuple(word.text for word in self.words)

    @property
    def name(self) -> str:
        return name_of(self.words[0].text)

    @property
    def literal(self) -> bool:
        return all(word.literal for word in self.words)

    def __str__(self) -> str:
        return " ".join(self.argv)


@dataclass(frozen=True, slots=True)
class Redirect:
    """A file that the shell itself opens: ``op`` as in bash, e.g. ``>``, ``>>``, ``<``, ``&>``."""

    op: str
    target: Word
    places: tuple[str, ...] = ()
    lost: bool = False

    @property
    def writes(self) -> bool:
        return ">" in self.op


@dataclass(frozen=True, slots=True)
class Shell:
    """All that a shell text would run, as far as it can be said before it runs; see the module."""

    commands: tuple[Command, ...]
    redirects: tuple[Redirect, ...] = ()
    findings: tuple[str, ...] = ()
    whole: bool = True


@lru_cache(maxsize=REMEMBERED)
def read(text: str, sight: Sight, cwd: str) -> Shell:
    """Never raises. The same text is read by the judge, by the rules, and again when it is decided."""
    reader = _Reader(sight, cwd)
    reader.text(text, _Context())
    found = tuple(dict.fromkeys(reader.findings))
    whole = not found and all(command.literal for command in reader.commands)
    return Shell(tuple(reader.commands), tuple(reader.redirects), found, whole)


@dataclass(frozen=True, slots=True)
class _Context:
    """Where in the text a node stands."""

    depth: int = 0
    via: tuple[str, ...] = ()
    stdin: str = ""
    fed: str | None = None
    upstream: tuple[str, ...] = ()
    repeated: bool = False  # in a loop or a function
    chained: bool = False  # behind `&&`: it runs only if what stands before it went well

    def but(self, **changed: Any) -> _Context:
        return _Context(**{name: changed.get(name, getattr(self, name)) for name in self.__slots__})


class _TooDeepError(Exception):
    pass


@dataclass
class _Reader:
    sight: Sight
    cwd: str
    commands: list[Command] = field(default_factory=list)
    redirects: list[Redirect] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    parses: int = 0
    words: int = 0  # of all commands
    steps: int = 0
    lost: bool = False

    def __post_init__(self) -> None:
        self.places = [posixpath.normpath(self.cwd or "/")]
        self.known: dict[str, str] = {"HOME": self.sight.user_home, "PWD": self.cwd, "IFS": " "}

    # texts

    def text(self, text: str, context: _Context, *, strict: bool = True) -> None:
        """Not ``strict``: it may be shell text, or something else (awk behind xargs)."""
        context = context.but(chained=False)
        self.parses += 1
        if self.parses > MAX_PARSES:
            self.findings.append("too_much")
            return
        try:
            self.sight.check()
            tree = self.sight.parse(text, self.sight.left_s)
            if isinstance(tree, Unparsed):
                if strict or not tree.broken:
                    self.findings.append("parse_error" if tree.broken else "unparsed")
                self._guess(text, context)
                self.sight.check()  # the parser may have used all of it
            else:
                self._node(tree, context)
        except (_TooDeepError, RecursionError):
            self.findings.append("too_deep")
        except TooLongError:
            self.findings.append("too_long")

    def _step(self) -> None:
        self.steps += 1
        if self.steps % LOOK_EVERY == 0:
            self.sight.check()

    def _guess(self, text: str, context: _Context) -> None:
        """What cannot be parsed may still be critical: its words, roughly. It is never taken as whole."""
        for line in re.split(r"[\n;|&(){}`]+", text[:20_000])[:200]:
            said = re.sub(r"['\"\\]", "", line).split()
            if said and len(self.commands) < MAX_COMMANDS:
                self._call([w.plain(word) for word in said], (), context.but(via=(*context.via, "?")))

    # the tree

    def _node(self, node: Any, context: _Context) -> None:
        self._step()
        if context.depth > MAX_DEPTH or len(self.commands) > MAX_COMMANDS:
            raise _TooDeepError
        if isinstance(node, list):
            for item in node:
                self._node(item, context)
            return
        if not isinstance(node, dict):
            return
        context = context.but(depth=context.depth + 1)
        kind = node.get("Type")
        if "Parts" in node:
            self._word(node)
        if kind in _NOT_TEXT and not (kind == "CmdSubst" and w.is_text(node)):
            self.findings.append("substitution" if kind in ("CmdSubst", "ProcSubst") else "not_literal")
        if kind == "CallExpr":
            self._simple(node, context)
        elif "Cmd" in node or "Redirs" in node:
            self._statement(node, context)
        elif kind == "BinaryCmd" and str(node.get("Op", "")).startswith("|") and node.get("Op") != "||":
            before = len(self.commands)
            context = context.but(chained=False)
            self._node(node.get("X"), context)
            upstream = self.commands[before:]
            names = tuple(command.name for command in upstream)
            self._node(node.get("Y"), context.but(stdin="pipe", fed=_printed(upstream), upstream=names))
        elif kind == "BinaryCmd" and node.get("Op") == "&&":
            here = list(self.places)
            self._node(node.get("X"), context.but(chained=True))
            self._node(node.get("Y"), context.but(chained=True))
            if not context.chained:  # what follows runs whether or not a `cd` in here was reached
                self.places = list(dict.fromkeys([*here, *self.places]))
        else:
            self._other(kind, node, context.but(chained=False))

    def _other(self, kind: Any, node: Tree, context: _Context) -> None:
        if kind == "FuncDecl":
            self._function(node, context)
            return
        if kind in ("WhileClause", "ForClause"):
            context = context.but(repeated=True)
            loop = node.get("Loop") or {}
            items = [self._word(item).text for item in loop.get("Items") or []]
            if items:
                self.known[str((loop.get("Name") or {}).get("Value", ""))] = items[0]
        elif kind == "BinaryTest" and node.get("Op") in _NUMERIC_TESTS:
            sides = [self._word(node.get(side) or {}).text for side in ("X", "Y")]
            if not all(re.fullmatch(r"-?\d+", side) for side in sides):
                self.findings.append("not_literal")
        elif kind == "UnaryTest" and node.get("Op") in _NUMERIC_TESTS:
            self.findings.append(
                "expression" if "[" in self._word(node.get("X") or {}).text else "not_literal"
            )
        elif kind == "DeclClause":
            self._declared(node, context)
        for name, child in node.items():
            if isinstance(child, dict | list) and name not in ("Pos", "End"):
                self._node(child, context)

    def _function(self, node: Tree, context: _Context) -> None:
        self.findings.append("function")
        before = len(self.commands)
        self._node(node.get("Body"), context.but(repeated=True))
        name = str((node.get("Name") or {}).get("Value", ""))
        if any(command.words[0].text == name for command in self.commands[before:]):
            self.findings.append("fork_bomb")

    def _statement(self, node: Tree, context: _Context) -> None:
        if node.get("Negated") or node.get("Background") or node.get("Coprocess"):
            context = context.but(chained=False)
        for redirect in node.get("Redirs") or []:
            context = self._redirect(redirect, context)
        self._node(node.get("Cmd"), context)

    def _redirect(self, node: Tree, context: _Context) -> _Context:
        op = str(node.get("Op", ""))
        target = self._word(node.get("Word") or {})
        self._node(node.get("Word"), context)
        if op in ("<<", "<<-"):
            parts = (node.get("Hdoc") or {}).get("Parts") or []
            body = w.heredoc(parts, self.known, quoted=w.is_quoted(node.get("Word") or {}))
            if not body.literal:
                self.findings.append("not_literal")
                self._node(parts, context)
            return context.but(stdin="text", fed=body.text, upstream=())
        if op == "<<<":
            return context.but(stdin="text", fed=target.text, upstream=())
        if op in (">&", "<&") and re.fullmatch(r"\d+-?|-", target.text):
            return context
        self.redirects.append(Redirect(op, target, tuple(self.places), self.lost))
        return context.but(stdin="file", fed=None, upstream=()) if op.startswith("<") else context

    def _word(self, node: Tree) -> Word:
        word = w.read(node.get("Parts") or [], self.known, self.sight.user_home)
        if not word.literal and not word.glob:
            self.findings.append("not_literal")
        return word

    def _assign(self, nodes: Iterable[Tree]) -> tuple[str, ...]:
        names = []
        for assign in nodes:
            name = str((assign.get("Name") or {}).get("Value", ""))
            value = assign.get("Value") or {}
            word = w.read(value.get("Parts") or [], self.known, self.sight.user_home)
            if name:
                names.append(f"{name}={word.text}")
                before = self.known.get(name, "") if assign.get("Append") else ""
                self.known[name] = (before + word.text)[:MAX_VALUE]
            if assign.get("Array") or assign.get("Index"):
                self.findings.append("not_literal")
                elements = (assign.get("Array") or {}).get("Elems") or []
                said = [
                    w.read((e.get("Value") or {}).get("Parts") or [], self.known, "").text for e in elements
                ]
                self.known[name] = " ".join(said)[:MAX_VALUE]
        return tuple(names)

    def _declared(self, node: Tree, context: _Context) -> None:
        variant = str((node.get("Variant") or {}).get("Value", ""))
        arguments = node.get("Args") or []
        names = self._assign(arguments)
        options = [self._word(a.get("Value") or {}) for a in arguments if a.get("Naked") and "Name" not in a]
        self._add([w.plain(variant), *options], names, context)

    def _simple(self, node: Tree, context: _Context) -> None:
        assigns = self._assign(node.get("Assigns") or [])
        read = []
        for arg in node.get("Args") or []:
            word = self._word(arg)
            # an unquoted variable may be several words: X="rm -rf /"; $X
            if not word.literal and not word.quoted and not word.glob and re.search(r"\s", word.text):
                read += [Word(part, False) for part in word.text.split()]
            else:
                read.append(word)
        if read and not read[0].text and not read[0].literal and len(read) > 1:
            self._call(read[1:], assigns, context)  # `$empty rm -rf /`
        if read:
            self._call(read, assigns, context)
        elif assigns:
            self._add([w.plain("=")], assigns, context)
        self._node(node.get("Assigns"), context)
        self._node(node.get("Args"), context)

    # commands

    def _add(self, said: list[Word], assigns: tuple[str, ...], context: _Context) -> None:
        self._step()
        self.words += len(said)
        if self.words > MAX_WORDS:
            raise _TooDeepError
        self.commands.append(
            Command(
                tuple(said), context.via, assigns, context.stdin, context.fed, context.upstream,
                tuple(self.places), self.lost,
            )
        )  # fmt: skip

    def _call(self, said: list[Word], assigns: tuple[str, ...], context: _Context) -> None:
        if len(context.via) > MAX_PARSES or len(self.commands) > MAX_COMMANDS:
            self.findings.append("too_deep")
            return
        head = said[0]
        if not head.literal:
            self.findings.append("name_not_literal")
        self._add(said, assigns, context)
        name = name_of(head.text)
        self.lost = self.lost or name == "popd"
        if name in ("cd", "pushd", "chdir"):
            self._go(said[1:], context)
            return
        behind = context.but(via=(*context.via, name))
        if name in SHELLS:
            script = script_of(said)
            if script is not None:
                self.findings.append("indirect" if script.literal else "name_not_literal")
                self.text(script.text, behind.but(stdin="", fed=None))
            elif context.fed is not None:
                self.findings.append("indirect")
                self.text(context.fed, behind.but(stdin="", fed=None))
            return
        found = inner(said)
        if found is None:
            return
        if found.finding:
            self.findings.append(found.finding)
        if name in ("eval", "trap", "alias", "watch") and not all(word.literal for word in said):
            self.findings.append("name_not_literal")
        for run in found.runs:
            names = tuple(word.text for word in run.assigns)
            self._call(list(run.words), (*assigns, *names), behind)
        for text in found.scripts:
            self.text(text, behind, strict=name in _RUNS_TEXT)
        if context.fed is not None and name in (
            "ssh",
            "at",
            "batch",
            "xargs",
            "parallel",
            "docker",
            "kubectl",
        ):
            self.text(context.fed, behind.but(stdin="", fed=None))

    def _go(self, operands: list[Word], context: _Context) -> None:
        """`cd`: from here on a command may run there as well."""
        operands = [word for word in operands if word.text not in ("--", "-P", "-L", "-e", "-@", "-q")]
        target = operands[0] if operands else w.plain(self.sight.user_home)
        relative = not target.text.startswith("/")
        if not target.literal or target.text in ("", "-") or (relative and context.repeated):
            self.lost = True
            if not target.text:
                return
        reached = [posixpath.normpath(posixpath.join(place, target.text)) for place in self.places]
        certain = context.chained and not self.lost and set(context.via) <= {"command", "builtin"}
        self.places = list(dict.fromkeys(reached if certain else [*self.places, *reached]))
        if len(self.places) > MAX_PLACES:
            self.places, self.lost = self.places[:MAX_PLACES], True


def _printed(upstream: Sequence[Command]) -> str | None:
    """What comes out of `echo …` or `cat <<E`, where a pipe begins with one."""
    first = upstream[0] if upstream else None
    if first is None or len(upstream) > 1:
        return None
    if first.name in ("echo", "printf"):
        return " ".join(text for text in first.argv[1:] if not text.startswith("-"))
    return first.fed if first.name == "cat" else None
