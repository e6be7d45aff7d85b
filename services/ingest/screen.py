"""Prompts and keys for the screen of an interactive session, by way of the tmux controller. Pure.

A prompt is typed only while nothing runs and no dialog stands: keys that fall into a dialog would answer it.
So prompts wait for the end of the turn, one at a time. The controller looks at the screen before it types and
refuses (``busy``) where a dialog or somebody's half-written line stands; then it is tried again. That it was
typed is `typed`; that the agent has it, its UserPromptSubmit (`hooks`).

The one exception to "typed once": the controller dies between the keys and its answer, and the agent's hook
is lost as well (ingest was away). Ingest counts what it asks for again after a crash of its own.
"""

from __future__ import annotations

from bus import messages as m
from services.ingest import cut, delivery
from services.ingest.exceptions import Excepted
from services.ingest.hook_model import PressKey, TypeIn, Typing
from services.ingest.model import Prompt
from services.ingest.step import Step

AGAIN_S = 3.0  # after the controller refused
TELL = 4  # refusals in a row: a screen that is slow to come up makes one or two


def pump(step: Step) -> None:
    """Have the next prompt typed, if the screen takes one."""
    r = step.r
    listens = r.living and r.alive and r.initialized and not r.ending and r.blocked is None
    if not listens or r.turn or r.compacting or r.questions or r.typing is not None:
        return
    prompt = next(
        (p for p in step.session.prompts.values() if p.process != r.process and not p.running), None
    )
    if prompt is None:
        return
    r.count += 1
    r.typing = Typing(f"type-{r.uid}-{r.count}", prompt.uuid)
    step.changed()
    ask(step)


def ask(step: Step) -> None:
    """For what the record says is being typed."""
    r = step.r
    prompt = step.session.prompts.get(r.typing.uuid) if r.typing is not None else None
    if r.typing is None or prompt is None or not r.alive:
        r.typing = None
        return
    step.effects.append(TypeIn(r.uid, r.process, r.typing.id, prompt.text))


def ask_again(step: Step) -> None:
    """After a crash of ours."""
    if step.r.typing is not None:
        step.r.typing.again = step.durable = True
    ask(step)


def typed(step: Step, request_id: str, problem: str) -> bool:
    """The controller has answered. Returns whether it is to be tried again. What keeps a prompt waiting for
    longer stands in the state: somebody must do something about it at the screen.
    """
    r = step.r
    if r.typing is None or r.typing.id != request_id:
        return False
    prompt = step.session.prompts.get(r.typing.uuid)
    if r.typing.again and not problem:
        step.effects.append(Excepted("prompt_retyped"))
    r.typing = None
    step.changed()
    if not problem and prompt is not None:
        _there(step, prompt)
    elif prompt is not None:
        step.session.screen.refusals += 1
        if step.session.screen.refusals == TELL:
            r.error = cut.text(f"prompts wait: {problem} (`pointsman attach {r.session}`)", 2000)
            step.event(m.ErrorEvent, code="busy", message=r.error)
    return bool(problem) and prompt is not None


def submitted(step: Step, text: str) -> Prompt | None:
    """The agent took up a prompt: one of ours, if it says the same."""
    r = step.r
    said = _plain(text)
    for prompt in step.session.prompts.values():
        typed_here = prompt.process == r.process or (r.typing is not None and r.typing.uuid == prompt.uuid)
        if typed_here and not prompt.running and _plain(prompt.text) == said:
            prompt.running = True
            _there(step, prompt)
            return prompt
    return None


def _there(step: Step, prompt: Prompt) -> None:
    step.session.screen.refusals, step.r.error = 0, None
    prompt.process, prompt.sent_at = step.r.process, step.now
    delivery.delivered(step, prompt)
    if prompt.uuid in step.session.prompts:
        step.keep_prompt(prompt)


def interrupt(step: Step) -> None:
    step.effects.append(PressKey(step.r.uid, step.r.process, "Escape"))


def _plain(text: str) -> str:
    """What of a prompt the screen surely gives back: without spaces and control characters."""
    return "".join(c for c in text if not c.isspace() and ord(c) >= 32 and not 127 <= ord(c) < 160)
