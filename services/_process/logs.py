"""The log: one JSON line per event in ``<home>/logs/<service>.log``, and a short one on stderr if it matters.

A line is ``{"at", "service", "level", "event", …fields}``; ``event`` is a fixed phrase, what varies stands in
fields, so that lines can be searched. Secrets are masked (`services._process.redact`). A full or broken disk
costs lines, never the process.
"""

from __future__ import annotations

import contextlib
import io
import logging
import logging.handlers
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

from services._process.redact import Redactor

MAX_BYTES = 10 * 2**20  # a file; a day of a busy service is a few MiB
FILES = 3  # the present one and two older ones
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
        """Close the file, for this log and all bound to it. Afterwards nothing may be written."""
        for sink in self._sinks:
            if isinstance(sink, _FileSink):
                sink.close()

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


def open_log(directory: Path, service: str, *, level: str = "info") -> Log:
    """The log of a service's process: a rotated file (0600) and, for warnings and errors, stderr."""
    return Log(service, (_FileSink(directory / f"{service}.log"), StderrSink()), level=level)


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


class _FileSink:
    """Appends to a file that is rotated by size; threads may share it."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._handler = _PrivateRotating(path)

    def __call__(self, line: Line) -> None:
        text = msgspec.json.encode(line).decode()
        record = logging.LogRecord("pointsman", logging.INFO, "", 0, text, None, None)
        with self._lock:
            self._handler.handle(record)

    def close(self) -> None:
        with self._lock, contextlib.suppress(OSError):  # what a full disk did not take is lost
            self._handler.close()


class _PrivateRotating(logging.handlers.RotatingFileHandler):
    """Stdlib rotation with files that only their owner may read; a failing disk is told of once. A file that
    somebody deletes or moves away is begun anew.
    """

    def __init__(self, path: Path) -> None:
        self._told = False
        super().__init__(path, maxBytes=MAX_BYTES, backupCount=FILES - 1, encoding="utf-8")

    def _open(self) -> io.TextIOWrapper:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        handle = os.open(self.baseFilename, flags, 0o600)
        self._own = os.fstat(handle)
        return open(handle, "a", encoding="utf-8")

    def shouldRollover(self, record: logging.LogRecord) -> int:  # noqa: N802  # the base class's name
        if self.stream and not self._there():
            self.stream.close()
            self.stream = self._open()
        return super().shouldRollover(record)

    def _there(self) -> bool:
        try:
            return os.path.samestat(os.stat(self.baseFilename), self._own)  # noqa: PTH116  # at each line
        except FileNotFoundError:
            return False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # the base class's name
        if not self._told:
            self._told = True
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(f"the log {self.baseFilename} cannot be written: {sys.exc_info()[1]}\n")
