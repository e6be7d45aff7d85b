"""The log: one JSON line per event, and a short one on stderr if it matters.

A line is ``{"at", "service", "level", "event", …fields}``; ``event`` is a fixed phrase, what varies stands in
fields, so that lines can be searched. Secrets are masked (`services._process.redact`). Under supervisord the
lines go to it, and it keeps and rotates the files; started by hand, a service appends to
``<home>/logs/<service>.log`` itself. A full disk or a pipe that nobody reads costs lines, which are counted,
never the process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import msgspec

from services._process.output import Output
from services._process.redact import Redactor

LINE_BYTES = (
    32 << 10
)  # half of what a pipe holds; of a longer one, each field keeps its beginning and its end
FIELD_HEAD, FIELD_TAIL = 500, 1500  # characters
SELDOM_S = 60.0
SHORT_FIELD = 200  # characters of one field on stderr
LEVELS = ("debug", "info", "warning", "error")

Line = dict[str, object]
Sink = Callable[[Line], None]


class Log:
    """Write events. `bind` returns a log whose events all carry more fields."""

    def __init__(
        self,
        service: str,
        sinks: tuple[Sink, ...],
        *,
        redactor: Redactor | None = None,
        fields: Mapping[str, object] | None = None,
        level: str = "info",
    ) -> None:
        self.service = service
        self.redactor = Redactor() if redactor is None else redactor
        self._sinks = sinks
        self._fields = dict(fields or {})
        self._level = level

    def bind(self, **fields: object) -> Log:
        """The same log with these fields on every event."""
        return Log(
            self.service,
            self._sinks,
            redactor=self.redactor,
            fields={**self._fields, **fields},
            level=self._level,
        )

    def secret(self, *values: str) -> None:
        """Never write these values, in this log or any bound to it."""
        self.redactor.register(*values)

    def debug(self, event: str, /, **fields: object) -> None:
        """For who looks for a fault; not written unless asked for."""
        self._write("debug", event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        """Something worth knowing later."""
        self._write("info", event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        """Someone should look at this; also on stderr."""
        self._write("warning", event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        """Something was lost or does not work; also on stderr."""
        self._write("error", event, fields)

    def exception(self, event: str, /, **fields: object) -> None:
        """`error` with the traceback of the exception that is being handled; stderr gets its name alone."""
        trace = traceback.format_exc()
        self._write("error", event, {**fields, "error": repr(sys.exc_info()[1]), "traceback": trace})

    def close(self) -> None:
        """Close the file, for this log and all bound to it. Afterwards nothing is written."""
        for sink in self._sinks:
            if isinstance(sink, LineSink):
                sink.output.close()

    def _write(self, level: str, event: str, fields: Mapping[str, object]) -> None:
        if LEVELS.index(level) < LEVELS.index(self._level):
            return
        line: Line = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "service": self.service,
            "level": level,
            "event": self.redactor.text(event),
        }
        cleaned = self.redactor.fields({**self._fields, **fields})
        line.update((key if key not in line else f"{key}_", value) for key, value in cleaned.items())
        for sink in self._sinks:
            sink(line)


def open_log(directory: Path, service: str) -> Log:
    """The log of a service that was started by hand: appended to a file (0600)."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    return log_to(Output(os.open(directory / f"{service}.log", flags, 0o600)), service)


def log_to(output: Output, service: str) -> Log:
    """The log of a service's process: all lines there and, for warnings and errors, stderr."""
    return Log(service, (LineSink(output), StderrSink()))


def silent_log(service: str = "test") -> Log:
    """A log that goes nowhere."""
    return Log(service, ())


def captured_log(service: str = "test") -> tuple[Log, list[Line]]:
    """A log that a test can read."""
    lines: list[Line] = []
    return Log(service, (lines.append,), level="debug"), lines


def tell_seldom(name: str) -> None:
    """Let a library's logger speak once in `SELDOM_S`; it would fill the terminal with the same again."""
    logger, last = logging.getLogger(name), float("-inf")

    def seldom(_: logging.LogRecord) -> bool:
        nonlocal last
        now = time.monotonic()
        if now - last < SELDOM_S:
            return False
        last = now
        return True

    logger.addFilter(seldom)


class StderrSink:
    """Warnings and errors for the person at the terminal: one line each."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    def __call__(self, line: Line) -> None:
        if line["level"] not in {"warning", "error"}:
            return
        skipped = {"at", "service", "level", "event", "traceback"}
        more = " ".join(f"{key}={_short(value)}" for key, value in line.items() if key not in skipped)
        text = f"{line['service']}: {line['level']}: {line['event']}{' (' + more + ')' if more else ''}\n"
        with contextlib.suppress(OSError, ValueError):  # a terminal that is gone must not end the service
            stream = self._stream or sys.stderr
            stream.write(text)
            stream.flush()


def _short(value: object) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    text = " ".join(text.split())
    return text if len(text) <= SHORT_FIELD else text[: SHORT_FIELD - 1] + "…"


class LineSink:
    """JSON lines. What could not be written is told, by number, once something can be."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self._lost = 0
        self._lock = threading.Lock()

    def __call__(self, line: Line) -> None:
        with self._lock:
            if self._lost:
                about = {key: line.get(key) for key in ("at", "service")}
                lost = {
                    **about,
                    "level": "warning",
                    "event": "lines of this log were lost",
                    "lines": self._lost,
                }
                if self.output.write(_encoded(lost)):
                    self._lost = 0
            if not self.output.write(_encoded(line)):
                self._lost += 1


def _encoded(line: Line) -> bytes:
    """One line. It never holds the marks between which a service speaks to supervisord (``<!--XSUPERV…``)."""
    text = msgspec.json.encode(line)
    if len(text) > LINE_BYTES:
        text = msgspec.json.encode({key: _cut(value) for key, value in line.items()} | {"bytes": len(text)})
    return text.replace(b"<!--", b"\\u003c!--") + b"\n"


def _cut(value: object) -> object:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return value if len(text) <= FIELD_HEAD + FIELD_TAIL else f"{text[:FIELD_HEAD]} … {text[-FIELD_TAIL:]}"
