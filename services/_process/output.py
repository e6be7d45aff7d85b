"""A descriptor that takes whole words, and never makes us wait: a log file, or the way to supervisord.

Under supervisord a service's log goes to its standard output (`ON_STDOUT` on its command line): a pipe, which
supervisord reads into the log's file. It may read late (stopped, busy) or no more (killed); that costs words,
never the time of an event loop.
"""

from __future__ import annotations

import os
import stat
import threading
from contextlib import suppress

ON_STDOUT = "--log-on-stdout"  # supervisord.conf starts each service with it


class Output:
    """Threads may share it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = b""  # of a word that was taken in part
        self._lock = threading.Lock()

    def write(self, word: bytes) -> bool:
        """Whether it was taken. What is taken in part is finished before anything else is written."""
        with self._lock:
            try:
                self._finish()
                if not self._rest:
                    self._rest = word[os.write(self._descriptor, word) :]
                    return True
            except OSError:  # no room in the pipe or on the disk, or nobody reads any more
                pass
            return False

    def close(self) -> None:
        """Afterwards nothing is taken."""
        with self._lock:
            with suppress(OSError):
                self._finish()
            with suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1

    def _finish(self) -> None:
        if self._rest:
            self._rest = self._rest[os.write(self._descriptor, self._rest) :]


def take_stdout() -> Output:
    """Standard output, from now on ours alone: what libraries and children print there goes to stderr."""
    ours = os.dup(1)
    os.dup2(2, 1)
    for descriptor in (ours, 2):
        if stat.S_ISFIFO(
            os.fstat(descriptor).st_mode
        ):  # between supervisord and us; a terminal is others', too
            os.set_blocking(descriptor, False)
    return Output(ours)
