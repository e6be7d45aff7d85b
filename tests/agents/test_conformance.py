"""One suite for the real Claude Code CLI and for the scripted agent: what Pointsman relies upon holds for
both.

The real CLI (2.1.329, from npm) runs against the scripted Messages API, offline. Each test starts its own
process in its own home. No test sleeps: each waits for a frame, a file or an exit, with a deadline. When a
test is over, every frame that the agent has written is held against `SHAPES`.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli_versions import claude_path
from tests.support.messages_api import MessagesApi
from tests.support.real_cli import DEADLINE_S, STDIO_ARGS, Frame, StdioAgent, clean_env, is_type, user_frame

VERSION = "2.1.329"
SCRIPTED = Path(__file__).resolve().parents[2] / "services" / "demo" / "agent.py"
Number = (int, float)

SHAPES: dict[tuple[str, str | None], dict[str, Any]] = {
    ("system", "init"): {
        "session_id": str,
        "uuid": str,
        "cwd": str,
        "tools": list,
        "model": str,
        "permissionMode": str,
        "claude_code_version": str,
    },
    ("system", "status"): {"session_id": str, "uuid": str, "status": (str, type(None))},
    ("stream_event", None): {
        "session_id": str,
        "uuid": str,
        "event": dict,
        "parent_tool_use_id": (str, type(None)),
    },
    ("assistant", None): {
        "session_id": str,
        "uuid": str,
        "message": dict,
        "parent_tool_use_id": (str, type(None)),
        "timestamp": str,
    },
    ("user", None): {
        "session_id": str,
        "uuid": str,
        "message": dict,
        "parent_tool_use_id": (str, type(None)),
        "timestamp": str,
    },
    ("command_lifecycle", None): {"session_id": str, "uuid": str, "command_uuid": str, "state": str},
    ("control_request", "can_use_tool"): {
        "tool_name": str,
        "display_name": str,
        "input": dict,
        "tool_use_id": str,
    },
    ("control_request", "hook_callback"): {"callback_id": str, "input": dict, "tool_use_id": str},
    ("control_cancel_request", None): {"request_id": str},
    ("control_response", None): {"response": dict},
    ("result", "success"): {
        "session_id": str,
        "uuid": str,
        "is_error": bool,
        "result": str,
        "num_turns": int,
        "duration_ms": int,
        "usage": dict,
        "total_cost_usd": Number,
        "modelUsage": dict,
        "permission_denials": list,
        "terminal_reason": str,
        "stop_reason": (str, type(None)),
        "api_error_status": (int, type(None)),
    },
    ("result", "error_during_execution"): {
        "session_id": str,
        "uuid": str,
        "is_error": bool,
        "num_turns": int,
        "errors": list,
        "total_cost_usd": Number,
    },
}
"""The fields that Pointsman reads, by frame type and subtype. Of a control request these are fields of its
request."""

HOOK_INPUT = {
    "session_id": str,
    "transcript_path": str,
    "cwd": str,
    "prompt_id": str,
    "permission_mode": str,
    "hook_event_name": str,
    "tool_name": str,
    "tool_input": dict,
    "tool_use_id": str,
}
USAGE = {
    "input_tokens": int,
    "output_tokens": int,
    "cache_creation_input_tokens": int,
    "cache_read_input_tokens": int,
    "cache_creation": dict,
}
MODEL_USAGE = {
    "inputTokens": int,
    "outputTokens": int,
    "cacheReadInputTokens": int,
    "cacheCreationInputTokens": int,
    "costUSD": Number,
}


def check(value: Frame, shape: dict[str, Any]) -> None:
    for key, kind in shape.items():
        assert key in value, f"{key} is missing in {json.dumps(value)[:600]}"
        assert isinstance(value[key], kind), f"{key} is {value[key]!r} in {json.dumps(value)[:600]}"


def check_frame(frame: Frame) -> None:
    """Hold one frame against `SHAPES`; types that are not there are ones that Pointsman passes over."""
    body = frame["request"] if frame["type"] == "control_request" else frame
    subtype = body.get("subtype") if frame["type"] in ("system", "control_request", "result") else None
    if shape := SHAPES.get((frame["type"], subtype)):
        check(body, shape)
    if frame["type"] == "assistant":
        check(frame["message"], {"id": str, "model": str, "content": list, "usage": dict})
        assert len(frame["message"]["content"]) == 1, "one frame for each content block"
    if frame["type"] == "result" and subtype == "success":
        check(frame["usage"], USAGE)
        for row in frame["modelUsage"].values():
            check(row, MODEL_USAGE)
    if subtype == "hook_callback":
        check(body["input"], HOOK_INPUT)


class Place:
    """Where an agent lives: its command, its home and its working directory."""

    def __init__(self, kind: str, root: Path, url: str) -> None:
        self.kind = kind
        self.command: list[str | Path] = (
            [claude_path(VERSION)] if kind == "real" else [sys.executable, "-I", "-S", SCRIPTED]
        )
        self.home = root / "home"
        self.cwd = root / "work"
        self.record = root / "record.jsonl"
        self.home.mkdir()
        self.cwd.mkdir()
        self.env = clean_env(self.home, url, POINTSMAN_SCRIPTED_RECORD=str(self.record))
        self._stack = contextlib.ExitStack()
        self._started: list[StdioAgent] = []

    def start(self, *args: str) -> StdioAgent:
        agent = StdioAgent(self.command, env=self.env, cwd=self.cwd, args=(*STDIO_ARGS, *args))
        self._started.append(agent)
        return self._stack.enter_context(agent)

    def close(self) -> None:
        self._stack.close()

    def check_frames(self) -> None:
        for agent in self._started:
            assert agent.not_json == []
            for frame in agent.frames:
                check_frame(frame)

    def transcripts(self) -> list[Path]:
        return sorted((self.home / ".claude" / "projects").glob("*/*.jsonl"))


@pytest.fixture(scope="module")
def api() -> Iterator[MessagesApi]:
    with MessagesApi() as server:
        yield server


@pytest.fixture(params=["real", "scripted"])
def place(request: pytest.FixtureRequest, api: MessagesApi, tmp_path: Path) -> Iterator[Place]:
    it = Place(request.param, tmp_path, api.url)
    try:
        yield it
    finally:
        it.close()
    it.check_frames()


def tool_results(agent: StdioAgent, since: int = 0) -> list[Frame]:
    """The tool_result blocks that the agent has shown."""
    return [
        block
        for frame in agent.select("user", since=since)
        if isinstance(frame["message"]["content"], list)
        for block in frame["message"]["content"]
        if block["type"] == "tool_result"
    ]


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that no frame tells of."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"in vain waited for: {what}"
        time.sleep(0.01)


def test_version(place: Place) -> None:
    """`--version` names the version first, and ends."""
    done = subprocess.run(
        [*place.command, "--version"], env=place.env, capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout == f"{VERSION} (Claude Code)\n"


def test_hello_streams_and_ends_at_eof(place: Place) -> None:
    """A prompt gives init, partials, a block each, a result; at EOF the agent ends with 0."""
    agent = place.start("--include-partial-messages")
    result = agent.turn("THINK hm ;; SAY hello ;; STREAM 4 1")
    init = agent.select("system", "init")
    assert len(init) == 1
    assert init[0]["cwd"] == str(place.cwd)
    assert init[0]["claude_code_version"] == VERSION
    blocks = [frame["message"]["content"][0]["type"] for frame in agent.select("assistant")]
    assert blocks == ["thinking", "text", "text"]
    assert len({frame["message"]["id"] for frame in agent.select("assistant")}) == 1
    events = [frame["event"] for frame in agent.select("stream_event")]
    assert events[0]["type"] == "message_start"
    assert events[-1]["type"] == "message_stop"
    text = [
        event["delta"]["text"]
        for event in events
        if event["type"] == "content_block_delta" and event["delta"]["type"] == "text_delta"
    ]
    assert "".join(text) == "hellow0 w1 w2 w3 "
    assert result["subtype"] == "success"
    assert result["result"].strip() == "w0 w1 w2 w3"
    assert result["terminal_reason"] == "completed"
    assert "user_message_uuids" not in result
    agent.turn("SAY again")
    assert len(agent.select("system", "init")) == 2, "init comes with every turn"
    agent.close_stdin()
    assert agent.wait_exit() == 0


def test_approved_tool_runs(place: Place) -> None:
    """An approved command runs, with the input that the answer gave; without a question it does not."""
    agent = place.start()
    mark = agent.prompt("BASH echo one > made.txt ;; SAY done")
    question = agent.question(since=mark)
    assert question["request"]["tool_name"] == "Bash"
    assert question["request"]["input"]["command"] == "echo one > made.txt"
    check(question["request"], {"description": str, "permission_suggestions": list})
    assert any(s["type"] == "addRules" for s in question["request"]["permission_suggestions"])
    assert not (place.cwd / "made.txt").exists()
    agent.allow(question)
    assert agent.wait(is_type("result"), since=mark)["result"] == "done"
    assert (place.cwd / "made.txt").read_text() == "one\n"
    mark = agent.prompt(f"WRITE {place.cwd}/w.txt some text ;; SAY written")
    agent.allow(agent.question(since=mark))
    agent.wait(is_type("result"), since=mark)
    assert (place.cwd / "w.txt").read_text().strip() == "some text"
    mark = agent.prompt("BASH echo three > three.txt ;; SAY done")
    question = agent.question(since=mark)
    changed = {**question["request"]["input"], "command": "echo changed > changed.txt"}
    agent.respond(question, {"behavior": "allow", "updatedInput": changed})
    agent.wait(is_type("result"), since=mark)
    assert (place.cwd / "changed.txt").exists()
    assert not (place.cwd / "three.txt").exists()


def test_commands_that_only_read_are_not_asked(place: Place) -> None:
    """`echo` alone runs without a question, and so does `ls`; with a redirection it is asked."""
    agent = place.start()
    agent.turn("BASH echo unasked ;; BASH ls ;; SAY done")
    assert tool_results(agent)[0]["content"] == "unasked"
    assert agent.select("control_request") == []
    agent.question(since=agent.prompt("BASH echo unasked > file"))


def test_denied_tool_does_not_run(place: Place) -> None:
    """A denial's message becomes the tool's result, the turn goes on, and the result lists it."""
    agent = place.start()
    mark = agent.prompt("BASH touch never ;; SAY went on")
    question = agent.question(since=mark)
    agent.deny(question, "not on my machine")
    result = agent.wait(is_type("result"), since=mark)
    assert result["result"] == "went on"
    assert [denial["tool_use_id"] for denial in result["permission_denials"]] == [
        question["request"]["tool_use_id"]
    ]
    (block,) = tool_results(agent, mark)
    assert (block["content"], block["is_error"]) == ("not on my machine", True)
    assert not (place.cwd / "never").exists()


def test_late_double_and_foreign_answers(place: Place) -> None:
    """An answer after other traffic counts; a second one, and one to a question that never was, change
    nothing.
    """
    agent = place.start()
    mark = agent.prompt("BASH touch late ;; SAY done")
    question = agent.question(since=mark)
    for _ in range(20):
        assert agent.ask("get_session_cost")["subtype"] == "success"
    stranger = {"request_id": "no-such-question", "request": question["request"]}
    agent.deny(stranger)
    agent.allow(question)
    agent.deny(question, "too late")
    assert agent.wait(is_type("result"), since=mark)["result"] == "done"
    agent.deny(question, "far too late")
    assert (place.cwd / "late").exists()
    (block,) = tool_results(agent)
    assert not block.get("is_error")
    assert agent.turn("SAY fine")["result"] == "fine"


def test_interrupt_cancels_an_open_question(place: Place) -> None:
    """An interrupt cancels the question by its id and ends the turn; a late answer to it runs nothing."""
    agent = place.start()
    mark = agent.prompt("BASH touch never ;; SAY never")
    question = agent.question(since=mark)
    response = agent.ask("interrupt")
    assert response["subtype"] == "success"
    assert response["response"] == {"still_queued": []}
    cancelled = agent.wait(is_type("control_cancel_request"), since=mark)
    assert cancelled["request_id"] == question["request_id"]
    result = agent.wait(is_type("result"), since=mark)
    assert (result["subtype"], result["is_error"], result["terminal_reason"]) == (
        "error_during_execution",
        True,
        "aborted_tools",
    )
    (block,) = tool_results(agent, mark)
    assert block["is_error"]
    assert block["tool_use_id"] == question["request"]["tool_use_id"]
    agent.allow(question)
    assert agent.turn("SAY alive")["result"] == "alive"
    assert not (place.cwd / "never").exists()


def test_interrupt_while_streaming(place: Place) -> None:
    """An interrupt ends a turn in the middle of the answer; the next prompt does not continue it."""
    agent = place.start("--include-partial-messages")
    mark = agent.prompt("STREAM 2000 20 ;; BASH touch never")
    agent.wait(lambda frame: frame.get("event", {}).get("type") == "content_block_delta", since=mark)
    agent.ask("interrupt")
    result = agent.wait(is_type("result"), since=mark)
    assert result["terminal_reason"] == "aborted_streaming"
    assert agent.ask("interrupt")["subtype"] == "success", "also when idle"
    assert agent.turn("SAY alive")["result"] == "alive"
    assert agent.select("control_request") == []


def test_initialize_recovers_open_questions(place: Place) -> None:
    """A second `initialize` names the open questions in full; one of them may be answered then."""
    agent = place.start()
    first = agent.ask("initialize", hooks=None)
    assert first["subtype"] == "success"
    assert first["pending_permission_requests"] == []
    check(
        first["response"],
        {"pid": int, "claude_code_version": str, "current_permission_mode": str, "models": list},
    )
    mark = agent.prompt("BASH touch recovered ;; SAY done")
    question = agent.question(since=mark)
    again = agent.ask("initialize", hooks=None)
    assert again["subtype"] == "success"
    assert again["pending_permission_requests"] == [question]
    agent.allow(again["pending_permission_requests"][0])
    agent.wait(is_type("result"), since=mark)
    assert (place.cwd / "recovered").exists()
    assert agent.ask("initialize", hooks=None)["pending_permission_requests"] == []


HOOKS = {
    "PreToolUse": [{"matcher": None, "hookCallbackIds": ["pre"], "timeout": 60}],
    "PostToolUse": [{"matcher": None, "hookCallbackIds": ["post"], "timeout": 60}],
}


def test_hooks_see_what_is_never_asked(place: Place) -> None:
    """Hook callbacks come for Read, which is not asked, before and after it ran; with no opinion it runs."""
    (place.cwd / "seen.txt").write_text("the content\n")
    agent = place.start()
    assert agent.ask("initialize", hooks=HOOKS)["response"]["hooks_applied"] is True
    mark = agent.prompt(f"READ {place.cwd}/seen.txt ;; SAY read")
    before = agent.wait(is_type("control_request", "hook_callback"), since=mark)
    assert before["request"]["callback_id"] == "pre"
    assert before["request"]["input"]["tool_name"] == "Read"
    assert before["request"]["input"]["tool_use_id"] == before["request"]["tool_use_id"]
    assert tool_results(agent) == []
    after_mark = agent.mark()
    agent.respond(before, {})
    after = agent.wait(is_type("control_request", "hook_callback"), since=after_mark)
    assert after["request"]["callback_id"] == "post"
    assert after["request"]["input"]["hook_event_name"] == "PostToolUse"
    check(after["request"]["input"], {"tool_response": dict, "duration_ms": int})
    agent.respond(after, {})
    assert agent.wait(is_type("result"), since=mark)["result"] == "read"
    assert "the content" in str(tool_results(agent)[0]["content"])
    assert agent.select("control_request", "can_use_tool") == []


def test_hooks_decide(place: Place) -> None:
    """allow skips the question, deny keeps the tool from running, ask leads to a question with the reason."""
    agent = place.start()
    agent.ask("initialize", hooks={"PreToolUse": HOOKS["PreToolUse"]})

    def decide(name: str, decision: str) -> int:
        mark = agent.prompt(f"BASH touch {name} ;; SAY done")
        hook = agent.wait(is_type("control_request", "hook_callback"), since=mark)
        own = {
            "hookEventName": "PreToolUse",
            "permissionDecision": decision,
            "permissionDecisionReason": f"because {decision}",
        }
        agent.respond(hook, {"hookSpecificOutput": own})
        return mark

    mark = decide("by-hook", "allow")
    agent.wait(is_type("result"), since=mark)
    assert (place.cwd / "by-hook").exists()
    mark = decide("not-by-hook", "deny")
    agent.wait(is_type("result"), since=mark)
    assert not (place.cwd / "not-by-hook").exists()
    assert "because deny" in str(tool_results(agent, mark)[0]["content"])
    assert agent.select("control_request", "can_use_tool") == []
    mark = decide("asked", "ask")
    question = agent.question(since=mark)
    assert question["request"]["decision_reason"] == "because ask"
    agent.allow(question)
    agent.wait(is_type("result"), since=mark)
    assert (place.cwd / "asked").exists()


def test_second_initialize_and_open_hooks(place: Place) -> None:
    """Without hooks it keeps those registered and an open callback; with hooks it cancels the callback, and
    no tool runs.
    """
    agent = place.start()
    agent.ask("initialize", hooks={"PreToolUse": HOOKS["PreToolUse"]})
    mark = agent.prompt("BASH touch kept ;; SAY done")
    hook = agent.wait(is_type("control_request", "hook_callback"), since=mark)
    assert "hooks_applied" not in agent.ask("initialize", hooks=None)["response"]
    own = {"hookEventName": "PreToolUse", "permissionDecision": "allow"}
    agent.respond(hook, {"hookSpecificOutput": own})
    agent.wait(is_type("result"), since=mark)
    assert (place.cwd / "kept").exists()
    mark = agent.prompt("BASH touch dropped ;; SAY done")
    hook = agent.wait(is_type("control_request", "hook_callback"), since=mark)
    agent.ask("initialize", hooks={"PreToolUse": HOOKS["PreToolUse"]})
    cancelled = agent.wait(is_type("control_cancel_request"), since=mark)
    assert cancelled["request_id"] == hook["request_id"]
    agent.wait(is_type("result"), since=mark)
    assert not (place.cwd / "dropped").exists()


def test_duplicate_uuid_is_dropped_also_after_resume(place: Place) -> None:
    """A prompt sent twice with one uuid runs once, in the same process and in the next."""
    agent = place.start()
    prompt_id = str(uuid.uuid4())
    result = agent.turn("SAY once", prompt_id)
    assert result["user_message_uuids"] == [prompt_id]
    agent.wait(lambda frame: frame.get("state") == "completed")
    states = [
        frame["state"] for frame in agent.select("command_lifecycle") if frame["command_uuid"] == prompt_id
    ]
    assert states == ["queued", "started", "completed"]
    agent.prompt("SAY twice", prompt_id)
    assert agent.turn("SAY marker")["result"] == "marker"
    assert agent.turn("RECALL")["result"] == "SAY once | SAY marker"
    agent.close_stdin()
    assert agent.wait_exit() == 0
    later = place.start("--resume", result["session_id"])
    later.prompt("SAY thrice", prompt_id)
    assert later.turn("SAY marker")["result"] == "marker"
    assert later.turn("RECALL")["result"] == "SAY once | SAY marker | RECALL | SAY marker"


def test_prompts_during_an_answer_merge(place: Place) -> None:
    """Prompts that come while the model answers make one turn with one result, which names them all."""
    agent = place.start("--include-partial-messages")
    ids = [str(uuid.uuid4()) for _ in range(3)]
    mark = agent.prompt("STREAM 12 50", ids[0])
    agent.wait(lambda frame: frame.get("event", {}).get("type") == "content_block_delta", since=mark)
    agent.prompt("SAY two", ids[1])
    agent.prompt("SAY three", ids[2])
    agent.wait(
        lambda frame: frame.get("command_uuid") == ids[2] and frame["state"] == "completed", since=mark
    )
    results = agent.select("result", since=mark)
    assert [result["user_message_uuids"] for result in results] == [[ids[0]], ids[1:]]
    assert results[1]["result"] == "three"


def test_prompt_during_a_tool_joins_its_turn(place: Place) -> None:
    """A prompt that comes while a question is open joins the running turn after the tool's result."""
    agent = place.start()
    ids = [str(uuid.uuid4()) for _ in range(2)]
    mark = agent.prompt("BASH touch a ;; SAY first", ids[0])
    question = agent.question(since=mark)
    agent.prompt("SAY joined", ids[1])
    agent.wait(lambda frame: frame.get("command_uuid") == ids[1] and frame["state"] == "queued", since=mark)
    agent.allow(question)
    agent.wait(
        lambda frame: frame.get("command_uuid") == ids[1] and frame["state"] == "completed", since=mark
    )
    result = agent.wait(is_type("result"), since=mark)
    assert result["user_message_uuids"] == ids
    said = [frame["message"]["content"][0].get("text") for frame in agent.select("assistant", since=mark)]
    assert said[-2:] == ["first", "joined"]


