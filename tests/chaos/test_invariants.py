"""Each rule finds what it is there for: a healthy record passes, one with a single wrong in it does not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.chaos.evidence import Evidence, Process, Promise, Row
from tests.chaos.invariants import check
from tests.chaos.look import Look

YES = {"behavior": "allow", "updatedInput": {}}


def row(kind: str, **fields: Any) -> Row:
    return {"kind": kind, **fields}


def audit(approval: str, call: str, decision: str) -> Row:
    outcome = {"tool_use_id": call, "decision": decision}
    return {"action": "outcome", "approval": approval, "data": {"outcome": outcome}}


def healthy() -> Evidence:
    """One agent, one prompt, one command that was approved, one that was denied."""
    process = Process(
        7,
        "s1",
        "c",
        [
            row("start"),
            row("prompt", text="SAY P1 ;; BASH echo x >> /e/P1.1", uuid="u1", duplicate=False),
            row("begun", uuid="u1"),
            row("bill", message_id="m1", cost_picodollars=3_000_000),
            row("question", request_id="q1", tool_use_id="t1"),
            row("answer", request_id="q1", tool_use_id="t1", response=YES),
            row("tool", tool="Bash", tool_use_id="t1", ran=True, input={"command": "echo x >> /e/P1.1"}),
            row("question", request_id="q2", tool_use_id="t2"),
            row("answer", request_id="q2", tool_use_id="t2", response={"behavior": "deny", "message": "no"}),
            row("tool", tool="Bash", tool_use_id="t2", ran=False),
            row("bill", message_id="m2", cost_picodollars=4_000_000),
        ],
    )
    return Evidence(
        processes=[process],
        promises=[Promise(1, "s1", "SAY P1", True), Promise(2, "s1", "SAY P2", False, "budget_exhausted")],
        effects={"P1.1": 1},
        outcomes={"a1": [{"decision": "approved"}, {"decision": "approved"}], "a2": [{"decision": "denied"}]},
        audit=[audit("a1", "t1", "approved"), audit("a2", "t2", "denied")],
        spent=7_000_000,
        transcribed={"m1", "m2"},
        booked={"s1": 7_000_000},
        rest=Look(
            {
                "approvals/pending": {"count": 0, "items": []},
                "sessions/s1/state": {
                    "uid": "u",
                    "status": "waiting_input",
                    "pending_approvals": [],
                    "queued_prompts": 0,
                },
                "ledger/sessions/s1": {"uid": "u", "spent_usd": 0.000007},
            },
            {
                "approvals/pending": {"count": 0, "items": []},
                "sessions/s1/state": {"uid": "u"},
                "ledger/sessions/s1": {"uid": "u", "spent_usd": 0.000007},
            },
        ),
        waiting=Look(
            {
                "approvals/pending": {"count": 1, "items": [{"id": "a3", "tool": "Bash"}], "at": "now"},
                "approvals/a3/request": {"id": "a3"},
            },
            {
                "approvals/pending": {"count": 1, "items": [{"id": "a3", "tool": "Bash"}]},
                "approvals/a3/request": {"id": "a3"},
            },
        ),
    )


def rows(e: Evidence) -> list[Row]:
    return e.processes[0].rows


def without(e: Evidence, kind: str, **fields: Any) -> None:
    kept = [r for r in rows(e) if r["kind"] != kind or any(r.get(k) != v for k, v in fields.items())]
    assert len(kept) < len(rows(e))
    e.processes[0].rows = kept


WRONGS: list[tuple[str, Callable[[Evidence], object]]] = [
    ("one_answer", lambda e: without(e, "answer", request_id="q2")),
    ("one_answer", lambda e: rows(e).append(row("answer", request_id="q1", tool_use_id="t1", response=YES))),
    (
        "repeated_answers_agree",
        lambda e: rows(e).append(row("repeated", request_id="q1", response={"behavior": "deny"})),
    ),
    ("what_ran_was_approved", lambda e: without(e, "answer", request_id="q1")),
    ("what_ran_was_approved", lambda e: e.audit.pop(0)),
    ("what_ran_was_approved", lambda e: e.audit.append(audit("a3", "t1", "expired"))),
    ("effects_match", lambda e: e.effects.update({"P1.1": 2})),
    ("effects_match", lambda e: e.effects.clear()),
    ("effects_match", lambda e: e.effects.update({"P9.1": 1})),
    ("decided_once", lambda e: e.outcomes["a1"].append({"decision": "expired"})),
    ("decided_once", lambda e: e.audit.append(audit("a2", "t2", "denied"))),
    ("delivered_once", lambda e: without(e, "prompt")),
    ("delivered_once", lambda e: rows(e).append(row("prompt", text="SAY P1", uuid="u1", duplicate=False))),
    ("delivered_once", lambda e: rows(e).append(row("prompt", text="SAY P2", uuid="u2", duplicate=False))),
    ("delivered_once", lambda e: e.promises.append(Promise(3, "s1", "SAY P3", None))),
    ("costs_agree", lambda e: setattr(e, "spent", 3_000_000)),
    ("costs_agree", lambda e: setattr(e, "spent", 10_000_000)),
    ("costs_agree", lambda e: setattr(e, "spent", None)),
    ("audit_verifies", lambda e: setattr(e, "audit_holds", False)),
    ("costs_agree_by_session", lambda e: e.booked.update(s1=3_000_000)),
    ("costs_agree_by_session", lambda e: e.booked.update(s2=3_000_000)),
    ("snapshots_agree", lambda e: e.rest.snapshots["approvals/pending"].update(count=1)),
    ("snapshots_agree", lambda e: e.rest.snapshots.pop("sessions/s1/state")),
    ("snapshots_agree", lambda e: e.rest.snapshots["sessions/s1/state"].update(status="working")),
    ("snapshots_agree", lambda e: e.rest.snapshots["ledger/sessions/s1"].update(spent_usd=0.000008)),
    ("snapshots_agree", lambda e: e.rest.snapshots.update({"approvals/a1/request": {"id": "a1"}})),
    ("snapshots_agree", lambda e: e.rest.snapshots.update({"ledger/sessions/s2": {"uid": "v"}})),
    ("snapshots_agree", lambda e: e.waiting.snapshots["approvals/pending"]["items"][0].update(tool="Read")),
    ("snapshots_agree", lambda e: e.waiting.snapshots["approvals/pending"]["items"].clear()),
    ("snapshots_agree", lambda e: e.waiting.snapshots.pop("approvals/a3/request")),
    ("snapshots_agree", lambda e: e.waiting.snapshots.update({"approvals/a1/tokens/me": {"id": "a1"}})),
    ("no_fact_refused", lambda e: e.refused.append("ledger: cost-1")),
    ("nothing_left", lambda e: e.left_over.append("process 8")),
]


def test_a_healthy_record_passes() -> None:
    assert check(healthy()) == ([], {})


@pytest.mark.parametrize(("rule", "wrong"), WRONGS)
def test_each_wrong_is_found(rule: str, wrong: Callable[[Evidence], object]) -> None:
    evidence = copy.deepcopy(healthy())
    wrong(evidence)
    assert rule in {violation.partition(":")[0] for violation in check(evidence)[0]}


def test_a_command_that_was_cut_short_with_its_turn_is_counted() -> None:
    evidence = healthy()
    evidence.effects.clear()
    evidence.interrupted = {"s1"}
    assert check(evidence) == ([], {"commands that were cut short with their agent or turn": 1})
    rows(evidence).append(row("question", request_id="h", tool_use_id="t1", subtype="hook_callback"))
    rows(evidence).append(row("answer", request_id="h", tool_use_id="t1", response=YES))
    assert check(evidence)[0], "it had run to its end"


def test_what_a_killed_agent_excuses_is_counted() -> None:
    """Its open question, the call that it could not write down, and a prompt that it had not begun with."""
    evidence = healthy()
    first = evidence.processes[0]
    first.killed = True
    without(evidence, "answer", request_id="q2")
    evidence.transcribed = {"m1"}
    evidence.spent = evidence.booked["s1"] = 3_000_000
    evidence.promises.append(Promise(3, "s1", "SAY P3", True))
    first.rows.append(row("prompt", text="SAY P3", uuid="u3", duplicate=False))
    second = Process(9, "s1", "c", [row("start"), row("prompt", text="SAY P3", uuid="u3", duplicate=False)])
    evidence.processes.append(second)
    violations, excused = check(evidence)
    assert violations == []
    assert excused == {
        "questions of a killed agent": 1,
        "model calls of a killed agent that stand in no transcript": 1,
        "prompts sent again because their agent died before its first answer": 1,
    }
    second.rows.append(row("prompt", text="SAY P3", uuid="u3", duplicate=False))
    assert check(evidence)[0], "the second did not die"
    second.rows.pop()
    first.rows += [row("begun", uuid="u3"), row("bill", message_id="m1", cost_picodollars=0)]
    assert check(evidence)[0], "the first had answered"
