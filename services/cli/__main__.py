# PYTHON_ARGCOMPLETE_OK
"""`pointsman`, or `python -m services.cli`: from the command line to the exit code."""

from __future__ import annotations

import argparse
import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime

import argcomplete
import trio

from bus.address import RefusedByBrokerError
from bus.errors import BusDownError, RefusedError
from services._process.config import TO_THE_BUS, load_config
from services._process.errors import ConfigError, WorldError
from services._process.home import Home
from services.cli import parser
from services.cli.line import Connect, UsageError, World, connect_user, wall_clock
from services.cli.out import complain, say_json
from services.cli.text import clean

DONE, REFUSED, USAGE, NO_BUS = 0, 1, 2, 3
INTERRUPTED = 130  # as shells have it
KNOWN = (RefusedError, BusDownError, UsageError, ConfigError, WorldError)
UNWRITABLE = (errno.EPIPE, errno.ENOSPC)  # what becomes of the output


def main() -> int:
    """The console script. Returns the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that has not all our signs shows their numbers
        sys.stdout.reconfigure(errors="backslashreplace")
    made = parser.build()
    argcomplete.autocomplete(made)  # type: ignore[no-untyped-call,unused-ignore]  # typed or not by version
    # A script's background job ignores SIGINT: so shall we, once trio has put its handler there.
    sigint_ignored = signal.signal(signal.SIGINT, signal.default_int_handler) == signal.SIG_IGN
    try:
        return trio.run(_main, made, sigint_ignored)
    except KeyboardInterrupt:
        return DONE if {"watch", "logs"} & set(sys.argv[1:2]) else INTERRUPTED
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is tried again at the exit
        if error.errno == errno.EPIPE:
            return DONE  # whoever read us has seen enough
        complain(f"pointsman: the output cannot be written: {error.strerror}")
        return REFUSED


async def _main(made: argparse.ArgumentParser, sigint_ignored: bool) -> int:
    """`run`, which SIGTERM ends in order, by trio's own handler of Ctrl-C.

    An exception raised anywhere, as Python's own handler does it, would hit trio itself.
    """
    interrupt = signal.getsignal(signal.SIGINT)
    if callable(interrupt):
        signal.signal(signal.SIGTERM, lambda _number, frame: interrupt(signal.SIGINT, frame))
    if sigint_ignored:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    code = await run(sys.argv[1:], os.environ, connect_user, made)
    sys.stdout.flush()  # here, and not at the interpreter's end, where nobody would tell what went wrong
    return code


async def run(
    argv: Sequence[str],
    environ: Mapping[str, str],
    connect: Connect,
    made: argparse.ArgumentParser | None = None,
    now: Callable[[], datetime] = wall_clock,
) -> int:
    """One command; returns the exit code. argparse raises SystemExit(0) for --help and --version."""
    try:
        args = parser.parse(made or parser.build(), list(argv))
    except UsageError as error:
        return _tell(error, as_json="--json" in argv)
    if args.verb is None:
        sys.stdout.write(parser.OVERVIEW)
        return DONE
    try:
        config = load_config(environ, needed=TO_THE_BUS)
        if config.mistakes:
            mistakes = clean("\n".join(config.mistakes))
            complain(f"pointsman: no service would start with this configuration:\n{mistakes}")
        world = World(config, Home(config.node.home), dict(environ), connect, json=args.json, now=now)
        code: int = await args.run(world, args)
    except BaseException as error:  # told if it is known, raised if not
        known = _known(error)
        if known is None:
            raise
        if isinstance(known, OSError):
            raise known from None  # `main` deals with it
        return _tell(known, as_json=args.json)
    return code


def _known(error: BaseException) -> Exception | None:
    """The one error that a person can do something about, out of whatever nurseries made of it."""
    leaves = list(_leaves(error))
    return (
        leaves[0] if leaves and all(isinstance(leaf, KNOWN) or _of_output(leaf) for leaf in leaves) else None
    )


def _of_output(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in UNWRITABLE


def _leaves(error: BaseException) -> Iterator[Exception]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    elif isinstance(error, Exception):
        yield error
    elif not isinstance(error, trio.Cancelled):
        raise error


def _tell(error: Exception, *, as_json: bool) -> int:
    code, exit_code, details = "bad_request", USAGE, None
    text = str(error)
    if isinstance(error, RefusedError):
        code, exit_code, details = error.code, REFUSED, error.details
    elif isinstance(error, BusDownError):
        code, exit_code = "unavailable", NO_BUS
        text = f"the bus cannot be reached: {text}"
        if "make run" not in text and not isinstance(error, RefusedByBrokerError):
            text += "\nStart Pointsman with `make run`; `pointsman doctor` tells what is missing."
    elif isinstance(error, WorldError):
        code, exit_code = "unavailable", NO_BUS
    if as_json:
        body = {"code": code, "message": text, **({"details": details} if details is not None else {})}
        say_json({"ok": False, "error": body})
    shown = f" [{code}]" if isinstance(error, RefusedError) else ""
    complain(f"pointsman: {clean(text)}{shown}")
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
