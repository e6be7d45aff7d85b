"""Ending a hung service, so that supervisord starts it again.

A hung service is ended with SIGKILL and brought back by supervisord. Its XML-RPC interface would be the
other way; it needs a socket whose place two stacks of one supervisord.conf could not share. This way
supervisord sees what it always sees when a service dies, and does what it always does: a process that is our
own sibling, so a child of our supervisord that it has not reaped, ends by a signal, which is "unexpected", so
it is started again at once. A hung process would not heed the SIGTERM that supervisord sends first.

The watchdog does it for all services; for the watchdog itself another one does (`Lookout`), because a process
that was stopped (SIGSTOP) can do nothing for itself.
"""

from __future__ import annotations

import os
from pathlib import Path

from services._process.home import Home
from services._process.pids import kill_if, stat_fields

GIVEN_UP_S = 10.0  # a service that lives comes back to the broker within seconds


def supervised() -> bool:
    """Whether somebody would start a service again."""
    return "SUPERVISOR_ENABLED" in os.environ


def kill_service(name: str, pid: int) -> str | None:
    """End a hung service. Returns None when it was, else why it was not."""
    if not supervised():
        return "nobody would start it again: it does not run under supervisord"
    why = f"there is no process {pid}"

    def is_it(pid: int) -> bool:
        nonlocal why
        try:
            parent = int(stat_fields(pid)[1])
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, IndexError, ValueError):
            return False
        if parent != os.getppid():
            why = f"process {pid} is no child of our supervisord"
        elif f"services.{name}".encode() not in words:
            why = f"process {pid} is not {name}"
        else:
            return True
        return False

    return None if kill_if(pid, is_it) else why


class Lookout:
    """Watches one service by what ``services/<s>/status`` says: the broker says "offline" for one that does
    not answer it any more. If it stays so while the process that holds its lock is there, that process hangs.
    """

    def __init__(self, home: Home, service: str) -> None:
        self._lock = home.run / f"{service}.lock"
        self._service = service
        self._since: float | None = None  # monotonic: since when it is offline

    def says(self, word: bytes, now: float) -> None:
        if word == b"online":
            self._since = None
        elif self._since is None:
            self._since = now

    def check(self, now: float) -> int | None:
        """End it if it is time. Returns the pid of the process that was ended."""
        if self._since is None or now - self._since < GIVEN_UP_S:
            return None
        self._since = now
        try:
            pid = int(self._lock.read_bytes())
        except (OSError, ValueError):
            return None
        return pid if kill_service(self._service, pid) is None else None
