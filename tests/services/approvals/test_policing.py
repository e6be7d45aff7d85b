"""The gate judges tool calls before they run, changes its rules, remembers and forgets."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bus import messages as m
from bus import topics as t
from bus.effects import Keep, Post, Publish
from bus.errors import RefusedError
from bus.ids import approval_id
from services.approvals.danger.sight import Sight, Unparsed
from services.approvals.model import Approver, LookAhead, NoteCall, State, Unapproved
from services.approvals.remember import Remembered
from services.approvals.replay import Replay
from tests.services.approvals.support import (
    SIGHT,
    UID,
    World,
    error,
    fact,
    hook,
    policy,
    published,
    result,
)

NO_PUSH = {"decision": "deny", "command": "git push", "reason": "the release job pushes", "name": "no push"}
PUSH = '{"command":"git push"}'
DENIED = approval_id(UID, 1, "h1")


def verdict(world: World, *arguments: Any, **more: Any) -> str:
    (said,) = published(world.judge(*arguments, **more), t.TOOL_VERDICT)
    assert said.uid == UID
    return str(said.verdict)


# ── before a tool runs ───────────────────────────────────────────────────────────────────────────────────


def test_a_call_that_no_rule_is_about_costs_nothing() -> None:
    world = World(sight=SIGHT, rules=policy(NO_PUSH))
    effects = world.judge(input_json='{"command":"make"}')
    assert not any(isinstance(e, Keep | Post) for e in effects)
    assert published(effects, t.TOOL_VERDICT)[0].verdict == "none"
    assert [e.call.tool for e in effects if isinstance(e, NoteCall)] == ["Bash"], "for a replay, later on"
    assert verdict(world, input_json="{}", tool="Read") == "none", "what is allowed goes the agent's own way"


def test_a_denied_call_is_decided_once_and_answered_again() -> None:
    world = World(sight=SIGHT, rules=policy(NO_PUSH))
    effects = world.judge("h1", PUSH, permission_mode="acceptEdits")
    (outcome,) = published(effects, t.APPROVAL_OUTCOME)
    assert (outcome.decision, outcome.by, outcome.via, outcome.rule) == (
        "denied",
        "no push",
        "policy",
        "no push",
    )
    assert world.approval(DENIED).input_json == PUSH
    (answer,) = world.answers(DENIED)
    assert "the release job pushes" in answer.message
    world.restart()
    again = world.judge("h1", PUSH)
    assert [type(e) for e in again] == [Post]
    assert world.answers(DENIED) == [answer]
    assert len(world.audited("outcome")) == 1
    assert world.gate.count == 0


def test_a_call_under_the_id_of_a_question_is_never_a_second_approval() -> None:
    """An agent makes its own ids, and may use one twice: that ended the gate, or answered for other input."""
    world = World(sight=SIGHT)
    world.ask(DENIED, PUSH)
    world.adopt(policy(NO_PUSH, {"decision": "ask", "command": "make"}))
    world.ask(approval_id(UID, 1, "h2"))
    assert world.approval(DENIED).state is State.DENIED
    assert [type(e) for e in world.judge("h1", PUSH)] == [Post], "what was decided is said again"
    assert verdict(world, "h2") == "ask", "it waits for a person already"
    for other in ("h1", "h2"):
        with pytest.raises(RefusedError, match="another input"):
            world.judge(other, '{"command":"git push -f"}')
    assert len(world.audited("request")) == 2


def test_a_rule_that_asks_makes_the_agent_ask() -> None:
    world = World(sight=SIGHT, rules=policy({"decision": "ask", "tool": "Read"}, auto_approve=("Read",)))
    assert verdict(world, input_json='{"file_path":"a"}', tool="Read") == "ask"
    assert verdict(world, "h2", tool="Glob") == "none"
    questions = {"kind": "question", "tool": "AskUserQuestion"}
    assert verdict(World(sight=SIGHT, rules=policy({"decision": "ask", "tool": "*"})), **questions) == "none"


@pytest.mark.parametrize("bad", [{"session": "not a slug"}, {"tool": "x" * 5000}])
def test_a_call_of_nobody_is_refused(bad: dict[str, str]) -> None:
    with pytest.raises(RefusedError):
        World(sight=SIGHT, rules=policy(NO_PUSH)).judge(**bad)


def test_without_a_rule_that_could_stop_it_a_call_goes_on_before_it_is_read() -> None:
    def parse(_text: str, _within_s: float) -> Unparsed:
        raise AssertionError

    world = World(sight=Sight(parse=parse), rules=policy({"decision": "allow", "tool": "Bash"}))
    said = world.gate.judge(hook(), world.now)
    assert [type(effect) for effect in said] == [Publish, NoteCall, LookAhead]
    assert published(said, t.TOOL_VERDICT)[0].verdict == "none"


def test_a_tool_that_ran_unapproved_is_told() -> None:
    world = World(sight=SIGHT)
    u = m.ToolUnapproved(
        session="web", tool="Bash", tool_use_id="toolu_1", approval="a1", state="denied", summary="rm -r x"
    )
    effects = world.act(world.gate.ran(fact("u", "unapproved", u), u, world.now))
    (event,) = published(effects, t.APPROVAL_EVENTS)
    assert (event.action, event.tool_use_id) == ("unapproved_tool", "toolu_1")
    assert event.reason == "Bash ran in web although it was denied: rm -r x"
    assert Unapproved("denied") in effects
    assert world.audited("unapproved_tool")[0]["state"] == "denied"


# ── other rules ──────────────────────────────────────────────────────────────────────────────────────────


def test_new_rules_are_held_against_what_waits() -> None:
    world = World(sight=SIGHT, approvers=[Approver("ada"), Approver("bob")])
    world.ask("a1", PUSH)
    world.ask("a2")
    world.ask("a3", "{}", tool="Edit")
    effects = world.adopt(policy(NO_PUSH, {"decision": "ask", "tool": "Edit", "require": 2}))
    (loaded,) = published(effects, t.APPROVAL_EVENTS)
    assert (loaded.action, loaded.reason) == ("policy_loaded", "2 rules in force (test)")
    assert [world.approval(a).state for a in ("a1", "a2", "a3")] == [
        State.DENIED,
        State.PENDING,
        State.PENDING,
    ]
    assert world.approval("a1").outcome.by == "no push"  # type: ignore[union-attr]  # denied
    assert [r.required for r in published(effects, t.APPROVAL_REQUEST) if r is not None] == [2]
    world.decide("a3", user="ada")
    assert world.approval("a3").state is State.PENDING
    world.decide("a3", user="bob")
    assert world.approval("a3").state is State.APPROVED


def test_a_changed_input_is_held_against_the_rules() -> None:
    world = World(sight=SIGHT, rules=policy(NO_PUSH))
    world.ask()
    assert error(world.decide(updated_input={"command": "git push"})) == "not_allowed"
    assert world.approval().state is State.PENDING


def test_a_request_names_the_rule_that_asks() -> None:
    world = World(sight=SIGHT, rules=policy({"decision": "ask", "tool": "Edit", "require": 2, "name": "two"}))
    (request,) = published(world.ask("a1", "{}", tool="Edit"), t.APPROVAL_REQUEST)
    assert (request.rule, request.required) == ("two", 2)
    (request,) = published(world.ask("a2"), t.APPROVAL_REQUEST)
    assert request.rule is None


def test_rejected_rules_are_told_and_change_nothing() -> None:
    world = World(sight=SIGHT, rules=policy(NO_PUSH))
    effects = world.act(world.gate.rejected("rule 1: …", world.now, "test"))
    assert [e.action for e in published(effects, t.APPROVAL_EVENTS)] == ["policy_rejected"]
    world.judge("h1", PUSH)
    assert world.approval(DENIED).state is State.DENIED


# ── remembered ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_remembered_yes_is_narrow_and_survives() -> None:
    world = World(sight=SIGHT)
    world.ask("a1", '{"command":"make","description":"builds"}')
    effects = world.decide(remember="always")
    outcome = result(effects)
    assert outcome.remembered.startswith("r-")
    world.restart()
    world.ask("a2", '{"description":"once more","timeout":9,"command":"make"}')
    second = world.approval("a2").outcome
    assert second is not None
    assert (second.decision, second.rule, second.via) == ("approved", outcome.remembered, "policy")
    assert second.reason == "remembered by operator: Bash: make"
    for other in (
        {"input_json": '{"command":"make all"}'},
        {"input_json": '{"command":"make","run_in_background":true}'},
        {"input_json": '{"command":"make","command":"make"}'},
        {"cwd": "/work/other"},
        {"tool": "Shell"},
    ):
        world.ask("a3", **{"input_json": '{"command":"make"}', **other})
        assert world.approval("a3").state is State.PENDING, other
        world = _again(world)


def _again(world: World) -> World:
    """Nothing was asked yet, but the same rules are remembered."""
    fresh = World(sight=SIGHT)
    for entry in world.gate.policy()["remembered"]:
        fresh.gate.remember(msgspec.convert(entry, Remembered))
    return fresh


def test_for_this_session_alone() -> None:
    world = World(sight=SIGHT)
    world.ask()
    world.decide(remember="session")
    world.ask("a2")
    assert world.approval("a2").state is State.APPROVED
    (entry,) = world.store.remembered()
    assert entry.uid == UID


def test_a_file_is_remembered_by_its_path_and_up_to_its_danger() -> None:
    world = World(sight=SIGHT)
    world.ask("a1", '{"file_path":"/work/app/a.md","content":"x"}', tool="Write")
    world.decide(remember="always")
    world.ask("a2", '{"file_path":"a.md","content":"y"}', tool="Write")
    assert world.approval("a2").state is State.APPROVED
    world.ask("a3", '{"file_path":"b.md","content":"y"}', tool="Write")
    world.ask("a4", '{"file_path":"a.md","content":"\\u200b"}', tool="Write")  # now it hides something
    assert [world.approval(a).state for a in ("a3", "a4")] == [State.PENDING, State.PENDING]


def test_a_remembered_no() -> None:
    world = World(sight=SIGHT)
    world.ask()
    world.decide(decision="deny", remember="always", reason="never")
    assert world.approval().state is State.DENIED
    world.judge("h1", '{"command":"make"}')
    assert world.approval(DENIED).state is State.DENIED, "also where the agent would not ask"


def test_forget() -> None:
    world = World(sight=SIGHT)
    world.ask()
    world.decide(remember="always")
    (entry,) = world.gate.policy()["remembered"]
    effects = world.act(world.gate.forget(m.PolicyCommand(id="f", rule=entry["id"]), world.now))
    assert result(effects)["summary"] == "Bash: make"
    assert world.store.remembered() == ()
    world.ask("a2")
    assert world.approval("a2").state is State.PENDING
    with pytest.raises(RefusedError, match="there are: none"):
        world.gate.forget(m.PolicyCommand(id="g", rule=entry["id"]), world.now)
    assert [row.action for row in world.store.audit_rows()].count("forgotten") == 1


@pytest.mark.parametrize(
    ("ask", "more", "code"),
    [
        ({"kind": "plan", "tool": "ExitPlanMode"}, {}, "bad_request"),
        ({}, {"updated_input": {"command": "x"}}, "bad_request"),
        ({"input_json": "not json"}, {}, "not_allowed"),
        ({"input_json": '{"command":"cat /home/ada/.local/state/pointsman/x"}'}, {}, "not_allowed"),
        ({"tool": "Edit"}, {}, "not_allowed"),
    ],
)
def test_what_cannot_be_remembered_decides_nothing(
    ask: dict[str, Any], more: dict[str, Any], code: str
) -> None:
    world = World(sight=SIGHT, rules=policy({"decision": "ask", "tool": "Edit"}))
    world.ask("a1", **ask)
    assert error(world.decide(remember="always", **more)) == code
    assert world.approval().state is State.PENDING
    assert world.store.remembered() == ()


# ── explained and replayed ───────────────────────────────────────────────────────────────────────────────


def test_explain_says_which_rule_and_why() -> None:
    world = World(sight=SIGHT, rules=policy({"decision": "allow", "command": "ls"}, NO_PUSH))
    said = world.gate.explain(m.PolicyCommand(tool="Bash", input={"command": "ls; git push"}, cwd="/work"))
    assert (said["decision"], said["rule"], said["reason"]) == ("deny", "no push", "the release job pushes")
    assert said["every_mode"]
    assert said["commands"] == [["ls"], ["git", "push"]]
    assert said["rules"] == [
        {"rule": "rule 1", "decision": "allow", "match": "no"},
        {"rule": "no push", "decision": "deny", "match": "yes"},
    ]
    asked = world.gate.explain(m.PolicyCommand(tool="Write", input={"file_path": "a"}, cwd="/work"))
    assert (asked["decision"], asked["rule"], asked["timeout_s"]) == ("ask", None, 60.0)
    assert asked["paths"] == ["/work/a"]
    assert asked["reason"].startswith("no rule is about it, so a person is asked (")
    world.gate._rules = policy({"decision": "ask", "name": "look", "tool": "Write"})
    asked = world.gate.explain(m.PolicyCommand(tool="Write", input={"file_path": "a"}, cwd="/work"))
    assert (asked["rule"], asked["reason"].partition(" (")[0]) == ("look", "look asks about it")
    assert world.store.pending() == []
    with pytest.raises(RefusedError, match="takes `tool` and `input`"):
        world.gate.explain(m.PolicyCommand(tool="Bash"))


def test_replay_shows_what_would_be_otherwise() -> None:
    world = World(sight=SIGHT)
    world.ask("a1", PUSH)
    world.decide("a1")
    world.ask("a2", '{"file_path":"x"}', tool="Read")
    world.ask("a3", '{"command":"make"}')
    replay = Replay(policy(NO_PUSH, {"decision": "allow", "command": "make"}), world.gate.hurried)
    replay.look(approval for _, approval in world.store.past(None, None, 100))
    said = replay.result()
    assert said["looked_at"] == 3
    assert said["changes"] == {"ask → allow": 1, "allow → ask": 1, "ask → deny": 1}
    push = said["differences"][-1]
    assert (push["id"], push["decided"], push["would_rule"]) == ("a1", "approved", "no push")
    assert world.store.past(world.now, 2, 100) == world.store.past(None, 2, 100)
