"""Usage limits of a subscription: what the agent says of them, and prompts that wait for a reset.

The agent tells how much of a window it has used (`rate_limit_event`, only with a login; not 2.1.42); below
its first warning only 2.1.329 says how much, in its list of all windows. When one is used up, the turn ends
at once as an error. With ``ledger.resume_when_reset`` the prompts of that turn are then sent again, once,
after the reset: they wait as new prompts of the same ``prompt_id`` (the agent drops a uuid that it knows),
everything else waits with them, and the state says ``blocked`` by ``limit``. The result of the turn that
they come to is the proof; the ledger is told, and says it (``limit_reset``).

Theory of operation. ``limited`` is what the agent said last: a window that is used up, or None. ``waits`` is
that window while something waits for it; it is set by a result and taken away by its time, both kept:

    result, failed, limited ──▶ waits (until the reset) ──time──▶ sent again ──result──▶ told, whatever it is
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from bus import messages as m
from services.ingest import cut, delivery, holds, wire
from services.ingest.model import Limited, Prompt
from services.ingest.step import Step, short_hash

REJECTED = "rejected"
MARGIN_S = 10.0  # clocks differ by seconds: not at the very moment
HTTP_LIMITED = 429
MAX_WINDOWS = 20  # of one account; there are five or so


def on_limit(step: Step, frame: wire.RateLimit) -> None:
    info, r = frame.rate_limit_info, step.r
    r.notional = True  # only with a subscription
    window, status = cut.text(info.rate_limit_type, 100), cut.text(info.status, 100)
    resets_at = _epoch(info.resets_at)
    r.limited = Limited(window, resets_at) if status == REJECTED else None
    windows = {cut.text(name, 100): one for name, one in list(info.unified_windows.items())[:MAX_WINDOWS]}
    used = info.utilization
    if used is None and window in windows:
        used = windows[window].utilization
    step.event(m.LimitEvent, status=status, window=window, utilization=used, resets_at=resets_at)
    _post(step, window, status, used, resets_at)
    for name, one in windows.items():
        if name != window:
            _post(step, name, cut.text(one.status, 100), one.utilization, _epoch(one.resets_at))


def _post(step: Step, window: str, status: str, used: float | None, resets_at: datetime | None) -> None:
    r = step.r
    data = m.LimitSeen(session=r.session, window=window, status=status, utilization=used, resets_at=resets_at)
    step.post("ledger", "limit", f"limit-{short_hash(r.uid, r.seq, window)}", data)


def _epoch(seconds: float | None) -> datetime | None:
    if seconds is None or not 0 < seconds < 10_000_000_000:  # the year 2286
        return None
    return datetime.fromtimestamp(seconds, UTC)


def turn_ended(step: Step, frame: wire.Result, prompts: Sequence[Prompt]) -> None:
    """A result: the proof for prompts that were sent again, or the sign that these must wait."""
    r = step.r
    again = [prompt for prompt in prompts if prompt.again]
    if again:
        _tell(step, again, not frame.is_error, cut.text(frame.result or frame.subtype, 500))
    waiting = [prompt for prompt in prompts if not prompt.again]
    limited = r.limited if _limited(frame) else None
    if not (step.resume and waiting) or limited is None or limited.until is None:
        return
    until = max(limited.until, step.now) + timedelta(seconds=MARGIN_S)
    r.waits = Limited(limited.window, until)
    holds.refresh(step)
    for prompt in waiting:
        made = delivery.made(r, prompt.prompt_id, prompt.text, prompt.by, again=limited.window or "limit")
        delivery.queue(step, made)


def _limited(frame: wire.Result) -> bool:
    """Whether the API refused the turn; such a result is a "success" with an error's text."""
    refused = frame.api_error_status in (None, HTTP_LIMITED)
    return frame.is_error and frame.subtype == "success" and refused


def reset(step: Step) -> None:
    """The time has come: what waits is sent, as soon as the agent listens."""
    r = step.r
    r.waits = r.limited = None
    holds.refresh(step)
    step.changed("the usage limit was reset")


def _tell(step: Step, again: Sequence[Prompt], ok: bool, message: str) -> None:
    r = step.r
    prompt_ids = [prompt.prompt_id for prompt in again]
    data = m.LimitOver(
        session=r.session, window=again[0].again, prompt_ids=prompt_ids, ok=ok, message=message
    )
    step.post("ledger", "limit_over", f"limitover-{short_hash(r.uid, r.process, r.results, r.seq)}", data)
