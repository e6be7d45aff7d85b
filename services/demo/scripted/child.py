"""A command of the tool Bash: a process group of its own, whose output is read while it runs."""

from __future__ import annotations

import errno
import os
import signal


class Child:
    """`fd` is the reading end of its output; `None` when the output has ended."""

    def __init__(self, command: str) -> None:
        self.output: list[bytes] = []
        fd, write = os.pipe()
        self.fd: int | None = fd
        os.set_blocking(fd, False)
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, write, 1),
            (os.POSIX_SPAWN_DUP2, write, 2),
        ]
        shell = "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh"
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE)
        self.pid = os.posix_spawn(
            shell, [shell, "-c", command], os.environ, file_actions=actions, setpgroup=0, setsigdef=signals
        )
        os.close(write)

    def read(self) -> bool:
        """Take some of the output; false when there is none now."""
        if self.fd is None:
            return False
        try:
            data = os.read(self.fd, 65_536)
        except BlockingIOError:
            return False
        if not data:
            self._close()
            return False
        self.output.append(data)
        return True

    def ended(self) -> tuple[int, bytes] | None:
        """Exit code and output, once it has ended; then it is done with."""
        try:
            found, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            found, status = self.pid, 0
        if not found:
            return None
        while self.read():
            pass
        self._close()
        return os.waitstatus_to_exitcode(status), b"".join(self.output)

    def kill(self) -> None:
        """Kill the command and what it has started."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except OSError as error:
            if error.errno not in (errno.ESRCH, errno.EPERM):
                raise

    def abandon(self) -> None:
        """Kill it, wait for its end, and forget its output."""
        self.kill()
        os.waitpid(self.pid, 0)
        self._close()

    def _close(self) -> None:
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None
