"""What the agent's frames mean: turns, texts, tools, results, costs, limits.

One function per type of frame, in `HANDLERS`. Frames of subagents carry ``parent_tool_use_id``: their texts
and tools are said, but they are not the session's turn. A background subagent's end gives a turn and a result
that nobody prompted: it counts like any other.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec

from bus import messages as m
from services.ingest import callbacks, cut, delivery, evidence, limits, questions, running, wire
from services.ingest.model import Cost
from services.ingest.step import Step, short_hash

MAX_SHOWN_USD = Decimal(10**9)  # as in commands (`bus.messages.Usd`); 1e999 would be no JSON number
RECENT_COSTS = 5  # earlier processes whose totals may be what a resumed one starts from


def on_assistant(step: Step, frame: wire.Assistant) -> None:
    r = step.r
    evidence.heard(step, frame.message.id)
    main = frame.parent_tool_use_id is None
    if main:
        _turn_began(step)
    content = frame.message.content
    blocks = [wire.Block("text", text=content)] if isinstance(content, str) else content
    texts = [block.text for block in blocks if block.type == "text" and block.text]
    if texts:
        text = "\n".join(texts)
        more: dict[str, Any] = {} if main else {"parent_tool_use_id": frame.parent_tool_use_id}
        step.event(
            m.MessageEvent,
            role="assistant",
            message_id=frame.message.id[: wire.MAX_ID_CHARS],
            text=cut.text(text),
            blocks=cut.blocks((block.type, block.text) for block in blocks if block.text),
            **more,
        )
        if main:
            r.last_message = cut.text(text.strip(), cut.LAST_MESSAGE)
            r.asks_back = asks_back(text)
            step.changed()
    for block in blocks:
        if block.type == "tool_use" and block.id:
            agent = None if main else frame.parent_tool_use_id
            questions.tool_started(step, block.name, block.id[: wire.MAX_ID_CHARS], bytes(block.input), agent)


def asks_back(text: str) -> str | None:
    """The last paragraph if it ends with a question mark: a cheap sign that the agent wants an answer, wrong
    where a question is rhetorical or followed by a closing remark. It only makes an event.
    """
    last = text.rstrip().rsplit("\n\n", 1)[-1].strip()
    return cut.text(last, 2000) if last.endswith(("?", "?**", "?)", "？")) else None


def on_user(step: Step, frame: wire.User) -> None:
    content = frame.message.content
    blocks = [wire.ResultBlock("text", text=content)] if isinstance(content, str) else content
    for block in blocks:
        if block.type == "tool_result" and block.tool_use_id:
            output = cut.result_text(bytes(block.content))
            callbacks.finished(step, block.tool_use_id)
            questions.tool_finished(step, block.tool_use_id, bool(block.is_error), output)
    if frame.parent_tool_use_id is not None:
        running.ask(step)  # a subagent's call of the model has finished
    text = "\n".join(block.text for block in blocks if block.type == "text" and block.text)
    if not text:
        return
    prompt = step.session.prompts.get(frame.uuid or "")
    more: dict[str, Any] = {}
    if prompt is not None:
        delivery.delivered(step, prompt)
        more["prompt_ids"] = [prompt.prompt_id]
    if frame.parent_tool_use_id is not None:
        more["parent_tool_use_id"] = frame.parent_tool_use_id
    message_id = frame.uuid or ""
    step.event(m.MessageEvent, role="user", message_id=message_id, text=cut.text(text), blocks=[], **more)


def _turn_began(step: Step) -> None:
    r = step.r
    if not r.turn or r.fresh:
        r.turn, r.fresh = True, False
        step.changed("a turn began")
    delivery.turn_began(step)


def on_system(step: Step, frame: wire.System) -> None:
    r = step.r
    if frame.subtype == "init":
        known = (r.conversation, r.model, r.permission_mode, r.version)
        r.conversation = frame.session_id or r.conversation
        evidence.follow(step, r.conversation)
        r.model = frame.model or r.model
        r.permission_mode = frame.permission_mode or r.permission_mode
        r.version = frame.version or r.version
        r.notional = r.notional or frame.key_source == "oauth"
        if known != (r.conversation, r.model, r.permission_mode, r.version):
            step.changed()
        r.compacting = False
        _turn_began(step)
    elif frame.subtype == "status":
        compacting = frame.status == "compacting"
        if compacting is not r.compacting:
            r.compacting = compacting
            step.changed("compacting" if compacting else "compacted")
        if frame.permission_mode and frame.permission_mode != r.permission_mode:
            r.permission_mode = frame.permission_mode
            step.changed()
    elif frame.subtype == "compact_boundary" and r.compacting:
        r.compacting = False
        step.changed("compacted")
    elif frame.subtype.startswith(("task_", "background_tasks_")):
        running.on_task(step, frame)
    elif frame.subtype == "api_retry":
        step.event(
            m.LimitEvent,
            status="retry",
            window=cut.text(frame.error or "api", 100),
            utilization=None,
            resets_at=_later(step.now, frame.retry_delay_ms),
            attempt=frame.attempt,
        )


def _later(now: datetime, delay_ms: float) -> datetime:
    return now + timedelta(milliseconds=min(max(delay_ms, 0), 86_400_000))


def on_result(step: Step, frame: wire.Result) -> None:
    r = step.r
    prompts = delivery.covered(step, frame.user_message_uuids)
    questions.taken(step, [key for key, q in r.questions.items() if q.answered is not None])
    own = [key for key, q in r.questions.items() if q.agent_id is None]
    questions.withdraw(step, own, "the turn has ended")
    questions.clear_tools(step, all_of_them=False)
    if r.kind != "managed":  # a bridge says what the agent has read; here nobody waits for these any more
        step.drop([line.n for line in step.session.lines.values() if line.kind == "hook"])
    callbacks.drop(step, [key for key, hook in r.callbacks.items() if hook.agent_id is None])
    before = Decimal(r.cost.total)
    r.cost = _cost(frame, r.cost)
    total = Decimal(r.cost.total)
    r.results += 1
    evidence.covered(step)
    _report(step, frame)
    running.over(step)
    step.event(
        m.ResultEvent,
        prompt_ids=[prompt.prompt_id for prompt in prompts],
        model=r.model,
        num_turns=frame.num_turns,
        cost_usd=_shown(total - before),
        total_cost_usd=_shown(total),
        usage=cut.value(bytes(frame.usage)),
        duration_ms=round(frame.duration_ms),
        is_error=frame.is_error,
        subtype=cut.text(frame.subtype, 100),
    )
    if frame.is_error:
        said = frame.result or "; ".join(cut.plain(bytes(e)) for e in frame.errors) or frame.subtype
        step.event(m.ErrorEvent, code=cut.text(frame.subtype, 100), message=cut.text(said, 2000))
    elif r.asks_back is not None:
        step.event(m.QuestionEvent, text=r.asks_back, options=[])
    limits.turn_ended(step, frame, prompts)
    r.asks_back = None
    r.turns += 1
    r.turn = r.compacting = r.fresh = False
    step.changed(f"the turn has ended: {cut.text(frame.subtype, 100)}")


def _shown(usd: Decimal) -> float:
    """A cost for an event: a JSON number, whatever the agent said. The ledger judges the text itself."""
    return float(min(max(usd, Decimal(0)), MAX_SHOWN_USD))


def late_result(step: Step, frame: wire.Result) -> None:
    """A result that is read after the session's end: nothing happens any more, but what it cost is told."""
    step.r.cost = _cost(frame, step.r.cost)
    step.r.results += 1
    evidence.covered(step)
    _report(step, frame)
    step.durable = True


