"""What every check uses: how a finding is said, and what feeds a program. Pure."""

from __future__ import annotations

import re
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


_TELLING = re.compile(
    r"(^|[._-])((un)?deploy|publish|release|destroy|nuke|wipe|drop|delete|remove|purge|truncate|erase|reset|restore|prod|"
    r"production|rollback|provision|teardown)([._-]|[A-Z]|db|database|all|$)"
)


def by_name(path: str) -> Iterator[Finding]:
    """A script that is called deploy deploys; what stands in it is not read."""
    name = path.rpartition("/")[2]
    if _TELLING.search(name) and "test" not in name:
        yield medium(
            "runs a script that by its name reaches beyond the project", "It does what stands in that file."
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
