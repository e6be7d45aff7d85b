"""Lock files (flock): they end with the process that holds them, however that ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from services._process.errors import LockHeldError
from services._process.home import Home

PATIENCE_S = 5.0  # a predecessor that was told to stop needs up to 2 s
POLL_S = 0.05


@contextlib.contextmanager
def hold_lock(home: Home, service: str, *, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Hold ``run/<service>.lock``: one process per service and home.

    Raises `LockHeldError`, which names the process that holds it.
    """
    path = home.run / f"{service}.lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    pid = os.pread(handle, 32, 0).decode("ascii", "replace").strip()
                    raise LockHeldError(
                        f"{service} already runs for {home.path} (pid {pid or 'unknown'}): end that first, "
                        "or set POINTSMAN_HOME for a second stack",
                        int(pid) if pid.isdecimal() else None,
                    ) from None
                time.sleep(POLL_S)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock file; one that is not there is held by nobody. Raises OSError."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
