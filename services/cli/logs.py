"""The verb `logs`: the end of the services' logs, and what comes. It reads the files, so it needs no bus.

The files are rotated (``x.log`` becomes ``x.log.1``), may be deleted, moved or cut while they are read, and
may hold anything: lines that are no JSON, and control characters.
"""

from __future__ import annotations

import contextlib
import io
import os
from argparse import Namespace
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import trio
from rich.text import Text

from bus.errors import RefusedError
from services.cli.line import World
from services.cli.out import say, say_json
from services.cli.text import clean, one_line

LOOK_S = 0.2

Entry = dict[str, Any]


async def logs(world: World, args: Namespace) -> int:
    """Of one service, of all of them in the order of time, or of all that they say about one session."""
    folder = world.config.node.home / "logs"
    there = sorted(path.stem for path in folder.glob("*.log"))
    session = None if args.name is None or args.name in there else args.name
    names = there if args.name is None or session else [args.name]
    files = [LogFile(folder / f"{name}.log") for name in names]
    try:
        found = [entry for file in files for entry in _last(file, args.lines, session)]
        if (session and not found) or not files:
            what = f"no service and no session {session!r} in the logs" if session else "no logs"
            raise RefusedError("bad_request", f"{what} in {folder} (there: {', '.join(there) or 'none yet'})")
        found = sorted(found, key=lambda entry: str(entry.get("at")))[-args.lines :]
        if world.json and not args.follow:
            say_json(found)
            return 0
        for entry in found:
            _show(world, entry)
        while args.follow:  # until Ctrl-C
            await trio.sleep(LOOK_S)
            for file in files:
                for entry in _entries(file.new_lines(), session):
                    _show(world, entry)
    finally:
        for file in files:
            file.close()
    return 0


class LogFile:
    """A log that is read from its beginning, and goes on being read whatever becomes of the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: io.BufferedReader | None = None
        self._half = b""  # of a line that is being written

    def new_lines(self) -> Iterator[str]:
        """What was written since the last call."""
        yield from self._read()
        if self._replaced():
            yield from self._read()  # what was written until then
            self.close()
            with contextlib.suppress(FileNotFoundError):
                self._handle = self.path.open("rb")
            yield from self._read()

    def older_lines(self) -> Iterator[str]:
        """Of the file that was rotated away last."""
        with contextlib.suppress(FileNotFoundError), Path(f"{self.path}.1").open("rb") as file:
            yield from (line.decode(errors="replace").rstrip("\n") for line in file)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle, self._half = None, b""

    def _read(self) -> Iterator[str]:
        if self._handle is None:
            return
        for line in self._handle:
            self._half += line
            if line.endswith(b"\n"):
                yield self._half[:-1].decode(errors="replace")
                self._half = b""

    def _replaced(self) -> bool:
        """Is there another file at the place, or the same one cut? A deleted one is read on."""
        try:
            now = self.path.stat()
        except FileNotFoundError:
            return False
        if self._handle is None:
            return True
        own = os.fstat(self._handle.fileno())
        return (own.st_dev, own.st_ino) != (now.st_dev, now.st_ino) or now.st_size < self._handle.tell()


def _last(file: LogFile, count: int, session: str | None) -> list[Entry]:
    last = deque(_entries(file.new_lines(), session), maxlen=count)
    if len(last) < count:
        last.extendleft(reversed(deque(_entries(file.older_lines(), session), maxlen=count - len(last))))
    for before, entry in pairwise(last):
        entry.setdefault("at", before.get("at", ""))  # a stray line belongs to the one before it
    return list(last)


def _entries(lines: Iterable[str], session: str | None) -> Iterator[Entry]:
    for line in lines:
        if session is None or session in line:
            entry = _entry(line)
            if session is None or entry.get("session") == session:
                yield entry


def _entry(line: str) -> Entry:
    try:
        found = msgspec.json.decode(line.encode("utf-8", "replace"))
    except msgspec.DecodeError:
        found = None
    return found if isinstance(found, dict) else {"event": line}


def _show(world: World, entry: Entry) -> None:
    if world.json:
        say_json(entry, indent=None)
        return
    level = str(entry.get("level", ""))
    style = {"warning": "yellow", "error": "bold red", "debug": "dim"}.get(level, "")
    text = Text(f"{one_line(str(entry.get('at', '')))[:19].replace('T', ' ')} ", style="dim")
    text.append(f"{one_line(str(entry.get('service', ''))):10} ")
    text.append(one_line(str(entry.get("event", ""))), style=style)
    shown = {"at", "service", "level", "event", "traceback"}
    more = {key: value for key, value in entry.items() if key not in shown}
    text.append(
        "".join(f" {one_line(key)}={one_line(str(value), 300)}" for key, value in more.items()), style="dim"
    )
    if "traceback" in entry:
        text.append("\n" + clean(str(entry["traceback"])), style="dim")
    say(text)
