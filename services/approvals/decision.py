"""What a yes lets through (the input as it was shown, changed, or with answers), and the outcome. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from bus import messages as m
from bus.codec import MAX_PAYLOAD_BYTES
from bus.errors import RefusedError
from services.approvals import reading, rows
from services.approvals.danger import assess
from services.approvals.danger.sight import BLIND, Sight
from services.approvals.model import Approval, Approver, State
from services.approvals.rules import Rules

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


def choose(
    a: Approval, d: m.Decision, approver: Approver, rules: Rules, home: str, sight: Sight = BLIND
) -> Chosen:
    """Raises `RefusedError` where this yes may not be given; nothing has changed then."""
    if d.remember is not None:
        raise RefusedError(
            "bad_request",
            "this version does not remember decisions: send it without `remember`, nothing was decided",
        )
    if d.interrupt:
        raise RefusedError("bad_request", "`interrupt` goes with a denial: an approved tool runs")
    danger, required, final = a.danger, a.required, a.input_json
    if d.updated_input is not None:
        final = _updated(a, d.updated_input)
        parsed = reading.parse(final)
        danger = assess(a.tool, parsed, a.cwd, home, sight)
        verdict = rules.judge(a.kind, a.tool, danger, a.auto_approve)
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
    )
    return msgspec.structs.replace(
        a, state=state, outcome=outcome, message=message, interrupt=interrupt, final_json=final_json
    )


def by_budget(reason: str) -> dict[str, str]:
    """How a denial is said that nobody gave: the session may spend no more."""
    reason = rows.short(reason) or "a budget is exhausted"
    return {"by": "budget", "via": "budget", "reason": reason, "message": f"Denied by Pointsman: {reason}"}
