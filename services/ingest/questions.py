"""Questions of the agent: asked, answered, taken back, applied. Each crosses to the gate as facts.

The life of one: `ask` posts ``question``; then either `answer` (the gate decided) keeps a line to the agent,
and `applied` says that the agent has read it, or `withdraw` says that nobody waits any more. Ids come from
uid, process and the agent's request id, so the same question asked again is the same approval.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from bus import messages as m
from bus.bridge_wire import check_input_line
from bus.ids import approval_id
from services.ingest import cut, say
from services.ingest.exceptions import Excepted
from services.ingest.hook_model import HOOKED
from services.ingest.model import Callback, Question, ToolRun
from services.ingest.step import Step, short_hash
from services.ingest.wire import CanUseTool, WireError

MAX_OPEN = 500  # questions and tool calls of a session; a dozen is many, and each is kept with the session
KINDS = {"AskUserQuestion": "question", "ExitPlanMode": "plan"}


def ask(step: Step, request_id: str, asked: CanUseTool, *, callback: bool = False) -> None:
    """The agent waits for an answer; ``callback``: to a hook callback."""
    r = step.r
    if request_id in r.questions:
        return
    if len(r.questions) >= MAX_OPEN:
        raise WireError(f"{MAX_OPEN} questions are open")
    approval = approval_id(r.uid, r.process, request_id)
    raw = bytes(asked.input)
    kind = KINDS.get(asked.tool_name, "tool")
    r.questions[request_id] = Question(
        approval,
        asked.tool_name,
        asked.tool_use_id,
        asked.agent_id,
        hashlib.sha256(raw).hexdigest(),
        callback=callback,
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


def ask_by_callback(step: Step, request_id: str, hook: Callback, reason: str) -> None:
    """A rule wants a person asked, and this agent does not ask after a hook: the callback itself waits."""
    asked = CanUseTool(
        tool_name=hook.tool,
        input=msgspec.Raw(hook.input_json.encode()),
        tool_use_id=hook.tool_use_id,
        agent_id=hook.agent_id,
        description=reason,
    )
    ask(step, request_id, asked, callback=True)


def answer(step: Step, decided: m.Answer) -> None:
    """The gate has decided. Somebody else's process, or a question that is gone: not applied.

    For questions that came by a hook: `services.ingest.hook_questions.answer`.
    """
    question = step.r.questions.get(decided.request_id) if decided.process == step.r.process else None
    if question is None or question.approval != decided.approval or question.answered is not None:
        if question is None or question.approval != decided.approval:
            applied(step, decided.approval, False)
        return
    _decided(step, question.tool_use_id, decided)
    question.answered = step.line("answer", decided.request_id, _line(question, decided))
    if question.callback and decided.interrupt:
        step.request("interrupt", say.interrupt)
    step.changed(f"{question.tool} {decided.decision}")


def _line(question: Question, decided: m.Answer) -> str:
    """The decision as the agent is told of it."""
    request_id = decided.request_id
    if decided.decision != "approved":
        return _deny(question, request_id, cut.text(decided.message, 10_000), interrupt=decided.interrupt)
    if question.callback:
        changed = None if _unchanged(question, decided) else decided.input_json
        line = say.hook_allow(request_id, changed)
    else:
        line = say.allow(request_id, decided.input_json)
    if check_input_line(line) is None:
        return line
    if _unchanged(question, decided):
        return say.allow(request_id, "{}")  # too long for a pipe; {} means unchanged
    return _deny(question, request_id, "The approved input can not be carried to the agent.")


def _unchanged(question: Question, decided: m.Answer) -> bool:
    return hashlib.sha256(decided.input_json.encode()).hexdigest() == question.input_sha256


def _deny(question: Question, request_id: str, message: str, *, interrupt: bool = False) -> str:
    if question.callback:
        return say.hook_deny(request_id, message)
    return say.deny(request_id, message, interrupt=interrupt)


def unwritable(step: Step, request_id: str, reason: str) -> None:
    """The bridge could not write the answer: the agent gets a denial instead, and the gate hears of it."""
    question = step.r.questions.get(request_id)
    if question is not None:
        applied(step, question.approval, False)
        line = _deny(question, request_id, f"The answer could not be delivered: {reason}"[:500])
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


def withdraw(step: Step, request_ids: Iterable[str], reason: str, *, via: str = "agent") -> None:
    """The agent no longer waits for these; by ``hook``, because somebody answered at its screen."""
    for request_id in list(request_ids):
        question = step.r.questions.pop(request_id, None)
        step.proved(request_id)
        if question is None:
            continue
        if question.answered is not None:
            step.effects.append(Excepted("answer_unread"))
            applied(step, question.approval, False)
        else:
            _settle(step, question.tool_use_id, "cancelled")
            data = m.QuestionWithdrawn(approval=question.approval, reason=reason, via=via)
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


def judged(step: Step, tool_use_id: str | None, denial: m.Answer | None = None) -> None:
    """The gate was asked before this call runs; ``denial``: a rule forbids it."""
    run = step.r.tools.get(tool_use_id or "")
    if run is not None:
        run.judged = True
        step.durable = True
    if denial is not None and run is not None:
        run.asked = denial.approval
        _decided(step, tool_use_id, denial)


def _decided(step: Step, tool_use_id: str | None, decided: m.Answer) -> None:
    run = step.r.tools.get(tool_use_id or "")
    if run is not None:
        run.decision, run.by_rule = decided.decision, decided.rule is not None


def _settle(step: Step, tool_use_id: str | None, decision: str) -> None:
    run = step.r.tools.get(tool_use_id or "")
    if run is not None:
        run.decision = decision


def tool_ran(step: Step, tool_use_id: str) -> None:
    """The agent says that it carried this call out, well or not: it says so of no call that it refused."""
    run = step.r.tools.get(tool_use_id)
    if run is not None and not run.ran:
        run.ran = True
        step.durable = True


def tool_finished(step: Step, tool_use_id: str, is_error: bool, output: str) -> None:
    r = step.r
    run = r.tools.get(tool_use_id)
    if run is not None:
        run.ran = run.ran or not is_error
        _look(step, tool_use_id, run)
    # Evidence for an answer whose "taken" was lost, and for agents that have no bridge.
    settled = [key for key, q in r.questions.items() if q.tool_use_id == tool_use_id]
    taken(step, settled)
    withdraw(step, [key for key in settled if key in r.questions], "the tool has finished without an answer")
    if r.tools.pop(tool_use_id, None) is None or run is None:
        return
    duration = max(0, round((step.now - run.since).total_seconds() * 1000))
    decided_by = "agent" if run.decision in (None, "cancelled") else "rule" if run.by_rule else "approval"
    _tool_event(
        step, "finished", tool_use_id, run, is_error=is_error, output=output, duration_ms=duration,
        decided_by=decided_by,
    )  # fmt: skip
    _current(step)
    step.changed()


def _look(step: Step, tool_use_id: str, run: ToolRun) -> None:
    """What ran was let run: by an approval, a rule, or the agent's own mode if no one was to be asked."""
    r = step.r
    if not run.ran or r.kind in HOOKED:  # there the person at the screen may have let it run
        return
    open_ = any(q.tool_use_id == tool_use_id and q.answered is None for q in r.questions.values())
    state = "open" if open_ else run.decision if run.decision in ("denied", "expired") else None
    if state is None and run.asked is None and not run.judged and r.hooked and r.kind == "managed":
        state, r.hooked = "unjudged", False  # the user's settings keep hooks from it (2.1.42)
        text = f"{run.tool} ran without our hooks: rules hold only where the agent asks (disableAllHooks?)"
        step.event(m.ErrorEvent, code="not_allowed", message=text)
    if state is not None:
        data = m.ToolUnapproved(
            session=r.session, tool=run.tool, tool_use_id=tool_use_id, approval=run.asked, state=state,
            summary=run.summary,
        )  # fmt: skip
        step.post("approvals", "unapproved", f"unapproved-{short_hash(r.uid, r.process, tool_use_id)}", data)


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
