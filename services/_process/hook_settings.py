"""The hooks that Claude Code is given, as a piece of its settings. Pure.

Every hook but SessionStart is a POST to ingest's listener; SessionStart takes no URL, only a command
(measured with 2.1.329). ``PermissionRequest`` alone may wait: its answer is a decision. The others are
answered at once, and one that is not ends after `QUICK_S`; with nobody at the port they fail within a
millisecond, and Claude Code goes on.

Who says it: a bearer token. In the settings file of one of our own sessions it is that session's; in a
user's settings it is the hooks' own (`TOKEN_FILE`), which opens nothing but the listener. The variable
``POINTSMAN_SESSION`` goes along, so that the hooks of a user's settings say nothing of sessions that we
follow anyway.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

EVENTS = (
    "UserPromptSubmit", "PreToolUse", "PermissionRequest", "PostToolUse", "PostToolUseFailure",
    "Notification", "Stop", "StopFailure", "SubagentStart", "SubagentStop", "PreCompact", "PostCompact",
    "SessionEnd",
)  # fmt: skip
START = "SessionStart"
QUICK_S = 2
WAIT_S = 86_400  # a person may take a day over it; the dialog on the screen stands all the while
HOME_HEADER = "X-Pointsman-Home"  # by which our entries are known again
SESSION_HEADER = "X-Pointsman-Session"
PID_HEADER = "X-Pointsman-Pid"
VARIABLE = "POINTSMAN_SESSION"
TOKEN_FILE = "hooks.json"  # noqa: S105  # in the home's secrets: {"url", "token"}, for the command hook
PROGRAM = Path(__file__).with_name("session_start.py")


def url(port: int) -> str:
    """Where the listener is."""
    return f"http://127.0.0.1:{port}"


def hooks(base_url: str, token: str, home: Path, secret: Path) -> dict[str, list[Any]]:
    """Event → its entries, as they stand in settings. ``secret`` is the file that the command hook reads."""
    table: dict[str, list[Any]] = {START: [{"hooks": [_command(secret)]}]}
    for event in EVENTS:
        hook = {
            "type": "http",
            "url": f"{base_url}/hook/{event}",
            "timeout": WAIT_S if event == "PermissionRequest" else QUICK_S,
            "headers": {
                "Authorization": f"Bearer {token}",
                HOME_HEADER: str(home),
                SESSION_HEADER: f"${VARIABLE}",
            },
            "allowedEnvVars": [VARIABLE],
        }
        table[event] = [{"hooks": [hook]}]
    return table


def _command(secret: Path) -> dict[str, Any]:
    """Says nothing, ends with 0, and does nothing where Pointsman or its Python are gone."""
    python, program, file = (shlex.quote(str(part)) for part in (sys.executable, PROGRAM, secret))
    command = (
        f"test -r {file} && test -x {python} && {python} -I -S {program} {file} $PPID >/dev/null 2>&1; exit 0"
    )
    return {"type": "command", "command": command, "timeout": QUICK_S}


def is_ours(hook: Any, home: Path, secret: Path) -> bool:
    """Whether a hook of some settings is one of this home's."""
    if not isinstance(hook, dict):
        return False
    headers = hook.get("headers")
    if hook.get("type") == "http" and isinstance(headers, dict):
        return bool(headers.get(HOME_HEADER) == str(home))
    command = hook.get("command")
    return isinstance(command, str) and PROGRAM.name in command and str(secret) in command
