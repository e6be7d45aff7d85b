"""Tool calls judged before they run, and what ran held against what was decided."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bus import messages as m
from bus.ids import approval_id
from services.ingest import callbacks
from tests.services.ingest.support import INIT, UID, Play, can_use, created, frame, result, tool_result

DENIED = approval_id(UID, 1, "h1")


@pytest.fixture
def play(tmp_path: Path) -> Play:
    play = Play(tmp_path / "ingest.sqlite")
    play.open()
    play.initialize()
    play.say(INIT)
    play.gate = None
    return play


def before(request_id: str = "h1", tool_use_id: str = "toolu_1", tool: str = "Bash", **more: Any) -> bytes:
    """The callback of a tool call."""
    given = {
        "hook_event_name": "PreToolUse", "tool_name": tool, "tool_input": {"command": "ls"},
        "tool_use_id": tool_use_id, **more,
    }  # fmt: skip
    request = {"subtype": "hook_callback", "input": given, "tool_use_id": tool_use_id}
    return frame(type="control_request", request_id=request_id, request=request)


def after(event: str = "PostToolUse", tool_use_id: str = "toolu_1") -> bytes:
    given = {"hook_event_name": event, "tool_name": "Bash", "tool_use_id": tool_use_id}
    request = {"subtype": "hook_callback", "input": given, "tool_use_id": tool_use_id}
    return frame(type="control_request", request_id=f"{event}-{tool_use_id}", request=request)


def failed(tool_use_id: str = "toolu_1", text: str = "no") -> bytes:
    block = {"type": "tool_result", "tool_use_id": tool_use_id, "content": text, "is_error": True}
    return frame(type="user", message={"role": "user", "content": [block]}, uuid=f"f-{tool_use_id}")


def answer(play: Play, decision: str, request_id: str = "h1", rule: str | None = None, **more: Any) -> None:
    fields: dict[str, Any] = {
        "approval": approval_id(UID, 1, request_id), "process": 1, "request_id": request_id,
        "decision": decision, "message": "not this", "input_json": "", "interrupt": False, "rule": rule,
    }  # fmt: skip
    play.fact(m.Answer(**{**fields, **more}))


def told(play: Play, request_id: str = "h1") -> list[Any]:
    """What the agent was answered to a callback or question."""
    responses = [line["response"] for line in play.lines() if line["type"] == "control_response"]
    return [response["response"] for response in responses if response["request_id"] == request_id]


def finished(play: Play) -> dict[str, Any]:
    return next(e for e in reversed(play.events("tool")) if e["phase"] == "finished")


# ── the callback ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_subagents_call_is_its_own_whatever_tells_of_it_first(play: Play) -> None:
    """Its message knows the Task call that it came from, the callback knows the subagent."""
    use = {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "ls"}}
    message = {"role": "assistant", "id": "m1", "content": [use]}
    play.say(frame(type="assistant", uuid="a1", parent_tool_use_id="toolu_task", message=message))
    play.say(before(agent_id="sub"), tool_result())
    assert finished(play)["agent_id"] == "sub"


def test_the_gate_is_asked_and_the_agent_goes_on(play: Play) -> None:
    play.say(before(agent_id="sub"))
    (asked,) = play.asked_gate
    assert (asked.uid, asked.tool, asked.kind, asked.agent_id) == (UID, "Bash", "tool", "sub")
    assert json.loads(asked.input_json) == {"command": "ls"}
    assert told(play) == []
    play.judge(asked, "none")
    assert told(play) == [{}]
    play.judge(asked, "none")
    assert len(told(play)) == 1
    play.say(tool_result())
    assert finished(play)["decided_by"] == "agent"
    assert play.facts("unapproved") == []


def test_it_is_asked_again_until_it_answers_also_by_a_successor(play: Play) -> None:
    play.say(before())
    play.say(before())
    assert len(play.asked_gate) == 1
    play.later(callbacks.AGAIN_S)
    play.crash()
    play.connect()
    play.later(0.1)
    play.later(callbacks.AGAIN_S)
    assert [asked.request_id for asked in play.asked_gate] == ["h1"] * 4
    play.judge(play.asked_gate[0], "ask", "rule 1 asks")
    assert told(play)[0]["hookSpecificOutput"]["permissionDecision"] == "ask"
    play.later(60)
    assert len(play.asked_gate) == 4


def test_a_denial_is_told_once_and_reported(play: Play) -> None:
    play.say(before())
    answer(play, "denied", rule="rule 1")
    answer(play, "denied", rule="rule 1")
    play.judge(play.asked_gate[0], "none")
    (said,) = told(play)
    assert said["hookSpecificOutput"] == {
        "hookEventName": "PreToolUse", "permissionDecision": "deny", "permissionDecisionReason": "not this",
    }  # fmt: skip
    assert play.facts("applied") == []
    play.crash()
    play.connect()
    play.taken()
    play.taken()
    assert [(a.approval, a.applied) for a in play.facts("applied")] == [(DENIED, True)]
    play.say(failed())
    event = finished(play)
    assert (event["decided_by"], event["approval"]) == ("rule", DENIED)
    assert play.facts("unapproved") == []


def test_an_agent_that_died_took_no_denial(play: Play) -> None:
    play.say(before())
    answer(play, "denied", rule="rule 1")
    play.fact(m.AgentStarted(process=2, resume="conv-1"))
    assert [(a.approval, a.applied) for a in play.facts("applied")] == [(DENIED, False)]
    answer(play, "denied", rule="rule 1")
    assert len(play.facts("applied")) == 1


def test_a_gate_that_does_not_answer_blocks_no_agent_for_ever_and_lets_nothing_through(play: Play) -> None:
    play.say(before())
    for _ in range(int(callbacks.PATIENCE_S / callbacks.AGAIN_S) + 1):
        play.later(callbacks.AGAIN_S)
    (said,) = told(play)
    assert said["hookSpecificOutput"]["permissionDecision"] == "deny"
    assert "has not answered for 60 s" in said["hookSpecificOutput"]["permissionDecisionReason"]
    assert play.events("error")[-1]["code"] == "unavailable"
    play.judge(play.asked_gate[0], "none")
    assert len(told(play)) == 1


def test_a_cancelled_callback_is_forgotten(play: Play) -> None:
    play.say(before())
    play.say({"type": "control_cancel_request", "request_id": "h1"})
    play.later(callbacks.AGAIN_S)
    assert len(play.asked_gate) == 1
    play.judge(play.asked_gate[0], "none")
    assert told(play) == []


def test_2_1_42_asks_nothing_after_a_hook_so_the_callback_waits_for_the_person(play: Play) -> None:
    play.say({**INIT, "claude_code_version": "2.1.42", "uuid": "init-2"})
    play.say(before())
    play.judge(play.asked_gate[0], "ask", "rule 1 asks")
    (question,) = play.facts("question")
    assert (question.approval, question.request_id, question.description) == (DENIED, "h1", "rule 1 asks")
    assert play.state().status == "waiting_approval"
    answer(play, "approved", input_json=question.input_json)
    assert told(play) == [
        {"hookSpecificOutput": {"hookEventName": "PreToolUse", "permissionDecision": "allow"}}
    ]
    play.taken()
    play.say(tool_result())
    assert finished(play)["decided_by"] == "approval"
    play.say(before("h2", "toolu_2"))
    play.judge(play.asked_gate[-1], "ask")
    answer(play, "denied", "h2", interrupt=True)
    assert told(play, "h2")[0]["hookSpecificOutput"]["permissionDecision"] == "deny"
    assert play.lines()[-1]["request"]["subtype"] == "interrupt"
    play.say(before("h3", "toolu_3"))
    play.judge(play.asked_gate[-1], "ask")
    changed = '{"command":"ls -l"}'
    answer(play, "approved", "h3", input_json=changed)
    assert told(play, "h3")[0]["hookSpecificOutput"]["updatedInput"] == json.loads(changed)


# ── what ran ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("decision", ["denied", "expired"])
def test_a_tool_that_ran_although_it_was_refused_is_reported(play: Play, decision: str) -> None:
    play.say(can_use("r1"))
    answer(play, decision, "r1")
    play.taken()
    play.say(tool_result())
    (told_of,) = play.facts("unapproved")
    assert (told_of.state, told_of.tool_use_id, told_of.tool) == (decision, "toolu_1", "Bash")
    assert told_of.approval == approval_id(UID, 1, "r1")


def test_one_that_failed_ran_as_well_if_the_agent_says_so(play: Play) -> None:
    play.say(can_use("r1"))
    answer(play, "denied", "r1")
    play.say(after("PostToolUseFailure"), failed(text="Exit code 1"))
    assert [u.state for u in play.facts("unapproved")] == ["denied"]


def test_one_that_ran_before_anybody_answered_is_reported(play: Play) -> None:
    play.say(can_use("r1"))
    play.say(tool_result())
    assert [u.state for u in play.facts("unapproved")] == ["open"]
    assert [w.approval for w in play.facts("withdrawn")] == [approval_id(UID, 1, "r1")]


@pytest.mark.parametrize("decision", ["denied", "expired"])
def test_a_refusal_is_no_run(play: Play, decision: str) -> None:
    play.say(can_use("r1"))
    answer(play, decision, "r1")
    play.say(failed())
    assert play.facts("unapproved") == []
    assert finished(play)["decided_by"] == "approval"


def test_the_agents_own_hook_may_have_answered_first(play: Play) -> None:
    play.say(can_use("r1"))
    play.say({"type": "control_cancel_request", "request_id": "r1"})
    play.say(before())
    play.judge(play.asked_gate[0], "none")
    play.say(tool_result())
    assert play.facts("unapproved") == []
    assert finished(play)["decided_by"] == "agent"


def test_an_approved_tool_ran_by_its_approval(play: Play) -> None:
    play.say(can_use("r1"))
    answer(play, "approved", "r1", input_json='{"command":"ls"}')
    play.say(tool_result())
    assert play.facts("unapproved") == []
    assert finished(play)["decided_by"] == "approval"
    play.say(can_use("r2", tool_use_id="toolu_2"))
    answer(play, "approved", "r2", input_json="{}", rule="approvals.auto_approve")
    play.say(tool_result("toolu_2", uuid="u-2"))
    assert finished(play)["decided_by"] == "rule"


def use(tool_use_id: str) -> dict[str, Any]:
    block = {"type": "tool_use", "id": tool_use_id, "name": "Bash", "input": {"command": "ls"}}
    return {"type": "assistant", "uuid": f"a-{tool_use_id}", "message": {"id": "m", "content": [block]}}


def test_hooks_that_are_switched_off_are_noticed(play: Play) -> None:
    assert play.state().enforcement == "full"
    play.say(use("toolu_1"), failed())  # refused, perhaps before any hook
    assert play.facts("unapproved") == []
    play.say(use("toolu_2"), tool_result("toolu_2"))
    assert [u.state for u in play.facts("unapproved")] == ["unjudged"]
    assert play.state().enforcement == "asked"
    play.say(use("toolu_3"), tool_result("toolu_3", uuid="u-3"))
    assert len(play.facts("unapproved")) == 1
    play.fact(m.AgentStarted(process=2, resume="conv-1"))
    assert play.state().enforcement == "full"


@pytest.mark.parametrize(
    ("kind", "enforcement"), [("sdk-url", "partial"), ("interactive", "partial"), ("external", "partial")]
)
def test_the_state_says_what_rules_can_do(tmp_path: Path, kind: str, enforcement: str) -> None:
    play = Play(tmp_path / "ingest.sqlite")
    play.fact(created(kind=kind))
    assert play.state().enforcement == enforcement


def test_an_agent_that_took_no_hooks_says_so(tmp_path: Path) -> None:
    play = Play(tmp_path / "ingest.sqlite")
    play.open()
    play.respond(next(iter(play.record.requests)), {}, "error")
    assert play.state().enforcement == "asked"


def test_answers_that_the_main_turn_leaves_open_stay_for_a_background_agent(play: Play) -> None:
    play.say(before("h1", "toolu_1", agent_id="sub"), before("h2", "toolu_2"))
    play.say(result("one"))
    assert list(play.record.callbacks) == ["h1"]
    play.judge(play.asked_gate[0], "none")
    assert told(play) == [{}]