def test_model_and_mode(place: Place) -> None:
    """set_model and set_permission_mode take effect on the next turn; bad values are errors."""
    agent = place.start("--model", "claude-haiku-4-5-20251001")
    agent.turn("SAY one")
    assert agent.select("system", "init")[-1]["model"] == "claude-haiku-4-5-20251001"
    assert agent.ask("set_model", model="claude-sonnet-5-5")["subtype"] == "success"
    assert agent.ask("set_permission_mode", mode="acceptEdits")["response"] == {"mode": "acceptEdits"}
    mark = agent.mark()
    result = agent.turn(f"WRITE {place.cwd}/free.txt x ;; SAY done")
    init = agent.wait(is_type("system", "init"), since=mark)
    assert (init["model"], init["permissionMode"]) == ("claude-sonnet-5-5", "acceptEdits")
    assert (place.cwd / "free.txt").exists()
    assert agent.select("control_request") == []
    assert set(result["modelUsage"]) == {"claude-haiku-4-5-20251001", "claude-sonnet-5-5"}
    for mode in ("nonsense", "bypassPermissions"):
        refused = agent.ask("set_permission_mode", mode=mode)
        assert refused["subtype"] == "error"
        assert isinstance(refused["error"], str)
    assert agent.ask("no_such_subtype")["subtype"] == "error"


