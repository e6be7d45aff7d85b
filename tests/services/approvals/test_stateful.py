"""The gate under any order of events, with crashes anywhere: once decided, always decided, answered once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bus import ids
from bus import messages as m
from bus import topics as t
from bus.effects import Effect, Publish
from bus.errors import RefusedError
from services.approvals import audit
from services.approvals.devices import Limit
from services.approvals.model import Approver
from services.approvals.question import judge_again
from services.approvals.rules import Rules
from services.approvals.tokens import Tokens
from tests.services.approvals.support import UID, Crash, World, error, fact, policy, published, question, user

IDS = ("a1", "a2", "a3", "a4", "a5")
USERS = ("ada", "bob")
CRASHES = st.sampled_from([Crash.NONE, Crash.NONE, Crash.NONE, Crash.BEFORE, Crash.AFTER])


TWO = {"decision": "ask", "tool": "Edit", "require": 2}
POLICY = policy(TWO, auto_approve=("Read",))
POLICIES = (
    POLICY,
    policy(TWO, {"decision": "deny", "tool": "Bash"}),
    policy(TWO, {"decision": "ask", "tool": "Read"}, {"decision": "allow", "tool": "Bash"}),
)
TEXTS = st.sampled_from(['{"command":"make"}', '{ "file_path":"/work/x", "n":1e400}', '{"a":1,"a":2}'])
TOOLS = st.sampled_from(["Bash", "Read", "Edit"])
HOOKS = {ids.approval_id(UID, 1, request_id): request_id for request_id in ("h1", "h2")}


class GateMachine(RuleBasedStateMachine):
    """A model beside the gate: what was decided (`decided`), and what the agent was told (`told`)."""

    @initialize()
    def begin(self) -> None:
        self.world = World(
            rules=POLICY,
            approvers=[Approver(user) for user in USERS],
            limit=lambda _device: Limit(oldest=True),
        )
        self.inputs: dict[str, tuple[str, dict[str, str]]] = {}
        self.decided: dict[str, m.ApprovalOutcome] = {}
        self.told: dict[str, m.Answer] = {}
        self.standing: dict[str, object] = {}
        self.remembered: dict[str, str] = {}  # rule → the approval that left it behind
        self.shown: list[str] = []  # on the device's display
        self.say(self.world.admit(user("wall", "device", "critical")))
        for number, approval in enumerate(IDS[:4]):
            self.ask(approval, '{"command":"make"}', ["Edit", "Bash"][number % 2], "", Crash.NONE)

    def happens(self, crash: Crash, act: Callable[[], list[Effect]]) -> list[Effect]:
        """One message. Returns its effects, none if a crash left it without any."""
        self.world.crash = crash
        try:
            effects = act()
        except RefusedError:
            effects = []
        if crash is Crash.NONE:
            self.say(effects)
        else:
            self.world.crash = Crash.NONE
            self.world.restart()
            self.standing, self.shown = {}, []
            self.say(self.world.gate.snapshots())
        self.look()
        return effects

    def say(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Publish) and effect.row is t.APPROVAL_REQUEST:
                if effect.payload is None:
                    del self.standing[effect.values["id"]]
                else:
                    self.standing[effect.values["id"]] = effect.payload
            elif isinstance(effect, Publish) and effect.row is t.DEVICE_PENDING:
                assert isinstance(effect.payload, m.PendingApprovals)
                self.shown = [item.id for item in effect.payload.items]

    def look(self) -> None:
        """What is kept now goes with what was kept before."""
        self.remembered |= {entry.id: entry.approval for entry in self.world.store.remembered()}
        for approval_id in self.inputs:
            approval = self.world.store.find(approval_id)
            if approval is None or approval.outcome is None:
                assert not self.world.answers(approval_id)
                assert approval_id not in self.decided
                continue
            first = self.decided.setdefault(approval_id, approval.outcome)
            assert msgspec.structs.replace(approval.outcome, applied=None) == msgspec.structs.replace(
                first, applied=None
            )
            (answer,) = self.world.answers(approval_id)
            if first.decision in ("approved", "denied") and approval.expires_at is not None:
                assert first.at < approval.expires_at
            assert self.told.setdefault(approval_id, answer) == answer
            assert answer.decision == approval.state == approval.outcome.decision
            if first.applied is not None:
                assert approval.outcome.applied == first.applied
            self.decided[approval_id] = approval.outcome

    # what happens

    @rule(
        approval=st.sampled_from(IDS),
        text=TEXTS,
        tool=TOOLS,
        held=st.sampled_from(["", "", "", "", "web has spent it all"]),
        crash=CRASHES,
    )
    def ask(self, approval: str, text: str, tool: str, held: str, crash: Crash) -> None:
        text, more = self.inputs.setdefault(approval, (text, {"tool": tool, "held": held}))
        self.happens(crash, lambda: self.world.ask(approval, text, **more))

    @rule(hook=st.sampled_from(sorted(HOOKS)), text=TEXTS, tool=TOOLS, crash=CRASHES)
    def judge(self, hook: str, text: str, tool: str, crash: Crash) -> None:
        """The callback of a tool call: no opinion, or denied for good."""
        text, more = self.inputs.setdefault(hook, (text, {"tool": tool}))
        effects = self.happens(crash, lambda: self.world.judge(HOOKS[hook], text, **more))
        if effects:
            assert len(published(effects, t.TOOL_VERDICT)) == (hook not in self.decided)

    @rule(which=st.sampled_from(POLICIES), crash=CRASHES)
    def reload(self, which: Rules, crash: Crash) -> None:
        self.happens(crash, lambda: self.world.adopt(which))
        if crash is not Crash.NONE:  # the start finds other rules than were kept
            self.happens(Crash.NONE, lambda: self.world.adopt(which))

    @precondition(lambda self: self.remembered)
    @rule(data=st.data(), crash=CRASHES)
    def forget(self, data: st.DataObject, crash: Crash) -> None:
        command = m.PolicyCommand(id="f", rule=data.draw(st.sampled_from(sorted(self.remembered))))
        self.happens(crash, lambda: self.world.act(self.world.gate.forget(command, self.world.now)))

    @rule(crash=CRASHES, seldom=st.integers(0, 5))
    def session_over(self, crash: Crash, seldom: int) -> None:
        if seldom:
            return
        o = m.SessionOver(session="web")
        effects = self.happens(
            crash, lambda: self.world.act(self.world.gate.over(fact("o", "over", o), o, self.world.now))
        )
        if effects:
            assert all(entry.uid is None for entry in self.world.store.remembered())

    @rule(approval=st.sampled_from(IDS), crash=CRASHES, seldom=st.integers(0, 5))
    def withdraw(self, approval: str, crash: Crash, seldom: int) -> None:
        if seldom:
            return  # it ends an approval, and others want to
        self.happens(crash, lambda: self.world.withdraw(approval))

    @rule(approval=st.sampled_from(IDS), crash=CRASHES, seldom=st.integers(0, 5))
    def forbid(self, approval: str, crash: Crash, seldom: int) -> None:
        if seldom:
            return
        self.happens(crash, lambda: self.world.forbid(approval))

    @rule(approval=st.sampled_from(IDS), applied=st.booleans(), crash=CRASHES)
    def apply(self, approval: str, applied: bool, crash: Crash) -> None:
        self.happens(crash, lambda: self.world.apply(approval, applied))

    @rule(seconds=st.sampled_from([0.5, 1.0, 10.0, 20.0, -20.0, 61.0]), tick=st.booleans(), crash=CRASHES)
    def time(self, seconds: float, tick: bool, crash: Crash) -> None:
        self.world.later(seconds)
        if tick:
            self.happens(crash, self.world.tick)

    @rule(
        approval=st.sampled_from(IDS),
        decision=st.sampled_from(["approve", "approve", "approve", "deny"]),
        user=st.sampled_from(USERS),
        updated=st.sampled_from([None, None, {"command": "make test"}]),
        remember=st.sampled_from([None, None, "session", "always"]),
        crash=CRASHES,
    )
    def decide(
        self,
        approval: str,
        decision: str,
        user: str,
        updated: dict[str, str] | None,
        remember: str | None,
        crash: Crash,
    ) -> None:
        more: dict[str, Any] = {"updated_input": updated} if updated and decision == "approve" else {}
        more["remember"] = remember
        was = self.decided.get(approval)
        effects = self.happens(crash, lambda: self.world.decide(approval, decision, user=user, **more))
        if effects and was is not None:
            assert error(effects) == "already_decided"
        if effects and error(effects) is None and decision == "deny":
            assert self.decided[approval].decision == "denied"
            assert self.decided[approval].by == user

    @rule(
        named=st.sampled_from(["", "", *IDS]),
        row=st.sampled_from([t.DEVICE_APPROVE, t.DEVICE_APPROVE, t.DEVICE_DENY]),
        crash=CRASHES,
    )
    def press(self, named: str, row: t.Topic, crash: Crash) -> None:
        before = dict(self.decided)
        pressed_at = self.world.now
        effects = self.happens(crash, lambda: self.world.pressed("wall", named, row))
        new = self.decided.keys() - before.keys()
        for reply in published(effects, t.DEVICE_REPLY):
            if not reply.ok:
                assert not {one for one in new if self.decided[one].by == "wall"}
            elif not named:
                approval = self.world.approval(reply.approval)
                assert (pressed_at - approval.created_at).total_seconds() >= 1
                assert self.pressed_at is None or (pressed_at - self.pressed_at).total_seconds() >= 2
            if reply.ok:
                assert named in {"", reply.approval}
                self.pressed_at = pressed_at

    pressed_at: datetime | None = None  # when the device has last decided something, as far as it was told

    @rule(
        approval=st.sampled_from(IDS),
        user=st.sampled_from(USERS),
        wrong=st.sampled_from(["approval", "uid", "user", "expiry", "input", "key", "all"]),
        decision=st.sampled_from(["approve", "deny"]),
        crash=CRASHES,
    )
    def forge(self, approval: str, user: str, wrong: str, decision: str, crash: Crash) -> None:
        before = self.world.store.find(approval)
        if before is None:
            return
        token = Tokens([b"z" * 32 if wrong == "key" else self.world.keys[0]]).issue(
            "viewer" if wrong == "user" else user,
            "a0" if wrong == "approval" else before.id,
            "another" if wrong == "uid" else before.uid,
            "00" if wrong == "input" else before.input_sha256,
            self.world.now + timedelta(days=1) if wrong == "expiry" else before.expires_at,
        )
        token = "" if wrong == "all" else token
        effects = self.happens(crash, lambda: self.world.decide(approval, decision, token=token))
        assert self.world.store.find(approval) == before
        if effects:
            assert error(effects) == ("already_decided" if approval in self.decided else "bad_token")

    # what always holds

    @invariant()
    def what_stands_is_what_waits(self) -> None:
        waiting = {a.id for a in self.world.store.pending()}
        assert set(self.standing) == waiting
        assert self.world.gate.count == len(waiting)
        (pending,) = published(self.world.gate.snapshots(), t.APPROVALS_PENDING)
        assert [item.id for item in pending.items] == [a.id for a in self.world.store.pending()]

    @invariant()
    def a_device_is_shown_what_it_may_decide(self) -> None:
        mine = [
            a.id for a in self.world.store.pending() if all(vote.user != "wall" for vote in a.votes)
        ]  # all are tools, and it may decide any
        assert self.shown == mine

    @invariant()
    def an_unchanged_input_is_sent_back_byte_for_byte(self) -> None:
        for approval_id, answer in self.told.items():
            outcome = self.decided[approval_id]
            if answer.decision == "approved" and outcome.updated_input is None:
                assert answer.input_json == self.inputs[approval_id][0]
            elif answer.decision == "approved":
                assert msgspec.json.decode(answer.input_json) == outcome.updated_input
            else:
                assert answer.input_json == ""
                assert answer.message or answer.decision == "cancelled"

    @invariant()
    def what_is_remembered_decides_the_very_same_call_alone(self) -> None:
        kept = [entry.id for entry in self.world.store.remembered()]
        assert [entry["id"] for entry in self.world.gate.policy()["remembered"]] == kept
        for approval_id, outcome in self.decided.items():
            source = self.remembered.get(outcome.rule or "")
            if source is not None:
                text, more = self.inputs[source]
                assert self.inputs[approval_id][0] == text
                assert self.inputs[approval_id][1]["tool"] == more["tool"]
                assert outcome.decision == self.decided[source].decision

    @invariant()
    def what_a_rule_forbids_does_not_wait(self) -> None:
        for approval in self.world.store.pending():
            assert judge_again(approval, self.world.rules, self.world.gate.hurried)[1].answer != "deny"

    @invariant()
    def the_audit_has_one_outcome_for_each(self) -> None:
        rows = list(self.world.store.audit_rows())
        assert audit.verify(rows, self.world.store.audit_head()).broken is None
        outcomes = [row.approval for row in rows if row.action == "outcome"]
        assert sorted(outcomes) == sorted(self.decided)
        assert {row.approval for row in rows if row.action == "request"} >= set(outcomes)

    @invariant()
    def two_users_said_yes_to_the_same_input_where_two_are_required(self) -> None:
        rows = [row for row in self.world.store.audit_rows() if row.action == "decision"]
        for approval_id, outcome in self.decided.items():
            if outcome.decision != "approved" or self.inputs[approval_id][1]["tool"] != "Edit":
                continue
            final: str | None = None
            last: dict[str, str | None] = {}  # user → the changed input of the last yes
            said = [msgspec.json.decode(row.data) for row in rows if row.approval == approval_id]
            for decision in said:
                if decision["error"] is None:
                    last[decision["user"]] = decision["updated_input_sha256"]
                    final = decision["updated_input_sha256"]
            assert [last[one] == final for one in last].count(True) >= 2

    @precondition(lambda self: all(approval in self.decided for approval in IDS))
    @rule(approval=st.sampled_from(IDS))
    def a_question_that_comes_again_gets_its_answer_again(self, approval: str) -> None:
        self.world.db.execute(
            "DELETE FROM outbox"
        )  # ingest had acknowledged them, and asks again all the same
        text, more = self.inputs[approval]
        q = question(approval, text, **more)
        effects = self.world.act(self.world.gate.question(fact("again", "question", q), q, self.world.now))
        assert len(effects) == 1
        assert self.world.answers(approval) == [self.told[approval]]
        for other in IDS:
            if other != approval:
                self.world.ask(other, self.inputs[other][0], **self.inputs[other][1])
        for hook, request_id in HOOKS.items():
            if hook in self.inputs:
                self.world.judge(request_id, self.inputs[hook][0], **self.inputs[hook][1])
        self.look()


TestGate = GateMachine.TestCase
TestGate.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
