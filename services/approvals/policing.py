"""The policy's part of the gate: tool calls judged before they run, rules explained, replaced and forgotten.

`judge` is asked about every tool call of an agent that lets its hooks decide, also those that it would run
without asking. It answers at once, and what no rule is about is noted for `replay` later on. Where a rule
denies, there is an approval, denied from the start, whose answer goes to ingest as a fact, and audit and
outcome tell of it like of any other. Asked again (an answer was lost, a process died) it says the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal

import msgspec

from bus import messages as m
from bus import topics as t
from bus.effects import Effect, Publish, ReplyTo
from bus.errors import RefusedError
from bus.ids import approval_id
from bus.messages import level_rank
from services.approvals import reading, rows, say
from services.approvals.attention import Attention
from services.approvals.foresight import Foresight
from services.approvals.model import (
    Approval,
    Approver,
    Audit,
    DropRule,
    GoodPolicy,
    LookAhead,
    NoteCall,
    Place,
    Restate,
    Save,
    SavePolicy,
    State,
    Unapproved,
)
from services.approvals.passed import Passed
from services.approvals.question import Examined, assessed, check, examine, judge_again, open_approval
from services.approvals.remember import Remembered
from services.approvals.rules import Looked, Rule, Rules, Verdict, describe

KINDS = {"AskUserQuestion": "question", "ExitPlanMode": "plan"}  # as ingest has them
_NEVER_ASKS = ("bypassPermissions", "dontAsk")  # modes of an agent that runs or refuses by itself


class Policing:
    """What `Gate` knows and does about rules. The fields are the gate's."""

    _place: Place
    _attention: Attention
    _foresight: Foresight
    _rules: Rules
    _approvers: dict[str, Approver]
    _pending: dict[str, Approval]
    find: Callable[[str], Approval | None]
    tick: Callable[[datetime], list[Effect]]
    _end_by_rule: Callable[[Approval, Verdict, datetime], list[Effect]]
    _ask: Callable[[Approval, reading.View], list[Effect]]
    _decide_by_rule: Callable[[Approval, Verdict, datetime], list[Effect]]

    @property
    def hurried(self) -> Place:
        """For whoever judges many calls in one go."""
        return self._attention.hurried

    @property
    def approvers(self) -> Collection[Approver]:
        return self._approvers.values()

    # tool calls

    def judge(self, j: m.JudgeTool, now: datetime) -> list[Effect]:
        """May this tool run? Raises `RefusedError` for a call that can be nobody's."""
        known = self.find(approval_id(j.uid or "", j.process, j.request_id))
        if known is not None:
            if reading.sha256(j.input_json) != known.input_sha256:
                raise RefusedError("bad_request", f"{known.id} was asked before with another input")
            pending = known.state is State.PENDING
            return [_verdict(j, "ask", "a person is being asked") if pending else say.answer(known, now)]
        q = m.Question(
            approval=approval_id(j.uid or "", j.process, j.request_id),
            session=j.session,
            process=j.process,
            request_id=j.request_id,
            kind=j.kind,
            tool=j.tool,
            tool_use_id=j.tool_use_id,
            agent_id=j.agent_id,
            input_json=j.input_json,
            description="",
            cwd=j.cwd,
            permission_mode=j.permission_mode,
            suggestions=[],
            auto_approve=j.auto_approve,
        )
        uid = check(j.uid, q)
        if not self._rules.interfere:
            ahead = [] if q.permission_mode in _NEVER_ASKS else [LookAhead(uid, q)]
            return [*_passed(uid, j, q, now), *ahead]
        examined = self.examined(uid, q, now)
        self._foresight.keep(uid, q, examined, now)
        approval, verdict = open_approval(uid, q, examined, self._rules, now)
        if verdict.answer == "deny":
            asked = Audit(now, "request", approval.id, rows.request(approval))
            return [asked, *self._decide_by_rule(approval, verdict, now)]
        if verdict.forced and j.kind == "tool":
            return [_verdict(j, "ask", verdict.reason or f"the rule {verdict.rule} asks about it")]
        return _passed(uid, j, q, now)

    def look_ahead(self, seen: LookAhead, now: datetime) -> None:
        """The agent goes on, and may ask about this call in a moment: examine it meanwhile."""
        self._foresight.keep(seen.uid, seen.question, self.examined(seen.uid, seen.question, now), now)

    def examined(self, uid: str, q: m.Question, now: datetime) -> Examined:
        """As it was seen a moment ago, or now."""
        found = self._foresight.recall(uid, q, now)
        if found is None:
            with self._attention.to(uid, now) as place:
                found = examine(uid, q, place)
        return found

    def ran(self, fact: m.Fact, u: m.ToolUnapproved, now: datetime) -> list[Effect]:
        """A tool ran that nobody let run."""
        reason = f"{u.tool} ran in {u.session} although {AGAINST.get(u.state, u.state)}: {u.summary}"
        event = m.ApprovalEvent(
            at=now,
            action="unapproved_tool",
            session=u.session,
            uid=fact.uid or "",
            tool_use_id=u.tool_use_id,
            reason=reason,
        )
        noted = {"session": u.session, "uid": fact.uid, "tool": u.tool, "tool_use_id": u.tool_use_id}
        return [
            Audit(now, "unapproved_tool", u.approval or "", {**noted, "state": u.state}),
            Publish(t.APPROVAL_EVENTS, event),
            Unapproved(u.state),
        ]

    # the policy as a whole

    def adopt(self, rules: Rules, good: GoodPolicy, now: datetime, by: str) -> list[Effect]:
        """New rules are in force. What waits and is forbidden now is denied; what takes more approvers now
        waits for them.
        """
        self._rules = replace(rules, remembered=self._rules.remembered)
        text = f"{len(rules.rules)} rule{'' if len(rules.rules) == 1 else 's'} in force ({by})"
        sha256 = reading.sha256(msgspec.json.encode(good, order="sorted").decode())
        said: list[Effect] = [
            SavePolicy(good),
            Audit(now, "policy_loaded", "", {"rules": len(rules.rules), "sha256": sha256, "by": by}),
            Publish(t.APPROVAL_EVENTS, m.ApprovalEvent(at=now, action="policy_loaded", reason=text)),
        ]
        return [*said, *self.tick(now), *self.hold_against_rules(now), Restate()]

    def hold_against_rules(self, now: datetime) -> list[Effect]:
        """Judge again what waits."""
        said: list[Effect] = []
        for approval in list(self._pending.values()):
            _, verdict = judge_again(approval, self._rules, self._attention.hurried)
            if verdict.answer == "deny":
                said += self._end_by_rule(approval, verdict, now)
            elif verdict.required > approval.required:
                approval = msgspec.structs.replace(approval, required=verdict.required, asked_by=verdict.rule)
                self._pending[approval.id] = approval
                view = reading.view(approval.input_json, reading.parse(approval.input_json))
                said += [Save(approval), *self._ask(approval, view)]
        return said

    def rejected(self, mistakes: str, now: datetime, by: str) -> list[Effect]:
        """Rules that are no good: those in force stay."""
        event = m.ApprovalEvent(at=now, action="policy_rejected", reason=mistakes)
        return [
            Audit(now, "policy_rejected", "", {"mistakes": rows.short(mistakes), "by": by}),
            Publish(t.APPROVAL_EVENTS, event),
        ]

    def policy(self) -> dict[str, Any]:
        """The result of ``policy/rules``."""
        return {
            "rules": [document(rule) for rule in self._rules.rules],
            "remembered": [msgspec.to_builtins(entry) for entry in self._rules.remembered],
            "auto_approve": sorted(self._rules.auto_approve),
            "approvers": len(self._approvers),
        }

    def explain(self, command: m.PolicyCommand) -> dict[str, Any]:
        """The result of ``policy/explain``. Raises `RefusedError`."""
        if command.tool is None or command.input is None:
            raise RefusedError("bad_request", "`explain` takes `tool` and `input`")
        input_json = msgspec.json.encode(command.input).decode()
        q = m.Question(
            approval="explain",
            session=command.session or "session",
            process=0,
            request_id="",
            kind=KINDS.get(command.tool, "tool"),
            tool=command.tool,
            tool_use_id=None,
            agent_id=None,
            input_json=input_json,
            description="",
            cwd=command.cwd or "/",
            permission_mode="default",
            suggestions=[],
            auto_approve=[],
        )
        uid = check(command.uid or "", q)
        _, call = assessed(q, uid, input_json, self._place)
        danger = call.danger
        looked: list[Looked] = []
        verdict = replace(self._rules, looked=looked.append).judge(call)
        commands = [[*command.words] for command in call.commands.found] if call.commands else []
        why = f"{verdict.rule} asks about it" if verdict.rule else "no rule is about it, so a person is asked"
        return {
            "decision": verdict.answer,
            "rule": verdict.rule or None,
            "level": danger.level,
            "reason": verdict.reason or f"{why} ({danger.reason})",
            "impact": danger.impact,
            "danger": danger,
            "required": verdict.required,
            "timeout_s": self._rules.timeout_for(q.kind, danger.level),
            "every_mode": verdict.answer == "deny" or verdict.forced,
            "commands": commands,
            "complete": call.commands is None or call.commands.complete,
            "paths": list(call.paths),
            "rules": [
                {"rule": entry.rule, "decision": entry.decision, "match": entry.match} for entry in looked
            ],
        }

    def forget(self, command: m.PolicyCommand, now: datetime) -> list[Effect]:
        """Remove one remembered rule. Raises `RefusedError`."""
        found = [entry for entry in self._rules.remembered if entry.id == command.rule]
        if not found:
            known = ", ".join(entry.id for entry in self._rules.remembered) or "none"
            raise RefusedError(
                "bad_request", f"no remembered rule {command.rule!r} (there are: {known}); rules of the "
                "configuration are changed there"
            )  # fmt: skip
        gone = self._forget(found, now, {"stated_by": rows.short(command.by)})
        return [*gone, ReplyTo(command.id, msgspec.to_builtins(found[0]))]

    def over(self, fact: m.Fact, o: m.SessionOver, now: datetime) -> list[Effect]:
        """A session has ended or failed: what was remembered for it alone goes with it."""
        self._attention.forget(fact.uid)
        own = [entry for entry in self._rules.remembered if entry.uid is not None and entry.uid == fact.uid]
        return self._forget(own, now, {"reason": f"the session {o.session} is over"})

    def _forget(
        self, entries: Collection[Remembered], now: datetime, why: dict[str, str | None]
    ) -> list[Effect]:
        kept = tuple(entry for entry in self._rules.remembered if entry not in entries)
        self._rules = replace(self._rules, remembered=kept)
        gone: list[Effect] = []
        for entry in entries:
            gone += [DropRule(entry.id), Audit(now, "forgotten", entry.approval, {"rule": entry.id, **why})]
        return gone

    def remember(self, entry: Remembered) -> None:
        self._rules = replace(self._rules, remembered=(*self._rules.remembered, entry))

    def settle_alike(self, rule: Remembered | None, now: datetime) -> list[Effect]:
        """What waits and is the very call that ``rule`` remembers is decided by it.

        The policy as a whole is asked, so a deny rule before it denies. What several people were to see, and
        what was shown to them as more dangerous than the rule reaches, goes on waiting; what has expired is
        left to the timer.
        """
        settled: list[Effect] = []
        if rule is None:
            return settled
        for a in list(self._pending.values()):
            if not rule.may_be_about(a) or (a.expires_at is not None and a.expires_at <= now):
                continue
            _, verdict = judge_again(a, self._rules, self._place)
            seen = a.required == 1 and level_rank(a.danger.level) <= level_rank(rule.max_level)
            if verdict.answer == "deny" or (verdict.answer == "allow" and verdict.rule == rule.id and seen):
                settled += self._end_by_rule(a, verdict, now)
        return settled