def test_suggestion_is_taken(place: Place) -> None:
    """`updatedPermissions` set to a suggested mode spares the next question."""
    agent = place.start()
    mark = agent.prompt(f"WRITE {place.cwd}/a.txt x ;; SAY done")
    question = agent.question(since=mark)
    (mode,) = [s for s in question["request"]["permission_suggestions"] if s["type"] == "setMode"]
    agent.allow(question, updatedPermissions=[mode])
    agent.wait(is_type("result"), since=mark)
    mark = agent.mark()
    agent.turn(f"WRITE {place.cwd}/b.txt x ;; SAY done")
    assert agent.select("control_request", since=mark) == []
    assert (place.cwd / "b.txt").exists()


def test_questions_and_plans(place: Place) -> None:
    """AskUserQuestion is answered through `updatedInput.answers`, a plan is approved by allowing it."""
    agent = place.start("--permission-mode", "plan")
    mark = agent.prompt("ASK Which colour?|red|blue ;; SAY thanks")
    question = agent.question(since=mark)["request"]
    assert question["tool_name"] == "AskUserQuestion"
    assert question["requires_user_interaction"] is True
    assert [option["label"] for option in question["input"]["questions"][0]["options"]] == ["red", "blue"]
    answered = {**question["input"], "answers": {"Which colour?": "blue"}}
    agent.respond(agent.question(since=mark), {"behavior": "allow", "updatedInput": answered})
    agent.wait(is_type("result"), since=mark)
    assert '"Which colour?"="blue"' in str(tool_results(agent, mark)[0]["content"])
    mark = agent.prompt("PLAN first this ;; SAY planned")
    plan = agent.question(since=mark)
    assert plan["request"]["tool_name"] == "ExitPlanMode"
    assert plan["request"]["requires_user_interaction"] is True
    agent.allow(plan)
    agent.wait(is_type("result"), since=mark)
    mark = agent.mark()
    agent.turn("SAY now")
    assert agent.wait(is_type("system", "init"), since=mark)["permissionMode"] == "default"


