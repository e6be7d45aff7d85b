"""Versions, command lines and environments of agents."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from bus import messages as m
from bus.errors import RefusedError
from services.tmux import agents
from services.tmux.model import Record, State

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def record(**asked: Any) -> Record:
    command = m.CreateSession(**{"session": "demo", "cwd": "/work", **asked})
    return Record(
        uid="U1", asked=command, state=State.RUNNING, since=NOW, created_at=NOW, token="T", prompt_id="p",
        creator=None, program="/usr/bin/claude", resume=command.resume,
    )  # fmt: skip


def test_managed() -> None:
    assert agents.argv(record(), 6180) == [
        "/usr/bin/claude", "-p", "--input-format", "stream-json", "--output-format", "stream-json",
        "--verbose", "--permission-prompt-tool", "stdio", "--include-partial-messages",
        "--permission-mode", "default",
    ]  # fmt: skip


def test_sdk_url() -> None:
    words = agents.argv(record(kind="sdk-url", model="opus", resume="r-1"), 7000)
    assert words[1:4] == ["--sdk-url", "ws://localhost:7000/ws/sessions/demo", "--print"]
    assert words[-6:] == ["--model", "opus", "--resume", "r-1", "-p", ""]
    assert "--permission-prompt-tool" not in words


def test_interactive() -> None:
    """The ordinary screen, with our hooks beside the user's own settings, and never in a mode of its own."""
    given = record(kind="interactive", model="opus")
    words = ["--settings", "/s.json", "--permission-mode", "default", "--model", "opus"]
    assert agents.argv(given, 6180, "/s.json")[1:] == words


def test_manual_is_default() -> None:
    """Versions before 2.1.329 know the older name alone, and all take it."""
    assert agents.mode(record(permission_mode="manual")) == "default"


@pytest.mark.parametrize(
    ("kind", "version", "fits"),
    [
        ("managed", "2.1.41 (Claude Code)", False),
        ("managed", "2.1.42 (Claude Code)", True),
        ("managed", "3.0.0 (Claude Code)", True),
        ("managed", "", False),
        ("sdk-url", "2.1.120 (Claude Code)", True),
        ("sdk-url", "2.1.121 (Claude Code)", False),
        ("interactive", "2.1.42 (Claude Code)", False),
        ("interactive", "2.1.119 (Claude Code)", True),
    ],
)
def test_versions(kind: str, version: str, fits: bool) -> None:
    if fits:
        agents.check_version(kind, version)
        return
    with pytest.raises(RefusedError) as refused:
        agents.check_version(kind, version)
    assert refused.value.code == "agent_version"


@pytest.mark.parametrize(
    ("asked", "highest", "fits"),
    [
        (None, "plan", True),
        ("plan", "default", True),
        ("dontAsk", "default", True),
        ("acceptEdits", "acceptEdits", True),
        ("auto", "acceptEdits", False),
        ("bypassPermissions", "auto", False),
        ("bypassPermissions", "bypassPermissions", True),
    ],
)
def test_modes(asked: str | None, highest: str, fits: bool) -> None:
    if fits:
        agents.check_mode(asked, highest)
        return
    with pytest.raises(RefusedError) as refused:
        agents.check_mode(asked, highest)
    assert refused.value.code == "not_allowed"


def test_every_mode_has_a_rank() -> None:
    import typing

    assert set(m.PERMISSION_MODE_RANK) == set(typing.get_args(m.PermissionMode))


def test_the_environment() -> None:
    """The user's own, without what supervisord, tmux or another agent around us have put there."""
    seen = agents.environment(
        {
            "PATH": "/bin",
            "SUPERVISOR_ENABLED": "1",
            "PYTHONSAFEPATH": "1",
            "TMUX": "/tmp/x",
            "CLAUDECODE": "1",
            "ANTHROPIC_API_KEY": "k",
            "POINTSMAN_HOME": "/h",
            "POINTSMAN_BUS_PASSWORD_FILE": "/p",
            "POINTSMAN_LEDGER_DATABASE": "postgresql://us:secret@db/costs",
        },
        "node",
        "demo",
        "U1",
    )
    assert seen == {
        "PATH": "/bin",
        "ANTHROPIC_API_KEY": "k",
        "POINTSMAN_HOME": "/h",
        "POINTSMAN_NODE": "node",
        "POINTSMAN_SESSION": "demo",
        "POINTSMAN_SESSION_UID": "U1",
        "CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS": "1",
    }
