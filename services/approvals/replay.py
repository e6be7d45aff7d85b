"""What another policy would have decided of the recorded past (``policy/replay``). Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from services.approvals import reading
from services.approvals.model import Approval, Place, State
from services.approvals.passed import Passed
from services.approvals.question import judge_again
from services.approvals.rules import Rules, Verdict

MAX_DIFFERENCES = 500  # that are listed; all are counted


class Replay:
    """Holds a policy against what was decided before, and against what agents did by themselves; `look` at
    one after the other.
    """

    def __init__(self, rules: Rules, place: Place) -> None:
        self._rules, self._place = rules, place
        self.looked_at = 0  # of decisions
        self.calls = 0
        self.counts: dict[str, int] = {}
        self.differences: list[dict[str, Any]] = []
        self._asked: set[tuple[str, str | None]] = set()  # tool calls that are among the decisions

    def look(self, approvals: Iterable[Approval]) -> None:
        for a in approvals:
            self.looked_at += 1
            self._asked.add((a.uid, a.tool_use_id))
            _, verdict = judge_again(a, self._rules, self._place)
            was, rule = _was(a)
            if was != verdict.answer:
                self._differs(a, a.created_at, a.summary, (was, rule, str(a.state)), verdict)

    def look_at_calls(self, calls: Iterable[Passed]) -> None:
        """Only a rule that denies or asks in every mode would have met them. After the decisions: what was
        asked about after all is among those.
        """
        for call in calls:
            if call.tool_use_id is not None and (call.uid, call.tool_use_id) in self._asked:
                continue
            self.calls += 1
            _, verdict = judge_again(call, self._rules, self._place)
            if verdict.answer == "deny" or (verdict.forced and call.kind == "tool"):
                summary = reading.summary(call.kind, call.tool, reading.parse(call.input_json))
                self._differs(call, call.at, summary, ("agent", None, "ran"), verdict)

    def _differs(
        self,
        a: Approval | Passed,
        at: datetime,
        summary: str,
        then: tuple[str, str | None, str],
        verdict: Verdict,
    ) -> None:
        was, rule, decided = then
        change = f"{was} → {verdict.answer}"
        self.counts[change] = self.counts.get(change, 0) + 1
        if len(self.differences) < MAX_DIFFERENCES:
            self.differences.append(
                {
                    "id": a.id,
                    "at": at,
                    "session": a.session,
                    "tool": a.tool,
                    "summary": summary,
                    "was": was,
                    "was_rule": rule,
                    "decided": decided,
                    "would": verdict.answer,
                    "would_rule": verdict.rule or None,
                    "reason": verdict.reason,
                }
            )

    def result(self) -> dict[str, Any]:
        return {
            "looked_at": self.looked_at,
            "calls": self.calls,
            "different": sum(self.counts.values()),
            "changes": self.counts,
            "differences": self.differences,
        }


def _was(a: Approval) -> tuple[str, str | None]:
    """What was answered then: by a rule, or by asking somebody."""
    outcome = a.outcome
    if outcome is None or outcome.via != "policy":
        return "ask", None
    return ("allow" if a.state is State.APPROVED else "deny"), outcome.rule
