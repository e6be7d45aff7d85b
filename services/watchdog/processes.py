"""Ending processes, and only the right ones.

A number may be given to another process as soon as its own has been reaped. So a process is opened first
(pidfd_open(2): from then on the handle means this process or none), then looked at, then signalled through
the handle: what was looked at is what gets the signal.

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
from contextlib import suppress
from pathlib import Path

from services.watchdog.memory import Process


def supervised() -> bool:
    """Whether somebody would start a service again."""
    return "SUPERVISOR_ENABLED" in os.environ


def kill_service(name: str, pid: int, proc: Path = Path("/proc")) -> str | None:
    """End a hung service. Returns None when it was, else why it was not."""
    if not supervised():
        return "nobody would start it again: it does not run under supervisord"
    fd = _open(pid)
    if fd is None:
        return f"there is no process {pid}"
    try:
        fields = (proc / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
        words = (proc / str(pid) / "cmdline").read_bytes().split(b"\0")
        if int(fields[1]) != os.getppid():
            return f"process {pid} is no child of our supervisord"
        if f"services.{name}".encode() not in words:
            return f"process {pid} is not {name}"
        signal.pidfd_send_signal(fd, signal.SIGKILL)
    except (OSError, IndexError, ValueError) as error:
        return f"process {pid}: {error}"
    finally:
        os.close(fd)
    return None


def kill_all(processes: Iterable[Process], proc: Path = Path("/proc")) -> int:
    """End those of these that are still there. Returns how many."""
    ended = 0
    for pid, start in processes:
        fd = _open(pid)
        if fd is None:
            continue
        with suppress(OSError, IndexError, ValueError):
            fields = (proc / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
            if int(fields[19]) == start and fields[0] not in (b"Z", b"X"):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
                ended += 1
        os.close(fd)
    return ended


def _open(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (OSError, ValueError, AttributeError):  # AttributeError: a system without it
        return None
