"""What must hold when everything has come to rest. Pure: evidence in, violations out.

Each rule returns its violations, and counts the exceptions that docs/reliability.md lists (``excused``); a
rule that finds nothing to judge says nothing, so the report has the sizes of the evidence too.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from tests.chaos.evidence import MARK, Evidence, Process, Row

PICO = 10**12
MICRO = 1_000_000  # 10⁻¹² dollars in a micro-dollar
SETTLED = frozenset({"ready", "waiting_input", "hibernated", "ended", "failed"})

Excused = Counter[str]
Rule = Callable[[Evidence, Excused], Iterator[str]]


def one_answer(e: Evidence, excused: Excused) -> Iterator[str]:
    """Every question of an agent gets exactly one answer, or its agent no longer waits for it."""
    for process in e.processes:
        answered = Counter(row["request_id"] for row in process.of("answer"))
        cancelled = {row["request_id"] for row in process.of("cancelled")}
        for question in process.of("question"):
            count = answered[question["request_id"]]
            if count > 1:
                yield f"{_who(process)}: question {question['request_id']} was answered {count} times"
            elif count == 0 and question["request_id"] in cancelled:
                excused["questions that the agent withdrew"] += 1
            elif count == 0 and process.killed:
                excused["questions of a killed agent"] += 1
            elif count == 0:
                yield f"{_who(process)}: question {question['request_id']} was never answered"


def repeated_answers_agree(e: Evidence, excused: Excused) -> Iterator[str]:
    """A line that a bridge wrote in the moment of its death is written twice; it must say the same."""
    for process in e.processes:
        first = {row["request_id"]: row["response"] for row in process.of("answer")}
        for row in process.of("repeated"):
            said = first.get(row["request_id"])
            if said is not None and said != row["response"]:
                yield f"{_who(process)}: {row['request_id']} was answered {said}, then {row['response']}"
            excused["answers that reached the agent a second time, and were ignored"] += 1


def what_ran_was_approved(e: Evidence, _excused: Excused) -> Iterator[str]:
    """A command ran only after a yes for its very tool call; what was denied or expired did not run."""
    decided = _decisions(e.audit)
    for process in e.processes:
        allowed = {
            row["tool_use_id"]
            for row in process.of("answer")
            if (row["response"] or {}).get("behavior") == "allow"
        }
        for row in process.of("tool"):
            if row["tool"] != "Bash" or not row["ran"]:
                continue
            call = row["tool_use_id"]
            if call not in allowed:
                yield f"{_who(process)}: {call} ran, and nobody had said yes to the agent"
            if decided.get(call, set()) != {"approved"}:
                yield f"{_who(process)}: {call} ran, and the audit says {decided.get(call, 'nothing')}"


def effects_match(e: Evidence, excused: Excused) -> Iterator[str]:
    """A command's effect on the disk is there as often as the agent ran it, or was allowed to."""
    if e.approved is not None:
        for mark in e.approved.keys() | e.effects.keys():
            happened, allowed = e.effects.get(mark, 0), e.approved.get(mark, 0)
            if happened != allowed:
                yield f"{mark} happened {happened} times, and was approved {allowed} times"
        return
    ran: Counter[str] = Counter()
    cut_short: set[str] = set()
    for process in e.processes:
        for row in process.of("tool"):
            if row["tool"] == "Bash" and row["ran"]:
                mark = row["input"]["command"].rsplit("/", 1)[-1]
                ran[mark] += 1
                if process.killed or (
                    process.session in e.interrupted and not _came_to_its_end(process, row)
                ):
                    cut_short.add(mark)
    for mark in ran.keys() | e.effects.keys():
        if e.effects.get(mark, 0) > ran[mark]:
            yield f"{mark} happened {e.effects[mark]} times, and was run {ran[mark]} times"
        elif e.effects.get(mark, 0) < ran[mark]:
            if mark in cut_short:
                excused["commands that were cut short with their agent or turn"] += 1
            else:
                yield f"{mark} was run {ran[mark]} times, and happened {e.effects.get(mark, 0)} times"


def _came_to_its_end(process: Process, tool: Row) -> bool:
    """The agent told our hook of the tool's result: its turn was not ended while it ran."""
    after = process.rows[process.rows.index(tool) + 1 :]
    return any(row["kind"] == "question" and row["tool_use_id"] == tool["tool_use_id"] for row in after)


def decided_once(e: Evidence, _excused: Excused) -> Iterator[str]:
    """The decision in an outcome never changes, on the bus and in the audit."""
    for approval, outcomes in e.outcomes.items():
        said = {outcome["decision"] for outcome in outcomes}
        if len(said) > 1:
            yield f"approval {approval} was said to be {' and '.join(sorted(said))}"
    rows: dict[str, list[str]] = defaultdict(list)
    for row in e.audit:
        if row["action"] == "outcome":
            rows[row["approval"]].append(row["data"]["outcome"]["decision"])
    for approval, decisions in rows.items():
        if len(decisions) > 1:
            yield f"the audit has {len(decisions)} outcomes of {approval}: {decisions}"