def test_api_error_is_an_erroneous_success(place: Place) -> None:
    """When the API fails for good, the result is `success` with is_error and the status, and the agent
    lives on.
    """
    agent = place.start()
    result = agent.turn("ERROR 400")
    assert (result["subtype"], result["is_error"], result["api_error_status"]) == ("success", True, 400)
    assert result["terminal_reason"] == "api_error"
    assert agent.turn("SAY alive")["is_error"] is False


def test_session_cost_follows_the_turn(place: Place) -> None:
    """get_session_cost answers while a question is open, counts this turn's finished calls, and agrees with
    the result.
    """
    agent = place.start()
    first = agent.turn("SAY one")
    assert f"${first['total_cost_usd']:.4f}" in agent.ask("get_session_cost")["response"]["text"]
    mark = agent.prompt("BASH touch x ;; SAY done")
    question = agent.question(since=mark)
    within = agent.ask("get_session_cost")["response"]["text"].splitlines()[0]
    assert float(within.split("$")[1]) > round(first["total_cost_usd"], 4)
    agent.deny(question)
    result = agent.wait(is_type("result"), since=mark)
    total = agent.ask("get_session_cost")["response"]["text"].splitlines()[0]
    assert f"${result['total_cost_usd']:.4f}" in total
    assert result["total_cost_usd"] > first["total_cost_usd"]
    rows = result["modelUsage"].values()
    assert sum(row["costUSD"] for row in rows) == pytest.approx(result["total_cost_usd"], abs=1e-9)


