"""A usage limit of the real CLI, reached and waited for: the prompt is sent again after the reset, and works.

The scripted API takes a made-up token for a subscription, and tells of its windows in its headers as the real
one does.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cli_versions import claude_path
from tests.support.messages_api import MessagesApi
from tests.support.real_cli import clean_env, subscribed
from tests.support.stack import Stack, eventually

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

RESET_S = 4


def test_the_waiting_prompt_is_sent_again_once_after_the_reset(tmp_path: Path) -> None:
    user_home, cwd = tmp_path / "user", tmp_path / "work"
    user_home.mkdir()
    cwd.mkdir()
    settings = {
        "POINTSMAN_BUS_BROKER": "mosquitto",
        "POINTSMAN_AGENT_CLAUDE": str(claude_path("2.1.329")),
        "POINTSMAN_LEDGER_RESUME_WHEN_RESET": "true",
    }
    with (
        MessagesApi() as api,
        Stack(tmp_path / "home", subscribed(clean_env(user_home, api.url)), **settings) as stack,
        stack.recorder() as recorder,
    ):
        stack.pointsman("new", "sub", "--cwd", str(cwd), "--model", "claude-sonnet-4-6")
        stack.pointsman("send", "sub", f"LIMIT {RESET_S} ;; SAY done at last")
        first, second = eventually(
            lambda: found if len(found := recorder.all("sessions/sub/events/result")) == 2 else None,
            "it was refused, and sent again",
            120,
        )
        assert (first["is_error"], second["is_error"]) == (True, False)
        (told,) = eventually(
            lambda: [e for e in recorder.all("ledger/events") if e["action"] == "limit_reset"], "it is told"
        )
        assert "it worked" in told["reason"]
        blocked = [s["blocked"] for s in recorder.all("sessions/sub/state") if s["blocked"]]
        assert {one["by"] for one in blocked} == {"limit"}
        said = eventually(
            lambda: (
                found
                if (found := recorder.last("ledger/sessions/sub")) and found["limits"] and found["turns"]
                else None
            ),
            "the windows stand in the ledger",
        )
        assert {(one["window"], one["utilization"]) for one in said["limits"]} == {
            ("five_hour", 0.25),
            ("seven_day", 0.4),
        }
        assert said["notional"]
        prompts = [r for r in api.requests if "LIMIT" in str(r["messages"][-1])]
        assert len(prompts) == 2
