"""Prompts and other lines on their way to the agent, and the signs that it has them.

A prompt is kept until a result covers it. Its signs, from weak to strong: its line was read (bridge:
``taken``); the agent says that it began with it (``command_lifecycle`` started, or, before 2.1.329, that a
turn began after it was sent); a result names it (2.1.329) or ends the turn that it began. If the process dies
before the last, it is written again to the next one, with the same uuid: the agent drops a uuid that its
conversation contains. Such a drop makes no sound before 2.1.329, so a prompt that nothing happens to for
`SILENT_S` while no turn runs counts as dropped.
"""

from __future__ import annotations

import uuid as uuids
from datetime import timedelta

from bus import messages as m
from services.ingest import callbacks, questions, rest, say, wire
from services.ingest.exceptions import Excepted
from services.ingest.hook_model import HOOKED
from services.ingest.model import Prompt, Record, SendHello, SendLine
from services.ingest.step import Step

AGAIN = "pointsman-again"  # request id of the initialize that asks an sdk-url agent what is still open
_NAMESPACE = uuids.UUID("6f5b1c8e-6f0c-4b7c-9d0a-9b8f0f5f5a11")  # ours, made once for prompt uuids
SILENT_S = 30.0  # the agent answers a prompt with `init` at once: measured 3 to 60 ms


# ── connections ──────────────────────────────────────────────────────────────────────────────────────────


def greet(step: Step) -> None:
    """The agent's connection stands and is the right one: say what it may not have heard."""
    session, link = step.session, step.session.link
    assert link is not None  # noqa: S101  # the caller has just made it
    link.greeted = True
    step.r.lost = False
    step.visible = True
    if link.bridge:
        step.effects.append(SendHello(link.number, step.r.process, step.r.offset))
        link.kept = link.acked = step.r.offset
    elif step.r.initialized:
        step.effects.append(SendLine(link.number, 0, say.initialize(AGAIN, hooks=False)))
    for line in sorted(session.lines.values(), key=lambda line: line.n):
        step.effects.append(SendLine(link.number, line.n, line.data))
    pump(step)


def initialized(step: Step) -> None:
    """The agent answered ``initialize`` (or never will): prompts may go as soon as the baseline is known."""
    if not step.r.initialized:
        step.r.initialized = True
        rest.awake(step)
        step.changed("the agent is there")
    pump(step)


def found_open(step: Step, pending: list[wire.ControlRequest] | None) -> None:
    """The agent lists the permission requests that are open: those that we have not heard are asked now, and
    those of ours that it does not list are over.
    """
    if pending is None or (step.session.link is not None and step.session.link.bridge):
        return  # a journal has everything, in order
    listed = set()
    for request in pending:
        asked = request.read()
        if isinstance(asked, wire.CanUseTool):
            listed.add(request.request_id)
            questions.ask(step, request.request_id, asked)
    over = [key for key in step.r.questions if key not in listed]
    questions.taken(step, over)
    questions.withdraw(step, [key for key in over if key in step.r.questions], "answered elsewhere")


def taken(step: Step, n: int) -> None:
    """The bridge says that the agent has read its lines up to ``n``."""
    read = [line for number, line in step.session.lines.items() if number <= n]
    if not read:
        return
    step.durable = True
    step.drop([line.n for line in read])
    questions.taken(step, [line.about for line in read if line.kind == "answer"])
    callbacks.taken(step, [line.about for line in read if line.kind == "hook"])
    for line in read:
        if line.kind == "prompt" and line.about in step.session.prompts:
            delivered(step, step.session.prompts[line.about])


def unwritable(step: Step, n: int, reason: str) -> None:
    """The bridge left a line out for good."""
    line = step.session.lines.get(n)
    if line is None:
        return
    step.drop([n])
    if line.kind == "prompt":
        prompt = step.session.prompts.get(line.about)
        if prompt is not None:
            refuse(step, prompt)
    elif line.kind == "answer":
        questions.unwritable(step, line.about, reason)
    elif line.kind == "hook":
        callbacks.drop(step, [line.about])
    step.event(
        m.ErrorEvent, code="too_large", message=f"a line could not be written to the agent: {reason}"[:500]
    )


# ── prompts ──────────────────────────────────────────────────────────────────────────────────────────────