AGAINST = {
    "denied": "it was denied",
    "expired": "nobody had answered in time",
    "open": "nobody had answered yet",
    "unjudged": "the gate was not asked before",
}


def _verdict(j: m.JudgeTool, verdict: Literal["ask", "none"], message: str = "") -> Publish:
    said = m.ToolVerdict(
        uid=j.uid, process=j.process, request_id=j.request_id, verdict=verdict, message=message
    )
    return Publish(t.TOOL_VERDICT, said)


def _passed(uid: str, j: m.JudgeTool, q: m.Question, now: datetime) -> list[Effect]:
    call = Passed(
        id=q.approval,
        session=q.session,
        uid=uid,
        kind=q.kind,
        tool=q.tool,
        tool_use_id=q.tool_use_id,
        input_json=q.input_json,
        cwd=q.cwd,
        auto_approve=q.auto_approve,
        at=now,
    )
    return [_verdict(j, "none"), NoteCall(call)]


def document(rule: Rule) -> dict[str, Any]:
    """A rule as it stands in the configuration."""
    fields: dict[str, Any] = {"name": rule.name, "decision": rule.decision}
    for key in ("tool", "session", "directory", "argument", "path"):
        if getattr(rule, key):
            fields[key] = describe(getattr(rule, key))
    if rule.command:
        fields["command"] = [" ".join(describe(words)) for words in rule.command]
    for key in ("min_level", "max_level", "reason"):
        if getattr(rule, key):
            fields[key] = getattr(rule, key)
    return {**fields, "require": rule.require} if rule.require > 1 else fields
