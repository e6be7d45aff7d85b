"""Ending what an evicted agent left behind, and the listener between supervisord and us when it hangs."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from services._process.pids import Process, kill_exactly, kill_if, stat_fields

LISTENER = "supervision"


def kill_all(processes: Iterable[Process]) -> int:
    """End those of these that are still there. Returns how many."""
    return sum(kill_exactly(process) for process in processes)


def kill_listener(pid: int) -> str | None:
    """End the listener, so that supervisord starts it again: it is the one process that we cannot ask
    supervisord to restart, because we ask through it. Returns None when it was ended, else why it was not.
    """
    with suppress(OSError, IndexError):
        if stat_fields(os.getppid())[0] == b"T":
            return "supervisord itself is stopped (Ctrl-Z?)"

    def is_it(pid: int) -> bool:
        try:
            parent = int(stat_fields(pid)[1])
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, IndexError, ValueError):
            return False
        return parent == os.getppid() and f"services.{LISTENER}".encode() in words

    return None if kill_if(pid, is_it) else f"process {pid} is not our supervisord's {LISTENER}"
