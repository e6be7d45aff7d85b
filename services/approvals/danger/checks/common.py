"""What every check uses: how a finding is said, and what feeds a program. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from services.approvals.danger.commands import Command
from services.approvals.danger.known import STRUCTURE
from services.approvals.danger.options import Options
from services.approvals.danger.paths import Finding, Ground
from services.approvals.danger.words import Word

Check = Callable[[Command, Sequence[Word], Options, Ground], Iterable[Finding]]

_FROM_NET = frozenset(
    [
        "curl",
        "wget",
        "http",
        "https",
        "httpie",
        "xh",
        "aria2c",
        "lynx",
        "w3m",
        "nc",
        "ncat",
        "netcat",
        "socat",
        "ssh",
        "scp",
        "telnet",
        "ftp",
        "dig",
        "nslookup",
        "base64",
        "base32",
        "xxd",
        "uudecode",
        "openssl",
        "gpg",
        "gunzip",
        "zcat",
        "rev",
        "tr",
        "gh",
        "aws",
        "gsutil",
        "kubectl",
        "docker",
    ]
)


def say(name: str) -> Finding:
    entry = STRUCTURE[name]
    return Finding(entry.level, entry.reason, entry.impact)


def medium(reason: str, impact: str = "What it does cannot be told from here.") -> Finding:
    return Finding("medium", reason, impact)


def high(reason: str, impact: str = "What it does cannot be told from here.") -> Finding:
    return Finding("high", reason, impact)


def critical(reason: str, impact: str) -> Finding:
    return Finding("critical", reason, impact)


def fed(command: Command) -> Iterator[Finding]:
    """A program that reads its program from its input."""
    if command.stdin == "pipe":
        net = any(name in _FROM_NET for name in command.upstream)
        yield say("fed_from_net" if net else "fed")
    elif command.stdin in ("file", "text"):
        yield high("runs a program from its input")
