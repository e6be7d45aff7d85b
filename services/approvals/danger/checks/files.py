"""Checks of programs that find, pack, write and edit files. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from services.approvals.danger import known, paths
from services.approvals.danger.checks.common import critical, high, medium
from services.approvals.danger.commands import Command
from services.approvals.danger.options import Options
from services.approvals.danger.paths import Finding, Ground
from services.approvals.danger.words import Word
from services.approvals.danger.wrappers import name_of


def writes(command: Command, rest: Sequence[Word], options: Options, _g: Ground) -> Iterator[Finding]:
    if command.name == "split" and options.has(["filter"]):
        yield high("runs a command on every part")
    if command.name in ("ln", "link"):
        yield medium("makes a link", "What is written through it lands elsewhere.")
    if command.name == "patch" and options.has(["d", "directory", "e", "ed", "o", "output"]):
        yield high("changes files elsewhere")
    if command.name == "rename" and not options.joined.startswith(("-n", "-v")):
        yield medium("renames files by a program", "The program in its argument runs.")
    if command.name in ("cp", "mv") and options.has(["t", "target-directory"]):
        target = re.search(r"(?:-t ?|--target-directory[= ])(\S+)", options.joined)
        if target:
            yield from paths.judge(target[1], "write", _g)


def second_is_output(
    _c: Command, rest: Sequence[Word], options: Options, ground: Ground
) -> Iterator[Finding]:
    for word in options.operands[1:]:
        yield from paths.judge(word.text, "write", ground, glob=word.glob)
    if options.has(["r", "revert"]) and _c.name == "xxd" and len(options.operands) > 1:
        yield medium("writes a file")


def find(command: Command, rest: Sequence[Word], _o: Options, ground: Ground) -> Iterator[Finding]:
    roots = True
    position = 0
    while position < len(rest):
        text = rest[position].text
        if roots and (
            (text.startswith("-") and text not in ("-H", "-L", "-P", "--")) or text in ("(", "!", "\\(")
        ):
            roots = False
        if roots:
            if not text.startswith("-"):
                deletes = any(word.text == "-delete" for word in rest)
                mode: known.Mode = "delete" if deletes else "list"
                yield from paths.judge(text, mode, ground, glob=rest[position].glob, tree=True)
        elif text == "-delete":
            yield high(
                "deletes what it finds", "What is deleted is gone; what git does not have is gone for good."
            )
        elif text in ("-exec", "-execdir", "-ok", "-okdir"):
            yield medium("runs a command on what it finds", "What it acts on is known only when it runs.")
            if position + 1 < len(rest) and name_of(rest[position + 1].text) in (
                "rm",
                "shred",
                "unlink",
                "mv",
                "chmod",
                "chown",
                "dd",
                "tee",
                "truncate",
                "sh",
                "bash",
                "zsh",
                "perl",
                "python",
                "python3",
                "sed",
                "cp",
                "ln",
                "curl",
            ):
                yield high("changes everything that it finds", "What it acts on is known only when it runs.")
        elif text in ("-fprint", "-fprint0", "-fprintf", "-fls", "-files0-from"):
            yield medium("writes a file")
            if position + 1 < len(rest):
                yield from paths.judge(rest[position + 1].text, "write", ground)
        elif text in ("-newer", "-samefile", "-anewer", "-cnewer"):
            position += 1
        position += 1


def tar(_c: Command, rest: Sequence[Word], options: Options, ground: Ground) -> Iterator[Finding]:
    text = options.joined
    bundled = re.match(r"[a-zA-Z]+", text)  # `tar xPf a.tar`, without a dash
    if bundled and "P" in bundled[0]:
        yield high("unpacks wherever the archive says")
    if options.has(
        [
            "checkpoint-action",
            "to-command",
            "use-compress-program",
            "I",
            "info-script",
            "new-volume-script",
            "rsh-command",
            "rmt-command",
        ]
    ) or re.search(r"(^| )-?\w*[IF]\w*( |$)|--(to-c|use-c|check|info-s|new-vol|rsh|rmt)", text):
        yield high("runs another program", "That program runs as you.")
    if options.has(
        [
            "remove-files",
            "absolute-names",
            "P",
            "overwrite",
            "recursive-unlink",
            "unlink-first",
            "C",
            "directory",
        ]
    ):
        yield (
            high("unpacks elsewhere, or deletes what it packed")
            if not re.search(r"(-C|--directory)[ =]?(\.?/?[\w-]+)", text)
            or options.has(["remove-files", "P", "absolute-names", "recursive-unlink"])
            else medium("unpacks files")
        )
    if re.search(r"(^| )[\w.-]+@?[\w.-]*:\S", text) and not options.has(["force-local"]):
        yield high("reads or writes on another machine")


def editor(command: Command, rest: Sequence[Word], options: Options, _g: Ground) -> Iterator[Finding]:
    if options.joined in ("--version", "--help", "-v"):
        return
    if (
        re.search(
            r"(^| )(-[a-zA-Z]*[cSsueEW]|\+|--cmd|--eval|--funcall|--load|--batch|--headless|"
            r"--script|-l |-nes|--install-extension|-q)",
            options.joined,
        )
        or command.name in ("ed", "ex")
        or command.stdin
    ):
        yield high("runs a text of its own", "Editors can run any command.")


def dd(_c: Command, rest: Sequence[Word], options: Options, ground: Ground) -> Iterator[Finding]:
    for word in rest:
        key, _, value = word.text.partition("=")
        if key == "of":
            yield from paths.judge(value, "write", ground)
            if value.startswith("/dev/") and value not in ("/dev/null",):
                yield critical("writes over a disk", "Everything on it is lost.")
        elif key == "if":
            yield from paths.judge(value, "read", ground)
