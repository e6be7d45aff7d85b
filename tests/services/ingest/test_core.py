"""Transcripts: feed frames, facts and commands, and look what came of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from bus import messages as m
from bus.errors import RefusedError
from services.ingest.registry import BASELINE_S
from services.ingest.states import Status
from services.ingest.turns import RECENT_COSTS
from tests.services.ingest.support import (
    INIT,
    UID,
    Play,
    can_use,
    created,
    recorded,
    result,
    tool_result,
)  # fmt: skip


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return Play(tmp_path / "ingest.sqlite")


def answer(play: Play, decision: str = "approved", **more: Any) -> m.Answer:
    question = play.facts("question")[-1]
    fields: dict[str, Any] = {
        "approval": question.approval, "process": question.process, "request_id": question.request_id,
        "decision": decision, "message": "no", "input_json": question.input_json, "interrupt": False,
    }  # fmt: skip
    return m.Answer(**{**fields, **more})


def statuses(play: Play) -> list[str]:
    return [e["to"] for e in play.events("status")]


def test_a_whole_turn(play: Play) -> None:
    play.open(prompt="do it", prompt_id="first")
    assert play.lines()[0]["request"]["subtype"] == "initialize"
    assert play.lines()[0]["request"]["hooks"]["PreToolUse"][0]["timeout"] == 86_400
    assert len(play.lines()) == 1  # the prompt waits
    play.initialize()
    said = play.lines()[1]
    assert said["message"]["content"] == "do it"
    play.taken()
    play.say(INIT, {"type": "command_lifecycle", "command_uuid": said["uuid"], "state": "started"})
    assert play.state().status == "working"
    play.say(can_use("r1"))
    assert play.state().status == "waiting_approval"
    question = play.facts("question")[0]
    assert (question.tool, question.input_json, question.kind) == ("Bash", '{"command":"ls"}', "tool")
    assert play.state().pending_approvals == [question.approval]
    current = play.state().current_tool
    assert current is not None
    assert current.summary == "ls"
    play.fact(answer(play))
    assert '"updatedInput":{"command":"ls"}}' in play.session.lines[3].data
    assert play.state().status == "working"
    assert play.facts("applied") == []
    play.taken()
    assert [f.applied for f in play.facts("applied")] == [True]
    play.say(tool_result(), result("res-1", "0.014339999999999999", user_message_uuids=[said["uuid"]]))
    cost = play.facts("cost")[0]
    assert (cost.total_usd, cost.models["claude-opus-5-5"].cost_usd) == ("0.014339999999999999",) * 2
    assert play.state().status == "waiting_input"
    assert play.state().queued_prompts == 0
    done = play.events("result")[0]
    assert done["prompt_ids"] == ["first"]
    assert [e["phase"] for e in play.events("prompt")] == ["queued", "delivered"]
    assert [e["phase"] for e in play.events("tool")] == ["started", "progress", "finished"]
    assert statuses(play) == ["ready", "working", "waiting_approval", "working", "waiting_input"]
    assert [e["seq"] for e in play.kept_events()] == list(range(1, len(play.kept_events()) + 1))


@pytest.mark.parametrize(
    "name",
    ["stdio-allow", "stdio-interrupt", "stdio-ask", "stdio-plan", "stdio-queue", "stdio-subagent",
     "stdio-parallel", "stdio-errors", "stdio-hello", "file-hook-events", "file-resume-uuid"],
)  # fmt: skip
def test_recordings_are_understood(play: Play, name: str) -> None:
    frames = recorded(f"claude-2.1.329-{name}.ndjson")
    play.open()
    play.initialize()
    for frame in frames:
        play.say(frame)
    assert play.core.malformed == 0
    results = [f for f in frames if f["type"] == "result"]
    assert len([f for f in play.facts("cost") if not f.baseline]) == len(results)
    assert [float(f.total_usd) for f in play.facts("cost") if not f.baseline] == [
        f["total_cost_usd"] for f in results
    ]
    asked = [
        f for f in frames if f["type"] == "control_request" and f["request"]["subtype"] == "can_use_tool"
    ]
    assert [q.request_id for q in play.facts("question")] == [f["request_id"] for f in asked]
    for question, frame in zip(play.facts("question"), asked, strict=True):
        assert json.loads(question.input_json) == frame["request"]["input"]
    texts = [
        b["text"]
        for f in frames
        if f["type"] == "assistant"
        for b in f["message"]["content"]
        if b["type"] == "text"
    ]
    assert [e["text"] for e in play.events("message") if e["role"] == "assistant"] == texts
    hooks = [
        f for f in frames if f["type"] == "control_request" and f["request"]["subtype"] == "hook_callback"
    ]
    kept = json.dumps(
        [line["response"]["request_id"] for line in play.lines() if line["type"] == "control_response"]
    )
    assert all(f["request_id"] in kept for f in hooks)
    assert play.record.turn is (name == "stdio-hello" and frames[-1]["type"] != "result")


def test_the_subagent_is_not_the_turn(play: Play) -> None:
    play.open()
    play.initialize()
    for frame in recorded("claude-2.1.329-stdio-subagent.ndjson"):
        play.say(frame)
    inside = [e for e in play.events("message") if "parent_tool_use_id" in e]
    assert inside
    assert play.record.status is Status.WAITING_INPUT


def test_a_cancelled_question_is_withdrawn(play: Play) -> None:
    play.open()
    play.initialize()
    play.say(INIT, can_use("r1"), {"type": "control_cancel_request", "request_id": "r1"})
    assert [f.approval for f in play.facts("withdrawn")] == [play.facts("question")[0].approval]
    assert statuses(play) == ["ready", "working", "waiting_approval", "working"]
    play.fact(answer(play))
    assert [f.applied for f in play.facts("applied")] == [False]


def test_a_denial_carries_its_message_and_may_end_the_turn(play: Play) -> None:
    play.open()
    play.initialize()
    play.say(INIT, can_use("r1"))
    play.fact(answer(play, "denied", message="not now", interrupt=True))
    said = play.lines()[-1]["response"]["response"]
    assert said == {"behavior": "deny", "message": "not now", "interrupt": True}


def test_an_approved_input_too_long_for_the_pipe_is_sent_as_unchanged(play: Play) -> None:
    play.open()
    play.initialize()
    long = json.dumps({"content": "x" * 2_000_000}, separators=(",", ":"))
    play.say(INIT, can_use("r1", "Write", given=long))
    assert play.facts("question")[0].input_json == long
    play.fact(answer(play))
    assert play.lines()[-1]["response"]["response"] == {"behavior": "allow", "updatedInput": {}}
    play.say(can_use("r2", "Write", tool_use_id="toolu_2", given=long))
    play.fact(answer(play, input_json=long[:-1] + ',"more":1}'))
    assert play.lines()[-1]["response"]["response"]["behavior"] == "deny"


def test_the_agent_dies_and_is_resumed(play: Play) -> None:
    play.open(prompt="one")
    play.initialize()
    uuid = play.lines()[1]["uuid"]
    play.taken()
    play.say(INIT, can_use("r1"))
    play.fact(m.AgentExited(process=1, exit_code=137, reason="killed", final=False))
    assert play.record.status is Status.WAITING_APPROVAL  # its journal is not read yet
    play.act(play.core.agent_gone(play.number, _exit(play), play.now))
    assert play.state().status == "disconnected"
    assert [f.reason for f in play.facts("withdrawn")] == ["the agent is gone"]
    assert [(a.process, a.resume) for a in play.asked()] == [(2, "conv-1")]
    play.fact(m.AgentStarted(process=2, resume="conv-1"))
    play.journal = b""
    play.connect(process=2)
    assert play.record.ask is None
    before = len(play.lines())
    play.initialize()
    baseline = [f for f in play.facts("cost") if f.baseline]
    assert [(f.process, f.total_usd) for f in baseline] == [(2, "0.0000")]
    again = [line for line in play.lines()[before - 2 :] if line["type"] == "user"]
    assert [line["uuid"] for line in again] == [uuid]
    play.say(INIT, result("res-2", user_message_uuids=[uuid]))
    assert play.session.prompts == {}
    assert statuses(play)[-3:] == ["waiting_input", "working", "waiting_input"]


def _exit(play: Play, process: int = 1, code: int = 137) -> Any:
    from bus import bridge_wire as bw

    return bw.Exit(process=process, code=code, size=len(play.journal))


def test_an_ingest_put_back_from_a_backup_numbers_its_lines_after_what_was_written(play: Play) -> None:
    """A bridge drops numbers that it has had: an answer under one of them would never reach the agent."""
    play.open()
    play.detach()
    play.connect(written=play.record.line + 7)
    last = play.record.line
    play.say(can_use("r1"))
    play.fact(answer(play))
    assert max(play.session.lines) == last + 1


def test_four_deaths_in_a_minute_are_a_failure(play: Play) -> None:
    play.open()
    for process in range(1, 5):
        play.fact(m.AgentStarted(process=process, resume=None))
        play.fact(m.AgentExited(process=process, exit_code=1, reason="broken", final=False))
        play.later(11)  # no bridge drains it
    assert play.state().status == "failed"
    assert "died 4 times" in str(play.state().error)
    assert [a.process for a in play.asked()] == [2, 3, 4, 0]
    play.fact(created("one"), uid="01JD0000000000000000000002")  # the name is free


def test_a_spawn_that_is_refused_is_a_failure(play: Play) -> None:
    play.open()
    play.fact(m.AgentExited(process=1, exit_code=1, reason="broken", final=False))
    play.act(play.core.agent_gone(play.number, _exit(play), play.now))
    ask = play.asked()[-1]
    error = RefusedError("agent_missing", "claude is not there")
    play.act(play.core.controller_answered(UID, ask.id, error, play.now))
    assert play.state().status == "failed"


def test_the_end(play: Play) -> None:
    play.open(prompt="never read")
    with pytest.raises(RefusedError, match="alive"):
        play.fact(created("one"), uid="01JD0000000000000000000002")
    play.initialize()
    play.say(INIT, can_use("r1"))
    play.act(play.core.end_agent(m.EndAgent(id="e", uid=UID), play.now))
    assert [line["request"]["subtype"] for line in play.lines()[-2:]] == ["interrupt", "end_session"]
    assert play.replies[-1].result == {"asked": True}
    play.fact(m.AgentExited(process=1, exit_code=0, reason="ended", final=True))
    play.act(play.core.agent_gone(play.number, _exit(play, code=0), play.now))
    assert play.events("ended")[0]["exit_code"] == 0
    assert play.state().status == "ended"
    told = [fact.type for fact in play.posted.values() if fact.type in ("question", "withdrawn", "over")]
    assert told == ["question", "withdrawn", "over"], "after all that it asked"
    assert play.events("prompt")[-1]["phase"] == "refused"
    with pytest.raises(RefusedError, match="ended"):
        play.core.prompt(m.Prompt(text="hi"), "one", play.now)
    late = play.number
    play.connect()
    assert play.number != late
    play.say(result("late", "0.5"))  # what it cost is told, though it is over
    assert play.facts("cost")[-1].total_usd == "0.5"
    play.act(play.core.remove(m.SessionCommand(id="x"), "one", play.now))
    assert play.published[-1][1] is None
    play.crash()
    with pytest.raises(RefusedError, match="no session"):
        play.core.named("one", None)


def test_ended_sessions_are_removed_after_a_while(play: Play) -> None:
    play.open()
    play.fact(m.AgentExited(process=1, exit_code=0, reason="ended", final=True))
    play.later(11)
    assert play.state().status == "ended"
    play.crash()
    play.later(86_500)
    assert play.store.records() == []


def test_a_drop_of_the_connection_shows_after_the_grace(play: Play) -> None:
    play.open()
    play.initialize()
    play.detach()
    assert not play.state().connected
    play.later(4)
    assert play.state().status == "ready"
    play.later(2)
    assert play.state().status == "disconnected"
    play.connect()
    assert (play.state().status, play.state().connected) == ("ready", True)


def test_an_sdk_url_agent_repeats_itself(play: Play) -> None:
    frames = recorded("claude-2.1.119-sdkurl-basic.ndjson")
    play.fact(created(kind="sdk-url", agent_version="2.1.119", prompt="one"))
    play.fact(m.AgentStarted(process=1, resume=None))
    play.attach()
    play.initialize()
    first = next(i for i in range(1, len(frames)) if frames[i].get("uuid") == frames[0]["uuid"])
    play.say(*frames[:first])
    events = len(play.events())
    play.detach()
    play.crash()
    play.attach()
    assert play.lines()[-1]["request"] == {"subtype": "initialize", "hooks": None} or any(
        line["request"].get("hooks", 0) is None for line in play.lines() if line["type"] == "control_request"
    )
    play.say(*frames[first:])
    assert [e["type"] for e in play.events()[events:]] == []
    assert len(play.facts("cost")) == 2
    asked = {"subtype": "error", "error": "Already initialized", "request_id": "pointsman-again"}
    pending = json.loads(can_use("lost"))
    play.say({"type": "control_response", "response": {**asked, "pending_permission_requests": [pending]}})
    assert [q.request_id for q in play.facts("question")][-1] == "lost"
    play.fact(answer(play))
    play.detach()
    play.attach()
    play.say({"type": "control_response", "response": {**asked, "pending_permission_requests": []}})
    assert play.facts("applied")[-1].applied is True


def test_a_prompt_that_the_agent_drops_in_silence_does_not_hang(play: Play) -> None:
    play.open(prompt="one")
    play.initialize()
    play.taken()
    assert len(play.session.prompts) == 1
    play.later(31)
    play.later(31)
    assert play.session.prompts == {}
    assert play.state().queued_prompts == 0


def test_the_baseline_is_made_exact(play: Play) -> None:
    play.open()
    play.initialize()
    play.say(INIT, result("res-1", "0.0067599999999999995"))
    play.fact(m.AgentExited(process=1, exit_code=0, reason="x", final=False))
    play.act(play.core.agent_gone(play.number, _exit(play), play.now))
    play.fact(m.AgentStarted(process=2, resume="conv-1"))
    play.journal = b""
    play.connect(process=2)
    init, base = play.record.requests
    play.respond(init, {})
    play.respond(base, {"text": "Estimated cost:        $0.0068\nTotal duration"})
    fact = play.facts("cost")[-1]
    assert (fact.baseline, fact.total_usd) == (True, "0.0067599999999999995")
    assert fact.models["claude-opus-5-5"].input == 3


def test_the_baseline_stays_exact_however_often_the_agent_is_killed(play: Play) -> None:
    """A killed process saves no total: all that follow begin at the last one that was saved."""
    play.open()
    play.initialize()
    play.say(INIT, result("res-1", "0.098928"))
    for process in range(2, 2 + 3 * RECENT_COSTS):
        play.fact(m.AgentExited(process=process - 1, exit_code=-9, reason="x", final=False))
        play.act(play.core.agent_gone(play.number, _exit(play), play.now))
        play.fact(m.AgentStarted(process=process, resume="conv-1"))
        play.journal = b""
        play.connect(process=process)
        init, base = play.record.requests
        play.respond(init, {})
        play.respond(base, {"text": "Estimated cost:        $0.0989\nTotal duration"})
        fact = play.facts("cost")[-1]
        assert (fact.baseline, fact.total_usd) == (True, "0.098928")
        play.say(INIT, result(f"res-{process}", f"0.2{process:03}"))


def test_without_an_answer_the_baseline_is_zero_after_a_while(play: Play) -> None:
    play.open(resume="conv-0", prompt="go")
    init = next(iter(play.record.requests))
    play.respond(init, {})
    assert [line["type"] for line in play.lines()] == ["control_request"] * 2
    play.later(BASELINE_S + 0.1)
    assert play.facts("cost")[0].total_usd == "0"
    assert play.lines()[-1]["type"] == "user"


@pytest.mark.parametrize("crash", [False, True])
def test_an_agent_that_is_out_of_reach_is_not_taken_to_start_from_zero(play: Play, crash: bool) -> None:
    """Its answer stands in the journal: who counts from zero meanwhile counts the old total again."""
    play.open(resume="conv-0", prompt="go")
    init, base = play.record.requests
    play.respond(init, {})
    play.later(BASELINE_S - 1)
    play.crash() if crash else play.detach()
    play.later(BASELINE_S + 1)
    assert play.facts("cost") == []
    play.connect()
    play.later(BASELINE_S - 1)
    assert play.facts("cost") == []
    play.respond(base, {"text": "Total cost: $0.1366"})
    assert [fact.total_usd for fact in play.facts("cost")] == ["0.1366"]


def test_a_late_answer_is_where_counting_starts_unless_something_was_counted(play: Play) -> None:
    play.open(resume="conv-0", prompt="go")
    init, base = play.record.requests
    play.respond(init, {})
    play.later(BASELINE_S + 0.1)
    play.respond(base, {"text": "Total cost: $0.1366"})
    assert [(fact.baseline, fact.total_usd) for fact in play.facts("cost")] == [(True, "0"), (True, "0.1366")]
    play.say(INIT, result("res-1", "0.2"))
    play.record.requests["again"] = "baseline"
    play.respond("again", {"text": "Total cost: $0.1"})
    assert [fact.total_usd for fact in play.facts("cost")] == ["0", "0.1366", "0.2"]


def test_set(play: Play) -> None:
    play.open()
    play.initialize()
    with pytest.raises(RefusedError) as refused:
        play.core.change(m.SetSession(permission_mode="bypassPermissions"), "one", play.now)
    assert refused.value.code == "not_allowed"
    command = m.SetSession(id="s", permission_mode="acceptEdits", model="opus", title="T", pinned=True)
    play.act(play.core.change(command, "one", play.now))
    assert [line["request"]["subtype"] for line in play.lines()[-2:]] == ["set_model", "set_permission_mode"]
    assert (play.state().title, play.state().permission_mode) == ("T", "default")
    play.initialize()
    assert (play.state().model, play.state().permission_mode) == ("opus", "acceptEdits")
    with pytest.raises(RefusedError) as refused:
        play.core.change(m.SetSession(uid="other", title="x"), "one", play.now)
    assert refused.value.code == "unknown_session"


def test_a_question_at_the_end_of_a_turn(play: Play) -> None:
    play.open()
    play.initialize()
    text = {"type": "text", "text": "I looked.\n\nShall I go on?"}
    play.say(
        INIT, {"type": "assistant", "message": {"id": "msg", "content": [text]}, "uuid": "a"}, result("r")
    )
    assert play.events("question")[0]["text"] == "Shall I go on?"
    assert play.state().last_message == "I looked.\n\nShall I go on?"


def test_compacting(play: Play) -> None:
    play.open()
    play.initialize()
    play.say({"type": "system", "subtype": "status", "status": "compacting"})
    assert play.state().status == "compacting"
    play.say({"type": "system", "subtype": "status", "status": None})
    assert play.state().status == "ready"


def test_limits(play: Play) -> None:
    play.open()
    play.initialize()
    info = {
        "status": "allowed_warning",
        "resetsAt": 1795210201,
        "rateLimitType": "five_hour",
        "utilization": 0.9,
    }
    play.say({"type": "rate_limit_event", "rate_limit_info": info}, INIT, result("r"))
    event = play.events("limit")[0]
    assert (event["window"], event["utilization"], event["resets_at"]) == (
        "five_hour",
        0.9,
        "2026-11-20T21:30:01Z",
    )
    assert play.facts("cost")[0].notional


def test_what_is_malformed_is_counted_and_what_is_unknown_too(play: Play) -> None:
    play.open()
    play.initialize()
    play.say(
        b"nonsense", b"[]", b'{"type":5}', b'{"type":"assistant"}', b'{"type":"new_thing"}', b"\xff\xfe{}"
    )
    play.say({"type": "control_request", "request_id": "q", "request": {"subtype": "can_use_tool"}})
    assert (play.core.malformed, play.core.unknown) == (6, {"new_thing": 1})
    play.say(INIT)
    assert play.state().status == "working"


def test_a_bridge_of_an_old_process_is_refused_and_a_newer_one_takes_over(play: Play) -> None:
    play.open()
    play.connect()
    assert [(c.link, c.refused) for c in play.closed()] == [(1, False)]
    play.fact(m.AgentStarted(process=2, resume=None))
    play.connect(process=1)
    assert play.closed()[-1].refused
    play.connect(process=3)  # its fact is on its way
    assert not play.state().connected
    play.fact(m.AgentStarted(process=3, resume=None))
    assert play.state().connected


def test_token_and_protocol(play: Play) -> None:
    play.open()
    assert play.core.token_sha256("one") == (hashlib.sha256(b"token-of-one").hexdigest(), "managed")
    assert play.core.token_sha256("two") is None
