"""The gate's table and rules, pair by pair."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from bus import messages as m
from bus import topics as t
from bus.effects import Effect, Post, Publish, ReplyTo
from bus.errors import RefusedError
from services.approvals.calls import Call
from services.approvals.danger.sight import Sight, Unparsed
from services.approvals.model import Approver, Decided, NotDecided, Save, State
from services.approvals.table import TABLE, Happening
from tests.services.approvals.support import (
    RULES,
    World,
    error,
    fact,
    policy,
    published,
    question,
    result,
)

# ── The table: every (state, happening) pair ─────────────────────────────────────────────────────────────

INTO: dict[State, Callable[[World], object]] = {
    State.PENDING: lambda world: None,
    State.APPROVED: lambda world: world.decide(),
    State.DENIED: lambda world: world.decide(decision="deny"),
    State.EXPIRED: lambda world: _timer(world),
    State.CANCELLED: lambda world: world.withdraw(),
}


def _timer(world: World) -> list[Effect]:
    world.later(3600)
    return world.tick()


HAPPENS: dict[Happening, Callable[[World], list[Effect]]] = {
    Happening.QUESTION: lambda world: world.ask(),
    Happening.APPROVE: lambda world: world.decide(),
    Happening.DENY: lambda world: world.decide(decision="deny"),
    Happening.TIMER: _timer,
    Happening.WITHDRAWN: lambda world: world.withdraw(),
    Happening.RULE: lambda world: world.adopt(policy({"decision": "deny", "tool": "*"})),
    Happening.ALIKE: lambda world: _alike(world),
    Happening.APPLIED: lambda world: world.apply(),
}


def _alike(world: World) -> list[Effect]:
    """A yes to the same call was remembered elsewhere in the same directory."""
    elsewhere = World()
    elsewhere.ask("b1")
    elsewhere.decide("b1", remember="always")
    (rule,) = elsewhere.store.remembered()
    world.gate.remember(rule)
    return world.act(world.gate.settle_alike(rule, world.now))


def test_the_table_and_these_tests_know_every_state_and_happening() -> None:
    assert set(TABLE) == set(INTO) == set(State)
    assert all(set(row) == set(HAPPENS) == set(Happening) for row in TABLE.values())


@pytest.mark.parametrize("happening", Happening)
@pytest.mark.parametrize("state", State)
def test_every_pair_does_what_the_table_says(state: State, happening: Happening) -> None:
    world = World()
    world.ask()
    INTO[state](world)
    before = world.approval()
    assert before.state is state
    answers = world.answers()
    effects: list[Effect] = []
    if state is State.PENDING and happening is Happening.APPLIED:
        with pytest.raises(RefusedError, match="not decided"):
            HAPPENS[happening](world)
    else:
        effects = HAPPENS[happening](world)
    after = world.approval()
    allowed = TABLE[state][happening]
    assert after.state in (allowed or {state})
    if allowed:
        (only,) = allowed
        assert after.state is only
        assert after.outcome is not None
        assert (after.outcome.decision, after.outcome.applied) == (only, None)
        assert len(world.answers()) == 1
        assert world.answers()[0].decision == only
        assert [type(e) for e in effects if isinstance(e, Decided)] == [Decided]
        return
    assert world.answers() == answers  # decided once, answered once
    if state is State.PENDING:
        assert effects == []
    elif happening is Happening.QUESTION:
        assert [e.fact.id for e in effects if isinstance(e, Post)] == ["answer-a1"]
    elif happening in (Happening.APPROVE, Happening.DENY):
        assert error(effects) == "already_decided"
        (reply,) = [e for e in effects if isinstance(e, ReplyTo)]
        assert reply.error is not None
        assert reply.error.details == before.outcome
        assert NotDecided("already_decided") in effects
    elif happening is Happening.APPLIED:
        (again,) = published(effects, t.APPROVAL_OUTCOME)
        assert before.outcome is not None
        assert again == msgspec.structs.replace(before.outcome, applied=True)
    elif happening is not Happening.RULE:  # that tells of the rules, and of nothing else
        assert effects == []


def test_applied_is_said_once_and_the_first_word_stands() -> None:
    world = World()
    world.ask()
    world.decide()
    world.apply(applied=False)
    assert world.apply(applied=True) == []
    outcome = world.approval().outcome
    assert outcome is not None
    assert outcome.applied is False


# ── What is said, and in which order ─────────────────────────────────────────────────────────────────────


def order(effects: list[Effect]) -> list[str]:
    return [
        e.row.pattern.split("/")[-1] + ("" if e.payload else "-") for e in effects if isinstance(e, Publish)
    ]


def test_a_question_says_request_then_tokens_then_pending() -> None:
    world = World()
    assert order(world.ask()) == ["request", "{user}", "pending"]


def test_a_decision_clears_then_tells_and_counts_down_last() -> None:
    world = World()
    world.ask()
    effects = world.decide()
    assert order(effects) == ["request-", "{user}-", "outcome", "pending"]
    assert isinstance(effects[-1], Publish), "nobody waits for what counts down"
    assert result(effects) == world.approval().outcome


def test_a_start_says_everything_that_waits_with_the_same_tokens() -> None:
    world = World()
    first = world.ask("a1")
    second = world.ask("a2")
    world.restart()
    again = world.gate.snapshots()
    assert order(again) == ["request", "{user}", "request", "{user}", "pending"]
    assert published(again, t.APPROVAL_TOKEN) == published([*first, *second], t.APPROVAL_TOKEN)
    assert published(again, t.APPROVAL_REQUEST) == published([*first, *second], t.APPROVAL_REQUEST)
    assert published(again, t.APPROVALS_PENDING) == published(second, t.APPROVALS_PENDING)


def test_pending_is_oldest_first_and_bounded() -> None:
    world = World()
    for number in range(1002):
        world.act(world.gate.question(fact("q", "question", question()), question(f"a{number}"), world.now))
    (pending,) = published(world.gate.snapshots(), t.APPROVALS_PENDING)
    assert (pending.count, pending.oldest_id, len(pending.items)) == (1002, "a0", 1000)


def test_the_request_says_what_the_contract_says() -> None:
    world = World()
    text = '{"command":"make",  "n":1.0}'
    (request,) = published(world.ask(input_json=text, description="Build"), t.APPROVAL_REQUEST)
    assert request.input == {"command": "make", "n": 1.0}
    assert request.input_sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert (request.summary, request.description, request.input_partial) == ("Bash: make", "Build", False)
    assert (request.created_at, request.required) == (world.now, 1)
    assert (request.expires_at - request.created_at).total_seconds() == 60


# ── Rules ────────────────────────────────────────────────────────────────────────────────────────────────

PATH = '{"file_path":"/work/app/a.py"}'


@pytest.mark.parametrize(
    ("more", "rule"),
    [
        ({"tool": "Read", "input_json": PATH}, "approvals.auto_approve"),
        ({"tool": "TodoWrite", "input_json": "{}", "auto_approve": ["TodoWrite"]}, "session.auto_approve"),
        ({"tool": "Bash", "auto_approve": ["Bash"]}, None),  # on a list, but never low
        ({"tool": "Write", "input_json": PATH, "auto_approve": ["Write"]}, None),
        ({"tool": "Read", "input_json": '{"file_path":"/home/ada/.ssh/id_rsa"}'}, None),
        ({"tool": "Read", "input_json": '{"file_path":"/x","file_path":"/y"}'}, None),
        ({"tool": "Read", "input_json": "[1]"}, None),
        ({"tool": "Read", "input_json": '{"file_path":'}, None),
        ({"tool": "Read", "input_json": PATH, "kind": "question"}, None),
        ({"tool": "TodoWrite", "input_json": "{}"}, None),
    ],
)  # fmt: skip
def test_the_lists_apply_at_level_low_and_to_tools_alone(more: dict[str, Any], rule: str | None) -> None:
    world = World()
    effects = world.ask(**more)
    approval = world.approval()
    if rule is None:
        assert approval.state is State.PENDING
        return
    assert order(effects) == ["outcome"]
    outcome = approval.outcome
    assert outcome is not None
    assert (outcome.decision, outcome.by, outcome.via, outcome.rule) == ("approved", rule, "policy", rule)
    assert world.answers()[0].input_json == approval.input_json
    assert world.gate.count == 0


STRICT = policy(
    {"decision": "deny", "min_level": "critical", "reason": "never in there"},
    {"decision": "ask", "tool": "*", "require": 2},
)
TWO = (Approver("ada"), Approver("bob"))


def test_a_rule_may_deny() -> None:
    world = World(rules=STRICT)
    world.ask(input_json='{"command":"ls ~/.local/state/pointsman"}')
    (answer,) = world.answers()
    assert (answer.decision, answer.input_json) == ("denied", "")
    assert answer.message.startswith("Denied by a rule of the user's policy (rule 1): never in there.")
    assert answer.rule == "rule 1"


@pytest.mark.parametrize(
    ("kind", "tool", "expires"),
    [("tool", "Bash", True), ("question", "AskUserQuestion", False), ("plan", "ExitPlanMode", False)],
)
def test_only_tools_run_out_of_time(kind: str, tool: str, expires: bool) -> None:
    world = World()
    world.ask(kind=kind, tool=tool)
    assert (world.gate.next_expiry() is not None) is expires
    world.later(59.999)
    assert world.tick() == []
    world.later(10**6)
    world.tick()
    assert world.approval().state is (State.EXPIRED if expires else State.PENDING)


def test_expiry_is_a_denial_with_a_message_for_the_agent() -> None:
    world = World()
    world.ask()
    world.later(60)
    effects = world.tick()
    (outcome,) = published(effects, t.APPROVAL_OUTCOME)
    assert (outcome.decision, outcome.by, outcome.via, outcome.latency_ms) == (
        "expired",
        "timeout",
        "timeout",
        60000,
    )
    (answer,) = world.answers()
    assert (answer.decision, answer.input_json, answer.interrupt) == ("expired", "", False)
    assert "nobody answered within 60 s" in answer.message


def test_a_decision_after_the_time_is_too_late_even_before_the_timer() -> None:
    world = World()
    world.ask()
    world.later(60)
    effects = world.decide()
    assert error(effects) == "expired"
    assert world.approval().state is State.EXPIRED
    assert error(world.decide()) == "already_decided"


# ── Tokens ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("decision", ["approve", "deny"])
@pytest.mark.parametrize(
    "token",
    [
        "",
        "operator",
        "operator.",
        "operator.AAAA",
        "\ufffd\u0000",
        "x" * 100_000,
        "of a2",
        "of viewer",
        "other key",
    ],
)
def test_a_token_that_does_not_prove_the_user_changes_nothing(token: str, decision: str) -> None:
    world = World()
    world.ask("a1")
    world.ask("a2")
    forged = World(keys=(b"z" * 32,))
    forged.ask("a1")
    known = {
        "of a2": world.token("a2"),
        "of viewer": world.token("a1", "viewer"),
        "other key": forged.token("a1"),
    }
    before = world.approval()
    effects = world.decide("a1", decision, token=known.get(token, token))
    assert error(effects) == "bad_token"
    assert world.approval() == before
    assert world.answers() == []
    assert world.audited()[-1]["error"] == "bad_token"
    assert world.audited()[-1]["user"] is None


def test_the_token_proves_by_whatever_is_stated() -> None:
    world = World()
    world.ask()
    world.decide(by="mallory", via="policy")
    outcome = world.approval().outcome
    assert outcome is not None
    assert (outcome.by, outcome.via) == ("operator", "bus")
    (row,) = world.audited()
    assert (row["user"], row["stated_by"], row["stated_via"]) == ("operator", "mallory", "policy")
    assert world.token() not in msgspec.json.encode(row).decode()


def test_a_replaced_key_leaves_tokens_good() -> None:
    world = World()
    world.ask()
    old = world.token()
    world.keys = (b"n" * 32, *world.keys)
    world.restart()
    assert error(world.decide(token=old)) is None


# ── What a decision may say ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"interrupt": True}, "bad_request"),
        ({"answers": {"Which?": "A"}}, "bad_request"),
        ({"uid": "another"}, "unknown_session"),
        ({"updated_input": {"command": "x" * 5_000_000}}, "too_large"),
    ],
)
def test_what_may_not_be_said_changes_nothing(more: dict[str, Any], code: str) -> None:
    world = World()
    world.ask()
    before = world.approval()
    assert error(world.decide(**more)) == code
    assert world.approval() == before
    assert world.audited()[-1]["error"] == code


def test_an_unknown_approval_is_answered_and_audited() -> None:
    world = World()
    assert error(world.decide("nothing")) == "unknown_approval"
    assert [row.approval for row in world.store.audit_rows()] == ["nothing"]
    with pytest.raises(RefusedError, match="no approval"):
        world.show("nothing")
    with pytest.raises(RefusedError, match="no approval"):
        world.withdraw("nothing")


def test_a_denial_tells_the_agent_why_and_may_end_the_turn() -> None:
    world = World()
    world.ask()
    world.decide(decision="deny", reason="use the test database", interrupt=True)
    (answer,) = world.answers()
    assert (answer.message, answer.interrupt) == ("Denied by operator: use the test database", True)
    assert answer.input_json == ""


def test_a_changed_input_is_assessed_again_and_stands_in_the_outcome() -> None:
    world = World()
    world.ask(tool="Write", input_json='{"file_path":"/work/app/a","content":"x"}')
    world.decide(updated_input={"file_path": "/home/ada/.netrc", "content": "x"})
    outcome = world.approval().outcome
    assert outcome is not None
    assert outcome.level == "high"
    assert outcome.updated_input == {"file_path": "/home/ada/.netrc", "content": "x"}
    assert outcome.input_sha256 == world.approval().input_sha256
    assert world.answers()[0].input_json == '{"file_path":"/home/ada/.netrc","content":"x"}'


def test_a_changed_input_may_be_forbidden_or_too_dangerous_for_this_user() -> None:
    world = World(rules=STRICT, approvers=TWO)
    world.ask()
    assert (
        error(world.decide(user="ada", updated_input={"command": "rm -r ~/.local/state/pointsman"}))
        == "not_allowed"
    )
    world = World(approvers=(Approver("kid", "medium"),))
    world.ask(tool="Write", input_json=PATH)
    assert (
        error(world.decide(user="kid", updated_input={"file_path": "/home/ada/.bashrc"})) == "level_too_high"
    )
    assert error(world.decide(user="kid")) is None
    world.ask("a2")
    assert error(world.decide("a2", user="kid")) == "level_too_high"
    assert error(world.decide("a2", "deny", user="kid")) is None


def test_an_input_built_from_a_partial_one_is_refused() -> None:
    world = World()
    long = "x" * 70_000
    world.ask(
        tool="Write", input_json=msgspec.json.encode({"file_path": "/work/a", "content": long}).decode()
    )
    (request,) = published(world.said, t.APPROVAL_REQUEST)
    assert request.input_partial
    assert len(request.input["content"]) < 65536
    built = {**request.input, "file_path": "/work/b"}
    assert error(world.decide(updated_input=built)) == "bad_request"
    whole = msgspec.json.decode(msgspec.json.encode(world.show().input))
    assert whole["content"] == long
    assert error(world.decide(updated_input={**whole, "file_path": "/work/b"})) is None


ASKED = '{"questions":[{"question":"Which?","options":[]},{"question":"Why?"}], "big": 123456789012345678901}'


@pytest.mark.parametrize("answers", [None, {}, {"Which?": "A"}, {"Which?": "A", "Why?": "b", "What?": "c"}])
def test_a_question_is_approved_only_with_its_answers(answers: dict[str, str] | None) -> None:
    world = World()
    world.ask(input_json=ASKED, kind="question", tool="AskUserQuestion")
    assert error(world.decide(answers=answers)) == "bad_request"
    assert world.approval().state is State.PENDING


def test_the_answers_go_into_the_input_and_the_rest_stays_as_it_came() -> None:
    world = World()
    world.ask(input_json=ASKED, kind="question", tool="AskUserQuestion")
    assert world.approval().summary == "Which? / Why?"
    world.decide(answers={"Which?": "A, B", "Why?": 'free "text"'})
    (answer,) = world.answers()
    assert answer.input_json == ASKED[:-1] + ',"answers":{"Which?":"A, B","Why?":"free \\"text\\""}}'
    outcome = world.approval().outcome
    assert outcome is not None
    assert outcome.answers == {"Which?": "A, B", "Why?": 'free "text"'}
    assert outcome.updated_input is None


def test_a_question_may_be_denied_without_answers() -> None:
    world = World()
    world.ask(input_json=ASKED, kind="question", tool="AskUserQuestion")
    world.decide(decision="deny")
    assert world.approval().state is State.DENIED


# ── Several approvers ────────────────────────────────────────────────────────────────────────────────────


def test_the_approval_that_completes_what_is_required_decides() -> None:
    world = World(rules=STRICT, approvers=TWO)
    world.ask()
    for _ in range(2):  # the same user twice is one approver
        effects = world.decide(user="ada")
        assert result(effects) == {"id": "a1", "state": "pending", "approved_by": ["ada"], "required": 2}
    world.restart()
    world.decide(user="bob")
    outcome = world.approval().outcome
    assert outcome is not None
    assert (outcome.decision, outcome.by) == ("approved", "bob")


def test_votes_for_different_inputs_do_not_add_up() -> None:
    world = World(rules=STRICT, approvers=TWO)
    world.ask()
    world.decide(user="ada", updated_input={"command": "make clean"})
    assert world.approval().danger.level == "high"
    world.decide(user="bob")
    assert world.approval().state is State.PENDING
    world.decide(user="ada")
    assert world.approval().state is State.APPROVED
    assert world.answers()[0].input_json == '{"command":"make"}'


def test_one_denial_is_enough() -> None:
    world = World(rules=STRICT, approvers=TWO)
    world.ask()
    world.decide(user="ada")
    world.decide(user="bob", decision="deny")
    assert world.approval().state is State.DENIED


# ── What comes from ingest is bounded ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("more", "uid"),
    [
        ({"approval": "../x"}, "u"),
        ({"approval": "+"}, "u"),
        ({"approval": "a" * 58}, "u"),
        ({"session": "Not A Slug"}, "u"),
        ({"tool": "t" * 300}, "u"),
        ({"cwd": "c" * 5000}, "u"),
        ({}, None),
    ],
)
def test_a_question_that_cannot_stand_on_the_bus_is_refused(more: dict[str, Any], uid: str | None) -> None:
    world = World()
    q = question(**more)
    with pytest.raises(RefusedError):
        world.gate.question(fact("q", "question", q, uid), q, world.now)
    assert world.gate.count == 0


def test_the_same_id_with_another_input_is_refused() -> None:
    world = World()
    world.ask()
    with pytest.raises(RefusedError, match="another input"):
        world.ask(input_json='{"command":"rm -rf /"}')
    assert world.approval().input_json == '{"command":"make"}'


def test_an_input_that_nobody_can_read_waits_for_a_person_at_level_critical() -> None:
    world = World()
    (request,) = published(world.ask(input_json="not json", tool="Read"), t.APPROVAL_REQUEST)
    assert request.danger.level == "critical"
    assert request.input_partial
    assert request.input == {"unreadable": "not json"}
    world.decide()
    assert world.answers()[0].input_json == "not json"


def test_saves_are_new_once() -> None:
    world = World()
    world.ask()
    world.decide()
    world.apply()
    assert [e.new for e in world.said if isinstance(e, Save)] == [True, False, False]


def test_rules_know_nothing_of_unknown_levels() -> None:
    danger = m.Danger(level="harmless", reason="", impact="")
    call = Call("tool", "Read", "web", "u", "/work", danger, {}, auto_approve=("Read",))
    assert RULES.judge(call).answer == "ask"


def test_a_judgment_follows_each_path_once_and_reads_each_text_once() -> None:
    followed: list[str] = []
    read: list[str] = []

    def resolve(path: str) -> str:
        followed.append(path)
        return posixpath.normpath(path)

    def parse(text: str, _within_s: float) -> Unparsed:
        read.append(text)
        return Unparsed("not here")

    world = World(sight=Sight(parse=parse, resolve=resolve))
    for number in range(3):
        followed.clear()
        world.ask(f"a{number}", '{"command":"make -C lib lib"}')
        assert followed
        assert len(followed) == len(set(followed))
    assert read == ["make -C lib lib"]
