"""Where the command speaks: standard output for what was asked for, standard error for what went wrong."""

from __future__ import annotations

import os
import sys
from typing import Any

import msgspec
from rich.console import Console, RenderableType
from rich.table import Table

from services.cli.text import to_json

PIPE_WIDTH = 200  # into a file or pipe, where neither a terminal nor COLUMNS says how wide it is


def _console(stream: Any) -> Console:
    width = None if stream.isatty() or os.environ.get("COLUMNS") else PIPE_WIDTH
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False, soft_wrap=False)


def say(what: RenderableType) -> None:
    """Show text (which must be clean) or a table."""
    console = _console(sys.stdout)
    if isinstance(what, Table):  # no wider than it needs to be (see `view.table`)
        what.expand = what.expand and console.measure(what).maximum >= console.width
    with console.capture() as capture:
        console.print(what, soft_wrap=not isinstance(what, Table))
    sys.stdout.write("".join(f"{line.rstrip(' ')}\n" for line in capture.get().splitlines()))
    sys.stdout.flush()


def say_json(document: Any, *, indent: int | None = 2) -> None:
    sys.stdout.write(to_json(msgspec.to_builtins(document), indent=indent) + "\n")
    sys.stdout.flush()


def complain(text: str) -> None:
    _console(sys.stderr).print(text, soft_wrap=True, style="red" if sys.stderr.isatty() else "")