def test_resume_recalls_and_carries_the_cost(place: Place) -> None:
    """A resumed session knows its conversation, keeps its id, and starts from the cost of its last clean
    exit.
    """
    agent = place.start()
    agent.turn("SAY one")
    before = agent.turn("SAY two")
    agent.close_stdin()
    assert agent.wait_exit() == 0
    later = place.start("--resume", before["session_id"])
    assert f"${before['total_cost_usd']:.4f}" in later.ask("get_session_cost")["response"]["text"]
    after = later.turn("RECALL")
    assert after["result"] == "SAY one | SAY two"
    assert after["session_id"] == before["session_id"]
    assert after["total_cost_usd"] > before["total_cost_usd"]


def test_killed_session_resumes_from_the_last_clean_exit(place: Place) -> None:
    """After SIGKILL the conversation is there, the pending tool is not run, the cost since the last clean
    exit is lost.

    The real CLI writes its transcript some 40 ms after its frames: killed at once, it has forgotten the
    prompt.
    """
    agent = place.start()
    before = agent.turn("SAY one")
    agent.question(since=agent.prompt("BASH touch never ;; SAY never"))
    (transcript,) = place.transcripts()
    until(lambda: '"tool_use"' in transcript.read_text(), "the tool in the transcript")
    agent.process.kill()
    agent.wait_exit()
    later = place.start("--resume", before["session_id"])
    later.ask("initialize", hooks=None)
    assert "$0.0000" in later.ask("get_session_cost")["response"]["text"]
    after = later.turn("RECALL")
    assert after["result"] == "SAY one | BASH touch never ;; SAY never"
    assert not (place.cwd / "never").exists()


