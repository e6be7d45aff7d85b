"""What each hook of a followed session means: its turns, tools, texts and ends. Pure.

`learn` is what every hook says; the rest by the event's name, in `HANDLERS`. That a turn is over is said by
its Stop, or seen otherwise (`services.ingest.presence`), and comes to `over` however it ended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bus import messages as m
from services.ingest import (
    cut,
    delivery,
    evidence,
    hook_questions,
    hook_rules,
    hook_wire,
    life,
    questions,
    rest,
    screen,
)
from services.ingest.hook_wire import Hook
from services.ingest.step import Step
from services.ingest.turns import asks_back


def learn(step: Step, hook: Hook) -> None:
    """What every hook says. The first of an interactive session shows that it has begun."""
    r = step.r
    if not r.initialized:
        r.initialized, r.error = True, None
        step.changed("the agent is there")
        rest.awake(step)
    if r.conversation != hook.session_id:
        r.conversation = hook.session_id
        step.changed()
    evidence.follow(step, hook.session_id, hook.transcript_path, booked=True)
    if hook.permission_mode and hook.permission_mode != r.permission_mode:
        r.permission_mode = hook.permission_mode
        step.changed()
    if hook.model and hook.model != r.model:
        r.model = hook.model
        step.changed()


def turn(step: Step, hook: Hook) -> None:
    """The agent works: a turn of its own runs, whether we saw its beginning or not."""
    r = step.r
    if r.fresh or (hook.agent_id is None and not r.turn):
        r.turn, r.fresh = hook.agent_id is None, False
        step.changed("a turn began")


def over(step: Step, reason: str) -> None:
    """The turn is over, however it ended. Background agents and their questions go on."""
    r = step.r
    hook_questions.settle(step, None)
    questions.clear_tools(step, all_of_them=False)
    delivery.covered(step, None)
    if r.turn or r.compacting:
        r.turn = r.compacting = False
        step.changed(reason)


def _start(step: Step, hook: Hook) -> None:
    if hook.source in ("startup", "resume", "clear"):
        over(step, f"a conversation began: {hook.source}")
    _say(step, hook, source=hook.source)


def _prompt(step: Step, hook: Hook) -> None:
    over(step, "the next prompt came")
    turn(step, hook)
    prompt = screen.submitted(step, hook.prompt)
    more: dict[str, Any] = {} if prompt is None else {"prompt_ids": [prompt.prompt_id]}
    message_id, text = hook.prompt_id or "", cut.text(hook.prompt)
    step.event(m.MessageEvent, role="user", message_id=message_id, text=text, blocks=[], **more)


def _tool(step: Step, hook: Hook) -> None:
    turn(step, hook)
    hook_questions.denied_was_taken(step, hook.agent_id)
    if hook.tool_use_id and hook.tool_name:
        raw = bytes(hook.tool_input)
        questions.tool_started(step, hook.tool_name, hook.tool_use_id, raw, hook.agent_id)
        step.r.tools[hook.tool_use_id].input = hook_wire.same_input(raw)


def _ran(step: Step, hook: Hook) -> None:
    turn(step, hook)
    hook_questions.ran(step, hook)
    if hook.tool_use_id:
        failed = hook.hook_event_name == "PostToolUseFailure"
        output = cut.text(hook.error) if failed else hook_wire.response_text(bytes(hook.tool_response))
        questions.tool_finished(step, hook.tool_use_id, failed, output)


def _stop(step: Step, hook: Hook) -> None:
    r = step.r
    failed = hook.hook_event_name == "StopFailure"
    text = hook.last_assistant_message or ""
    prompts = [p for p in step.session.prompts.values() if p.running and p.process == r.process]
    if text and not failed:
        blocks = cut.blocks([("text", text)])
        message_id = hook.prompt_id or ""
        step.event(
            m.MessageEvent, role="assistant", message_id=message_id, text=cut.text(text), blocks=blocks
        )
        r.last_message = cut.text(text.strip(), cut.LAST_MESSAGE)
    over(step, "the turn has ended")
    r.results += 1
    r.turns += 1
    step.event(
        m.ResultEvent, prompt_ids=[prompt.prompt_id for prompt in prompts], model=r.model, num_turns=1,
        cost_usd=None, total_cost_usd=None, usage={}, duration_ms=0, is_error=failed,
        subtype="error" if failed else "success",
    )  # fmt: skip
    question = asks_back(text)
    if failed:
        step.event(m.ErrorEvent, code=cut.text(hook.error or "error", 100), message=cut.text(text, 2000))
    elif question is not None:
        step.event(m.QuestionEvent, text=question, options=[])
    step.changed()


def _notice(step: Step, hook: Hook) -> None:
    if hook.notification_type == "idle_prompt":
        over(step, "the screen waits for input")
    other(step, hook)


def _compact(step: Step, hook: Hook) -> None:
    compacting = hook.hook_event_name == "PreCompact"
    if step.r.compacting is not compacting:
        step.r.compacting = compacting
        step.changed("compacting" if compacting else "compacted")
    other(step, hook)


def _ended(step: Step, hook: Hook) -> None:
    """Ours is over when its process is; after ``/clear`` and ``/resume`` it goes on with another one."""
    _say(step, hook, reason=hook.reason)
    if step.r.kind == "external":
        end(step, f"the conversation ended: {hook.reason}" if hook.reason else "the conversation ended")
    else:
        over(step, "the conversation ended")


def end(step: Step, reason: str) -> None:
    step.r.turn = False
    hook_rules.give_up(step)
    for request_id in list(step.r.questions):
        hook_questions.forget(step, request_id, "the session has ended")
    questions.clear_tools(step, all_of_them=True)
    life.end(step, "ended", None, cut.text(reason, 500))


def other(step: Step, hook: Hook) -> None:
    _say(step, hook, message=hook.message, trigger=hook.trigger, kind=hook.notification_type)


def _say(step: Step, hook: Hook, **data: str | None) -> None:
    """The hook itself, for who follows the session."""
    data["agent_id"] = hook.agent_id
    fields: dict[str, Any] = {"event": hook.hook_event_name}
    if hook.tool_name:
        fields["tool"] = hook.tool_name
    if hook.tool_use_id:
        fields["tool_use_id"] = hook.tool_use_id
    fields["data"] = {key: cut.text(value, 2000) for key, value in data.items() if value}
    step.event(m.HookEvent, **fields)


HANDLERS: dict[str, Callable[[Step, Hook], None]] = {
    "SessionStart": _start,
    "UserPromptSubmit": _prompt,
    "PreToolUse": _tool,
    "PostToolUse": _ran,
    "PostToolUseFailure": _ran,
    "Notification": _notice,
    "Stop": _stop,
    "StopFailure": _stop,
    "PreCompact": _compact,
    "PostCompact": _compact,
    "SessionEnd": _ended,
}
