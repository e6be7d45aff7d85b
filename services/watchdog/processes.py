"""Ending processes, and only the right ones.

A hung service is ended with SIGKILL and brought back by supervisord. Its XML-RPC interface would be the
other way; it needs a socket whose place two stacks of one supervisord.conf could not share. This way
supervisord sees what it always sees when a service dies, and does what it always does: a process that is our
own sibling, so a child of our supervisord that it has not reaped, ends by a signal, which is "unexpected", so
it is started again at once. A hung process would not heed the SIGTERM that supervisord sends first.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from pathlib import Path

from services._process.pids import Process, kill_exactly, kill_if, stat_fields


def supervised() -> bool:
    """Whether somebody would start a service again."""
    return "SUPERVISOR_ENABLED" in os.environ


def alive_for(seconds: float) -> None:
    """Be ended by the kernel (SIGALRM) unless this is called again in time; only where that is a restart.

    The signal's default action needs none of our code, so it works whatever the interpreter is stuck in.
    """
    if supervised():
        signal.setitimer(signal.ITIMER_REAL, seconds)


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


def kill_all(processes: Iterable[Process]) -> int:
    """End those of these that are still there. Returns how many."""
    return sum(kill_exactly(process) for process in processes)
