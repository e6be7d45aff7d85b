"""Inside supervisord: where the logs of the services lie, and what becomes of them when a disk is full.

supervisord itself writes and rotates them (``stdout_logfile``, ``…_maxbytes``, ``…_backups``). Its own class
for that is extended by what it lacks, and put where supervisord looks for it, as there is no setting:

* A name such as ``ingest.log`` is one in the home's ``logs``: stacks of one supervisord.conf do not mix.
* Files are their owner's alone (0600), as every file of the home. (supervisord's umask would be the agents'.)
* They are rotated between two lines; a line that was cut short, by SIGKILL or a full disk, is ended; a file
  that was moved away or deleted is begun anew, without SIGUSR2 as well.
* What cannot be written is told once a minute, counted and lost. supervisord would print a traceback for
  each line, would close a log for good that it cannot rotate, and would end if its own output lay on the full
  disk, too.
"""

from __future__ import annotations

import functools
import os
import stat
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from supervisor import loggers

from services._process.errors import HomeError
from services._process.home import Home

SELDOM_S = 60.0


def install(home: Home) -> Losses:
    """For every log that is opened from now on."""
    losses = Losses()
    loggers.RotatingFileHandler = functools.partial(HomeLog, home, losses)
    loggers.Handler.handleError = lambda _handler: losses.tell("the terminal")
    return losses


class Losses:
    """What could not be written. ``lines``: of the services' logs; at most so many, because what waits in
    memory (8 KiB) is written when there is room again.
    """

    def __init__(self) -> None:
        self.lines = 0
        self._told = float("-inf")

    def tell(self, place: str) -> None:
        """Call it within ``except``."""
        now = time.monotonic()
        if now - self._told >= SELDOM_S:
            self._told = now
            with suppress(OSError, ValueError):  # nor can this be written
                error = sys.exc_info()[1]
                sys.stderr.write(f"supervisord: {place} cannot be written: {error}; lines are lost\n")


class HomeLog(loggers.RotatingFileHandler):  # type: ignore[misc]  # supervisor has no types
    """A rotated file in the home's logs. Nothing raises; what fails is tried again with the next line."""

    def __init__(
        self, home: Home, losses: Losses, filename: str, _mode: str, max_bytes: int, backups: int
    ) -> None:
        loggers.Handler.__init__(self)
        self._home = home
        self._losses = losses
        self._at_stake = 0  # lines that are lost if what is being done fails
        self.baseFilename = str(home.path / "logs" / filename)
        self.mode, self.maxBytes, self.backupCount = "ab", max_bytes, backups
        self._whole = True
        self.reopen()

    def close(self) -> None:
        if self.stream is not None:
            with suppress(OSError):  # a full disk takes the last lines no more
                self.stream.close()
        self.closed = True

    def reopen(self) -> None:
        """Also on SIGUSR2."""
        self.close()
        try:
            _ = self._home.logs  # made, if it is not there
            self.stream = open(self.baseFilename, self.mode, opener=_private)  # noqa: SIM115  # kept
        except (OSError, HomeError):
            self.handleError()
        else:
            self.closed = False

    def emit(self, record: Any) -> None:
        self._at_stake = record.msg.count(b"\n")
        if self.closed or self._moved():
            self.reopen()
        if not self.closed:
            self._whole = record.msg.endswith(b"\n")
            try:
                super().emit(record)  # and rotates
            except OSError:
                self.handleError()
                self.reopen()
        self._at_stake = 0

    def handleError(self) -> None:  # noqa: N802  # supervisor's name
        self._losses.lines += self._at_stake
        self._losses.tell(self.baseFilename)

    def _moved(self) -> bool:
        """Has somebody moved the file away, or deleted it?"""
        try:
            return not os.path.samestat(Path(self.baseFilename).stat(), os.fstat(self.stream.fileno()))
        except OSError:
            return True

    def doRollover(self) -> None:  # noqa: N802  # supervisor's name
        self._at_stake = 0  # it is written, or was counted
        before = self.stream
        if self._whole:
            super().doRollover()
        if self.stream is not before:
            self.reopen()  # ours to append to, and nobody else's to read


def _private(path: str, flags: int) -> int:
    """An opener: the file is its owner's alone, and begins with a new line."""
    descriptor = os.open(path, flags & ~os.O_WRONLY | os.O_RDWR, 0o600)
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode):
        os.fchmod(descriptor, 0o600)  # rotation makes it as the umask says
    if found.st_size and os.pread(descriptor, 1, found.st_size - 1) != b"\n":
        with suppress(OSError):
            os.write(descriptor, b"\n")
    return descriptor
