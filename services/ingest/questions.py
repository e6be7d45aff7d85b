"""Questions of the agent: asked, answered, taken back, applied. Each crosses to the gate as facts.

The life of one: `ask` posts ``question``; then either `answer` (the gate decided) keeps a line to the agent,
and `applied` says that the agent has read it, or `withdraw` says that nobody waits any more. Ids come from
uid, process and the agent's request id, so the same question asked again is the same approval.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from bus import messages as m
from bus.bridge_wire import check_input_line
from bus.ids import approval_id
from services.ingest import cut, say
from services.ingest.model import Question, ToolRun
from services.ingest.step import Step
from services.ingest.wire import CanUseTool, WireError

MAX_OPEN = 500  # questions and tool calls of a session; a dozen is many, and each is kept with the session
KINDS = {"AskUserQuestion": "question", "ExitPlanMode": "plan"}


def ask(step: Step, request_id: str, asked: CanUseTool) -> None:
    """The agent waits for an answer."""
    r = step.r
    if request_id in r.questions:
        return
    if len(r.questions) >= MAX_OPEN:
        raise WireError(f"{MAX_OPEN} questions are open")
    approval = approval_id(r.uid, r.process, request_id)
    raw = bytes(asked.input)
    kind = KINDS.get(asked.tool_name, "tool")
    r.questions[request_id] = Question(
        approval, asked.tool_name, asked.tool_use_id, asked.agent_id, hashlib.sha256(raw).hexdigest()
    )
    if asked.tool_use_id:
        tool_started(step, asked.tool_name, asked.tool_use_id, raw, asked.agent_id)
        run = r.tools[asked.tool_use_id]
        run.asked, run.agent_id = approval, asked.agent_id or run.agent_id
        _tool_event(step, "progress", asked.tool_use_id, run, approval=approval)
    if kind == "question":
        text, options = _question(raw)
        step.event(m.QuestionEvent, text=text, options=options, approval=approval)
    step.post(
        "approvals",
        "question",
        f"question-{approval}",
        m.Question(
            approval=approval,
            session=r.session,
            process=r.process,
            request_id=request_id,
            kind=kind,
            tool=asked.tool_name,
            tool_use_id=asked.tool_use_id,
            agent_id=asked.agent_id,
            input_json=raw.decode(),
            description=asked.description or asked.decision_reason or "",
            cwd=r.cwd,
            permission_mode=r.permission_mode,
            suggestions=asked.permission_suggestions,
            auto_approve=r.auto_approve,
            held=r.held.message if r.held is not None else "",
        ),
    )
    step.changed(f"{asked.tool_name} needs an approval")


def answer(step: Step, decided: m.Answer) -> None:
    """The gate has decided. Somebody else's process, or a question that is gone: not applied.

    For questions that came by a hook: `services.ingest.hook_questions.answer`.
    """
    question = step.r.questions.get(decided.request_id) if decided.process == step.r.process else None
    if question is None or question.approval != decided.approval or question.answered is not None:
        if question is None or question.approval != decided.approval:
            applied(step, decided.approval, False)
        return
    if decided.decision == "approved":
        line = say.allow(decided.request_id, decided.input_json)
        if check_input_line(line) is not None:
            unchanged = hashlib.sha256(decided.input_json.encode()).hexdigest() == question.input_sha256
            if unchanged:
                line = say.allow(decided.request_id, "{}")  # too long for a pipe; {} means unchanged
            else:
                line = say.deny(decided.request_id, "The approved input can not be carried to the agent.")
    else:
        message = cut.text(decided.message, 10_000)
        line = say.deny(decided.request_id, message, interrupt=decided.interrupt)
    question.answered = step.line("answer", decided.request_id, line)
    step.changed(f"{question.tool} {decided.decision}")


def unwritable(step: Step, request_id: str, reason: str) -> None:
    """The bridge could not write the answer: the agent gets a denial instead, and the gate hears of it."""
    question = step.r.questions.get(request_id)
    if question is not None:
        applied(step, question.approval, False)
        line = say.deny(request_id, f"The answer could not be delivered: {reason}"[:500])
        del step.r.questions[request_id]
        step.line("control", request_id, line)
        step.changed()


def taken(step: Step, request_ids: Iterable[str]) -> None:
    """The agent has read these answers."""
    for request_id in request_ids:
        question = step.r.questions.get(request_id)
        if question is not None and question.answered is not None:
            del step.r.questions[request_id]
            applied(step, question.approval, True)
            step.proved(request_id)
            step.changed()


def withdraw(step: Step, request_ids: Iterable[str], reason: str) -> None:
    """The agent no longer waits for these."""
    for request_id in list(request_ids):
        question = step.r.questions.pop(request_id, None)
        step.proved(request_id)
        if question is None:
            continue
        if question.answered is not None:
            applied(step, question.approval, False)
        else:
            data = m.QuestionWithdrawn(approval=question.approval, reason=reason)
            step.post("approvals", "withdrawn", f"withdrawn-{question.approval}", data)
        step.changed(reason)


def applied(step: Step, approval: str, value: bool) -> None:
    data = m.AnswerApplied(approval=approval, applied=value)
    step.post("approvals", "applied", f"applied-{approval}", data)


# ── tool calls ───────────────────────────────────────────────────────────────────────────────────────────


def tool_started(step: Step, tool: str, tool_use_id: str, raw: bytes, agent_id: str | None) -> None:
    """A tool call was seen: in an answer, a hook callback or a question, whichever comes first."""
    r = step.r
    if tool_use_id in r.tools:
        return
    if len(r.tools) >= MAX_OPEN:  # an agent that never finishes one: the oldest is forgotten
        del r.tools[next(iter(r.tools))]
    run = ToolRun(cut.text(tool, 200), cut.summary(tool, raw), step.now, agent_id)
    r.tools[tool_use_id] = run
    if agent_id is None:
        _current(step)
    _tool_event(step, "started", tool_use_id, run, input=cut.value(raw))
    step.changed()


def tool_finished(step: Step, tool_use_id: str, is_error: bool, output: str) -> None:
    r = step.r
    # Evidence for an answer whose "taken" was lost, and for agents that have no bridge.
    settled = [key for key, q in r.questions.items() if q.tool_use_id == tool_use_id]
    taken(step, settled)
    withdraw(step, [key for key in settled if key in r.questions], "the tool has finished without an answer")
    run = r.tools.pop(tool_use_id, None)
    if run is None:
        return
    duration = max(0, round((step.now - run.since).total_seconds() * 1000))
    _tool_event(step, "finished", tool_use_id, run, is_error=is_error, output=output, duration_ms=duration)
    _current(step)
    step.changed()


def _tool_event(step: Step, phase: str, tool_use_id: str, run: ToolRun, **fields: object) -> None:
    if run.asked is not None:
        fields["approval"] = run.asked
    if run.agent_id is not None:
        fields["agent_id"] = run.agent_id
    step.event(
        m.ToolEvent, phase=phase, tool=run.tool, tool_use_id=tool_use_id, summary=run.summary, **fields
    )


def _current(step: Step) -> None:
    own = [(key, run) for key, run in step.r.tools.items() if run.agent_id is None]
    step.r.current_tool = (
        m.CurrentTool(
            tool=own[-1][1].tool, tool_use_id=own[-1][0], summary=own[-1][1].summary, since=own[-1][1].since
        )
        if own
        else None
    )


def clear_tools(step: Step, *, all_of_them: bool) -> None:
    """The turn has ended (tools of background agents go on), or the process has."""
    kept = {} if all_of_them else {k: run for k, run in step.r.tools.items() if run.agent_id is not None}
    step.r.tools = kept
    _current(step)


def _question(raw: bytes) -> tuple[str, list[str]]:
    """The first question of an AskUserQuestion and its options; tolerant, for reading only."""
    value = cut.decoded(raw)
    questions = value.get("questions") if isinstance(value, dict) else None
    first = questions[0] if isinstance(questions, list) and questions else None
    if not isinstance(first, dict):
        return "", []
    options = first.get("options")
    labels = [
        cut.text(str(o.get("label", "")) if isinstance(o, dict) else str(o), 200)
        for o in (options if isinstance(options, list) else [])[:20]
    ]
    return cut.text(str(first.get("question", "")), 2000), labels
