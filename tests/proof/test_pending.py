"""Issue "The approval gate", point 6: two agents wait while what serves them is killed.

Real Claude Code, real services. What an agent reads is copied to ``said.jsonl`` in its directory.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.support.cli_versions import claude_path
from tests.support.messages_api import MessagesApi
from tests.support.real_cli import clean_env
from tests.support.stack import Recorder, Stack, eventually

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

NAMES = ("left", "right")
LISTENED_TO = """#!/bin/sh
case "$*" in
*--input-format*) tee said.jsonl | {claude} "$@" ;;
*) exec {claude} "$@" ;;
esac
"""


def waiting(stack: Stack) -> dict[str, str]:
    """Approval by session, as far as anybody answers."""
    done = stack.run("approvals", "--json")
    return {a["session"]: a["id"] for a in json.loads(done.stdout)} if done.returncode == 0 else {}


def kill(stack: Stack, service: str) -> None:
    """And wait until supervisord has another one."""
    before = stack.service_pid(service)
    os.kill(before, signal.SIGKILL)

    def another() -> bool:
        try:
            pid = stack.service_pid(service)
            os.kill(pid, 0)
        except (OSError, ValueError, IndexError):
            return False
        return pid != before

    eventually(another, f"{service} is there again")


def read(folder: Path) -> list[str]:
    """The decisions on its tool that an agent has read."""
    lines = map(json.loads, (folder / "said.jsonl").read_text().splitlines())
    said = [line["response"].get("response") or {} for line in lines if line["type"] == "control_response"]
    return [response["behavior"] for response in said if "behavior" in response]


def outcomes(recorder: Recorder, approval: str) -> list[tuple[str, bool | None]]:
    return [(o["decision"], o["applied"]) for o in recorder.all(f"approvals/{approval}/outcome")]


def test_two_that_wait_outlive_the_gate_ingest_and_the_broker(tmp_path: Path) -> None:
    claude = tmp_path / "claude"
    claude.write_text(LISTENED_TO.format(claude=claude_path()))
    claude.chmod(0o755)
    folders = {name: tmp_path / name for name in ("user", *NAMES)}
    for folder in folders.values():
        folder.mkdir()
    with (
        MessagesApi() as api,
        Stack(
            tmp_path / "home", clean_env(folders["user"], api.url), POINTSMAN_BUS_BROKER="mosquitto",
            POINTSMAN_AGENT_CLAUDE=str(claude), POINTSMAN_APPROVALS_TIMEOUT_S="0",
        ) as stack,
        stack.recorder() as recorder,
    ):  # fmt: skip
        for name in NAMES:
            prompt = f"WRITE {name}.txt hello ;; SAY done"
            stack.pointsman("new", name, "--cwd", str(folders[name]), "--prompt", prompt)
        eventually(lambda: len(waiting(stack)) == len(NAMES), "two approvals wait")
        asked = waiting(stack)
        for service in ("approvals", "ingest", "broker"):
            kill(stack, service)
            eventually(lambda: waiting(stack) == asked, f"both wait, without the old {service}")
        assert [read(folders[name]) for name in NAMES] == [[], []]

        # decided while ingest, which has the way to the agents, is away
        os.kill(stack.service_pid("ingest"), signal.SIGKILL)
        stack.pointsman("approve", asked["left"])
        stack.pointsman("deny", asked["right"], "--reason", "not this one")
        for name, decision in (("left", "approved"), ("right", "denied")):
            eventually(
                lambda: len(outcomes(recorder, asked[name])) >= 2,  # noqa: B023  # asked at once
                f"{name} has taken it",
            )
            eventually(lambda: recorder.all(f"sessions/{name}/events/result"), "the turn is over")  # noqa: B023
            assert outcomes(recorder, asked[name]) == [(decision, None), (decision, True)]
        assert [read(folders[name]) for name in NAMES] == [["allow"], ["deny"]]
        assert (folders["left"] / "left.txt").read_text().strip() == "hello"
        assert not (folders["right"] / "right.txt").exists()
        assert recorder.all("approvals/events") == []
        assert stack.pointsman("audit", "verify")["ok"]
