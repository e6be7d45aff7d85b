"""Reading files of lines that others write: on from where one was, whole lines only, whatever is in them."""

from __future__ import annotations

import os  # noqa: TID251  # this is the world's part
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import NamedTuple

MAX_LINE = 64 * 1024 * 1024  # a line with a few pictures has 20 MB; a larger one is counted and left out
CHUNK = 1024 * 1024


class Line(NamedTuple):
    """``data`` None: a gigantic line, left out. ``end``: where the next one begins. ``whole``: it ends with a
    line feed; only the last one of a file may not.
    """

    data: bytes | None
    end: int
    whole: bool


def lines(path: Path, start: int = 0, *, max_line: int | None = None) -> Iterator[Line]:
    """From ``start`` to the present end, in constant memory. Raises `OSError`."""
    max_line = MAX_LINE if max_line is None else max_line
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        position, kept, large = start, b"", False
        while chunk := file.read(CHUNK):
            first, *others = chunk.split(b"\n")
            if not others:  # no line ends in it
                position += len(chunk)
                kept, large = (
                    (b"", True) if large or len(kept) + len(chunk) > max_line else (kept + chunk, False)
                )
                continue
            position += len(first) + 1
            data = None if large or len(kept) + len(first) > max_line else kept + first
            yield Line(data, position, True)
            for part in others[:-1]:
                position += len(part) + 1
                yield Line(part, position, True)
            kept, large = others[-1], False
            position += len(kept)
        if kept or large:
            yield Line(None if large else kept, position, False)


class Place(NamedTuple):
    """How far a file was read. Another ``inode``, or a shorter file: it is read from its beginning."""

    inode: int
    read_to: int


def start_of(path: Path, known: Place | None) -> tuple[int, Place] | None:
    """Where to go on, and where that will lead; None when there is nothing new, or no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    start = known.read_to if known and known.inode == found.st_ino and known.read_to <= found.st_size else 0
    return None if start == found.st_size else (start, Place(found.st_ino, found.st_size))


# ── where Claude Code keeps its transcripts ──────────────────────────────────────────────────────────────


def projects(environ: Mapping[str, str], home: Path) -> Path:
    own = environ.get("CLAUDE_CONFIG_DIR")
    return (Path(own) if own else home / ".claude") / "projects"


def stated(root: Path, path: str, conversation: str) -> Path | None:
    """The transcript that an agent says is its own; None where it is none of this conversation under
    ``root``. Anybody with the token of hooks can state one: what counts is the folder's name alone.
    """
    folder = PurePath(path).parent.name
    own = root / folder / f"{conversation}.jsonl"
    fits = folder not in ("", "..") and "\0" not in path and os.path.realpath(path) == os.path.realpath(own)
    return own if fits else None


def transcript_files(root: Path, cwd: str, conversation: str, path: str | None = None) -> list[Path]:
    """The files of a conversation that exist: its own, and its subagents'. ``path`` where it is stated."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", conversation):
        return []
    main = stated(root, path, conversation) if path else None
    main = main or root / re.sub(r"[^A-Za-z0-9]", "-", cwd) / f"{conversation}.jsonl"
    if not main.exists():  # a link in the directory's path, or a name that was too long
        main = next(iter(root.glob(f"*/{conversation}.jsonl")), main)
    below = main.with_suffix("") / "subagents"
    beside = main.parent.glob("agent-*.jsonl")  # before 2.1.118 or so; told apart by the lines themselves
    found = [main, *sorted(below.glob("agent-*.jsonl")), *sorted(beside)]
    return [file for file in found if file.is_file()]


def below(paths: list[str]) -> Iterator[Path]:
    """All transcripts in and under these paths, each once, in order."""
    seen: set[str] = set()
    for given in paths:
        top = Path(given)
        found = [top] if top.is_file() else sorted(_walk(top))
        for path in found:
            real = os.path.realpath(path)
            if real not in seen:
                seen.add(real)
                yield path


def _walk(top: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(top, onerror=None, followlinks=False):
        yield from (Path(folder) / name for name in names if name.endswith(".jsonl"))
