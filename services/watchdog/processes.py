"""Ending what an evicted agent left behind, and ourselves when we hang."""

from __future__ import annotations

import signal
from collections.abc import Iterable

from services._process.pids import Process, kill_exactly
from services._process.siblings import supervised


def alive_for(seconds: float) -> None:
    """Be ended by the kernel (SIGALRM) unless this is called again in time; only where that is a restart.

    The signal's default action needs none of our code, so it works whatever the interpreter is stuck in.
    """
    if supervised():
        signal.setitimer(signal.ITIMER_REAL, seconds)


def kill_all(processes: Iterable[Process]) -> int:
    """End those of these that are still there. Returns how many."""
    return sum(kill_exactly(process) for process in processes)