def delivered_once(e: Evidence, excused: Excused) -> Iterator[str]:
    """A prompt that was accepted reached the agent once; one that was refused never did."""
    if e.delivered is not None:
        for promise in e.promises:
            count = e.delivered.get(promise.number, 0)
            if count != (promise.accepted is True):
                yield f"prompt P{promise.number} ({promise.code or 'accepted'}) was delivered {count} times"
        return
    taken: dict[int, list[tuple[Process, Row]]] = defaultdict(list)
    for process in e.processes:
        for row in process.of("prompt"):
            found = MARK.search(row["text"])
            if found and not row["duplicate"]:
                taken[int(found[1])].append((process, row))
    for promise in e.promises:
        times = taken[promise.number]
        if promise.accepted is None:
            yield f"prompt P{promise.number} to {promise.session} was never replied to"
        elif not promise.accepted and times:
            yield f"prompt P{promise.number} was refused ({promise.code}) and delivered all the same"
        elif promise.accepted and not times:
            yield f"prompt P{promise.number} to {promise.session} was accepted and never delivered"
        elif len(times) > 1:
            again = [process for process, row in times[:-1] if not _lost(process, row)]
            if again:
                yield f"prompt P{promise.number} was delivered {len(times)} times, first to {_who(again[0])}"
            else:
                excused["prompts sent again because their agent died before its first answer"] += (
                    len(times) - 1
                )


def _lost(process: Process, prompt: Row) -> bool:
    """We killed it before the model had answered anything after the agent began with the prompt: until then
    nothing of it is in the conversation that the next process goes on with.
    """
    begun = [row for row in process.of("begun") if row["uuid"] == prompt["uuid"]]
    after = process.rows[process.rows.index(begun[0]) :] if begun else []
    return process.killed and not any(row["kind"] == "bill" for row in after)


def costs_agree(e: Evidence, excused: Excused) -> Iterator[str]:
    """The ledger's total is what the model billed, to the micro-dollar."""
    bills = [(process, row) for process in e.processes for row in process.of("bill")]
    total = sum(row["cost_picodollars"] for _, row in bills) if e.billed is None else sum(e.billed)
    missing = [
        row["cost_picodollars"]
        for process, row in bills
        if process.killed and row["message_id"] not in e.transcribed
    ]
    if e.spent is None:
        yield "the ledger has no total"
        return
    if missing:
        excused["model calls of a killed agent that stand in no transcript"] += len(missing)
    low, high = total - sum(missing), total
    if not low - MICRO // 2 <= e.spent <= high + MICRO // 2:
        yield f"the ledger says {e.spent / 1e12:.6f} dollars, the bills {low / 1e12:.6f} to {high / 1e12:.6f}"


def costs_agree_by_session(e: Evidence, _excused: Excused) -> Iterator[str]:
    """What is booked on a session is what its agents were billed. The real one's bills name no session."""
    if e.billed is not None:
        return
    low: Counter[str] = Counter()
    high: Counter[str] = Counter()
    for process in e.processes:
        for row in process.of("bill"):
            high[process.session] += row["cost_picodollars"]
            if not process.killed or row["message_id"] in e.transcribed:
                low[process.session] += row["cost_picodollars"]
    for session in high.keys() | e.booked.keys():
        booked = e.booked.get(session, 0)
        if not low[session] - MICRO // 2 <= booked <= high[session] + MICRO // 2:
            yield (
                f"{session}: {booked / PICO:.6f} dollars are booked, the bills are "
                f"{low[session] / PICO:.6f} to {high[session] / PICO:.6f}"
            )


def audit_verifies(e: Evidence, _excused: Excused) -> Iterator[str]:
    if not e.audit_holds:
        yield "the audit chain does not verify"


def snapshots_agree(e: Evidence, _excused: Excused) -> Iterator[str]:
    """What stands on the bus is what stands in the stores, at rest and while something waited."""
    for when, look in (("at rest", e.rest), ("while questions waited", e.waiting)):
        for difference in look.differences():
            yield f"{when}, {difference}"
    for topic, snapshot in e.rest.snapshots.items():
        if topic.startswith("sessions/") and topic.endswith("/state"):
            if (
                snapshot["status"] not in SETTLED
                or snapshot["pending_approvals"]
                or snapshot["queued_prompts"]
            ):
                yield f"{topic} has not come to rest: {_short(snapshot)}"
        elif topic.startswith("approvals/") and topic.count("/") > 1:
            yield f"{topic} still stands, and nothing is pending"


def no_fact_refused(e: Evidence, _excused: Excused) -> Iterator[str]:
    for what in e.refused:
        yield f"a fact was refused: {what}"


def nothing_left(e: Evidence, _excused: Excused) -> Iterator[str]:
    for what in e.left_over:
        yield f"left over: {what}"


RULES: tuple[Rule, ...] = (
    one_answer,
    repeated_answers_agree,
    what_ran_was_approved,
    effects_match,
    decided_once,
    delivered_once,
    costs_agree,
    costs_agree_by_session,
    audit_verifies,
    snapshots_agree,
    no_fact_refused,
    nothing_left,
)


def check(evidence: Evidence) -> tuple[list[str], Excused]:
    """(violations, documented exceptions by kind)."""
    excused: Excused = Counter()
    violations = [f"{rule.__name__}: {text}" for rule in RULES for text in rule(evidence, excused)]
    return violations, excused


def _decisions(audit: list[Row]) -> dict[str, set[str]]:
    """Tool call → decisions in the audit."""
    found: dict[str, set[str]] = defaultdict(set)
    for row in audit:
        if row["action"] == "outcome":
            outcome: dict[str, Any] = row["data"]["outcome"]
            if outcome["tool_use_id"]:
                found[outcome["tool_use_id"]].add(outcome["decision"])
    return found


def _who(process: Process) -> str:
    return f"{process.session} (agent {process.pid})"


def _short(snapshot: Row) -> str:
    names = ("status", "queued_prompts", "pending_approvals", "connected", "blocked", "error")
    return ", ".join(f"{name} {snapshot.get(name)!r}" for name in names)
