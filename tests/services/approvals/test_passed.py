"""Calls that no rule was about are kept, bounded, and a replay holds them against a new policy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from services.approvals import passed
from services.approvals.model import NoteCall, SaveCalls
from services.approvals.passed import MAX_INPUT, Passed, bounded
from services.approvals.replay import Replay
from services.approvals.shell import NOTE_CALLS_S, REPLAY_AT_ONCE
from tests.services.approvals.stand import Run, Stack, ask, judged, settle
from tests.services.approvals.support import SIGHT, START, UID, World, policy

NO_MAKE = '[[approvals.rules]]\ndecision = "deny"\ncommand = "make"\nname = "no make"\n'


def call(number: int = 1, **more: Any) -> Passed:
    fields: dict[str, Any] = {
        "id": f"c{number}", "session": "web", "uid": UID, "kind": "tool", "tool": "Bash",
        "tool_use_id": f"toolu_{number}", "input_json": '{"command":"make"}', "cwd": "/work/app",
        "auto_approve": [], "at": START,
    }  # fmt: skip
    return Passed(**{**fields, **more})


def test_what_agents_did_by_themselves_is_replayed(run: Run, tmp_path: Path) -> None:
    async def test(s: Stack) -> None:
        async with s.running() as shell:
            assert await judged(s, "make") == "none"
            assert await judged(s, "make", "h1") == "none", "it was asked again: one call"
            assert await judged(s, "ls", "h2") == "none"
            assert shell.store.passed(None, None, 9) == [], "nobody waited for a write"
            await trio.sleep(NOTE_CALLS_S * 2)
            await settle()
            assert len(shell.store.passed(None, None, 9)) == 2
            await judged(s, "make all", "h3")  # kept as soon as somebody wants to see it
        async with s.running():
            await judged(s, "make all", "h3")
            found = await ask(s, "replay", toml=NO_MAKE)
            assert (found["looked_at"], found["calls"]) == (0, 3)
            assert found["changes"] == {"agent → deny": 2}
            told = [(d["was"], d["decided"], d["would"], d["would_rule"]) for d in found["differences"]]
            assert told == [("agent", "ran", "deny", "no make")] * 2
            assert {d["summary"] for d in found["differences"]} == {"Bash: make", "Bash: make all"}
            assert (await ask(s, "replay", toml=""))["changes"] == {}

    run(test)


def test_a_call_that_was_asked_about_counts_once() -> None:
    world = World(sight=SIGHT)
    effects = world.judge("h1", tool_use_id="toolu_a1")
    world.act([SaveCalls(tuple(e.call for e in effects if isinstance(e, NoteCall)))])
    replay = Replay(policy({"decision": "ask", "command": "make"}), world.gate.hurried)
    replay.look_at_calls(call for _, call in world.store.passed(None, None, 9))
    assert replay.calls == 1
    world.ask("a1")  # the agent's own mode asks: same tool call
    replay = Replay(policy({"decision": "ask", "command": "make"}), world.gate.hurried)
    replay.look(approval for _, approval in world.store.past(None, None, 9))
    replay.look_at_calls(call for _, call in world.store.passed(None, None, 9))
    assert (replay.looked_at, replay.calls) == (1, 0)


def test_a_call_that_is_asked_about_at_once_is_kept_as_an_approval_alone(run: Run) -> None:
    async def test(s: Stack) -> None:
        async with s.running() as shell:
            await judged(s, "make", "h1")
            await judged(s, "ls", "h2")
            await s.ask("a1", tool_use_id="toolu_h1")
            await s.ask("a2", tool_use_id=None)  # nobody's call
            await trio.sleep(NOTE_CALLS_S * 2)
            await settle()
            assert [one.tool_use_id for _, one in shell.store.passed(None, None, 9)] == ["toolu_h2"]
            found = await ask(s, "replay", toml="")
            assert (found["looked_at"], found["calls"]) == (2, 1)

    run(test)


def test_where_not_all_decisions_are_looked_at_no_earlier_call_is(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one that was asked about long ago would be told as run by the agent itself."""
    monkeypatch.setattr("services.approvals.shell.MAX_REPLAYED", REPLAY_AT_ONCE)

    async def test(s: Stack) -> None:
        async with s.running():
            for number in range(REPLAY_AT_ONCE + 2):
                await judged(s, request_id=f"h{number}")
                await trio.sleep(NOTE_CALLS_S * 2)
                await s.ask(f"a{number}", tool_use_id=f"toolu_h{number}")
            await judged(s, request_id="its-own")
            found = await ask(s, "replay", toml=NO_MAKE)
            assert (found["looked_at"], found["calls"]) == (REPLAY_AT_ONCE, 1)
            assert found["changes"] == {"ask → deny": REPLAY_AT_ONCE, "agent → deny": 1}

    run(test)


def test_the_newest_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.approvals.store.MAX_CALLS", 3)
    world = World()
    for number in range(1, 6):
        world.act([SaveCalls((call(number),))])
    assert [one.id for _, one in world.store.passed(None, None, 9)] == ["c5", "c4", "c3"]


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ({"command": "x" * MAX_INPUT}, False),
        ({"file_path": "/a", "content": "x" * 100_000}, True),
        ({f"{n}": "x" * 400 for n in range(100)}, False),
        ({"file_path": "/a", "content": "\ud800" * 9000}, False),
    ],
)
def test_inputs_are_bounded(value: dict[str, Any], kept: bool) -> None:
    found = bounded(call(input_json=json.dumps(value)))
    assert (found is not None) is kept
    if found is not None:
        assert len(found.input_json) <= MAX_INPUT
        assert json.loads(found.input_json)["file_path"] == "/a"
    assert bounded(call()) == call()
    assert bounded(call(input_json="no json" * 9000)) is None


def test_only_rules_that_hold_in_every_mode_would_have_met_a_call() -> None:
    rules = policy({"decision": "ask", "command": "make"}, {"decision": "allow", "command": "ls"})
    replay = Replay(rules, World(sight=SIGHT).gate.hurried)
    plan = call(4, kind="plan", tool="ExitPlanMode", input_json="{}")
    replay.look_at_calls(
        [call(1), call(2, input_json='{"command":"ls"}'), call(3, tool="Read", input_json="{}"), plan]
    )
    assert replay.result()["changes"] == {"agent → ask": 1}
    assert passed.MAX_CALLS <= 20_000
