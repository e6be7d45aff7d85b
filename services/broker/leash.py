"""Become another program that is killed when its parent dies: ``leash.py <parent pid> <program> <args…>``.

Run as a file, without the rest of the package, because it must start quickly. PR_SET_PDEATHSIG (prctl(2))
lasts over exec, and means the thread that started us: so the caller starts us from its main thread.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def main(parent: int, argv: list[str]) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)  # it died before we asked
    os.execv(argv[0], argv)  # noqa: S606  # the caller's own argument list


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
