"""The policy of the running service: loaded as a whole, kept over a crash, asked for over the bus."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio

from bus import messages as m
from bus import topics as t
from services._process.errors import ConfigError
from services.approvals.core import Gate
from tests.services.approvals.stand import Run, Stack, ask, judged, settle

NO_MAKE = '[[approvals.rules]]\ndecision = "deny"\ncommand = "make"\nname = "no make"\n'
BROKEN = '[[approvals.rules]]\ndecision = "forbid"\ntool = "*"\n'


def events(s: Stack) -> list[str]:
    return [event["action"] for event in s.said(t.APPROVAL_EVENTS)]


def test_rules_are_loaded_again_by_command_and_by_signal(run: Run) -> None:
    async def test(s: Stack) -> None:
        async with s.running():
            assert await judged(s) == "none"
            assert events(s) == []
            s.configure(NO_MAKE)
            assert (await ask(s, "reload"))["rules"] == 1
            assert await judged(s) == "denied"
            assert events(s) == ["policy_loaded"]
            s.configure("")
            os.kill(os.getpid(), signal.SIGHUP)
            while len(events(s)) < 2:  # the signal takes its own way into the loop
                await trio.lowlevel.checkpoint()
            await settle()
            assert await judged(s, request_id="h2") == "none"
            assert (await ask(s, "rules"))["rules"] == []

    run(test)


def test_each_call_that_goes_on_is_looked_at_ahead(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(s: Stack) -> None:
        seen: list[str] = []
        monkeypatch.setattr(
            Gate, "look_ahead", lambda _gate, ahead, _now: seen.append(ahead.question.request_id)
        )
        async with s.running():
            for request_id in ("h1", "h2"):
                assert await judged(s, request_id=request_id) == "none"
            await settle()
            assert seen == ["h1", "h2"]

    run(test)


def test_rejected_rules_leave_the_old_ones_in_force_also_over_a_crash(run: Run) -> None:
    async def test(s: Stack) -> None:
        s.configure(NO_MAKE)
        async with s.running():
            assert events(s) == ["policy_loaded"]
            s.configure(BROKEN)
            error = await ask(s, "reload")
            assert error["code"] == "bad_request"
            assert "decision = 'forbid'" in error["message"]
            assert await judged(s) == "denied"
            assert events(s) == ["policy_loaded", "policy_rejected"]
        async with s.running():
            assert await judged(s, request_id="h2") == "denied"
            assert events(s)[2:] == ["policy_rejected"]
        s.configure(NO_MAKE)
        async with s.running():
            assert await judged(s, request_id="h3") == "denied"
            assert len(events(s)) == 3, "the same as were in force before"

    run(test)


def test_no_rules_at_all_is_no_start(tmp_path: Path) -> None:
    s = Stack(tmp_path)
    s.configure(BROKEN)

    async def main() -> None:
        async with s.running():
            raise AssertionError

    with pytest.raises(ConfigError, match="rule 1: decision"):
        trio.run(main)


def test_check_tells_mistakes_and_what_will_surprise(run: Run) -> None:
    async def test(s: Stack) -> None:
        async with s.running():
            good = await ask(s, "check", toml=NO_MAKE)
            assert good == {"ok": True, "rules": 1, "mistakes": [], "warnings": []}
            bad = await ask(s, "check", toml=BROKEN + "[approvals")
            assert not bad["ok"]
            assert "not valid TOML" in bad["mistakes"][0]
            bad = await ask(s, "check", toml="[approvals]\ntimeout = 3\n" + BROKEN)
            assert "there is no such key" in bad["mistakes"][0]
            two = '[[approvals.rules]]\ndecision = "ask"\ntool = "*"\nrequire = 2\n'
            warned = await ask(s, "check", toml=two + NO_MAKE)
            assert [warning.split(":")[0] for warning in warned["warnings"]] == ["rule 1", "no make"]
            assert (await ask(s, "check"))["code"] == "bad_request"
            assert (await ask(s, "rules"))["rules"] == [], "nothing of it took effect"

    run(test)


def test_replay_explain_and_forget_over_the_bus(run: Run) -> None:
    async def test(s: Stack) -> None:
        async with s.running() as shell:
            await s.ask(input_json='{"command":"make"}')
            await s.decide(remember="always")
            (entry,) = (await ask(s, "rules"))["remembered"]
            for n in range(60):
                await s.ask(f"b{n}", input_json='{"command":"make"}')
            found = await ask(s, "replay", toml=NO_MAKE)
            assert (found["looked_at"], found["changes"]) == (61, {"allow → deny": 60, "ask → deny": 1})
            assert (await ask(s, "replay", toml=BROKEN))["code"] == "bad_request"
            said = await ask(s, "explain", tool="Bash", input={"command": "make"}, cwd="/work/app")
            assert (said["decision"], said["rule"]) == ("allow", entry["id"])
            assert (await ask(s, "forget", rule=entry["id"]))["id"] == entry["id"]
            assert shell.store.remembered() == ()
            assert (await ask(s, "dance"))["message"].startswith("the policy has no verb 'dance'")

    run(test)


def test_an_unapproved_tool_is_counted(run: Run) -> None:
    """Each series is there before, so that its first rise can be seen (deploy/prometheus/rules.yml)."""

    async def test(s: Stack) -> None:
        async with s.running():
            for state in ("denied", "expired", "open", "unjudged"):
                assert s.figure("pointsman_unapproved_tools_total", state=state) == 0
            u = m.ToolUnapproved(
                session="web", tool="Bash", tool_use_id="toolu_1", approval=None, state="open", summary="make"
            )
            await s.tell("unapproved", u, "unapproved-1")
            assert events(s) == ["unapproved_tool"]
            assert s.figure("pointsman_unapproved_tools_total", state="open") == 1

    run(test)
