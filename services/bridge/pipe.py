"""Writing into the agent's stdin: one line, one `write()`, with room for all of it.

Half a line in the FIFO is fatal to the agent, so a line must never be begun that may not fit. A pipe's room
is counted in pages, and a page may be half empty: so what is unread is counted twice, plus a page at either
end (fs/pipe.c: a write fills the last page only when its odd bytes fit into it, so two neighbours hold more
than one page together). Then the kernel copies the whole line in one go, and not even kill -9 stops it on the
way.

Pipes start small (64 KiB) and are made larger only for a line that needs it, and small again: a user without
privileges has 64 MiB for all pipes (fs.pipe-user-pages-soft).
"""

from __future__ import annotations

import array
import fcntl
import os
import termios
from pathlib import Path

PAGE = 4096
USUAL_BYTES = 64 * 1024
PIPE_MOST_BYTES = 1024 * 1024


class TooLongError(Exception):
    """A line for which this pipe cannot be made large enough."""


class AgentPipe:
    """The writing end of the FIFO. Raises OSError (ENXIO, EPIPE) when nobody will ever read."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._fd)

    def unread(self) -> int:
        """Bytes that the agent has not read."""
        size = array.array("i", [0])
        fcntl.ioctl(self._fd, termios.FIONREAD, size)
        return size[0]

    def write(self, line: bytes) -> bool:
        """Write the whole line, or nothing (False) when there is no room for it now.

        Raises `TooLongError` when there will never be.
        """
        unread = self.unread()
        if not self._room(len(line), unread):
            if unread == 0:
                raise TooLongError(
                    f"{len(line)} bytes do not fit into the agent's stdin; the system allows this user no "
                    "larger pipe now (fs.pipe-max-size, fs.pipe-user-pages-soft)"
                )
            return False
        try:
            done = os.write(self._fd, line)
        except BlockingIOError:
            return False
        while done < len(line):  # only when the kernel had no memory left: nothing else may come between
            try:
                done += os.write(self._fd, line[done:])
            except BlockingIOError:
                os.sched_yield()
        return True

    def shrink(self) -> None:
        """Give the room for a long line back once it was read."""
        if fcntl.fcntl(self._fd, fcntl.F_GETPIPE_SZ) > USUAL_BYTES:
            try:
                fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, USUAL_BYTES)
            except OSError:  # EBUSY: not all read yet
                return

    def _room(self, size: int, unread: int) -> bool:
        used = 0 if unread == 0 else 2 * unread + 2 * PAGE
        needed = used + -(-size // PAGE) * PAGE
        if needed <= fcntl.fcntl(self._fd, fcntl.F_GETPIPE_SZ):
            return True
        if needed > PIPE_MOST_BYTES:
            return False
        try:
            return fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, needed) >= needed
        except PermissionError:
            return False
