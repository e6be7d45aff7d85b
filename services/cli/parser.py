"""The command line: which verbs there are, and what each takes."""

from __future__ import annotations

import argparse
import difflib
import math
import re
import typing
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn

import msgspec

from bus import messages as m
from services import version
from services.cli import (
    approvals,
    budget,
    complete,
    costs,
    doctor,
    hooks,
    logs,
    money,
    policy,
    sessions,
    system,
    users,
    watch,
)
from services.cli.line import UsageError, World

Verb = Callable[[World, argparse.Namespace], Awaitable[int]]

OVERVIEW = """\
Pointsman supervises Claude Code sessions over MQTT.

  pointsman new NAME --prompt "…"   open a session in this directory
  pointsman ls                      all sessions, and what they are doing
  pointsman watch [NAME]            what happens, as it happens
  pointsman approvals               what waits for your yes
  pointsman approve ID | deny ID    decide
  pointsman send NAME "…"           say something to an agent
  pointsman attach NAME             see its window
  pointsman cost                    what it cost
  pointsman hibernate | wake NAME   let its agent end, and come back with its conversation
  pointsman end NAME                end it

  pointsman health                  is everything running?
  pointsman doctor                  what is missing on this machine, and how to mend it
  pointsman bus                     how to connect with any MQTT client
  pointsman device add NAME --max-level low   a button that may approve

`pointsman VERB --help` says more; every verb takes --json. Start it all with `make run`.
"""


class _Parser(argparse.ArgumentParser):
    """Raises `UsageError` where argparse would print a page of usage and end the process."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}\nSee `{self.prog} --help`.")


class _Version(argparse.Action):
    """Looks it up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(f"pointsman {version()}")
        parser.exit()


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """As `parse_args`, but names the verb that was meant perhaps. Raises `UsageError`."""
    verbs = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices
    if argv and not argv[0].startswith("-") and argv[0] not in verbs:
        near = difflib.get_close_matches(argv[0], verbs, n=3, cutoff=0.5)
        meant = f": did you mean {' or '.join(near)}?" if near else f" (there are: {', '.join(verbs)})"
        parser.error(f"there is no verb {argv[0]!r}{meant}")
    args, more = parser.parse_known_args(argv)
    if more:
        verbs.get(args.verb, parser).error(f"unrecognized arguments: {' '.join(more)}")
    return args


def build() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = _Parser(
        prog="pointsman",
        description="Supervise Claude Code sessions over MQTT.",
        epilog="Exit codes: 0 done, 1 refused, 2 wrong usage or configuration, 3 the bus cannot be reached.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show which version this is")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    _sessions(verbs)
    _approvals(verbs)
    _money(verbs)
    _system(verbs)
    _hooks(verbs)
    _users(verbs)
    _policy(verbs)
    return parser


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, run: Verb, about: str
) -> argparse.ArgumentParser:
    made = verbs.add_parser(name, help=about, description=about, allow_abbrev=False)
    made.add_argument("--json", action="store_true", help="one JSON document instead of text")
    made.set_defaults(run=run)
    return made


