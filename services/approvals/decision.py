"""What a yes lets through (the input as it was shown, changed, or with answers), and the outcome. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from bus import messages as m
from bus.codec import MAX_PAYLOAD_BYTES
from bus.effects import Effect
from bus.errors import RefusedError
from services.approvals import reading, rows, say
from services.approvals.model import Approval, Approver, Audit, Decided, Place, State
from services.approvals.question import call_of, judge_again
from services.approvals.remember import Remembered, remembered
from services.approvals.rules import Rules, Verdict

MAX_FINAL = MAX_PAYLOAD_BYTES - 64 * 1024  # bytes of what goes back to the agent, as text within a fact
MAX_ANSWERS = 256 * 1024  # bytes of all answers, which stand in the outcome


@dataclass(frozen=True, slots=True)
class Chosen:
    """``final_json`` None: the agent's own text goes back. ``danger`` is that of what goes back."""

    final_json: str | None
    input_sha256: str
    danger: m.Danger
    required: int
    updated_input: dict[str, Any] | None
    answers: dict[str, str] | None


def choose(a: Approval, d: m.Decision, approver: Approver, rules: Rules, place: Place) -> Chosen:
    """Raises `RefusedError` where this yes may not be given; nothing has changed then."""
    if d.interrupt:
        raise RefusedError("bad_request", "`interrupt` goes with a denial: an approved tool runs")
    danger, required, final = a.danger, a.required, a.input_json
    if d.updated_input is not None:
        final = _updated(a, d.updated_input)
        danger, verdict = judge_again(a, rules, place, final)
        if verdict.answer == "deny":
            raise RefusedError(
                "not_allowed", f"the rule {verdict.rule} forbids the changed input: {verdict.reason}"
            )
        required = max(required, verdict.required)
    if a.kind == "question":
        final = _answered(final, d.answers)
    elif d.answers is not None:
        raise RefusedError("bad_request", f"{a.id} is no question: it takes no `answers`")
    if m.level_rank(danger.level) > m.level_rank(approver.max_level):
        raise RefusedError(
            "level_too_high",
            f"{approver.user} may approve up to {approver.max_level}, and this is {danger.level}",
        )
    same = final == a.input_json
    if not same and len(msgspec.json.encode(final)) > MAX_FINAL:
        raise RefusedError("too_large", f"the changed input has {len(final)} characters")
    return Chosen(
        final_json=None if same else final,
        input_sha256=a.input_sha256 if same else reading.sha256(final),
        danger=danger,
        required=required,
        updated_input=d.updated_input,
        answers=d.answers,
    )


def to_remember(
    a: Approval, d: m.Decision, user: str, rules: Rules, place: Place, now: datetime
) -> Remembered:
    """The rule that this decision leaves behind. Raises `RefusedError` where none would hold."""
    if a.kind != "tool":
        raise RefusedError("bad_request", f"a {a.kind} is not remembered: nothing was decided")
    if d.updated_input is not None:
        raise RefusedError("bad_request", "a changed input is not remembered: nothing was decided")
    parsed = reading.parse(a.input_json)
    call = call_of(a, a.uid, parsed, a.danger, place)
    if not call.readable:
        raise RefusedError(
            "not_allowed", "an input that cannot be read is not remembered: nothing was decided"
        )
    verdict = rules.judge(call)
    if verdict.forced:
        raise RefusedError(
            "not_allowed",
            f"the configuration's {verdict.rule} asks each time, whatever is remembered: nothing was "
            "decided; decide without `remember`, or change the rule",
        )
    if d.decision == "approve" and a.danger.level == "critical":
        raise RefusedError(
            "not_allowed",
            "what is critical is asked each time: nothing was decided; decide without `remember`",
        )
    return remembered(
        call,
        "allow" if d.decision == "approve" else "deny",
        approval=a.id,
        summary=a.summary,
        by=user,
        once=d.remember == "session",
        now=now,
    )


def _updated(a: Approval, updated: dict[str, Any]) -> str:
    if a.input_partial and reading.carries_marks(updated):
        raise RefusedError(
            "bad_request",
            "`updated_input` holds a ⟦mark⟧ where the request's input was masked or cut: "
            f"take the whole input from approvals/{a.id}/show",
        )
    return msgspec.json.encode(updated).decode()


def _answered(final: str, answers: dict[str, str] | None) -> str:
    if not answers:
        raise RefusedError(
            "bad_request", 'a question is approved only with `answers`: {"<question>": "<answer>"}'
        )
    if len(msgspec.json.encode(answers)) > MAX_ANSWERS:
        raise RefusedError("too_large", f"all answers together have at most {MAX_ANSWERS} bytes")
    parsed = reading.parse(final)
    asked = reading.questions(parsed)
    unknown = sorted(set(answers) - set(asked)) if asked else []
    missing = sorted(set(asked) - set(answers))
    if unknown or missing:
        wrong = [f"not asked: {text!r}" for text in unknown] + [f"not answered: {text!r}" for text in missing]
        raise RefusedError("bad_request", "; ".join(wrong))
    if parsed.doubt is not None and not parsed.value:
        raise RefusedError("bad_request", f"{parsed.doubt}: it can only be denied")
    return reading.with_answers(final, answers)


def decided(
    a: Approval,
    state: State,
    now: datetime,
    *,
    by: str,
    via: str,
    reason: str | None,
    rule: str | None = None,
    message: str = "",
    interrupt: bool = False,
    final_json: str | None = None,
    updated_input: dict[str, Any] | None = None,
    answers: dict[str, str] | None = None,
    remembered: str | None = None,
) -> Approval:
    """The approval in its final state, with its outcome."""
    outcome = m.ApprovalOutcome(
        id=a.id,
        session=a.session,
        uid=a.uid,
        tool_use_id=a.tool_use_id,
        decision=state,
        by=by,
        via=via,
        rule=rule,
        reason=reason,
        level=a.danger.level,
        input_sha256=a.input_sha256,
        updated_input=None if updated_input is None else reading.fields(updated_input),
        answers=None if answers is None else {text: reading.mask(said) for text, said in answers.items()},
        latency_ms=max(0, round((now - a.created_at).total_seconds() * 1000)),
        applied=None,
        at=now,
        remembered=remembered,
    )
    return msgspec.structs.replace(
        a, state=state, outcome=outcome, message=message, interrupt=interrupt, final_json=final_json
    )


def by_budget(reason: str) -> dict[str, str]:
    """How a denial is said that nobody gave: the session may spend no more."""
    reason = rows.short(reason) or "a budget is exhausted"
    return {"by": "budget", "via": "budget", "reason": reason, "message": f"Denied by Pointsman: {reason}"}


def by_rule(verdict: Verdict) -> dict[str, str]:
    """How a decision of a rule is said."""
    return {"by": verdict.rule, "via": "policy", "rule": verdict.rule, "reason": verdict.reason}


def told(a: Approval, now: datetime) -> list[Effect]:
    """What goes with every decision into the transaction: the audit row and the agent's answer."""
    return [Audit(now, "outcome", a.id, rows.outcome(a)), say.answer(a, now)]


def measured(a: Approval) -> Decided:
    assert a.outcome is not None  # noqa: S101  # only decided approvals are measured
    return Decided(a.state, a.outcome.via, a.outcome.level, a.outcome.latency_ms / 1000)