def test_transcript_holds_the_usage(place: Place) -> None:
    """The transcript has a line per block with the final usage, and the cost of the session after a clean
    exit.
    """
    agent = place.start("--session-id", session := str(uuid.uuid4()))
    result = agent.turn("SAY a ;; SAY b")
    assert result["session_id"] == session
    agent.close_stdin()
    assert agent.wait_exit() == 0
    (path,) = place.transcripts()
    folder = "".join(c if c.isascii() and c.isalnum() else "-" for c in str(place.cwd))
    assert (path.parent.name, path.name) == (folder, f"{session}.jsonl")
    text = path.read_text()
    assert '": ' not in text.splitlines()[0], "compact JSON, as other tools expect"
    lines = [json.loads(line) for line in text.splitlines()]
    blocks = [line for line in lines if line["type"] == "assistant"]
    assert len(blocks) == 2
    for line in blocks:
        check(
            line,
            {"uuid": str, "timestamp": str, "sessionId": str, "requestId": str, "cwd": str, "version": str},
        )
        check(line["message"]["usage"], USAGE)
        assert line["message"]["usage"]["output_tokens"] == result["usage"]["output_tokens"]
        split = line["message"]["usage"]["cache_creation"]
        assert split["ephemeral_5m_input_tokens"] > 0
        assert split["ephemeral_1h_input_tokens"] > 0
    assert len({(line["message"]["id"], line["requestId"]) for line in blocks}) == 1
    (cost,) = [line for line in lines if line["type"] == "cost-state"]
    assert cost["totalCostUSD"] == pytest.approx(result["total_cost_usd"], abs=1e-9)