def _session(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    action = parser.add_argument("name", metavar="NAME", nargs="?" if optional else None, help="the session")
    action.completer = complete.sessions  # type: ignore[attr-defined]  # argcomplete's way


def _approval(parser: argparse.ArgumentParser) -> None:
    action = parser.add_argument("id", metavar="ID", nargs="?", help="its id, or any unique beginning of it")
    action.completer = complete.approvals  # type: ignore[attr-defined]  # argcomplete's way
    parser.add_argument("--oldest", action="store_true", help="the one that has waited longest")


def _sessions(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    new = _verb(verbs, "new", sessions.new, "Open a session.")
    new.add_argument("name", metavar="NAME", help="lower-case letters, digits and hyphens")
    new.add_argument("--cwd", default=".", metavar="DIR", help="its directory (default: this one)")
    new.add_argument("--prompt", metavar="TEXT", help="the first thing to say")
    new.add_argument("--model", help="as `claude --model` takes it")
    new.add_argument("--permission-mode", choices=typing.get_args(m.PermissionMode))
    new.add_argument("--budget", type=_usd, default=msgspec.UNSET, metavar="USD", help="or `none`")
    new.add_argument(
        "--kind", choices=typing.get_args(m.SessionKind), default="managed", help="default: managed"
    )
    new.add_argument("--resume", metavar="ID", help="go on with this conversation of Claude Code")
    new.add_argument("--title", metavar="TEXT", help="what it is about, in its state")
    new.add_argument("--pin", action="store_true", help="never put it to sleep")
    new.add_argument("--trust", action="store_true", help="its directory is trusted: ask no dialog about it")
    new.add_argument(
        "--auto-approve", action="append", metavar="TOOL", help="let this tool run unasked (may be repeated)"
    )

    _verb(verbs, "ls", sessions.ls, "List all sessions.")

    watching = _verb(verbs, "watch", watch.watch, "Show what happens, until Ctrl-C.")
    _session(watching, optional=True)
    watching.add_argument("--count", type=_count, metavar="N", help="end after N events")

    send = _verb(verbs, "send", sessions.send, "Say something to an agent.")
    _session(send)
    send.add_argument("text", metavar="TEXT", nargs="+", help="what to say; - reads the standard input")

    stop = _verb(verbs, "interrupt", sessions.interrupt, "Stop what an agent is doing now.")
    _session(stop)
    stop.add_argument("--reason", metavar="TEXT", help="for the record")

    rest = _verb(verbs, "hibernate", sessions.hibernate, "Put an idle session to sleep: its agent ends.")
    _session(rest)
    rest.add_argument("--reason", metavar="TEXT", help="for the record")

    wake = _verb(verbs, "wake", sessions.wake, "Wake a sleeping session with its conversation.")
    _session(wake)
    wake.add_argument("--reason", metavar="TEXT", help="for the record")

    end = _verb(verbs, "end", sessions.end, "End a session, or all.")
    _session(end, optional=True)
    end.add_argument("--all", action="store_true", help="every session of this node")
    end.add_argument("--reason", metavar="TEXT", help="for the record")

    _session(_verb(verbs, "attach", sessions.attach, "See a session's window (leave it with Ctrl-b d)."))

    history = _verb(verbs, "history", sessions.history, "Show what has happened in a session.")
    _session(history)
    history.add_argument(
        "--after", type=_natural, default=0, metavar="SEQ", help="only events after this number"
    )
    history.add_argument("--limit", type=_count, metavar="N", help="at most N events")


def _approvals(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    _verb(verbs, "approvals", approvals.approvals, "List what waits for a decision.")

    approve = _verb(verbs, "approve", approvals.approve, "Say yes.")
    _approval(approve)
    approve.add_argument("--reason", metavar="TEXT", help="for the record")
    approve.add_argument("--input", metavar="JSON", help="let it run with this input instead")
    _remember(approve)

    deny = _verb(verbs, "deny", approvals.deny, "Say no.")
    _approval(deny)
    deny.add_argument("--reason", metavar="TEXT", help="the agent is told")
    deny.add_argument("--interrupt", action="store_true", help="and stop the agent's turn")
    _remember(deny)

    answer = _verb(verbs, "answer", approvals.answer, "Answer an agent's question.")
    _approval(answer)
    answer.add_argument(
        "--answer", action="append", metavar="QUESTION=ANSWER", help="or NUMBER=ANSWER (may be repeated)"
    )
    answer.add_argument("--text", help="the answer to a single question")


def _remember(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--remember",
        choices=("session", "always"),
        help="decide the very same call in this directory likewise from now on (`pointsman policy rules`)",
    )


def _money(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    cost = _verb(
        verbs,
        "cost",
        money.cost,
        "What sessions cost; `cost import PATH…` reads past transcripts, `cost check` compares all sums.",
    )
    _session(cost, optional=True)
    costs.add_arguments(cost)
    limit = _verb(
        verbs, "budget", budget.budget, "Set, lift or show budgets: `budget NAME USD`, `--day USD`."
    )
    _session(limit, optional=True)
    limit.add_argument(
        "usd", type=_usd, nargs="?", default=msgspec.UNSET, metavar="USD", help="in all; `none` lifts it"
    )
    for period in budget.PERIODS:
        limit.add_argument(
            f"--{period}", type=_usd, default=msgspec.UNSET, metavar="USD",
            help="for all sessions of this node" + ("" if period == "total" else f" in a {period}"),
        )  # fmt: skip
    limit.add_argument("--node", action="store_true", help="NAME is a period of this node, as above")


def _system(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    _verb(verbs, "health", system.health, "Is every service running? Exits 0 when all are.")

    bus = _verb(verbs, "bus", system.bus, "How to connect to the bus with any MQTT client.")
    bus.add_argument("--user", metavar="U", help="default: operator")

    _verb(verbs, "doctor", doctor.doctor, "Find what is missing on this machine, and how to mend it.")

    log = _verb(verbs, "logs", logs.logs, "Show the logs of the services.")
    log.add_argument("name", metavar="NAME", nargs="?", help="a service, or a session; default: all")
    log.add_argument("-n", "--lines", type=_count, default=50, metavar="N", help="default: 50")
    log.add_argument("-f", "--follow", action="store_true", help="go on, until Ctrl-C")

    completion = _verb(verbs, "completion", system.completion, "Print the script for the shell's tab key.")
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))


def _hooks(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = "Follow Claude Code sessions that are started elsewhere, through hooks in its settings."
    parser = verbs.add_parser("hooks", help=about, description=about, allow_abbrev=False)
    inner = parser.add_subparsers(dest="what", metavar="install|remove|status", required=True)
    for name, run, help_ in (
        ("install", hooks.install, "Put our hooks into a settings file, beside what stands there."),
        ("remove", hooks.remove, "Take them out again; everything else stays."),
        ("status", hooks.status, "Are they there, and as they should be?"),
    ):
        made = _verb(inner, name, run, help_)
        which = made.add_mutually_exclusive_group()
        which.add_argument("--user", action="store_true", help="~/.claude/settings.json (the default)")
        which.add_argument(
            "--project", action="store_true", help=".claude/settings.local.json in this directory"
        )


def _family(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, about: str
) -> argparse._SubParsersAction[argparse.ArgumentParser]:
    """A verb that has verbs of its own."""
    made = verbs.add_parser(name, help=about, description=about, allow_abbrev=False)
    return made.add_subparsers(dest="what", metavar="VERB", required=True)


def _users(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    user = _family(verbs, "user", "Who may come to the bus.")
    add = _verb(user, "add", users.add, "Let somebody in; prints what they need.")
    add.add_argument("name", metavar="NAME", help="lower-case letters, digits and hyphens")
    add.add_argument("--role", required=True, choices=("viewer", "approver", "operator", "device"))
    add.add_argument("--max-level", choices=m.LEVELS, metavar="L", help="what they may approve at most")
    remove = _verb(user, "remove", users.remove, "Cut somebody off, at once.")
    remove.add_argument("name", metavar="NAME")
    _verb(user, "list", users.list_users, "List all users.")

    device = _family(verbs, "device", "Buttons, remote controls and phones that decide.")
    add = _verb(device, "add", users.add, "Let a device in; prints what it needs.")
    add.add_argument("name", metavar="NAME", help="lower-case letters, digits and hyphens")
    add.add_argument(
        "--max-level", choices=m.LEVELS, required=True, metavar="L", help="what it may decide at most"
    )
    add.set_defaults(role="device")

    audit = _family(verbs, "audit", "What was asked and decided, by whom.")
    verify = _verb(audit, "verify", users.verify, "Prove that no row was changed, and none is missing.")
    verify.add_argument("--head", type=_head, metavar="N:HASH", help="one that was printed before")
    export = _verb(audit, "export", users.export, "Print all rows, one JSON document a line.")
    export.add_argument("--after", type=_natural, default=0, metavar="N", help="only rows after this number")

    keys = _family(verbs, "keys", "The keys that approval tokens are made with.")
    rotate = _verb(keys, "rotate", users.rotate, "Make a new key; what waits can still be decided.")
    rotate.add_argument("--now", action="store_true", help="tokens that were read before are void at once")


def _policy(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    inner = _family(verbs, "policy", "What agents may do without you, and what not even with you.")
    check = _verb(inner, "check", policy.check, "Would this configuration file be taken?")
    check.add_argument("file", metavar="FILE")
    explain = _verb(inner, "explain", policy.explain, "Which rule decides about a tool call, and why.")
    explain.add_argument("tool", metavar="TOOL", help="Bash, Write, Read, …")
    explain.add_argument("input", metavar="JSON", help="""its input, such as '{"command": "git push"}'""")
    explain.add_argument("--session", metavar="NAME", help="as if this session asked")
    explain.add_argument("--cwd", metavar="DIR", help="as if it were there (the session's, else this one)")
    replay = _verb(inner, "replay", policy.replay, "What would have been decided differently?")
    replay.add_argument("file", metavar="FILE", nargs="?", help="default: the configuration as it is now")
    replay.add_argument("--since", metavar="WHEN", help="a time, or 24h, 7d (default: the last 20,000)")
    _verb(inner, "reload", policy.reload, "Read the configuration's rules again.")
    _verb(inner, "rules", policy.rules, "List the rules in force, and what was remembered.")
    forget = _verb(inner, "forget", policy.forget, "Take back what was remembered.")
    forget.add_argument("rule", metavar="ID", help="as `pointsman policy rules` shows it")


def _head(text: str) -> str:
    if not re.fullmatch(r"[0-9]{1,18}:[0-9a-f]{64}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no head, such as `pointsman audit verify` prints")
    return text


def _usd(text: str) -> float | None:
    if text == "none":
        return None
    try:
        value = float(text.removeprefix("$"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a sum of dollars, nor `none`") from None
    if not math.isfinite(value) or not 0 <= value <= 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and a billion dollars")
    return value


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")
    return int(text)


def _count(text: str) -> int:
    value = _natural(text)
    if value == 0:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value
