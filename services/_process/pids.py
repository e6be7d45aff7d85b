"""Processes by number and start time, and signals that cannot hit another one (proc(5), pidfd_open(2)).

A number may be given to another process as soon as its own has been reaped. So a process is opened first
(from then on the handle means this process or none), then looked at, then signalled through the handle.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

Process = tuple[int, int]
"""(pid, start time in clock ticks since boot): never given to another process."""

PROC = Path("/proc")


def stat_fields(pid: int, proc: Path = PROC) -> list[bytes]:
    """What stands in ``stat`` after the name: state, parent, … ; [19] is the start time. Raises OSError."""
    return (proc / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()


def started(pid: int, proc: Path = PROC) -> int | None:
    """When it started, in clock ticks; None for one that is gone, or a zombie."""
    with suppress(OSError, IndexError, ValueError):
        fields = stat_fields(pid, proc)
        return None if fields[0] in (b"Z", b"X") else int(fields[19])
    return None


def kill_if(pid: int, is_it: Callable[[int], bool]) -> bool:
    """SIGKILL for this process if ``is_it`` says so of the process that the signal would reach."""
    try:
        handle = os.pidfd_open(pid)
    except (OSError, ValueError, AttributeError):  # AttributeError: a system without it
        return False
    try:
        if not is_it(pid):
            return False
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def kill_exactly(process: Process) -> bool:
    """SIGKILL for this very process. Returns whether it was there."""
    return kill_if(process[0], lambda pid: started(pid) == process[1])
