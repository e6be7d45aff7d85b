"""Waiting for files to grow: inotify where there is one, else looking more and more seldom.

inotify costs nothing while nothing happens and wakes within a fraction of a millisecond. Users may have few
of its instances (fs.inotify.max_user_instances, often 128): the bridges beyond that look every 2 ms while the
file grows, up to every 50 ms when it does not.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import trio

POLL_FIRST_S = 0.002
POLL_LAST_S = 0.05

_IN_MODIFY = 0x2  # linux/inotify.h
_libc = ctypes.CDLL(None, use_errno=True)


class Watch:
    """Wakes its one waiter after any of the files was written to; sometimes also without a reason."""

    def __init__(self, files: Sequence[Path], *, poll: bool = False) -> None:
        self._files = files
        self._sizes: list[int] = []
        self._pause_s = POLL_FIRST_S
        self._fd = -1 if poll else self._open()

    @property
    def polls(self) -> bool:
        return self._fd < 0

    def _open(self) -> int:
        fd: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        for file in self._files if fd >= 0 else ():
            if _libc.inotify_add_watch(fd, os.fsencode(file), _IN_MODIFY) < 0:
                os.close(fd)
                return -1
        return fd

    async def changed(self) -> None:
        """Return once a file was written to since the last return (or the start)."""
        if not self.polls:
            await trio.lowlevel.wait_readable(self._fd)
            try:
                os.read(self._fd, 65536)  # which file does not matter
            except BlockingIOError:
                return
            return
        while True:
            sizes = [file.stat().st_size if file.exists() else 0 for file in self._files]
            if sizes != self._sizes:
                self._sizes = sizes
                self._pause_s = POLL_FIRST_S
                await trio.lowlevel.checkpoint()
                return
            await trio.sleep(self._pause_s)
            self._pause_s = min(POLL_LAST_S, self._pause_s * math.sqrt(2))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.polls:
            os.close(self._fd)
