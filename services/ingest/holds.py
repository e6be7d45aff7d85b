"""A session that its budget holds: nothing new goes to the agent, and what runs is stopped.

The ledger decides that a session is held, and when it is released; both come as facts, once and in order.
While it is held:

- prompts are refused (`refusal`), and those that were accepted before wait (`delivery.pump`);
- every open question is denied by the gate, and so is every question that the agent asks until it has
  stopped (`questions.ask`): the facts for the gate leave in the order in which it happened;
- the turn is interrupted, and so is each turn that begins nevertheless: one of a prompt that the agent had in
  its own queue, or of a background agent's end (`enforce`);
- background agents, which go on after a turn, are stopped: 2.1.329 and 2.1.42 do that at an interrupt, also
  between turns, 2.1.119 has to be told of each one (measured).

While the ledger is silent `allowances` may hold a session in its stead (``unled``): as above, but open
questions are left to the interrupt, because nobody has decided that they must not be answered.

Nothing here is a clock's: a budget that a day's end renews is released by the ledger.
"""

from __future__ import annotations

from bus import messages as m
from bus.errors import RefusedError
from services.ingest import say, screen
from services.ingest.model import Held, Record
from services.ingest.step import Step

CONTROLLED = ("managed", "sdk-url")  # agents that take control requests


def hold(step: Step, told: m.BudgetHold) -> None:
    """The ledger holds the session, or releases it."""
    r = step.r
    r.held = Held(told.message, told.until) if told.held else None
    r.stopped = ""
    if r.held is not None:
        for question in r.questions.values():
            if question.answered is None:
                data = m.QuestionForbidden(approval=question.approval, reason=r.held.message)
                step.post("approvals", "forbidden", f"forbidden-{question.approval}", data)
    refresh(step)
    step.changed("a budget is exhausted" if told.held else "the budget has room again")


def hold_unled(step: Step, message: str | None) -> None:
    """Hold the session because the ledger is silent, or (None) no longer."""
    r = step.r
    r.unled = None if message is None else Held(message, None)
    r.stopped = ""
    refresh(step)
    step.changed("the ledger is silent" if message else "the ledger is back")


def refresh(step: Step) -> None:
    """Read ``blocked`` off the record; another's cause is left alone."""
    r = step.r
    blocked: m.Blocked | None = None
    held = r.held or r.unled
    if held is not None:
        blocked = m.Blocked(by="budget", until=held.until)
    elif r.waits is not None:
        blocked = m.Blocked(by="limit", until=r.waits.until)
    elif r.blocked is not None and r.blocked.by not in ("budget", "limit"):
        return
    if blocked != r.blocked:
        r.blocked = blocked
        step.changed()


def refusal(r: Record) -> RefusedError | None:
    """Why a prompt is refused now, with what to do about it."""
    if r.held is None:
        return RefusedError("unavailable", r.unled.message) if r.unled is not None else None
    until = None if r.held.until is None else r.held.until.isoformat().replace("+00:00", "Z")
    return RefusedError("budget_exhausted", r.held.message, {"until": until})


def works(r: Record) -> bool:
    """Whether something runs that costs: a turn, or agents in the background."""
    return (r.turn or bool(r.agents)) and r.alive and r.living


def enforce(step: Step, *, again: bool = False) -> None:
    """Stop what runs in a held session: once, and ``again`` if it goes on all the same."""
    r = step.r
    if (r.held or r.unled) is None or not works(r) or r.kind == "external":
        return
    what = "/".join((str(r.process), str(r.results) if r.turn else "idle", *r.agents))
    if r.stopped == what and not (again and "interrupt" not in r.requests.values()):
        return
    r.stopped = what
    step.durable = True
    if r.kind not in CONTROLLED:
        screen.interrupt(step)
        return
    step.request("interrupt", say.interrupt)
    for agent in r.agents:
        step.request("stop", say.stop_task, agent)
