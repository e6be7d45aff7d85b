"""The life of a session's agent processes: started, gone, started again, ended. And the session's own end.

A process's exit (a fact of the tmux controller) has its effect once its journal is read to the end: what it
said last (a result, a cost) was said while it lived. A bridge says when that is; if none comes, or the agent
has no bridge, the exit waits for `DRAIN_S` at most.
"""

from __future__ import annotations

from datetime import timedelta

from bus import messages as m
from bus.errors import RefusedError
from services.ingest import callbacks, delivery, evidence, hook_wire, questions, rest, running, say
from services.ingest.hook_model import AnswerHook
from services.ingest.model import Ask, Close, Cost, DropSeen, Exit
from services.ingest.step import Step
from services.ingest.turns import RECENT_COSTS

DRAIN_S = 10.0  # a bridge is respawned within a second or two of its death
DEATHS = 3  # in
DEATHS_S = 60.0  # … or the session fails


def started(step: Step, process: int, resume: str | None) -> None:
    """A new agent process: it hears what every process must hear first."""
    r, session = step.r, step.session
    if process <= r.process or not r.living:
        return
    if r.alive:
        _over(step, "a new agent process was started")
    evidence.lost(step)  # what was read of the one before after its end had taken effect
    r.process, r.resumed, r.alive, r.initialized = process, resume is not None, True, False
    r.offset, r.drained, r.line, r.lost = 0, False, 0, False
    r.requests, r.lifecycle, r.exit, r.hooked = {}, False, None, None
    r.tells_cost = True
    running.over(step)
    if r.ask is not None and r.ask.process <= process:
        r.ask = None
    if resume is not None:
        r.conversation = resume
        evidence.follow(step, resume, booked=r.kind == "interactive")
    if r.cost.total != "0":
        r.earlier = [*r.earlier, r.cost][-RECENT_COSTS:]
    r.cost = Cost()
    r.baseline = resume is None
    session.messages.clear()
    session.calls.clear()
    step.effects.append(DropSeen(r.uid))
    if r.kind == "interactive":  # its first hook says that it is there; what it is told is typed
        r.baseline, r.typing = True, None
        step.changed("an agent process was started")
        return
    timeout = say.HOOK_TIMEOUT_UNSAFE_S if r.kind == "sdk-url" else say.HOOK_TIMEOUT_S
    step.request("initialize", _initialize, timeout)
    if not r.baseline:
        step.request("baseline", say.get_session_cost)
    if r.wanted_model is not None:
        step.request(f"model:{r.wanted_model}", say.set_model, r.wanted_model)
    if r.wanted_mode is not None:
        step.request(f"mode:{r.wanted_mode}", say.set_permission_mode, r.wanted_mode)
    step.changed("an agent process was started")


def _initialize(request_id: str, timeout_s: int) -> str:
    return say.initialize(request_id, hooks=True, timeout_s=timeout_s)


def exited(step: Step, fact: m.AgentExited) -> None:
    """The controller says that a process is gone."""
    r = step.r
    if not r.living or fact.process < r.process:
        return
    until = step.now + timedelta(seconds=DRAIN_S)
    if r.exit is None or not r.exit.final:
        r.exit = Exit(fact.process, fact.exit_code, fact.reason, fact.final, fact.failed, until)
        step.changed()
    bridged = r.kind == "managed"
    if (r.alive and not r.drained) if bridged else (step.session.link is not None):
        return  # it may still have something to say
    gone(step)


def drained(step: Step) -> None:
    """The bridge has sent all that its agent said, and the agent is gone."""
    if not step.r.drained:
        step.r.drained = True
        step.durable = True
    if step.r.exit is not None:
        gone(step)


def gone(step: Step) -> None:
    """The exit has its effect now."""
    r = step.r
    exit_ = r.exit
    if exit_ is None:
        return
    r.exit = None
    _over(step, exit_.reason)
    if exit_.final:
        end(step, "failed" if exit_.failed else "ended", exit_.exit_code, exit_.reason)
        return
    if rest.asleep(step):
        return
    r.deaths = [at for at in r.deaths if step.now - at < timedelta(seconds=DEATHS_S)] + [step.now]
    if len(r.deaths) > DEATHS:
        reason = f"the agent died {len(r.deaths)} times in {DEATHS_S:.0f} s, last: {exit_.reason}"
        end(step, "failed", exit_.exit_code, reason)
        rest.ask(step, Ask(f"end-{r.uid}", 0, None, reason[:500]))
        return
    process = max(exit_.process, r.process) + 1
    begun = r.kind != "interactive" or r.resumed or not r.fresh  # else there is nothing to resume yet
    rest.ask(step, Ask(f"spawn-{r.uid}-{process}", process, r.conversation if begun else None))
    step.changed(f"the agent is gone: {exit_.reason}")


def answered(step: Step, ask_id: str, error: RefusedError | None) -> None:
    """The controller answered our request: a process comes (its fact will say so), or goes, or neither."""
    r = step.r
    if r.ask is None or r.ask.id != ask_id:
        return
    ask = r.ask
    r.ask = None
    step.durable = True
    if not r.living or ask.process == 0:
        return
    if ask.stop:
        if error is not None:
            rest.called_off(step, error)
    elif error is None:
        rest.admitted(step)
    elif ask.admit and error.code in rest.LATER:
        rest.refused(step, error)
    else:
        end(step, "failed", None, f"the agent could not be started again: {error.message}")


def _over(step: Step, reason: str) -> None:
    """The process is gone, and with it everything that only it knew."""
    r, session = step.r, step.session
    evidence.lost(step)
    questions.withdraw(step, list(r.questions), "the agent is gone")
    callbacks.drop(step, list(r.callbacks))
    _release(step)
    questions.clear_tools(step, all_of_them=True)
    r.alive = r.initialized = r.turn = r.compacting = False
    r.requests, r.asks_back, r.agents = {}, None, []
    step.drop(list(session.lines))
    if session.link is not None:
        session.link.greeted = False  # lines of the next process are not for it
        step.effects.append(Close(session.link.number, reason, code=1001))
    step.changed(f"the agent is gone: {reason}")


def _release(step: Step) -> None:
    """Requests of hooks that wait are answered: no opinion."""
    waiting = step.session.waiting
    step.effects += [AnswerHook(number, hook_wire.NOTHING) for number in waiting.values()]
    waiting.clear()


def end(step: Step, how: str, exit_code: int | None, reason: str) -> None:
    """The session is over; its name is free, its state stays until it is removed."""
    r = step.r
    for prompt in list(step.session.prompts.values()):
        delivery.refuse(step, prompt)
    questions.withdraw(step, list(r.questions), "the session has ended")
    callbacks.drop(step, list(r.callbacks))
    _release(step)
    step.drop(list(step.session.lines))
    r.end, r.ended_at, r.ask, r.alive = how, step.now, None, False
    rest.over(step, reason)
    r.held = r.unled = r.waits = r.blocked = None
    if how == "failed":
        r.error = reason
    step.post("approvals", "over", f"over-{r.uid}", m.SessionOver(session=r.session))
    step.event(m.EndedEvent, exit_code=exit_code, reason=reason)
    step.changed(reason)
