"""The gate: what becomes of an agent's question. Pure: state, event and time in, effects out.

Theory of operation
===================

Each approval is a small state machine of its own; `services.approvals.table` holds every legal step, and
nothing else moves one:

    pending ──approve (the last that is required)──▶ approved ─┐
       │  ╰──approve (one of several)──▶ pending               │
       ├─────deny──────────────────────────────▶ denied ───────┤  final: the decision never changes,
       ├─────rule (a new one forbids it)───────▶ denied ───────┤  later decisions are ``already_decided``
       ├─────alike (the same call: remember yes)▶ approved ────┤
       ├─────timer (expires_at reached)────────▶ expired ──────┤
       └─────withdrawn (the agent waits no more)▶ cancelled ───┘
    question ─▶ approved (a rule lets it) | denied (a rule forbids it) | pending (a person is asked)

Beside it stands ``applied`` of the outcome: null until the agent's side says, once, whether the agent took
the answer. It says nothing about the decision and moves no state.

Three promises, and where they come from:

- *Once.* Whatever is decided is kept in the same transaction as the answer for the agent (`Save`, `Post`),
  and the answer is a function of what is kept; a question that comes again gets the same answer again.
- *What was approved is what runs.* The agent's text is kept byte for byte and sent back; a vote names the
  hash of the input that it is for, and only votes for the same input count together.
- *Nobody is lost.* Every way out of ``pending`` posts an answer, and a time that has passed is noticed by
  whatever comes next: the timer, or a decision that is late.

The gate holds pending approvals alone; decided ones are looked up with ``recall`` when somebody asks. What it
holds is changed before its effects are kept: if keeping fails, the process ends and its successor starts from
the store (see `services._process.station`).

Over 400 lines because every way into an approval and out of it stands here, side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from bus import messages as m
from bus import topics as t
from bus.codec import MAX_PAYLOAD_BYTES
from bus.effects import Effect, Publish, ReplyTo
from bus.errors import RefusedError
from services.approvals import reading, rows, say, users
from services.approvals.attention import Attention
from services.approvals.danger.sight import BLIND, Sight
from services.approvals.decision import (
    Chosen,
    by_budget,
    by_rule,
    choose,
    decided,
    measured,
    to_remember,
    told,
)
from services.approvals.devices import Devices
from services.approvals.foresight import Foresight
from services.approvals.model import (
    Approval,
    Approver,
    Audit,
    NotDecided,
    Place,
    Restate,
    Save,
    SaveRule,
    SaveUsers,
    State,
    Vote,
)
from services.approvals.policing import Policing
from services.approvals.question import check, open_approval
from services.approvals.remember import Remembered
from services.approvals.rules import Rules, Verdict
from services.approvals.table import TABLE, Happening
from services.approvals.tokens import Tokens

MAX_WHOLE = MAX_PAYLOAD_BYTES - 512 * 1024  # of an input that `show` shows; the rest is the request around it
_STATED_VIA = frozenset({"cli", "web", "bus"})  # what a decision on the bus may say of itself; else "bus"


class Gate(Policing):
    """All approvals of a node. ``recall`` finds a decided one in the store; ``pending`` is oldest first.

    ``sight`` is what the judge of dangers may see of the world; without it every shell command is ``high``.
    """

    def __init__(
        self,
        *,
        node: str,
        home: str,
        rules: Rules,
        tokens: Tokens,
        approvers: Sequence[Approver],
        devices: Devices | None = None,
        pending: Iterable[Approval] = (),
        recall: Callable[[str], Approval | None],
        sight: Sight = BLIND,
    ) -> None:
        self._node = node
        self._place = Place(home, sight)
        self._attention = Attention(self._place)
        self._foresight = Foresight()
        self._rules = rules
        self._tokens = tokens
        self._approvers: dict[str, Approver] = {approver.user: approver for approver in approvers}
        self.devices = Devices() if devices is None else devices
        self._recall = recall
        self._pending = {approval.id: approval for approval in pending}
        self._items = {approval.id: say.item(approval) for approval in self._pending.values()}
        self._said: m.PendingApprovals | None = None

    @property
    def count(self) -> int:
        """How many wait."""
        return len(self._pending)

    def next_expiry(self) -> datetime | None:
        """When `tick` has something to do, as far as is known now."""
        return min((a.expires_at for a in self._pending.values() if a.expires_at is not None), default=None)

    def snapshots(self) -> list[Effect]:
        """Everything that stands on the bus, for a start."""
        self._said = None
        said: list[Effect] = []
        for approval in self._pending.values():
            view = reading.view(approval.input_json, reading.parse(approval.input_json))
            said += self._ask(approval, view)
        return [*said, *self.restated()]

    def restated(self) -> list[Effect]:
        """What waits, for everybody and for each device: the snapshots that have changed."""
        said: list[Effect] = []
        waits = say.waiting(self._pending.values(), self._items.values())
        if waits != self._said:
            self._said = waits
            said.append(Publish(t.APPROVALS_PENDING, waits))
        return [*said, *self.devices.pending(list(self._pending.values()), self._items)]

    # users

    def admit(self, fact: m.Fact, u: m.BusUsers, now: datetime) -> list[Effect]:
        """Who may decide from now on: the first operator, and these. Holds for what waits already."""
        if u.users == self.devices.users:
            return []
        before, self._approvers = self._approvers, {a.user: a for a in users.approvers(u.users)}
        told: list[Effect] = [SaveUsers(tuple(u.users)), Audit(now, "users", "", rows.users(u.users))]
        told += users.changed(self._tokens, self._pending.values(), before, self._approvers)
        return [*told, *self.devices.admit(u.users), Restate()]

    def rekey(self, tokens: Tokens) -> list[Effect]:
        """Sign with these from now on. Returns new tokens for what waits."""
        self._tokens = tokens
        return [
            users.token(tokens, a, approver)
            for a in self._pending.values()
            for approver in self._approvers.values()
        ]

    # facts of ingest

    def question(self, fact: m.Fact, q: m.Question, now: datetime) -> list[Effect]:
        """An agent asks. Raises `RefusedError` for a question that can be nobody's."""
        uid = check(fact.uid, q)
        known = self.find(q.approval)
        if known is not None:
            if reading.sha256(q.input_json) != known.input_sha256:
                raise RefusedError("bad_request", f"{q.approval} was asked before with another input")
            return [] if known.state is State.PENDING else [say.answer(known, now)]
        examined = self.examined(uid, q, now)
        approval, verdict = open_approval(uid, q, examined, self._rules, now)
        asked = Audit(now, "request", approval.id, rows.request(approval))
        if q.held:
            return [asked, *self._settle(approval, State.DENIED, now, **by_budget(q.held))]
        if verdict.answer != "ask":
            return [asked, *self._decide_by_rule(approval, verdict, now)]
        self._pending[approval.id] = approval
        self._items[approval.id] = say.item(approval)
        return [Save(approval, new=True), asked, *self._ask(approval, examined.view), Restate()]

    def withdrawn(self, fact: m.Fact, w: m.QuestionWithdrawn, now: datetime) -> list[Effect]:
        """The agent waits no more; what is decided stays decided."""
        approval = self._known(w.approval)
        if approval.state is not State.PENDING:
            return []
        return self._end(
            approval,
            Happening.WITHDRAWN,
            State.CANCELLED,
            now,
            by="screen" if w.via == "hook" else "agent",
            via="hook" if w.via == "hook" else "agent",
            reason=rows.short(w.reason),
        )

    def forbidden(self, fact: m.Fact, f: m.QuestionForbidden, now: datetime) -> list[Effect]:
        """The session's budget is exhausted; what is decided stays decided."""
        approval = self._known(f.approval)
        if approval.state is not State.PENDING:
            return []
        if approval.expires_at is not None and approval.expires_at <= now:
            return self._expire(approval, now)
        return self._end(approval, Happening.DENY, State.DENIED, now, **by_budget(f.reason))

    def applied(self, fact: m.Fact, a: m.AnswerApplied, now: datetime) -> list[Effect]:
        """The agent's side says, once, whether the agent took the answer."""
        approval = self._known(a.approval)
        if approval.outcome is None:
            raise RefusedError("bad_request", f"{a.approval} is not decided: nothing of it can be applied")
        if approval.outcome.applied is not None:
            return []
        outcome = msgspec.structs.replace(approval.outcome, applied=a.applied)
        approval = msgspec.structs.replace(approval, outcome=outcome)
        return [
            Save(approval),
            Audit(now, "applied", approval.id, {"applied": a.applied}),
            say.outcome(approval),
        ]

    # time

    def tick(self, now: datetime) -> list[Effect]:
        """Deny what nobody answered in time."""
        effects: list[Effect] = []
        for approval in [
            a for a in self._pending.values() if a.expires_at is not None and a.expires_at <= now
        ]:
            effects += self._expire(approval, now)
        return effects

    def _expire(self, approval: Approval, now: datetime) -> list[Effect]:
        assert approval.expires_at is not None  # noqa: S101  # only what can expire is expired
        waited_s = (approval.expires_at - approval.created_at).total_seconds()
        reason = f"nobody answered within {waited_s:g} s"
        message = f"Denied by Pointsman: {reason}. No person has looked at it."
        return self._end(
            approval,
            Happening.TIMER,
            State.EXPIRED,
            now,
            by="timeout",
            via="timeout",
            reason=reason,
            message=message,
        )

    # commands

    def decide(self, d: m.Decision, approval_id: str, now: datetime) -> list[Effect]:
        """Someone answers. A decision that changes nothing is not raised: it stands in the audit as well."""
        approval = self.find(approval_id)
        if approval is None:
            return self.refuse(
                d, approval_id, None, now, RefusedError("unknown_approval", "there is no such approval")
            )
        approver = users.who(self._tokens, d.token, approval, self._approvers.values())
        if approver is None and approval.outcome is None:
            text = f"the token is not one for this approval: read approvals/{approval.id}/tokens/<your user>"
            return self.refuse(d, approval.id, None, now, RefusedError("bad_token", text))
        return self.vote(approval, d, approver, _via(d), now)

    def vote(
        self, approval: Approval, d: m.Decision, approver: Approver | None, via: str, now: datetime
    ) -> list[Effect]:
        """The decision of a proven ``approver`` (None: of nobody, on what is decided before)."""
        user = approver.user if approver is not None else None
        if approval.outcome is not None:
            text = f"it was {approval.state} by {approval.outcome.by} before"
            error = RefusedError("already_decided", text, approval.outcome)
            return self.refuse(d, approval.id, user, now, error)
        assert approver is not None  # noqa: S101  # what is pending was proven
        if approval.expires_at is not None and approval.expires_at <= now:
            effects = self._expire(approval, now)
            saved = next(e.approval for e in effects if isinstance(e, Save))
            error = RefusedError("expired", "the token has expired, and the approval with it", saved.outcome)
            return effects + self.refuse(d, approval.id, user, now, error)
        if d.uid is not None and d.uid != approval.uid:
            error = RefusedError("unknown_session", f"{approval.id} belongs to session {approval.uid}")
            return self.refuse(d, approval.id, user, now, error)
        d = msgspec.structs.replace(d, reason=rows.short(d.reason))
        try:
            rule = self._to_remember(approval, d, approver, now)
            if d.decision == "deny":
                return self._deny(approval, d, rule, approver.user, via, now)
            chosen = choose(approval, d, approver, self._rules, self._place)
        except RefusedError as error:
            return self.refuse(d, approval.id, user, now, error)
        return self._approve(approval, d, chosen, rule, approver.user, via, now)

    def _to_remember(
        self, approval: Approval, d: m.Decision, approver: Approver, now: datetime
    ) -> Remembered | None:
        if d.remember is None:
            return None
        return to_remember(approval, d, approver.user, self._rules, self._place, now)

    def _deny(
        self,
        approval: Approval,
        d: m.Decision,
        rule: Remembered | None,
        user: str,
        via: str,
        now: datetime,
    ) -> list[Effect]:
        message = f"Denied by {user}: {d.reason}" if d.reason else f"Denied by {user}."
        return [
            Audit(now, "decision", approval.id, rows.decision(d, user, None)),
            *self._remembered(rule, now),
            *self._end(
                approval,
                Happening.DENY,
                State.DENIED,
                now,
                by=user,
                via=via,
                reason=d.reason,
                message=message,
                interrupt=d.interrupt,
                remembered=rule.id if rule else None,
                reply_to=d.id,
            ),
            *self.settle_alike(rule, now),
        ]

    def _remembered(self, rule: Remembered | None, now: datetime) -> list[Effect]:
        if rule is None:
            return []
        self.remember(rule)
        return [SaveRule(rule), Audit(now, "remembered", rule.approval, rows.remembered(rule))]

    def _approve(
        self,
        approval: Approval,
        d: m.Decision,
        chosen: Chosen,
        rule: Remembered | None,
        user: str,
        via: str,
        now: datetime,
    ) -> list[Effect]:
        """Count the vote; votes for another input, and an earlier one of the same user, count no more."""
        others = [
            vote
            for vote in approval.votes
            if vote.input_sha256 == chosen.input_sha256 and vote.user != user and self._may_decide(vote.user)
        ]
        votes = (*others, Vote(user=user, input_sha256=chosen.input_sha256))
        approval = msgspec.structs.replace(approval, votes=votes)
        noted = Audit(now, "decision", approval.id, rows.decision(d, user, None))
        if len(votes) < chosen.required:
            self._pending[approval.id] = approval
            approved_by = [vote.user for vote in votes]
            result = {
                "id": approval.id,
                "state": approval.state,
                "approved_by": approved_by,
                "required": chosen.required,
            }
            return [Save(approval), noted, Restate(), ReplyTo(d.id, result)]
        return [
            noted,
            *self._remembered(rule, now),
            *self._end(
                msgspec.structs.replace(approval, danger=chosen.danger),
                Happening.APPROVE,
                State.APPROVED,
                now,
                by=user,
                via=via,
                reason=d.reason,
                final_json=chosen.final_json,
                updated_input=chosen.updated_input,
                answers=chosen.answers,
                remembered=rule.id if rule else None,
                reply_to=d.id,
            ),
            *self.settle_alike(rule, now),
        ]

    def show(self, command: m.ShowApproval, approval_id: str, now: datetime) -> list[Effect]:
        """The request with its whole input, also of one that is decided. Raises `RefusedError`."""
        approval = self._known(approval_id)
        if len(approval.input_json) * 4 > MAX_WHOLE and len(approval.input_json.encode()) > MAX_WHOLE:
            raise RefusedError("too_large", f"the input has {len(approval.input_json)} characters")
        whole = reading.whole(approval.input_json, reading.parse(approval.input_json))
        return [ReplyTo(command.id, say.request(self._node, approval, whole))]

    def waiting(self) -> Iterable[Approval]:
        """Oldest first."""
        return self._pending.values()

    def find(self, approval_id: str) -> Approval | None:
        return self._pending.get(approval_id) or self._recall(approval_id)

    # inside

    def _known(self, approval_id: str) -> Approval:
        found = self.find(approval_id)
        if found is None:
            raise RefusedError("unknown_approval", f"there is no approval {approval_id!r}")
        return found

    def _ask(self, a: Approval, view: reading.View) -> list[Effect]:
        """Request, then tokens: who sees the pending list finds both."""
        said: list[Effect] = [Publish(t.APPROVAL_REQUEST, say.request(self._node, a, view), {"id": a.id})]
        return [*said, *(users.token(self._tokens, a, approver) for approver in self._approvers.values())]

    def _may_decide(self, user: str) -> bool:
        return user in self._approvers or user in self.devices

    def _decide_by_rule(self, approval: Approval, verdict: Verdict, now: datetime) -> list[Effect]:
        state, how = self._by_rule(verdict)
        return self._settle(approval, state, now, **how)

    @staticmethod
    def _by_rule(verdict: Verdict) -> tuple[State, dict[str, Any]]:
        if verdict.answer == "allow":
            return State.APPROVED, by_rule(verdict)
        return State.DENIED, {**by_rule(verdict), "message": say.forbidden(verdict)}

    @staticmethod
    def _settle(approval: Approval, state: State, now: datetime, **how: Any) -> list[Effect]:
        """Decided at once: nobody was asked."""
        done = decided(approval, state, now, **how)
        return [Save(done, new=True), *told(done, now), say.outcome(done), measured(done)]

    def _end_by_rule(self, approval: Approval, verdict: Verdict, now: datetime) -> list[Effect]:
        """A pending approval that a new rule decides."""
        state, how = self._by_rule(verdict)
        happening = Happening.ALIKE if state is State.APPROVED else Happening.RULE
        return self._end(approval, happening, state, now, **how)

    def _end(
        self,
        approval: Approval,
        happening: Happening,
        state: State,
        now: datetime,
        *,
        reply_to: str | None = None,
        **how: Any,
    ) -> list[Effect]:
        """A pending approval is decided: kept with its answer, then said."""
        if state not in TABLE[approval.state][happening]:
            raise AssertionError(f"{approval.id}: {happening} does not lead from {approval.state} to {state}")
        done = decided(approval, state, now, **how)
        del self._pending[approval.id]
        del self._items[approval.id]
        cleared = [Publish(t.APPROVAL_REQUEST, None, {"id": approval.id})]
        cleared += [users.no_token(approval, user) for user in self._approvers]
        said: list[Effect] = [
            Save(done),
            *told(done, now),
            *cleared,
            Restate(),
            say.outcome(done),
        ]
        if reply_to is not None:
            said.append(ReplyTo(reply_to, done.outcome))
        return [*said, measured(done)]

    def refuse(
        self, d: m.Decision, approval_id: str, user: str | None, now: datetime, error: RefusedError
    ) -> list[Effect]:
        return [
            Audit(now, "decision", approval_id, rows.decision(d, user, error.code)),
            ReplyTo(d.id, error=error),
            NotDecided(error.code),
        ]


def _via(d: m.Decision) -> str:
    return d.via if d.via in _STATED_VIA else "bus"
