"""Hook callbacks: the agent says what it is about to do, and the gate may forbid it.

The life of a PreToolUse callback: `callback` asks the gate (``internal/approvals/judge``), again every
`AGAIN_S` until it answers, whatever dies meanwhile: the open callback stands in the record. Then
`verdict` lets the agent go on as it would, or makes it ask (it then comes back with a `can_use_tool`); or
`denied` keeps the line that forbids the call. Other callbacks are published and answered at once.

Nobody answers for `PATIENCE_S`: the call is denied, because a rule may forbid it, and the agent is told to
try later. The agent itself waits longer than that (`say.HOOK_TIMEOUT_S`): when its time is over 2.1.329
refuses the tool, but older ones go on. A callback over an sdk-url connection that is lost never comes again;
the agent waits for `say.HOOK_TIMEOUT_UNSAFE_S` and goes on to its normal way of asking. So a denial holds
there only while the connection does, and the session's state says so (``enforcement``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from bus import messages as m
from bus import topics as t
from bus.effects import Publish
from bus.ids import approval_id
from services.ingest import cut, questions, say, wire
from services.ingest.model import Callback
from services.ingest.step import Step

AGAIN_S = 2.0  # the gate is back within a second or two of its death
PATIENCE_S = 60.0
PATIENCE_UNSAFE_S = 20.0  # below the agent's own timeout on an sdk-url connection
ASKS_FROM = (2, 1, 119)  # 2.1.42 was measured not to ask after a hook that wants it to
MAX_LINES = 10_000  # to an agent that reads none of them: then it gets no more answers to hooks


def callback(step: Step, request_id: str, asked: wire.HookCallback) -> None:
    given = asked.input
    tool_use_id = asked.tool_use_id or given.tool_use_id
    if len(step.session.lines) >= MAX_LINES:
        raise wire.WireError(f"{MAX_LINES} lines to the agent are unread")
    if given.hook_event_name == "PreToolUse" and given.tool_name:
        _before(step, request_id, asked, given.tool_name, tool_use_id)
        return
    if tool_use_id and given.hook_event_name in ("PostToolUse", "PostToolUseFailure"):
        questions.tool_ran(step, tool_use_id)
    fields: dict[str, Any] = {"event": cut.text(given.hook_event_name, 100)}
    if given.tool_name is not None:
        fields["tool"] = cut.text(given.tool_name, 200)
    if tool_use_id is not None:
        fields["tool_use_id"] = tool_use_id
    said = {"message": given.message, "trigger": given.trigger, "agent_id": given.agent_id}
    fields["data"] = {key: cut.text(value, 2000) for key, value in said.items() if value is not None}
    step.event(m.HookEvent, **fields)
    step.line("hook", request_id, say.hook(request_id))


def _before(
    step: Step, request_id: str, asked: wire.HookCallback, tool: str, tool_use_id: str | None
) -> None:
    r, given = step.r, asked.input
    if tool_use_id:
        questions.tool_started(step, tool, tool_use_id, bytes(given.tool_input), given.agent_id)
        run = r.tools[tool_use_id]
        run.agent_id = given.agent_id or run.agent_id  # a frame before it knew the Task call alone
    if request_id in r.callbacks or request_id in r.questions:
        return
    if len(r.callbacks) >= questions.MAX_OPEN:
        raise wire.WireError(f"{questions.MAX_OPEN} hook callbacks are open")
    hook = Callback(
        kind=questions.KINDS.get(tool, "tool"),
        tool=tool,
        tool_use_id=tool_use_id,
        agent_id=given.agent_id,
        input_json=bytes(given.tool_input).decode(),
        since=step.now,
    )
    r.callbacks[request_id] = hook
    step.durable = True
    ask(step, request_id, hook)


def ask(step: Step, request_id: str, hook: Callback) -> None:
    """Ask the gate."""
    r = step.r
    command = m.JudgeTool(
        uid=r.uid,
        session=r.session,
        process=r.process,
        request_id=request_id,
        kind=hook.kind,
        tool=hook.tool,
        tool_use_id=hook.tool_use_id,
        agent_id=hook.agent_id,
        input_json=hook.input_json,
        cwd=r.cwd,
        permission_mode=r.permission_mode,
        auto_approve=r.auto_approve,
    )
    step.effects.append(Publish(t.JUDGE_TOOL, command))


def waiting(step: Step) -> bool:
    """Whether a callback waits for the gate."""
    return any(hook.answered is None for hook in step.r.callbacks.values())


def remind(step: Step) -> None:
    """Ask again, or give up."""
    patience = timedelta(seconds=PATIENCE_S if step.r.kind == "managed" else PATIENCE_UNSAFE_S)
    for request_id, hook in list(step.r.callbacks.items()):
        if hook.answered is not None:
            continue
        if step.now - hook.since < patience:
            ask(step, request_id, hook)
            continue
        waited_s = patience.total_seconds()
        text = (
            f"Pointsman's gate has not answered for {waited_s:.0f} s: the call was not run. Try again later."
        )
        del step.r.callbacks[request_id]
        step.line("hook", request_id, say.hook_deny(request_id, text))
        message = f"{hook.tool} was not run: the gate has not answered for {waited_s:.0f} s"
        step.event(m.ErrorEvent, code="unavailable", message=message)


def verdict(step: Step, said: m.ToolVerdict) -> None:
    """No rule denies it: the agent goes on, or asks."""
    r = step.r
    hook = r.callbacks.get(said.request_id)
    if said.process != r.process or hook is None or hook.answered is not None:
        return
    del r.callbacks[said.request_id]
    questions.judged(step, hook.tool_use_id)
    step.durable = True
    if said.verdict == "ask" and not _asks(r.version):
        questions.ask_by_callback(step, said.request_id, hook, said.message)
    elif said.verdict == "ask":
        step.line("hook", said.request_id, say.hook_ask(said.request_id, cut.text(said.message, 2000)))
    else:
        step.line("hook", said.request_id, say.hook(said.request_id))


def _asks(version: str) -> bool:
    """Whether this agent asks when a hook wants it to."""
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    return found is None or tuple(map(int, found.groups())) >= ASKS_FROM


def denied(step: Step, decided: m.Answer) -> bool:
    """A rule forbids the call. False: this answer is for no callback of ours."""
    r = step.r
    hook = r.callbacks.get(decided.request_id) if decided.process == r.process else None
    if hook is None or approval_id(r.uid, r.process, decided.request_id) != decided.approval:
        return False
    if hook.answered is None:
        questions.judged(step, hook.tool_use_id, decided)
        line = say.hook_deny(decided.request_id, cut.text(decided.message, 10_000))
        hook.answered = step.line("hook", decided.request_id, line)
        step.changed(f"{hook.tool} denied by a rule")
    return True


def taken(step: Step, request_ids: Iterable[str], value: bool = True) -> None:
    """The agent has read these answers, or never will."""
    for request_id in request_ids:
        hook = step.r.callbacks.get(request_id)
        if hook is not None and hook.answered is not None:
            del step.r.callbacks[request_id]
            questions.applied(step, approval_id(step.r.uid, step.r.process, request_id), value)
            step.durable = True


def finished(step: Step, tool_use_id: str) -> None:
    """The tool has a result: whatever was open about it is not any more."""
    about = [key for key, hook in step.r.callbacks.items() if hook.tool_use_id == tool_use_id]
    taken(step, about)
    drop(step, about)


def drop(step: Step, request_ids: Iterable[str]) -> None:
    """The agent no longer waits for these."""
    for request_id in list(request_ids):
        hook = step.r.callbacks.pop(request_id, None)
        if hook is None:
            continue
        step.proved(request_id)
        if hook.answered is not None:
            questions.applied(step, approval_id(step.r.uid, step.r.process, request_id), False)
        step.durable = True
