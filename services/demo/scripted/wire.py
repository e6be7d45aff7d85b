"""What every frame and every kept line is made of: compact JSON, random ids, the time."""

from __future__ import annotations

import json
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any

    Frame = dict[str, Any]
    """One JSON object, as it goes over the wire or into the transcript."""

    Wait = tuple[Any, ...]
    Steps = Generator[Wait, Any, Any]
    """A part of a turn: it yields what it waits for (see the package)."""

VERSION = os.environ.get("POINTSMAN_SCRIPTED_VERSION") or "2.1.329"


def compact(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogateescape")


def append_line(path: str, line: Frame) -> None:
    """Append one JSON line in one write, making the file and its folder when they are not there."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o600)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        fd = os.open(path, flags, 0o600)
    try:
        os.write(fd, compact(line) + b"\n")
    finally:
        os.close(fd)


def new_id() -> str:
    """A random UUID (version 4), without the module `uuid`."""
    text = os.urandom(16).hex()
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{'89ab'[int(text[16], 16) & 3]}{text[17:20]}-{text[20:]}"


def now() -> str:
    seconds = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds * 1000) % 1000:03d}Z"