def test_ends(place: Place) -> None:
    """A line that is not JSON: 1. end_session: 0 when idle. SIGTERM: 143. Blank lines and unknown types:
    nothing.
    """
    agent = place.start()
    agent.send_raw(b'\n  \n{"type":"no_such_type"}\n')
    assert agent.turn("SAY fine")["result"] == "fine"
    agent.send_raw(b"this is not JSON\n")
    assert agent.wait_exit() == 1
    agent = place.start()
    agent.turn("SAY fine")
    assert agent.ask("end_session", reason="test")["subtype"] == "success"
    assert agent.wait_exit() == 0
    agent = place.start()
    agent.question(since=agent.prompt("BASH touch never"))
    agent.process.terminate()
    assert agent.wait_exit() == 143
    assert agent.select("result") == []
    agent = place.start()
    agent.question(since=agent.prompt("BASH touch never"))
    agent.process.send_signal(2)
    assert agent.wait_exit() == 0
    assert agent.select("result")[0]["terminal_reason"] == "aborted_tools"
    assert not (place.cwd / "never").exists()


def test_eof_lets_the_turn_finish(place: Place) -> None:
    """At EOF an open question fails, the turn goes on to its result, and the exit code is 0."""
    agent = place.start()
    mark = agent.prompt("BASH touch never ;; SAY finished")
    agent.question(since=mark)
    agent.close_stdin()
    assert agent.wait_exit() == 0
    (result,) = agent.select("result", since=mark)
    assert result["result"] == "finished"
    assert tool_results(agent)[0]["is_error"]
    assert not (place.cwd / "never").exists()


