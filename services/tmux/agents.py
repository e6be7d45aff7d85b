"""How an agent program is started: its version, its command line, its environment, its launch file. Pure.

Secrets stand in the launch file (0600, in a directory of the user's alone) and in the agent's environment,
never on a command line.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from bus import messages as m
from bus.errors import RefusedError
from services.tmux.model import Record

Version = tuple[int, int, int]

MANAGED_FROM: Version = (2, 1, 42)  # the oldest that was tried; research: every version speaks stdio
INTERACTIVE_FROM: Version = (2, 1, 119)  # the oldest that was tried; 2.1.42 knows no http hooks
SDK_URL_UP_TO: Version = (2, 1, 120)  # later ones accept only hosts on the vendor's own list

DEFAULT_MODE = "default"  # always said: a user's own settings may have another default

_VERSION = re.compile(r"\b(\d+)\.(\d+)\.(\d+)\b")
_WORD = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:/@\[\]-]{0,199}$")  # model names and conversation ids

# Variables that are not the user's: set by our supervisord.conf or by tmux, marks of another agent around us,
# which would take the new one for its child, or secrets of ours (the ledger's URL may hold a password).
_NOT_PASSED = frozenset({
    "PYTHONSAFEPATH", "PYTHONUNBUFFERED", "TMUX", "TMUX_PANE", "CLAUDECODE", "CLAUDE_CODE_ENTRYPOINT",
    "CLAUDE_CODE_SESSION_ACCESS_TOKEN", "POINTSMAN_SESSION", "POINTSMAN_SESSION_UID",
    "POINTSMAN_BUS_PASSWORD_FILE", "POINTSMAN_LEDGER_DATABASE",
})  # fmt: skip


def parse_version(text: str) -> Version | None:
    """The version in what ``claude --version`` prints: ``2.1.329 (Claude Code)``."""
    found = _VERSION.search(text)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def version_text(version: Version) -> str:
    return ".".join(str(part) for part in version)


def check_version(kind: str, version: str) -> None:
    """Raises `RefusedError` (``agent_version``), saying why and what to use instead."""
    parsed = parse_version(version)
    if parsed is None:
        raise RefusedError(
            "agent_version", f"the agent's version cannot be read from {version!r}: is it Claude Code?"
        )
    if kind == "managed" and parsed < MANAGED_FROM:
        raise RefusedError(
            "agent_version",
            f"this is Claude Code {version_text(parsed)}, too old: managed sessions need "
            f"{version_text(MANAGED_FROM)} or later. Bring it up to date (`claude update`), or set "
            "agent.claude to a newer one",
        )
    if kind == "interactive" and parsed < INTERACTIVE_FROM:
        raise RefusedError(
            "agent_version",
            f"this is Claude Code {version_text(parsed)}; interactive sessions are followed through HTTP "
            f"hooks, and need {version_text(INTERACTIVE_FROM)} or later: bring it up to date "
            "(`claude update`), or use the kind `managed` (the default)",
        )
    if kind == "sdk-url" and parsed > SDK_URL_UP_TO:
        raise RefusedError(
            "agent_version",
            f"this is Claude Code {version_text(parsed)}; since 2.1.121 it connects only to hosts that its "
            f"maker approves, so sdk-url works up to {version_text(SDK_URL_UP_TO)} alone: use the kind "
            "`managed` (the default), which works with every version",
        )


def check_word(name: str, value: str | None) -> None:
    """A word that goes on a command line may not look like an option. Raises `RefusedError`."""
    if value is not None and not _WORD.match(value):
        raise RefusedError("bad_request", f"{name} = {value!r}: letters, digits and . _ : / @ - are allowed")


def check_mode(asked: str | None, highest: str) -> None:
    """Raises `RefusedError` (``not_allowed``) for a mode above approvals.max_permission_mode."""
    if asked is not None and m.PERMISSION_MODE_RANK[asked] > m.PERMISSION_MODE_RANK[highest]:
        raise RefusedError(
            "not_allowed",
            f"permission mode {asked} is above {highest}, the highest that approvals.max_permission_mode "
            "allows here: choose a lower one, or raise that setting",
        )


def argv(record: Record, ingest_port: int, settings: str = "") -> list[str]:
    """The agent's command line; ``settings`` is the file with an interactive session's hooks."""
    asked = record.asked
    words = [record.program]
    if asked.kind == "interactive":
        words += ["--settings", settings, "--permission-mode", mode(record)]
        words += ["--model", asked.model] if asked.model is not None else []
        return [*words, *(["--resume", record.resume] if record.resume is not None else [])]
    if asked.kind == "sdk-url":
        words += ["--sdk-url", f"ws://localhost:{ingest_port}/ws/sessions/{asked.session}", "--print"]
    else:
        words += ["-p"]
    words += ["--input-format", "stream-json", "--output-format", "stream-json", "--verbose"]
    if asked.kind != "sdk-url":  # there, permissions come over the socket without it
        words += ["--permission-prompt-tool", "stdio"]
    words += ["--include-partial-messages", "--permission-mode", mode(record)]
    if asked.model is not None:
        words += ["--model", asked.model]
    if record.resume is not None:
        words += ["--resume", record.resume]
    if asked.kind == "sdk-url":
        words += ["-p", ""]
    return words


def token_sha256(token: str) -> str:
    """What of a session's bearer token may cross the bus (hex)."""
    return hashlib.sha256(token.encode()).hexdigest()


def mode(record: Record) -> str:
    """The permission mode as every version of the program knows it."""
    asked = record.asked.permission_mode or DEFAULT_MODE
    return "default" if asked == "manual" else asked


def environment(environ: Mapping[str, str], node: str, session: str, uid: str = "") -> dict[str, str]:
    """What the agent sees: the environment in which supervisord was started, and who it is here. By the uid
    the watchdog knows its processes, whoever their parent is.
    """
    kept = {
        name: value
        for name, value in environ.items()
        if name not in _NOT_PASSED and not name.startswith("SUPERVISOR_")
    }
    return {
        **kept,
        "POINTSMAN_NODE": node,
        "POINTSMAN_SESSION": session,
        "POINTSMAN_SESSION_UID": uid,
        "CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS": "1",
    }


def launch(
    record: Record, environ: Mapping[str, str], node: str, ingest_port: int, settings: str = ""
) -> dict[str, Any]:
    """The launch file of the record's present process, read by the bridge or by our own launcher."""
    return {
        "session": record.session,
        "uid": record.uid,
        "kind": record.asked.kind,
        "process": record.process,
        "argv": argv(record, ingest_port, settings),
        "cwd": record.asked.cwd,
        "env": environment(environ, node, record.session, record.uid),
        "ingest_url": f"ws://127.0.0.1:{ingest_port}/ws/sessions/{record.session}",
        "token": record.token,
        "resume": record.resume,
    }
