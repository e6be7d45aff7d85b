"""PreToolUse hooks: the gate may forbid the call before it runs, whatever the agent would have asked. Pure.

As `callbacks`, over HTTP: the request waits for the gate's word (a few milliseconds), and is answered with no
opinion, with "ask", or with the denial of a rule. Claude Code waits `hook_settings.QUICK_S` and then goes on
to its usual way of asking; so does this side, and so does everything where Pointsman is away: a rule reaches
these sessions while Pointsman runs (``enforcement`` is ``partial``).
"""

from __future__ import annotations

from bus import messages as m
from bus.ids import approval_id
from services.ingest import callbacks, cut, hook_wire, questions
from services.ingest.exceptions import Excepted
from services.ingest.hook_model import AnswerHook
from services.ingest.hook_wire import Hook
from services.ingest.model import Callback
from services.ingest.step import Step, short_hash
from services.ingest.wire import WireError


def before(step: Step, hook: Hook, number: int) -> str | None:
    """Have the gate judge a call. Returns the request id; None: there is nothing to wait for. Raises
    `WireError` for a call that cannot be judged.
    """
    r = step.r
    if not hook.tool_use_id or not hook.tool_name:
        raise WireError("a tool call without a name or an id")
    if len(r.callbacks) >= questions.MAX_OPEN:
        raise WireError(f"{questions.MAX_OPEN} tool calls wait for the gate")
    request_id = "pre-" + short_hash(hook.session_id, hook.tool_use_id)
    if request_id in r.callbacks:
        return None
    kind = questions.KINDS.get(hook.tool_name, "tool")
    raw = bytes(hook.tool_input).decode()
    asked = Callback(kind, hook.tool_name, hook.tool_use_id, hook.agent_id, raw, step.now)
    r.callbacks[request_id] = asked
    step.session.waiting[request_id] = number
    step.durable = True
    callbacks.ask(step, request_id, asked)
    return request_id


def verdict(step: Step, said: m.ToolVerdict) -> None:
    """No rule denies it."""
    asked = step.r.callbacks.get(said.request_id) if said.process == step.r.process else None
    if asked is None or asked.answered is not None:
        return
    del step.r.callbacks[said.request_id]
    questions.judged(step, asked.tool_use_id)
    step.durable = True
    reason = cut.text(said.message, 2000)
    _answer(step, said.request_id, hook_wire.before("ask", reason) if said.verdict == "ask" else None)


def denied(step: Step, decided: m.Answer) -> bool:
    """A rule forbids the call. False: this answer is for no call that waits."""
    r, request_id = step.r, decided.request_id
    asked = r.callbacks.get(request_id) if decided.process == r.process else None
    if asked is None or approval_id(r.uid, r.process, request_id) != decided.approval:
        return False
    if asked.answered is None:
        questions.judged(step, asked.tool_use_id, decided)
        asked.answered = 0
        _answer(step, request_id, hook_wire.before("deny", cut.text(decided.message, 10_000)))
        step.changed(f"{asked.tool} denied by a rule")
    return True


def over(step: Step, request_id: str, *, answered: bool) -> None:
    """The request is over: its answer is written, or the client did not wait for it."""
    step.session.waiting.pop(request_id, None)
    asked = step.r.callbacks.pop(request_id, None)
    if asked is not None:
        if asked.answered is None:
            step.effects.append(Excepted("call_unjudged"))
        else:
            approval = approval_id(step.r.uid, step.r.process, request_id)
            questions.applied(step, approval, answered)
            if answered and asked.tool_use_id:  # no hook comes of a call that does not run
                questions.tool_finished(step, asked.tool_use_id, True, "denied by a rule")
        step.durable = True


def give_up(step: Step) -> None:
    """Nobody judges, or nobody waits any more: the agent goes on as it would."""
    for request_id in list(step.r.callbacks):
        _answer(step, request_id, None)
        over(step, request_id, answered=False)


def _answer(step: Step, request_id: str, body: str | None) -> None:
    number = step.session.waiting.pop(request_id, None)
    if number is not None:
        step.effects.append(AnswerHook(number, body or hook_wire.NOTHING))
