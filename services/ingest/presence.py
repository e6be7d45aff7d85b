"""What Claude Code notes of itself: whether its screen works, waits at a dialog, or is idle.

A person at the screen may interrupt a turn (Escape), or answer a dialog so that the agent goes on: no hook
says so. But each Claude Code process keeps a small file, ``sessions/<pid>.json`` beside its transcripts:

    {"pid", "sessionId", "status": "busy" | "waiting" | "idle", "updatedAt", "statusUpdatedAt"?, ...}

with times in Unix milliseconds. Measured with 2.1.329 and 2.1.119 (which has no ``statusUpdatedAt``): it is
written within 0.1 s of what happens, also where the transcript says nothing (an Escape before the first word,
which puts the prompt back into the input line). It is nobody's interface: a file that is not there, or says
something else, says nothing, and the next hook shows what happened, as before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from services.ingest.hook_model import Presence

MAX_BYTES = 65_536  # it has 700
STATUSES = ("busy", "waiting", "idle")


def folder(environ: Mapping[str, str], home: Path) -> Path:
    """Where the files lie, for agents with this environment."""
    own = environ.get("CLAUDE_CONFIG_DIR")
    return (Path(own) if own else home / ".claude") / "sessions"


def read(folder: Path, pid: int, conversation: str) -> Presence | None:
    """None: nothing is known of this process, or it has another conversation."""
    try:
        with (folder / f"{pid}.json").open("rb") as file:
            said = json.loads(file.read(MAX_BYTES))
        if said["sessionId"] != conversation or said["status"] not in STATUSES:
            return None
        at = said.get("statusUpdatedAt", said["updatedAt"])
        return Presence(said["status"], datetime.fromtimestamp(at / 1000, UTC))
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None  # not there, half written, or of a version that notes it otherwise
