"""Budgets that hold, with everything real: within a turn of the real CLI, and through kills of the services.

The model is scripted: its calls take 0.4 s and cost about one cent each.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli_versions import claude_path
from tests.support.messages_api import MessagesApi
from tests.support.real_cli import clean_env
from tests.support.scripted import ScriptedStack
from tests.support.stack import Recorder, Stack, eventually

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

CALLS = 150
BUDGET_USD = 0.25
CALL_USD = 0.02  # at most; measured: 0.007 to 0.012, the first 0.126
LATE_CALLS = 15  # the one in flight, and 5 s of others: the promise; measured: none to one


def blocked(recorder: Recorder, session: str) -> dict[str, Any] | None:
    state = recorder.last(f"sessions/{session}/state")
    found: dict[str, Any] | None = state["blocked"] if state else None
    return found


def budget(stack: Stack, recorder: Recorder, command: str, usd: float) -> None:
    """Set it, and come back as soon as the ledger has; sent again while it is away, as the contract says."""

    def told() -> bool:
        stack.publish("ledger/sessions/web/budget", {"id": command, "budget_usd": usd})
        return recorder.last(f"replies/{command}") is not None

    eventually(told, "the ledger answers")


@contextlib.contextmanager
def real(tmp_path: Path) -> Iterator[tuple[MessagesApi, Stack, Recorder, Path]]:
    """The real CLI with a scripted model, and a directory to work in."""
    user_home, cwd = tmp_path / "user", tmp_path / "work"
    user_home.mkdir()
    cwd.mkdir()
    (cwd / "a.txt").write_text("hello\n")
    settings = {"POINTSMAN_BUS_BROKER": "mosquitto", "POINTSMAN_AGENT_CLAUDE": str(claude_path("2.1.329"))}
    with (
        MessagesApi() as api,
        Stack(tmp_path / "home", clean_env(user_home, api.url), **settings) as stack,
        stack.recorder() as recorder,
    ):
        yield api, stack, recorder, cwd


def test_a_turn_of_the_real_cli_is_stopped_within_itself(tmp_path: Path) -> None:
    with real(tmp_path) as (api, stack, recorder, cwd):
        model = ("--model", "claude-sonnet-4-6")
        stack.pointsman("new", "loop", "--cwd", str(cwd), "--budget", str(BUDGET_USD), *model)
        loop = " ;; ".join(["STREAM 20 20 ;; READ a.txt"] * CALLS)
        stack.pointsman("send", "loop", f"{loop} ;; SAY never said")
        eventually(lambda: blocked(recorder, "loop"), "the session is held", 120)
        (result,) = eventually(lambda: recorder.all("sessions/loop/events/result"), "the turn ends")
        assert result["is_error"]
        assert result["subtype"] == "error_during_execution"

        said = eventually(
            lambda: (
                found
                if (found := recorder.last("ledger/sessions/loop")) and not found["running_usd"]
                else None
            ),
            "the turn is posted",
        )
        assert said["level"] == "exhausted"
        assert BUDGET_USD <= said["spent_usd"] <= BUDGET_USD + LATE_CALLS * CALL_USD
        assert len(api.bills) < CALLS
        levels = [e["to"] for e in recorder.all("ledger/events") if e["action"] == "level"]
        assert levels == ["moderate", "cautious", "critical", "exhausted"][-len(levels) :]

        (warning,) = [e for e in recorder.all("ledger/events") if e["action"] == "runaway"]
        assert "8 times in its last 8: Read" in warning["reason"]

        refused = stack.run("send", "loop", "SAY more")
        assert refused.returncode == 1
        proposed = re.search(r"`pointsman budget loop ([0-9.]+)` \[budget_exhausted\]", refused.stderr)
        assert proposed, refused.stderr
        assert float(proposed[1]) > said["spent_usd"]
        stack.pointsman("budget", "loop", "5")
        stack.pointsman("send", "loop", "SAY and on it goes")
        eventually(lambda: len(recorder.all("sessions/loop/events/result")) == 2, "the next turn")
        assert not recorder.all("sessions/loop/events/result")[-1]["is_error"]
        assert blocked(recorder, "loop") is None


def test_a_turn_is_stopped_while_the_ledger_hangs(tmp_path: Path) -> None:
    """The ledger stands still from before the budget is used up: its last word is kept to in its stead."""
    with real(tmp_path) as (api, stack, recorder, cwd):
        stack.pointsman("new", "loop", "--cwd", str(cwd), "--budget", "0.4", "--model", "claude-sonnet-4-6")
        uid = recorder.last("sessions/loop/state")["uid"]  # type: ignore[index]  # it is there

        def known() -> bool:
            word = recorder.last("ledger/allowances")
            return word is not None and word["sessions"].get(uid) is not None

        eventually(known, "the ledger says what is left")
        ledger = stack.service_pid("ledger")
        os.kill(ledger, signal.SIGSTOP)
        loop = " ;; ".join(["STREAM 20 20 ;; READ a.txt"] * 2 * CALLS)
        stack.pointsman("send", "loop", f"{loop} ;; SAY never said")
        eventually(lambda: blocked(recorder, "loop"), "the session is held in the ledger's stead", 120)
        assert not [event for event in recorder.all("ledger/events") if event.get("to") == "exhausted"]
        (result,) = eventually(lambda: recorder.all("sessions/loop/events/result"), "the turn ends")
        assert result["subtype"] == "error_during_execution"
        assert len(api.bills) < 2 * CALLS
        with contextlib.suppress(ProcessLookupError):  # the watchdog may have ended it meanwhile
            os.kill(ledger, signal.SIGCONT)
        said = eventually(
            lambda: (
                found
                if (found := recorder.last("ledger/sessions/loop"))
                and not found["running_usd"]
                and found["spent_usd"]
                else None
            ),
            "the ledger has counted it",
        )
        assert said["spent_usd"] == pytest.approx(result["total_cost_usd"], abs=1e-9)
        refused = eventually(
            lambda: "budget_exhausted" in stack.run("send", "loop", "SAY more").stderr, "its own hold counts"
        )
        assert refused


def test_kills_around_an_exhausted_budget_lose_and_repeat_nothing(tmp_path: Path) -> None:
    stack = ScriptedStack(tmp_path, POINTSMAN_BUS_BROKER="mosquitto")
    with stack, stack.recorder() as recorder:
        stack.open("web")
        stack.pointsman("send", "web", "SAY first")
        eventually(lambda: recorder.all("sessions/web/events/result"), "a turn that costs something")
        stack.pointsman("send", "web", "BASH touch made ;; SAY done")
        approval = eventually(
            lambda: (recorder.last("approvals/pending") or {}).get("oldest_id"), "an approval"
        )

        stack.kill("ledger")
        budget(stack, recorder, "less", 0.001)
        for service in ("approvals", "ingest", "ledger"):
            stack.kill(service)
        eventually(lambda: blocked(recorder, "web"), "the session is held")
        outcome = eventually(lambda: recorder.last(f"approvals/{approval}/outcome"), "the denial")
        assert (outcome["decision"], outcome["via"]) == ("denied", "budget")
        stack.wait_online()
        assert stack.run("send", "web", "SAY no").returncode == 1

        budget(stack, recorder, "more", 50.0)
        for service in ("ingest", "ledger", "approvals"):
            stack.kill(service)
        eventually(lambda: recorder.last("sessions/web/state")["blocked"] is None, "it is released")  # type: ignore[index]
        stack.wait_online()
        before = len(recorder.all("sessions/web/events/result"))
        stack.pointsman("send", "web", "SAY yes")
        eventually(lambda: len(recorder.all("sessions/web/events/result")) > before, "it goes on")
        assert not (stack.work / "web" / "made").exists()
        decided = {(o["decision"], o["via"], o["at"]) for o in recorder.all(f"approvals/{approval}/outcome")}
        assert len(decided) == 1
        assert stack.pointsman("audit", "verify")["ok"]
