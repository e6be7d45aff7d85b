"""Checks of what the shell itself has, and of programs that tell about the machine. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from services.approvals.danger import paths
from services.approvals.danger.checks.common import by_name, fed, high, medium, say
from services.approvals.danger.commands import Command
from services.approvals.danger.options import Options
from services.approvals.danger.paths import Finding, Ground
from services.approvals.danger.words import Word
from services.approvals.danger.wrappers import script_of


def expression(command: Command, rest: Sequence[Word], _o: Options, _g: Ground) -> Iterator[Finding]:
    """``test -v 'a[$(x)]'``, ``printf -v``, ``[ 'a[$(x)]' -eq 0 ]``: it runs what is in brackets."""
    if any(re.search(r"\$\(|`|\$\{", word.text) for word in rest if word.literal):
        yield say("expression")


def declaration(
    command: Command, rest: Sequence[Word], options: Options, ground: Ground
) -> Iterator[Finding]:
    """``export`` sets variables; with none named, or with ``-p``, it prints them."""
    yield from expression(command, rest, options, ground)
    if options.has(["p"]) or not (command.assigns or options.operands):
        yield medium("prints variables, which may hold secrets", "The agent sees them.")


# Their options are other ones than those of sh, and many take a text that is run.
_OF_THEIR_OWN = frozenset({"fish", "nu", "xonsh", "elvish", "pwsh", "powershell", "cmd.exe"})


def shell(command: Command, rest: Sequence[Word], options: Options, ground: Ground) -> Iterator[Finding]:
    script = script_of(command.words)
    if script is not None:
        yield medium("runs a text as commands", "What stands in the text runs as you.")
        return
    if re.search(r"(^| )--(rcfile|init-file|login|posix)|(^| )-\w*[il]", options.joined):
        yield high("starts with files of its own")
    if command.name in _OF_THEIR_OWN and len(options.operands) < len(options.words) > 1:
        yield high("starts a shell with options of its own", "What they hold may run as you.")
    operand = next(
        (
            word
            for word in options.operands
            if not re.fullmatch(r"[a-z]+", word.text) or len(options.operands) == 1
        ),
        None,
    )
    if operand is None or operand.text == "-" or re.search(r"(^| )-\w*s", options.joined):
        if options.joined in ("--version", "--help"):
            return
        found = list(fed(command))
        yield from found or [high("starts a shell that takes whatever comes")]
        return
    if not operand.literal:
        yield high("runs a file that cannot be told")
    yield from by_name(operand.text)
    yield from paths.judge(operand.text, "run", ground, glob=operand.glob)
    yield from paths.judge(operand.text, "read", ground, glob=operand.glob)


def source(_c: Command, rest: Sequence[Word], _o: Options, ground: Ground) -> Iterator[Finding]:
    """Only an environment's ``activate`` is everyday: it is low, by a form in the judge."""
    if not rest or not rest[0].literal or re.match(r"/(dev|proc)/", rest[0].text):
        yield high("runs a file that cannot be told")


def wrapper(command: Command, rest: Sequence[Word], options: Options, _g: Ground) -> Iterator[Finding]:
    """`env` alone prints the environment; what the others run is judged as a command of its own."""
    if command.name == "env" and not options.operands:
        yield medium(
            "prints the environment, which may hold secrets", "They stand in the agent's conversation."
        )
    if command.name == "env" and options.has(["S", "split-string", "C", "chdir"]):
        yield high("runs a text as a command")


def alone(_c: Command, rest: Sequence[Word], _o: Options, _g: Ground) -> Iterator[Finding]:
    if rest:
        yield high("is given more than it takes to tell that")


def tells(command: Command, rest: Sequence[Word], options: Options, _g: Ground) -> Iterator[Finding]:
    """Programs that tell when they are given options, and change something when given a value."""
    name = command.name
    if name in (
        "date",
        "hostname",
        "route",
        "ifconfig",
        "mount",
        "swapon",
        "hostnamectl",
        "timedatectl",
        "localectl",
        "loginctl",
        "resolvectl",
        "networkctl",
    ):
        changing = [
            word
            for word in options.operands
            if not re.fullmatch(r"\+.*|status|show|list.*|show-.*|query.*", word.text)
        ]
        if (name == "date" and options.has(["set", "s"])) or (
            changing and not (name == "date" and options.has(["d", "r", "date", "j", "f", "v", "u"]))
        ):
            yield high("changes how this machine works", "Other programs may not work afterwards.")
    if (
        name in ("mount", "swapon")
        and options.words
        and not options.has(["l", "show", "summary", "s", "help"])
    ):
        yield high("changes which disks are in use")
    if name == "ss" and options.has(["K", "kill"]):
        yield high("ends connections")
    if name == "ps" and any(re.fullmatch(r"[a-zA-Z]*e[a-zA-Z]*", word.text) for word in options.operands):
        yield high("shows the environment of other programs", "It may hold secrets.")
    if name == "journalctl" and options.has(
        ["vacuum-size", "vacuum-time", "vacuum-files", "rotate", "flush"]
    ):
        yield high("deletes the machine's log")
    if name == "dmesg" and options.has(["C", "c", "clear", "n", "D", "E"]):
        yield high("empties the machine's log")
    if name == "fuser" and options.has(["k", "kill"]):
        yield high("ends programs")
    if name in ("ps", "pgrep", "top") and re.search(r"(^| )-?[a-zA-Z]*e[a-zA-Z]*ww|\beww", options.joined):
        yield high("shows the environment of other programs", "It may hold secrets.")
    if name == "blkid" and options.has(["g", "garbage-collect", "c", "w", "cache-file"]):
        yield medium("changes a cache")
    if name == "arp" and options.has(["d", "s", "f", "delete", "set", "file"]):
        yield high("changes how this machine works", "It may be out of reach afterwards.")
    if name == "nvidia-smi" and re.search(
        r"(^| )(--(?!query|help|list|format|id)|-(?!q|h|L|i|l)\w)", options.joined
    ):
        yield high("changes how this machine works", "Other programs may not work afterwards.")
    if name in ("nm", "objdump", "readelf", "size") and options.has(["plugin"]):
        yield high("loads another program", "That program runs as you.")
    if name == "getent" and any(word.text in ("shadow", "gshadow") for word in options.operands):
        yield high("reads what protects this machine", "It may hold secrets.")
    if name == "finger" and "@" in options.joined:
        yield medium("asks another machine")