def made(r: Record, prompt_id: str | None, text: str, by: str | None, *, again: str = "") -> Prompt:
    """A prompt of a session, with an order and a uuid of its own."""
    r.order += 1
    name = prompt_id or f"p{r.order}"
    uuid = str(uuids.uuid5(_NAMESPACE, f"{r.uid}/{name}/{r.order}"))
    return Prompt(name, uuid, r.order, text, by, again=again)


def queue(step: Step, prompt: Prompt) -> None:
    step.session.prompts[prompt.uuid] = prompt
    step.keep_prompt(prompt)
    step.event(m.PromptEvent, prompt_id=prompt.prompt_id, text=prompt.text, phase="queued", by=prompt.by)
    pump(step)


def pump(step: Step) -> None:
    """Write what waits, if the agent listens. During a turn as well: the agent takes it up in that turn."""
    r, link = step.r, step.session.link
    listens = r.living and r.alive and r.initialized and r.baseline and not r.ending and r.blocked is None
    if not listens or r.rest is not None or link is None or not link.greeted:
        return
    for prompt in list(step.session.prompts.values()):
        if prompt.process != r.process:
            prompt.process, prompt.running, prompt.done = r.process, False, False
            prompt.sent_at = step.now
            prompt.n = step.line("prompt", prompt.uuid, say.prompt(prompt.text, prompt.uuid))
            step.keep_prompt(prompt)


def delivered(step: Step, prompt: Prompt) -> None:
    step.proved(prompt.uuid)
    if not prompt.delivered:
        prompt.delivered = True
        step.keep_prompt(prompt)
        _say(step, prompt, "delivered")


def refuse(step: Step, prompt: Prompt) -> None:
    step.drop_prompt(prompt)
    _say(step, prompt, "refused")


def _say(step: Step, prompt: Prompt, phase: str) -> None:
    step.event(m.PromptEvent, prompt_id=prompt.prompt_id, text=prompt.text, phase=phase, by=prompt.by)


def turn_began(step: Step) -> None:
    """For agents that name no uuids: what was sent before belongs to this turn."""
    if step.r.lifecycle:
        return
    for prompt in step.session.prompts.values():
        if prompt.process == step.r.process and not prompt.running:
            prompt.running = True
            delivered(step, prompt)
            step.keep_prompt(prompt)


def on_lifecycle(step: Step, frame: wire.CommandLifecycle) -> None:
    if not step.r.lifecycle:
        step.r.lifecycle = True
        step.durable = True
        for prompt in step.session.prompts.values():
            prompt.running = False  # from now on the agent says so itself
    about = step.session.prompts.get(frame.command_uuid)
    if about is None:
        return
    delivered(step, about)
    if frame.state == "started" and not about.running:
        about.running = True
        step.keep_prompt(about)
    elif frame.state == "completed":
        if about.running and step.r.turn:
            about.done = True  # its result comes, or has come and names it
            step.keep_prompt(about)
        else:
            step.drop_prompt(about)


def covered(step: Step, uuids: list[str] | None) -> list[Prompt]:
    """The prompts that a result is for; they are dealt with."""
    prompts = step.session.prompts
    if uuids is not None:
        step.r.lifecycle = True
        found = [prompts[uuid] for uuid in dict.fromkeys(uuids) if uuid in prompts]
    elif step.r.lifecycle:
        found = []
    else:
        found = [p for p in prompts.values() if p.running and p.process == step.r.process]
    for prompt in found:
        delivered(step, prompt)
        step.drop_prompt(prompt)
    for prompt in [p for p in prompts.values() if p.done]:
        step.drop_prompt(prompt)
    return found


def drop_silent(step: Step) -> bool:
    """Give up what the agent dropped without a word. Returns whether some are still to be watched."""
    r = step.r
    sent = [p for p in step.session.prompts.values() if p.process == r.process]
    if (
        not r.alive
        or r.turn
        or r.compacting
        or r.questions
        or r.callbacks
        or (step.session.link is None and r.kind not in HOOKED)
    ):
        return bool(sent)
    for prompt in sent:
        if prompt.sent_at is not None and step.now - prompt.sent_at >= timedelta(seconds=SILENT_S):
            step.effects.append(Excepted("prompt_dropped"))
            delivered(step, prompt)
            step.drop_prompt(prompt)
    return any(p.process == r.process for p in step.session.prompts.values())
