"""What a running turn has cost so far: asked of the agent, or counted from its stream.

One turn of an agent may make hundreds of model calls, so its cost is followed within it. Claude Code answers
``get_session_cost`` from 2.1.119 on, in a few milliseconds and during tools: it is asked after each model
call that its stream shows as finished, when a subagent has the result of a tool (subagents do not stream),
and every `ASK_S` while it works. Background agents go on after the turn has ended: the agent tells when they
begin and end, and what they cost is followed like a turn. Measured with 2.1.329 and 2.1.119: an answer to a
question asked at ``message_stop`` counts that call. The figure is rounded to four places below half a dollar,
to cents above; the least that it can mean is taken.

An agent that refuses the question (2.1.42) is followed by the usage that its stream tells; the ledger prices
it. What is told here is no posting: the turn's result is, and replaces it.
"""

from __future__ import annotations

import re
from decimal import Decimal

from bus import messages as m
from services.ingest import say, wire
from services.ingest.holds import CONTROLLED, works
from services.ingest.model import Call, Running, Session
from services.ingest.states import Status
from services.ingest.step import Step, short_hash

ASK_S = 5.0
MAX_CALLS = 1000  # that run at once; and models of one turn
MAX_AGENTS = 500  # in the background of a session
_AGENT = "local_agent"
_ASKED = "cost:"
_BUSY = (Status.WORKING, Status.COMPACTING)

SAYS = re.compile(r"(?:Estimated|Total) cost:\s*\$(\d{1,12}(?:\.\d{1,12})?)")


def on_task(step: Step, frame: wire.System) -> None:
    """Something in the background began or ended; 2.1.329 lists what there is after each change."""
    r = step.r
    before = list(r.agents)
    if frame.subtype == "background_tasks_changed":
        r.agents = [task.task_id for task in frame.tasks if task.task_type == _AGENT][:MAX_AGENTS]
    elif frame.task_id and frame.subtype == "task_started" and frame.task_type == _AGENT:
        r.agents = [*(a for a in r.agents if a != frame.task_id), frame.task_id][-MAX_AGENTS:]
    elif frame.task_id and frame.subtype == "task_notification":
        r.agents = [agent for agent in r.agents if agent != frame.task_id]
    if r.agents != before:
        step.durable = True


def heard(session: Session, frame: wire.StreamEvent) -> bool:
    """Take a piece of a stream that carries no text. True: a model call has finished."""
    event, parent = frame.event, frame.parent_tool_use_id
    if event.type == "message_start" and event.message is not None:
        if len(session.calls) >= MAX_CALLS:
            session.calls.clear()
        if len(parent or "") <= wire.MAX_ID_CHARS:
            session.calls[parent] = Call(event.message.model[:200], wire.usage(event.message.usage))
    elif event.type == "message_delta" and parent in session.calls:
        call = session.calls[parent]
        call.usage = wire.usage(event.usage, call.usage)
    return event.type == "message_stop"


def finished(step: Step, frame: wire.StreamEvent) -> None:
    """A model call has finished: its tokens are known, and the agent's figure counts it."""
    call = step.session.calls.pop(frame.parent_tool_use_id, None)
    r = step.r
    if not works(r) or r.kind not in CONTROLLED:
        return
    if call is not None and (call.model in r.running.usage or len(r.running.usage) < MAX_CALLS):
        sums = r.running.usage.get(call.model, [0] * 5)
        r.running.usage[call.model] = [a + b for a, b in zip(sums, wire.counts(call.usage), strict=True)]
        step.durable = True
    if r.tells_cost:
        ask(step)
    elif call is not None:
        _post(step, None)


def tick(step: Step) -> None:
    """Every `ASK_S` while something works."""
    r = step.r
    if r.tells_cost and (r.status in _BUSY or r.agents):
        ask(step)


def ask(step: Step) -> None:
    """Ask for the running figure, one question at a time."""
    r = step.r
    if not (works(r) and r.initialized and r.baseline and r.tells_cost) or r.kind not in CONTROLLED:
        return
    if any(what.startswith(_ASKED) for what in r.requests.values()):
        step.session.ask_again = True
        return
    step.session.ask_again = False
    step.request(f"{_ASKED}{r.results}", say.get_session_cost)


def told(step: Step, answered: wire.ControlResponse, turn: str) -> None:
    """The agent's answer; one that comes after the turn says nothing any more."""
    r = step.r
    if answered.response.subtype != "success":
        r.tells_cost = False
        if works(r) and r.running.usage:
            _post(step, None)
        return
    found = SAYS.search(answered.text())
    if found is not None and works(r) and turn == str(r.results):
        spent = max(_at_least(found[1]) - Decimal(r.cost.total), Decimal(0))
        if spent > Decimal(r.running.told):
            _post(step, f"{spent:f}")
    if step.session.ask_again:
        ask(step)


def _at_least(said: str) -> Decimal:
    """The least that a rounded figure can mean: nothing is stopped for money that was not spent, and what
    was stopped is not released again by a result that says a fraction of a cent less.
    """
    places = len(said.partition(".")[2])
    return Decimal(said) - Decimal(1).scaleb(-places) / 2


def over(step: Step) -> None:
    """The turn has ended: its report says it all."""
    step.r.running = Running(n=step.r.running.n)


def _post(step: Step, spent: str | None) -> None:
    r = step.r
    running = r.running
    running.n += 1
    running.told = spent or running.told
    step.durable = True
    usage = {} if spent is not None else streamed(running)
    data = m.CostRunning(
        session=r.session,
        process=r.process,
        turn=r.results + 1,
        spent_usd=spent,
        usage=usage,
        notional=r.notional,
    )
    step.post("ledger", "running", f"running-{short_hash(r.uid, running.n)}", data)


def streamed(running: Running) -> dict[str, m.RunningUsage]:
    """Tokens of the turn's finished calls, by model."""
    names = m.RunningUsage.__struct_fields__
    return {
        model: m.RunningUsage(**dict(zip(names, counts, strict=True)))
        for model, counts in running.usage.items()
    }
