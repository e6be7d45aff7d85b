"""The first assessment: errs towards asking."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.approvals.danger import assess
from services.approvals.reading import parse
from tests.services.approvals.support import HOME


def level(tool: str, cwd: str = "/work/app", home: str = HOME, **value: Any) -> str:
    return assess(tool, parse(json.dumps(value)), cwd, home).level


@pytest.mark.parametrize(
    ("tool", "value", "expected"),
    [
        ("Read", {"file_path": "/work/app/a.py"}, "low"),
        ("Glob", {"pattern": "**/*.py"}, "low"),
        ("Grep", {"pattern": "x", "path": "src"}, "low"),
        ("Write", {"file_path": "a.py", "content": "x"}, "medium"),
        ("Edit", {"file_path": "a.py"}, "medium"),
        ("WebFetch", {"url": "https://example.org"}, "medium"),
        ("Bash", {"command": "ls"}, "high"),
        ("mcp__mail__send", {}, "high"),
        ("Read", {"file_path": "/work/app/.env"}, "high"),
        ("Read", {"file_path": ".env.local"}, "high"),
        ("Read", {"file_path": "~/.ssh/id_ed25519"}, "high"),
        ("Write", {"file_path": "/work/app/.git/hooks/pre-commit"}, "high"),
        ("Edit", {"file_path": "../.bashrc"}, "high"),
        ("Read", {"file_path": "/work/app/server.pem"}, "high"),
        ("Read", {"file_path": "/work/app/environment.py"}, "low"),
        ("Read", {"file_path": "/work/app/a\u202etxt.py"}, "high"),
        ("Grep", {"pattern": "key", "path": "/home/ada"}, "high"),
    ],
)
def test_levels(tool: str, value: dict[str, Any], expected: str) -> None:
    assert level(tool, **value) == expected


@pytest.mark.parametrize(
    ("tool", "cwd", "value"),
    [
        ("Read", "/work", {"file_path": f"{HOME}/secrets/approvals.key"}),
        ("Read", "/home/ada", {"file_path": ".local/state/pointsman/approvals.sqlite"}),
        ("Read", "/home/ada/app", {"file_path": "../.local/state/./pointsman/x"}),
        ("Write", "/work", {"file_path": f"{HOME}/../pointsman/x"}),
        ("Bash", "/work", {"command": "cat ~/.local/state/pointsman/secrets/bus/operator"}),
        ("Bash", "/work", {"command": 'cat "$HOME/.local/state/pointsman/x"'}),
        ("Bash", "/home/ada/.local/state", {"command": "rm -r pointsman"}),
        ("Bash", "/work", {"command": "rm -r ../home/ada/.local/state/pointsman/"}),
        ("Read", f"{HOME}/sessions/x", {"file_path": "launch.json"}),
        ("mcp__x", "/work", {"deep": [{"path": f"{HOME}/x"}]}),
        ("Unheard", "/work", {f"{HOME}/x": 1}),
    ],
)
def test_pointsmans_own_home_is_critical(tool: str, cwd: str, value: dict[str, Any]) -> None:
    assert level(tool, cwd, **value) == "critical"


@pytest.mark.parametrize(
    ("text", "expected"),
    [('{"file_path":"/a","file_path":"/b"}', "high"), ("[]", "critical"), ("{", "critical")],
)
def test_doubtful_inputs(text: str, expected: str) -> None:
    found = assess("Read", parse(text), "/work", HOME)
    assert found.level == expected
    assert found.reason.startswith(
        "Read is not what it seems" if expected == "high" else "Read cannot be read"
    )


def test_a_deep_or_large_input_is_walked() -> None:
    assert level("Read", value=[["x" * 100_000] * 20]) == "low"
    text = '{"a":' * 900 + f'"{HOME}"' + "}" * 900
    assert assess("Read", parse(text), "/work", HOME).level == "critical"


@pytest.mark.parametrize(
    ("tool", "value"),
    [
        ("Grep", {"pattern": "."}),  # without a path it searches the working directory
        ("Grep", {"pattern": ".", "glob": "**/operator"}),
        ("Grep", {"pattern": ".", "path": "."}),
        ("Glob", {"pattern": "/*/**/operator"}),
        ("Glob", {"pattern": "../../**"}),
        ("LS", {}),
    ],
)
def test_a_search_that_would_come_through_the_home_is_asked_about(tool: str, value: dict[str, Any]) -> None:
    """It was low, so approved by a rule: the operator's password for whoever started above the home."""
    assert level(tool, cwd=HOME.rpartition("/")[0], **value) in ("high", "critical")
    if not str(value.get("pattern", "")).startswith(("/", "..")):
        assert level(tool, cwd="/work/app", **value) == "low"


@pytest.mark.parametrize("path", ["/proc/1234/environ", "/proc/self/root/etc/shadow", "/proc/1/fd/3"])
def test_other_processes_secrets_are_no_files_to_read_unasked(path: str) -> None:
    assert level("Read", file_path=path) == "high"
    assert level("Read", file_path="/proc/cpuinfo") == "low"
