"""Processes that a test starts."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

DEADLINE_S = 30.0


def until_begun(child: subprocess.Popen[Any]) -> None:
    """Until its environment, which holds a PATH, can be read: before that it is still becoming itself."""
    deadline = time.monotonic() + DEADLINE_S
    while b"PATH=" not in Path(f"/proc/{child.pid}/environ").read_bytes():
        assert time.monotonic() < deadline, f"{child.args!r} does not begin"
        time.sleep(0.001)
