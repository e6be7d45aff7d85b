"""Sessions that are followed by their hooks: what those of a real screen become, and who answers first."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus import messages as m
from bus.errors import RefusedError
from bus.ids import approval_id
from services.ingest import hook_wire, presence, questions
from services.ingest.hook_model import Presence, PressKey, TypeIn
from services.ingest.wire import WireError
from tests.services.ingest.hook_support import CONVERSATION, HookPlay, recorded_hooks
from tests.services.ingest.support import UID, created


@pytest.fixture
def play(tmp_path: Path) -> HookPlay:
    return HookPlay(tmp_path / "ingest.sqlite")


@pytest.fixture
def external(play: HookPlay) -> HookPlay:
    """An external session in a turn."""
    play.post("SessionStart", source="startup", model="claude-opus-5-5")
    play.post("UserPromptSubmit", prompt="go on", permission_mode="default")
    return play


# ── what a real screen posts ─────────────────────────────────────────────────────────────────────────────


def test_a_recorded_screen_becomes_a_session(play: HookPlay) -> None:
    statuses = []
    for event, body in recorded_hooks("screen-2.1.329-basic.ndjson"):
        number = play.post_body(event, body)
        statuses.append(play.state().status)
        if event == "PermissionRequest":
            assert play.state().status == "waiting_approval"
            play.decide("expired")  # as it was recorded: answered with {}, the dialog decided
        assert play.answer_to(number) == {}
        play.later(0.3)
    state = play.state()
    assert (state.session, state.kind, state.status) == ("work", "external", "ended")
    assert state.agent.session_id == "8a8b32a5-b95e-44d1-96fe-7fc272f5ecf5"
    assert state.permission_mode == "acceptEdits"
    assert state.turns == 6
    assert {"working", "waiting_approval", "waiting_input"} <= set(statuses)
    texts = [e["text"] for e in play.events("message") if e["role"] == "assistant"]
    assert texts[:2] == ["hello from tmux", "finished one"]
    tools = [(e["tool"], e["phase"]) for e in play.events("tool") if e["phase"] != "progress"]
    assert tools[:2] == [("Bash", "started"), ("Bash", "finished")]
    assert [f.kind for f in play.facts("question")] == ["tool", "tool", "tool", "question"]
    assert [f.session for f in play.facts("opened")] == ["work"]
    numbers = [e["seq"] for e in play.events()]
    assert numbers == list(range(1, len(numbers) + 1))


def test_compacting_clearing_and_failing_as_recorded(play: HookPlay) -> None:
    """``/clear`` ends the conversation and begins another: an external session of the same name."""
    seen = []
    for event, body in recorded_hooks("screen-2.1.329-hook-events.ndjson"):
        play.post_body(event, body)
        seen.append((event, play.state().uid, play.state().status))
    assert {status for event, _, status in seen if event == "PreCompact"} == {"compacting"}
    assert len({uid for _, uid, _ in seen}) == 2
    assert {s.session for s in (play.state(),)} == {"work"}
    assert [e["is_error"] for e in play.events("result")] == [False, False, True]
    assert any(e["code"] == "unknown" and "400" in e["message"] for e in play.events("error"))
    assert [e["is_error"] for e in play.events("tool") if e["phase"] == "finished"] == [False, True]


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────


def test_external_sessions_are_named_after_their_directory(play: HookPlay) -> None:
    for number, cwd in enumerate(("/home/user/My Shop!", "/srv/my-shop", "/", "/x/" + "ä" * 90)):
        play.post("SessionStart", source="startup", cwd=cwd, session_id=f"c{number}")
    names = [f.session for f in play.facts("opened")]
    assert names == ["my-shop", "my-shop-2", "session", "session-2"]
    play.post("SessionEnd", reason="prompt_input_exit", session_id="c1")
    play.post("SessionStart", source="startup", cwd="/a/my-shop", session_id="c9")
    play.post("SessionEnd", reason="prompt_input_exit", session_id="c9")
    play.post("SessionEnd", reason="prompt_input_exit", session_id="c0")
    play.post("SessionStart", source="resume", cwd="/elsewhere", session_id="c1")
    assert [f.session for f in play.facts("opened")][4:] == ["my-shop-2", "my-shop-2"]


def test_hooks_of_a_session_of_ours_make_no_external_one(play: HookPlay) -> None:
    play.open()
    play.say({"type": "system", "subtype": "init", "session_id": CONVERSATION, "uuid": "i"})
    number = play.post("UserPromptSubmit", prompt="x")
    assert play.answer_to(number) == {}
    assert len(play.facts("opened")) == 1


def test_an_external_session_ends_with_its_process_and_is_not_controlled(external: HookPlay) -> None:
    play = external
    number = play.asks(pid=4711)
    name, uid = play.state().session, play.uid
    with pytest.raises(RefusedError, match="not controlled"):
        play.core.interrupt(m.SessionCommand(id="i"), name, play.now)
    with pytest.raises(RefusedError, match="followed"):
        play.core.prompt(m.Prompt(id="p", text="x"), name, play.now)
    play.post("Notification", message="hm", pid=4711)
    assert play.core.processes() == [(uid, 4711)]
    play.act(play.core.process_gone(uid, play.now))
    assert play.state().status == "ended"
    assert play.answer_to(number) == {}
    assert [f.approval for f in play.facts("withdrawn")] == [f.approval for f in play.facts("question")]


# ── who answers first ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("decision", ["approved", "denied"])
def test_the_bus_answers_first(external: HookPlay, decision: str) -> None:
    play = external
    number = play.asks()
    assert play.answer_to(number) is None
    assert play.state().pending_approvals == [play.facts("question")[0].approval]
    assert play.facts("question")[0].tool_use_id == "toolu_1"
    play.decide(decision)
    said: Any = play.answer_to(number)
    given = said["hookSpecificOutput"]["decision"]
    if decision == "approved":
        assert given == {"behavior": "allow", "updatedInput": {"command": "touch x"}}
        assert play.applied() == [], "not before the agent shows it"
        play.later(0.3)
        play.ran()
    else:
        assert given == {"behavior": "deny", "message": "no"}
        play.post("PreToolUse", tool_name="Read", tool_input={}, tool_use_id="toolu_2")
    assert play.applied() == [True]
    over = [e for e in play.events("tool") if e["phase"] == "finished"]
    assert [(e["tool_use_id"], e["is_error"], e["decided_by"]) for e in over] == [
        ("toolu_1", decision == "denied", "approval")
    ]
    assert play.state().status == "working"
    play.post("Stop", last_assistant_message="done?")
    assert play.state().status == "waiting_input"
    assert play.applied() == [True]
    assert play.facts("withdrawn") == []


def test_yes_at_the_screen_first(external: HookPlay) -> None:
    play = external
    number = play.asks()
    play.later(5)
    play.ran()
    assert play.answer_to(number) == {}
    assert [(f.reason, f.via) for f in play.facts("withdrawn")] == [("answered at the screen", "hook")]
    play.decide("cancelled")
    assert play.applied() == [False]
    assert play.state().status == "working"


def test_no_at_the_screen_first_hangs_up_and_ends_the_turn(external: HookPlay) -> None:
    play = external
    number = play.asks()
    play.hang_up(number)
    assert [f.via for f in play.facts("withdrawn")] == ["hook"]
    assert play.state().status == "waiting_input"
    play.decide("approved")  # it had been on its way
    assert play.applied() == [False]
    assert play.answer_to(number) is None


@pytest.mark.parametrize("decision", ["approved", "denied"])
def test_a_decision_after_yes_at_the_screen_is_not_applied(external: HookPlay, decision: str) -> None:
    """The tool runs for 20 s already when the bus decides."""
    play = external
    play.asks()
    play.later(20)
    play.decide(decision)
    play.later(1)
    play.ran(duration_ms=20_500)
    assert play.applied() == [False]


def test_a_changed_input_that_did_not_run_is_not_applied(external: HookPlay) -> None:
    play = external
    for index, ran in enumerate(("touch y", "touch x")):
        number = play.asks(tool_use_id=f"toolu_{index}")
        play.decide("approved", input_json='{"command": "touch y"}')
        said: Any = play.answer_to(number)
        assert said["hookSpecificOutput"]["decision"]["updatedInput"] == {"command": "touch y"}
        play.later(0.3)
        play.ran(ran, tool_use_id=f"toolu_{index}")
    assert play.applied() == [True, False]


def test_expiry_answers_nothing_and_the_dialog_stays(external: HookPlay) -> None:
    play = external
    number = play.asks()
    play.decide("expired")
    assert play.answer_to(number) == {}
    assert play.applied() == [False]
    assert (play.state().status, play.state().pending_approvals) == ("waiting_approval", [])
    play.ran()
    assert play.state().status == "working"
    assert play.applied() == [False]


def test_a_restart_ends_what_waited_and_leaves_the_dialog(external: HookPlay) -> None:
    play = external
    play.asks()
    play.crash()
    play.act(play.core.begin_hooks(play.now))
    assert len(play.facts("withdrawn")) == 1
    assert (play.state().status, play.state().pending_approvals) == ("waiting_approval", [])
    play.decide("cancelled")
    assert play.applied() == [False]
    play.later(60)
    assert play.state().status == "waiting_approval", "no bridge is waited for"
    play.post("UserPromptSubmit", prompt="something else")
    assert play.state().status == "working"


def test_questions_are_answered_and_subagents_go_on(external: HookPlay) -> None:
    play = external
    questions = [{"question": "Which colour?", "options": [{"label": "Red"}]}]
    asked: dict[str, Any] = {"tool_name": "AskUserQuestion", "tool_input": {"questions": questions}}
    sub = play.asks("ls", "toolu_sub", agent_id="agent-1")
    play.post("PreToolUse", tool_use_id="toolu_q", **asked)
    number = play.post("PermissionRequest", **asked)
    assert [f.agent_id for f in play.facts("question")] == ["agent-1", None]
    answered = {"questions": questions, "answers": {"Which colour?": "Red"}}
    play.decide("approved", input_json=json.dumps(answered))
    said: Any = play.answer_to(number)
    assert said["hookSpecificOutput"]["decision"]["updatedInput"] == answered
    play.later(0.3)
    play.post("PostToolUse", tool_use_id="toolu_q", duration_ms=1, **{**asked, "tool_input": answered})
    play.post("Stop", last_assistant_message="done")
    assert play.applied() == [True]
    assert play.answer_to(sub) is None, "the background agent still asks"
    assert play.state().status == "waiting_approval"


def test_the_same_command_twice_is_two_approvals(external: HookPlay) -> None:
    play = external
    for tool_use_id in ("toolu_1", "toolu_2"):
        play.post("PreToolUse", tool_name="Bash", tool_input={"command": "x"}, tool_use_id=tool_use_id)
    for _ in range(2):
        play.post("PermissionRequest", tool_name="Bash", tool_input={"command": "x"})
    assert [f.tool_use_id for f in play.facts("question")] == ["toolu_1", "toolu_2"]
    assert len({f.approval for f in play.facts("question")}) == 2


# ── what no hook says ────────────────────────────────────────────────────────────────────────────────────


def test_a_turn_that_is_interrupted_at_the_screen_is_over(external: HookPlay) -> None:
    play = external
    assert play.core.busy() == [], "its process is not known"
    play.post("PreToolUse", tool_name="Bash", tool_input={}, tool_use_id="toolu_1", pid=4711)
    assert play.core.busy() == [(play.uid, 4711, CONVERSATION)]
    began = play.now
    play.notes("busy")
    play.notes("idle", since=began - timedelta(seconds=1))  # from before this turn
    play.act(play.core.presence(play.uid, Presence("idle", play.now), play.now))  # it has not settled
    assert play.state().status == "working"
    play.notes("idle")
    assert (play.state().status, play.state().current_tool) == ("waiting_input", None)
    assert play.core.busy() == []


def test_a_dialog_that_is_answered_at_the_screen_waits_no_longer(external: HookPlay) -> None:
    """No, with what to do instead: the agent goes on, its request stays open, and no hook says so."""
    play = external
    number = play.asks()
    play.notes("busy", since=play.now - timedelta(seconds=9))  # its dialog comes
    assert play.state().status == "waiting_approval"
    play.notes("waiting")
    assert play.state().status == "waiting_approval"
    play.notes("busy")
    assert (play.state().status, play.answer_to(number)) == ("working", {})
    assert [f.reason for f in play.facts("withdrawn")] == ["answered at the screen"]
    play.decide("approved")
    assert play.applied() == [False]


@pytest.mark.parametrize("decision", ["approved", "denied"])
def test_a_decision_after_the_dialog_was_answered_is_not_applied(external: HookPlay, decision: str) -> None:
    play = external
    play.asks()
    play.notes("waiting")
    answered = play.now
    play.later(0.5)
    play.decide(decision)
    play.notes("busy", since=answered)
    play.post("Stop", last_assistant_message="done")
    assert play.applied() == [False]


def test_a_dialog_that_our_answer_closed_and_one_that_comes(external: HookPlay) -> None:
    play = external
    play.asks()
    play.notes("waiting")
    play.decide("approved")
    play.later(0.1)
    closed = play.now
    play.asks("touch y", "toolu_2")
    play.notes("busy", since=closed)
    play.ran()
    assert (play.applied(), play.facts("withdrawn")) == ([True], [])
    assert play.state().status == "waiting_approval"


NOTE = {"pid": 7, "sessionId": "c", "status": "idle", "updatedAt": 1795278871666}
SINCE = datetime(2026, 11, 21, 16, 34, 31, 666000, UTC)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, Presence("idle", SINCE)),
        ({"updatedAt": 0, "statusUpdatedAt": 1795278871666, "status": "busy"}, Presence("busy", SINCE)),
        ({"sessionId": "other"}, None),
        ({"status": "thinking"}, None),
        ({"status": ["idle"]}, None),
        ({"updatedAt": "soon"}, None),
        ({"updatedAt": 1e300}, None),
        ({"updatedAt": None}, None),
    ],
)
def test_what_an_agent_notes_of_itself(tmp_path: Path, change: dict[str, Any], expected: object) -> None:
    (tmp_path / "7.json").write_text(json.dumps({**NOTE, **change}))
    assert presence.read(tmp_path, 7, "c") == expected


def test_a_note_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    assert presence.read(tmp_path, 7, "c") is None
    for text in ("", "{", "[]", "null", "[" * 60_000):
        (tmp_path / "7.json").write_text(text)
        assert presence.read(tmp_path, 7, "c") is None


# ── rules ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_rule_forbids_a_call_before_anybody_is_asked(external: HookPlay) -> None:
    play = external
    play.gate = None
    call: dict[str, Any] = {
        "tool_name": "Read",
        "tool_input": {"file_path": "/etc/x"},
        "tool_use_id": "toolu_1",
    }
    number = play.post("PreToolUse", **call)
    asked = play.asked_gate[-1]
    assert (asked.tool, asked.input_json, play.answer_to(number)) == ("Read", '{"file_path":"/etc/x"}', None)
    play.fact(
        m.Answer(
            approval=approval_id(play.uid, 1, asked.request_id), process=1, request_id=asked.request_id,
            decision="denied", message="never there", input_json="", interrupt=False, rule="no-etc",
        ),
        uid=play.uid,
    )  # fmt: skip
    said: Any = play.answer_to(number)
    assert said["hookSpecificOutput"]["permissionDecision"] == "deny"
    assert said["hookSpecificOutput"]["permissionDecisionReason"] == "never there"
    play.act(play.core.hook_done(number, play.now))
    assert play.applied() == [True]
    assert play.state().status == "working"
    [over] = [e for e in play.events("tool") if e["phase"] == "finished"]
    assert (over["tool_use_id"], over["is_error"], over["decided_by"]) == ("toolu_1", True, "rule")


def test_a_rule_wants_a_person_asked(external: HookPlay) -> None:
    play = external
    play.gate = None
    number = play.post("PreToolUse", tool_name="Bash", tool_input={"command": "x"}, tool_use_id="toolu_1")
    play.judge(play.asked_gate[-1], "ask", "look at this")
    said: Any = play.answer_to(number)
    assert said["hookSpecificOutput"]["permissionDecision"] == "ask"
    play.post("PermissionRequest", tool_name="Bash", tool_input={"command": "x"})
    assert play.facts("question")[-1].tool_use_id == "toolu_1"


def test_nobody_judges_and_the_agent_goes_on(external: HookPlay) -> None:
    """The gate is away, the client gives up, ingest is restarted: no call is held up or remembered."""
    play = external
    play.gate = None
    late = play.post("PreToolUse", tool_name="Bash", tool_input={}, tool_use_id="toolu_1")
    play.later(2.1)
    assert play.answer_to(late) == {}
    gone = play.post("PreToolUse", tool_name="Bash", tool_input={}, tool_use_id="toolu_2")
    play.hang_up(gone)
    play.judge(play.asked_gate[-1], "ask")
    assert play.answer_to(gone) is None
    play.post("PreToolUse", tool_name="Bash", tool_input={}, tool_use_id="toolu_3")
    play.crash()
    play.act(play.core.begin_hooks(play.now))
    play.judge(play.asked_gate[-1], "none")
    assert play.state().status == "working"
    assert [s.record.callbacks for s in play.core._by_uid.values()] == [{}]


# ── interactive sessions ─────────────────────────────────────────────────────────────────────────────────


def test_an_interactive_session_is_typed_into_one_prompt_at_a_time(play: HookPlay) -> None:
    play.interactive()
    for text in ("first", "second"):
        play.act(play.core.prompt(m.Prompt(id=text, text=text), "one", play.now))
    assert play.replies[-1].result.method == "tmux"
    assert [d for d in play.done if isinstance(d, TypeIn)] == [], "it has not begun"
    play.post("SessionStart", source="startup")
    [first] = [d for d in play.done if isinstance(d, TypeIn)]
    assert (first.text, play.state().status) == ("first", "ready")
    play.act(play.core.typed(UID, first.id, "a dialog", play.now))  # busy: a dialog, or somebody types
    play.later(1)
    assert len([d for d in play.done if isinstance(d, TypeIn)]) == 1
    play.later(3)
    again = [d for d in play.done if isinstance(d, TypeIn)][-1]
    assert (again.text, again.id != first.id) == ("first", True)
    play.crash()
    play.act(play.core.begin_hooks(play.now))
    assert [d for d in play.done if isinstance(d, TypeIn)][-1] == again, "asked again, with the same id"
    play.post("UserPromptSubmit", prompt="first ")
    play.act(play.core.typed(UID, again.id, "", play.now))
    phases = [(e["prompt_id"], e["phase"]) for e in play.events("prompt") if e["phase"] != "queued"]
    assert phases == [("first", "delivered")]
    play.post("Stop", last_assistant_message="done")
    assert play.events("result")[-1]["prompt_ids"] == ["first"]
    assert [d for d in play.done if isinstance(d, TypeIn)][-1].text == "second"


def test_the_cost_of_a_resumed_screen_is_booked_from_its_transcript(play: HookPlay) -> None:
    play.inside = UID
    play.fact(created(kind="interactive", resume=CONVERSATION))
    play.fact(m.AgentStarted(process=1, resume=CONVERSATION))
    play.post("SessionStart", source="resume")
    assert [(f.conversation, f.booked) for f in play.facts("conversation")] == [(CONVERSATION, True)]


def test_what_keeps_prompts_from_a_screen_is_told(play: HookPlay) -> None:
    play.interactive()
    play.post("SessionStart", source="startup")
    play.act(play.core.prompt(m.Prompt(id="p", text="1"), "one", play.now))
    errors = []
    for _ in range(6):
        asked = [d for d in play.done if isinstance(d, TypeIn)][-1]
        play.act(play.core.typed(UID, asked.id, "a half-written line", play.now))
        errors.append(play.state().error)
        play.later(3)
    assert errors[:3] == [None] * 3
    assert errors[3] == errors[5] == "prompts wait: a half-written line (`pointsman attach one`)"
    assert [e["code"] for e in play.events("error")] == ["busy"]
    play.post("UserPromptSubmit", prompt="1")
    assert (play.state().error, play.state().queued_prompts) == (None, 0)


def test_nothing_is_typed_into_a_dialog(play: HookPlay) -> None:
    play.interactive()
    play.post("SessionStart", source="startup")
    play.post("UserPromptSubmit", prompt="at the screen")
    play.asks()
    play.decide("expired")
    play.act(play.core.prompt(m.Prompt(id="p", text="1"), "one", play.now))
    play.later(60)
    assert [d for d in play.done if isinstance(d, TypeIn)] == []


def test_an_interactive_session_is_interrupted_with_escape(play: HookPlay) -> None:
    play.interactive()
    play.post("SessionStart", source="startup")
    play.post("UserPromptSubmit", prompt="go")
    play.act(play.core.interrupt(m.SessionCommand(id="i"), "one", play.now))
    assert [d.key for d in play.done if isinstance(d, PressKey)] == ["Escape"]
    play.act(play.core.pressed(UID, 1, True, play.now))
    assert play.state().status == "waiting_input"


def test_a_dialog_before_the_start_is_told_until_it_is_gone(play: HookPlay) -> None:
    play.interactive()
    shows = m.ScreenShows(process=1, message="trust?")
    play.act(play.core.screen_shows(m.Fact(id="s", type="screen", uid=UID, at=play.now), shows, play.now))
    assert (play.state().status, play.state().error) == ("starting", "trust?")
    play.post("SessionStart", source="startup")
    assert (play.state().status, play.state().error, play.state().connected) == ("ready", None, True)


def test_a_screen_that_dies_comes_back_with_its_conversation(play: HookPlay) -> None:
    play.interactive()
    died = m.AgentExited(process=1, exit_code=1, reason="died", final=False)
    play.post("SessionStart", source="startup")
    play.fact(died)
    assert (play.asked()[-1].process, play.asked()[-1].resume) == (2, None), "nothing to resume yet"
    play.fact(m.AgentStarted(process=2, resume=None))
    play.post("UserPromptSubmit", prompt="go")
    number = play.asks()
    play.fact(m.AgentExited(process=2, exit_code=None, reason="died", final=False))
    assert (play.asked()[-1].process, play.asked()[-1].resume) == (3, CONVERSATION)
    assert play.state().status == "disconnected"
    assert len(play.facts("withdrawn")) == 1
    play.hang_up(number)
    assert len(play.facts("withdrawn")) == 1


# ── bytes ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{}", b"\xff", b'{"session_id":"x","hook_event_name":"Stop"}',
        b'{"session_id":"","hook_event_name":"PreToolUse"}', b"[" * 100_000,
        b'{"session_id":"%s","hook_event_name":"PreToolUse"}' % (b"x" * 300),
    ],
)  # fmt: skip
def test_what_is_no_hook_is_refused(body: bytes) -> None:
    with pytest.raises(WireError):
        hook_wire.decode("PreToolUse", body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_the_same_input_is_known_again_however_it_is_written(value: Any) -> None:
    compact = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    assert hook_wire.same_input(json.dumps(value, indent=2, sort_keys=True)) == hook_wire.same_input(compact)
    assert hook_wire.same_input(json.dumps({"x": value})) != hook_wire.same_input(json.dumps({"y": value}))


def test_half_a_sign_hides_no_call_from_the_rules(external: HookPlay) -> None:
    """JavaScript cuts emojis in two, and a model may write half of one: the gate judges the call as well."""
    play = external
    play.gate = None
    play.post_raw("PreToolUse", json.dumps({
        "session_id": CONVERSATION, "cwd": "/x", "hook_event_name": "PreToolUse", "tool_name": "Bash",
        "tool_input": {"command": "rm -r x # \ud83d"}, "tool_use_id": "toolu_1",
    }).encode())  # fmt: skip
    assert json.loads(play.asked_gate[-1].input_json) == {"command": "rm -r x # \ufffd"}


def test_a_call_that_cannot_be_read_is_for_a_person() -> None:
    """No opinion would let it past every rule."""
    said = json.loads(hook_wire.unread("PreToolUse"))["hookSpecificOutput"]
    assert said["permissionDecision"] == "ask"
    assert hook_wire.unread("PostToolUse") == "{}"


def test_a_call_that_cannot_be_judged_is_for_a_person(
    external: HookPlay, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = external
    play.gate = None
    monkeypatch.setattr(questions, "MAX_OPEN", 1)
    call: dict[str, Any] = {"tool_name": "Bash", "tool_input": {}}
    play.post("PreToolUse", **call, tool_use_id="toolu_1")
    others: list[dict[str, Any]] = [{"tool_use_id": "toolu_2"}, {}]
    for more in others:
        said: Any = play.answer_to(play.post("PreToolUse", **call, **more))
        assert said["hookSpecificOutput"]["permissionDecision"] == "ask"