def _cost(frame: wire.Result, last: Cost) -> Cost:
    """The totals that a result tells. What cannot be read says nothing: as zero, it would be taken for a new
    beginning, and the next total would count whole.
    """
    total = wire.number_text(frame.total_cost_usd, "")
    if not total:
        return last
    models = {
        name[:200]: {
            "cost_usd": wire.number_text(use.costUSD),
            "input": use.inputTokens,
            "output": use.outputTokens,
            "cache_read": use.cacheReadInputTokens,
            "cache_write": use.cacheCreationInputTokens,
            "cache_write_5m": use.cacheCreationEphemeral5mInputTokens,
            "cache_write_1h": use.cacheCreationEphemeral1hInputTokens,
        }
        for name, use in list(frame.modelUsage.items())[:100]
    }
    return Cost(total, models)


def _report(step: Step, frame: wire.Result) -> None:
    r = step.r
    split = frame.cache_creation()
    fact_id = "cost-" + short_hash(r.uid, r.process, frame.uuid or f"result {r.results}")
    _post_cost(step, fact_id, r.cost, split.ephemeral_5m_input_tokens, split.ephemeral_1h_input_tokens)


def _post_cost(
    step: Step, fact_id: str, cost: Cost, write_5m: int = 0, write_1h: int = 0, *, baseline: bool = False
) -> None:
    r = step.r
    data = m.CostReported(
        session=r.session,
        process=r.process,
        turn=r.results,
        baseline=baseline,
        total_usd=cost.total,
        models=msgspec.convert(cost.models, dict[str, m.ModelUsage]),
        model=r.model,
        cache_write_5m=write_5m,
        cache_write_1h=write_1h,
        notional=r.notional,
    )
    step.post("ledger", "cost", fact_id, data)


