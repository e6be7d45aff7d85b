"""The agent's own record, for an observer who wants to know what really happened."""

from __future__ import annotations

import os
import time

from .wire import append_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Record:
    """Appends to the file that `POINTSMAN_SCRIPTED_RECORD` names, one JSON line a call; else nothing.

    A line is `{"at", "pid", "session", "session_id", "kind", …}`; `session` is Pointsman's name for it. The
    kinds: `start`, `prompt`, `begun`, `question`, `answer`, `repeated` (an answer to what is not open),
    `cancelled`, `tool`, `bill` (with `cost_picodollars`), `exit`.
    """

    def __init__(self, session_id: str) -> None:
        self.path = os.environ.get("POINTSMAN_SCRIPTED_RECORD")
        self.session_id = session_id

    def __call__(self, kind: str, **fields: Any) -> None:
        if self.path:
            append_line(
                self.path,
                {
                    "at": time.time(),
                    "pid": os.getpid(),
                    "session": os.environ.get("POINTSMAN_SESSION"),
                    "session_id": self.session_id,
                    "kind": kind,
                    **fields,
                },
            )
