"""End with the supervisor: a `kill -9` of supervisord must not leave services that nobody looks after.

Under supervisord (it sets SUPERVISOR_ENABLED) the kernel sends SIGTERM when the parent ends (prctl(2),
PR_SET_PDEATHSIG). The parent may have ended before we asked for that: then we have been given to another
process, which is in another session (setsid(2)) than we are, while supervisord's children stay in its own.
From then on it is enough to see that the parent's pid changes. Started by hand, a service minds no parent.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


@dataclass(frozen=True, slots=True)
class Parent:
    """``pid`` is None where the parent does not matter."""

    pid: int | None

    @classmethod
    def watch(cls, environ: Mapping[str, str]) -> Parent:
        """Look at the parent, and have the kernel tell of its end."""
        if "SUPERVISOR_ENABLED" not in environ:
            return cls(None)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        parent = os.getppid()
        try:
            ours = parent == 0 or os.getsid(parent) == os.getsid(0)  # 0: outside our pid namespace
        except OSError:
            ours = False
        return cls(parent if ours else -1)

    def gone(self) -> bool:
        """Has the parent ended?"""
        return self.pid is not None and os.getppid() != self.pid
