"""Permission requests that come by a hook: asked, answered, and what shows which answer won. Pure.

Claude Code shows its dialog and asks the hook at the same time, and the first answer wins. What is known of
the other side, measured with 2.1.329 and 2.1.119:

- a denial at the screen hangs up the HTTP request (and ends the turn, without a hook);
- an approval at the screen says nothing: the tool runs, and its PostToolUse is the sign. It carries the time
  that the tool ran, so a tool that began before our answer went out was allowed by somebody else;
- ``{}``, or a lost connection, leave the dialog standing.

So whether an answer of ours was taken (`applied`) is said when the agent's next word shows it: `ran`, or, for
what gives no such sign, `settle` at the end of the turn. A question whose time has run out is `left`: the
session still waits, at its screen alone.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from bus import messages as m
from services.ingest import cut, hook_wire, questions
from services.ingest.hook_model import AnswerHook, HookAnswer
from services.ingest.hook_wire import Hook
from services.ingest.model import Question
from services.ingest.step import Step, short_hash
from services.ingest.wire import CanUseTool

AT_SCREEN = "answered at the screen"
NO_AT_SCREEN = "answered at the screen with no, or the connection was lost"


def ask(step: Step, hook: Hook, number: int) -> str:
    """A permission request; the HTTP request ``number`` waits for its answer. Returns its request id.

    It has no tool_use_id: it belongs to the first tool call with the same input that nobody was asked about
    yet. Raises `WireError` where too many are open.
    """
    r, raw = step.r, bytes(hook.tool_input)
    same = hook_wire.same_input(raw)
    tool_use_id = next(
        (
            key
            for key, run in r.tools.items()
            if run.asked is None
            and (run.tool, run.input, run.agent_id) == (hook.tool_name, same, hook.agent_id)
        ),
        None,
    )
    # Counted, because it is asked once: a request that is lost never comes again, and the same command later
    # is another question, whatever was decided about this one.
    r.count += 1
    request_id = "hook-" + short_hash(hook.session_id, tool_use_id, r.count)
    asked = CanUseTool(
        tool_name=hook.tool_name,
        input=hook.tool_input,
        tool_use_id=tool_use_id,
        agent_id=hook.agent_id,
        permission_suggestions=hook.permission_suggestions,
    )
    questions.ask(step, request_id, asked)
    r.questions[request_id].asked_at = step.now
    step.session.waiting[request_id] = number
    return request_id


def answer(step: Step, decided: m.Answer) -> None:
    """The gate has decided. Expired: nothing is answered, so that the dialog stays."""
    request_id = decided.request_id
    question = step.r.questions.get(request_id) if decided.process == step.r.process else None
    if question is None or question.approval != decided.approval or question.left:
        questions.applied(step, decided.approval, False)
        return
    if question.hook is not None:
        return
    number = step.session.waiting.pop(request_id, None)
    if decided.decision not in ("approved", "denied") or number is None:
        question.left = True
        if number is not None:
            step.effects.append(AnswerHook(number, hook_wire.NOTHING))
        questions.applied(step, decided.approval, False)
        step.changed(f"{question.tool} {decided.decision}; the dialog on the screen stands")
        return
    if decided.decision == "approved":
        body = hook_wire.allow(decided.input_json)
    else:
        body = hook_wire.deny(cut.text(decided.message, 10_000), interrupt=decided.interrupt)
    run = step.r.tools.get(question.tool_use_id or "")
    changed = run is not None and run.input != hook_wire.same_input(decided.input_json)
    question.answered = 0
    question.hook = HookAnswer(
        decided.decision, step.now, decided.decision == "approved" and changed, decided.rule is not None
    )
    step.effects.append(AnswerHook(number, body))
    step.changed(f"{question.tool} {decided.decision}")


def lost(step: Step, request_id: str) -> None:
    """The agent hung up: somebody answered at the screen with no, or it is gone."""
    step.session.waiting.pop(request_id, None)
    question = step.r.questions.get(request_id)
    if question is None or question.left:
        return
    questions.withdraw(step, [request_id], NO_AT_SCREEN, via="hook")


def let_go(step: Step, reason: str) -> None:
    """Our side of the connection is gone (we were restarted): nobody waits, the dialogs stand."""
    for question in step.r.questions.values():
        if question.answered is None and not question.left:
            question.left = True
            data = m.QuestionWithdrawn(approval=question.approval, reason=reason)
            step.post("approvals", "withdrawn", f"withdrawn-{question.approval}", data)
            step.changed(reason)


def ran(step: Step, hook: Hook) -> None:
    """A tool has run: who let it?"""
    same = hook_wire.same_input(bytes(hook.tool_input))
    for request_id, question in list(step.r.questions.items()):
        if question.tool_use_id != hook.tool_use_id or hook.tool_use_id is None:
            continue
        if question.hook is not None:
            run = step.r.tools.get(hook.tool_use_id)
            as_asked = run is not None and run.input == same
            _settled(step, request_id, question, ours=_ours(step, hook, question.hook, as_asked=as_asked))
        else:
            forget(step, request_id, AT_SCREEN)


def _ours(step: Step, hook: Hook, given: HookAnswer, *, as_asked: bool) -> bool:
    if given.decision == "denied" or (given.changed and as_asked):
        return False
    began = step.now - timedelta(milliseconds=min(max(hook.duration_ms or 0, 0), 1e9))
    return hook.duration_ms is None or began >= given.at


def settle(step: Step, agent_id: str | None) -> None:
    """This agent has gone on to something else: what was answered was taken, what was not is over."""
    for request_id, question in list(step.r.questions.items()):
        if question.agent_id != agent_id:
            continue
        if question.hook is not None:
            _settled(step, request_id, question, ours=True)
        else:
            forget(step, request_id, AT_SCREEN)


def closed(step: Step, at: datetime) -> None:
    """No dialog stands on the screen since ``at``: a question that we had not answered then, the person there
    has. (What they said shows itself: the tool runs, or not.)
    """
    for request_id, question in list(step.r.questions.items()):
        if question.asked_at is not None and question.asked_at >= at:
            continue  # its dialog comes
        if question.hook is None:
            forget(step, request_id, AT_SCREEN)
        elif question.hook.at > at:
            _settled(step, request_id, question, ours=False)


def denied_was_taken(step: Step, agent_id: str | None) -> None:
    """A new tool call of this agent: the model has read the denials before it."""
    for request_id, question in list(step.r.questions.items()):
        denied = question.hook is not None and question.hook.decision == "denied"
        if denied and question.agent_id == agent_id:
            _settled(step, request_id, question, ours=True)


def forget(step: Step, request_id: str, reason: str = AT_SCREEN) -> None:
    """It is answered, but not by us."""
    number = step.session.waiting.pop(request_id, None)
    if number is not None:
        step.effects.append(AnswerHook(number, hook_wire.NOTHING))
    question = step.r.questions.get(request_id)
    if question is not None and question.left:
        del step.r.questions[request_id]
        step.changed(reason)
    else:
        questions.withdraw(step, [request_id], reason, via="hook" if reason == AT_SCREEN else "agent")


def _settled(step: Step, request_id: str, question: Question, *, ours: bool) -> None:
    del step.r.questions[request_id]
    questions.applied(step, question.approval, ours)
    given, tool_use_id = question.hook, question.tool_use_id
    if ours and given is not None and tool_use_id in step.r.tools:
        run = step.r.tools[tool_use_id]
        run.decision, run.by_rule = given.decision, given.by_rule
        if given.decision == "denied":  # no hook comes of a call that does not run
            questions.tool_finished(step, tool_use_id, True, "denied")
    step.changed()
