"""Hibernation and waking: a session without an agent, whose conversation is kept.

Theory of operation. `Record.rest` is the stage: ``hibernating`` (the tmux controller has been asked to end
this agent process, or will be until it answers), ``hibernated`` (the process is gone, its journal read to the
end), ``waking`` (the watchdog is asked to admit the next process, then the controller to start it with the
conversation; over once that one has answered `initialize`). Who wants the session awake is written down: a
prompt that is queued, or a `wake` that waits for its answer in `Record.wakers`. What must happen follows from
that and is looked at after every step (`wake_if_wanted`), so no crash at any point forgets it.

A prompt is never refused because the breaker is open: it waits, the state says ``blocked`` by the breaker
until when, and then it is tried again. A bare `wake` is refused with ``breaker_open``.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec

from bus import messages as m
from bus.effects import ReplyTo
from bus.errors import RefusedError
from services.ingest.model import Ask, AskController, Record, Session
from services.ingest.states import Status
from services.ingest.step import Step

LATER = frozenset({"breaker_open", "busy"})  # refusals of a start that may be otherwise later
AGAIN_S = 15.0  # … where they do not say when

S = Status


def check_idle(session: Session) -> None:
    """Raises `RefusedError` for a session that must not be put to sleep now."""
    r = session.record
    if r.kind not in ("managed", "sdk-url"):
        raise RefusedError(
            "unavailable",
            f"{r.session} is {r.kind}: its screen is a person's, and is not put to sleep; if you end it, "
            "its conversation can be resumed",
        )
    if r.rest in (S.HIBERNATING, S.HIBERNATED):
        return
    if r.ending:
        raise RefusedError("unavailable", "the session is ending")
    if r.pinned:
        raise RefusedError(
            "not_allowed", f"{r.session} is pinned: set pinned to false first, if it may be put to sleep"
        )
    if r.status not in (S.READY, S.WAITING_INPUT):
        raise RefusedError("busy", f"{r.session} is {r.status}: only an idle session is put to sleep")
    if session.prompts:
        raise RefusedError("busy", f"{r.session} has prompts that wait")
    if r.tools or r.agents:
        raise RefusedError("busy", f"{r.session} has an agent at work in the background")


def ask(step: Step, wanted: Ask) -> None:
    """Ask the tmux controller, until it answers."""
    step.r.ask = wanted
    step.effects.append(AskController(step.r.uid, step.r.session, wanted))
    step.changed()


def hibernate(step: Step, reason: str, *, force: bool = False) -> None:
    """End the agent and keep the session. By ``force`` it is not asked first, and may be at work."""
    r = step.r
    idle = r.status in (S.READY, S.WAITING_INPUT)
    r.rest = S.HIBERNATING
    kind = "evict" if force else "stop"
    ask(step, Ask(f"{kind}-{r.uid}-{r.process}", r.process, None, reason[:500], stop=True,
                  force=force and not idle))  # fmt: skip
    step.changed(reason)


def called_off(step: Step, error: RefusedError) -> None:
    """The controller will not end the process: everything stays as it was."""
    if step.r.rest is S.HIBERNATING:
        step.r.rest = None
        step.changed(f"not put to sleep: {error.message}")


def asleep(step: Step) -> bool:
    """The process is gone. Whether that was wanted."""
    r = step.r
    if r.rest is not S.HIBERNATING:
        return False
    r.rest, r.fresh, r.ask, r.lost = S.HIBERNATED, True, None, False
    step.changed("its agent has ended")
    return True


def want_awake(step: Step, request_id: str | None) -> None:
    """Somebody asks for it; a wait for the breaker is cut short."""
    r = step.r
    if request_id is not None:
        r.wakers = [*r.wakers, request_id]
    if r.rest is S.HIBERNATED:
        try_again(step)
        _wake(step)
    step.changed()


def blocked(r: Record) -> bool:
    """Whether it is kept from waking by the breaker."""
    return r.rest is S.HIBERNATED and r.blocked is not None and r.blocked.by == "breaker"


def try_again(step: Step) -> None:
    if blocked(step.r):
        step.r.blocked = None
        step.changed()


def wake_if_wanted(step: Step) -> None:
    """After every step: a sleeping session that somebody waits for is woken."""
    r = step.r
    if r.rest is not S.HIBERNATED or not r.living or r.ask is not None or r.blocked is not None or r.ending:
        return
    if step.session.prompts or r.wakers:
        _wake(step)


def _wake(step: Step) -> None:
    r = step.r
    if r.ask is None:
        step.settle()
        r.rest = S.WAKING
        # A new id for each attempt: a refusal stands for its id.
        ask(step, Ask(f"wake-{r.uid}-{r.seq}", r.process + 1, r.conversation, admit=True))
        step.changed("a prompt waits" if step.session.prompts else "asked to wake")


def admitted(step: Step) -> None:
    """The controller starts the process."""
    if step.r.rest is S.WAKING:
        _answer(step, {"status": S.WAKING})


def refused(step: Step, error: RefusedError) -> None:
    """Not now: back to sleep. Prompts wait for the next attempt, everybody else is told."""
    r = step.r
    r.rest = S.HIBERNATED
    _answer(step, error=error)
    if step.session.prompts and r.blocked is None:
        r.blocked = m.Blocked(by="breaker", until=_retry_at(step, error))
    step.changed(error.message)


def _retry_at(step: Step, error: RefusedError) -> Any:
    later = step.now + timedelta(seconds=AGAIN_S)
    details = error.details if isinstance(error.details, dict) else {}
    try:
        said = msgspec.convert(details.get("retry_at"), m.Time)
    except msgspec.ValidationError:
        return later
    return max(said, step.now + timedelta(seconds=1))


def awake(step: Step) -> None:
    """The new process has answered."""
    if step.r.rest is S.WAKING:
        step.r.rest = None
        _answer(step, {"status": S.READY})


def over(step: Step, reason: str) -> None:
    """The session is over: nobody waits any more."""
    step.r.rest = None
    _answer(step, error=RefusedError("unavailable", f"the session is over: {reason}"))


def _answer(step: Step, result: Any = None, error: RefusedError | None = None) -> None:
    step.effects += [ReplyTo(waker, result, error) for waker in step.r.wakers]
    step.r.wakers = []