def test_unknown_session_is_refused(place: Place) -> None:
    """Resuming a session that is not there ends with 1."""
    agent = place.start("--resume", str(uuid.uuid4()))
    assert agent.wait_exit() == 1
    assert "No conversation found" in agent.stderr


def test_fifo_and_journal(place: Place, tmp_path: Path) -> None:
    """stdin may be a FIFO and stdout an appended file: a new reader goes on where the one before was
    killed.
    """
    fifo, journal = tmp_path / "in", tmp_path / "out"
    os.mkfifo(fifo)
    held = os.open(fifo, os.O_RDWR)
    journal.write_bytes(b'{"type":"journal"}\n')
    stdin = os.open(fifo, os.O_RDONLY)
    stdout = os.open(journal, os.O_WRONLY | os.O_APPEND)
    command = [str(part) for part in (*place.command, *STDIO_ARGS)]
    process = subprocess.Popen(
        command, env=place.env, cwd=place.cwd, stdin=stdin, stdout=stdout, stderr=subprocess.DEVNULL
    )
    os.close(stdin)
    os.close(stdout)

    def frames() -> list[Frame]:
        return [json.loads(line) for line in journal.read_bytes().split(b"\n")[1:-1]]

    def write(frame: Frame) -> None:
        data = json.dumps(frame).encode() + b"\n"
        fd = os.open(fifo, os.O_WRONLY)  # each time another writer, as after a crash
        assert os.write(fd, data) == len(data)
        os.close(fd)

    try:
        write(user_frame("BASH touch by-journal ;; SAY done"))
        asked = is_type("control_request", "can_use_tool")
        until(lambda: any(map(asked, frames())), "the question in the journal")
        (question,) = filter(asked, frames())
        answer = {"behavior": "allow", "updatedInput": question["request"]["input"]}
        body = {"subtype": "success", "request_id": question["request_id"], "response": answer}
        write({"type": "control_response", "response": body})
        until(lambda: any(map(is_type("result"), frames())), "the result in the journal")
        assert (place.cwd / "by-journal").exists()
        os.close(held)
        assert process.wait(DEADLINE_S) == 0
        assert journal.read_bytes().startswith(b'{"type":"journal"}\n'), "appended, not truncated"
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