# ── the cost that a resumed process starts from ──────────────────────────────────────────────────────────


def baseline_from(text: str, earlier: list[Cost]) -> Cost:
    """What ``get_session_cost`` says, made exact: it rounds to four places, but what a process starts from is
    a total that an earlier one reported. Without such a one, the rounded figure; without a figure, nothing.
    """
    found = running.SAYS.search(text)
    if found is None:
        return Cost()
    said = Decimal(found[1])
    half = Decimal(1).scaleb(-len(found[1].partition(".")[2])) / 2
    for cost in reversed(earlier):
        if abs(Decimal(cost.total) - said) <= half:
            return cost
    return Cost(found[1])


def set_baseline(step: Step, cost: Cost | None = None) -> None:
    """The process is counted from here (None: from zero); prompts may go. Once more, if the agent says late
    that it is not zero.
    """
    r = step.r
    again = ("late",) if r.baseline else ()
    r.cost, r.baseline = cost or Cost(), True
    if cost is not None and cost in r.earlier:
        # It stays among the newest: a process that is killed saves no total, and the next begins here, too.
        r.earlier = [*(one for one in r.earlier if one != cost), cost]
    _post_cost(step, f"base-{short_hash(r.uid, r.process, *again)}", r.cost, baseline=True)
    step.changed()


def on_reset(step: Step, frame: wire.ConversationReset) -> None:
    """``/clear``: the agent counts from zero, in the same process; so does who counts with it."""
    r = step.r
    r.conversation = frame.new_conversation_id or r.conversation
    evidence.follow(step, r.conversation)
    running.over(step)
    r.cost = Cost()
    _post_cost(step, "base-" + short_hash(r.uid, r.process, frame.uuid or r.seq), r.cost, baseline=True)
    step.changed("a new conversation")


# ── requests, answers, the rest ──────────────────────────────────────────────────────────────────────────


def on_request(step: Step, frame: wire.ControlRequest) -> None:
    asked = frame.read()
    if isinstance(asked, wire.CanUseTool):
        if asked.agent_id is None:
            _turn_began(step)
        questions.ask(step, frame.request_id, asked)
    elif isinstance(asked, wire.HookCallback):
        callbacks.callback(step, frame.request_id, asked)


def on_response(step: Step, frame: wire.ControlResponse) -> None:
    """The agent answered a request of ours."""
    answered = frame.response
    what = step.r.requests.pop(answered.request_id, None)
    if what is None:
        if answered.request_id == delivery.AGAIN:
            delivery.found_open(step, frame.pending())
        return
    r = step.r
    step.proved(answered.request_id)
    kind, _, value = what.partition(":")
    step.durable = True
    if kind != "cost":
        step.changed()
    ok = answered.subtype == "success"
    if kind == "initialize":
        r.hooked = ok
        delivery.found_open(step, frame.pending())
        delivery.initialized(step)
    elif kind == "cost":
        running.told(step, frame, value)
    elif kind == "baseline":
        cost = baseline_from(frame.text(), r.earlier)
        if not r.baseline or r.cost == Cost() != cost:  # or late, and nothing was counted from zero yet
            set_baseline(step, cost)
    elif ok and kind == "model":
        r.model = value
    elif ok and kind == "mode":
        r.permission_mode = value
    elif not ok and kind in ("model", "mode"):
        r.wanted_model = None if kind == "model" else r.wanted_model
        r.wanted_mode = None if kind == "mode" else r.wanted_mode
        message = f"the agent refused {kind} {value!r}: {answered.error or 'no reason given'}"
        step.event(m.ErrorEvent, code="not_allowed", message=cut.text(message, 2000))


def on_cancel(step: Step, frame: wire.ControlCancel) -> None:
    questions.withdraw(step, [frame.request_id], "the agent no longer asks")
    callbacks.drop(step, [frame.request_id])


HANDLERS: dict[type, Callable[[Step, Any], None]] = {
    wire.Assistant: on_assistant,
    wire.User: on_user,
    wire.System: on_system,
    wire.Result: on_result,
    wire.ControlRequest: on_request,
    wire.ControlResponse: on_response,
    wire.ControlCancel: on_cancel,
    wire.CommandLifecycle: delivery.on_lifecycle,
    wire.RateLimit: limits.on_limit,
    wire.ConversationReset: on_reset,
}
