"""The ledger's snapshots, events and answers, in the contract's words (section 7). Rounds once, here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, tzinfo
from typing import Any

from msgspec import UNSET

from bus import messages as m
from bus import topics as t
from bus.effects import Publish
from services.ledger import money
from services.ledger.budgets import warned_only
from services.ledger.forecast import exhausted
from services.ledger.levels import EXHAUSTED, level, used_ratio
from services.ledger.model import NOTHING, Account, Tally, Use
from services.ledger.periods import days_of

MAX_MODELS = 50  # in one snapshot; the cheapest others are said together
MAX_ROWS = 1_000  # in one answer: who reads more than that?
OTHERS = "(others)"


def session(account: Account, limits: Sequence[m.LimitWindow], now: datetime) -> m.LedgerSession:
    return m.LedgerSession(session=account.session, uid=account.uid, **_common(account, limits, now))


def total(
    node: Account, periods: Mapping[str, m.Period], limits: Sequence[m.LimitWindow], now: datetime
) -> m.LedgerTotal:
    return m.LedgerTotal(periods=dict(periods), **_common(node, limits, now))


def period(
    spent: int, running: int, budget: int | None, since: datetime | None, until: datetime | None
) -> m.Period:
    return m.Period(
        spent_usd=money.to_usd(spent),
        budget_usd=_usd(budget),
        remaining_usd=_left(spent + running, budget),
        level=level(spent + running, budget),
        since=since,
        until=until,
    )


def _left(used: int, budget: int | None) -> float | None:
    return None if budget is None else money.to_usd(max(0, budget - used))


def _common(account: Account, limits: Sequence[m.LimitWindow], now: datetime) -> dict[str, Any]:
    spent, used, budget = account.all.use.cost, account.used, account.budget
    forecast = exhausted(account.burn, None if budget is None else budget - used, now)
    return {
        "spent_usd": money.to_usd(spent),
        "running_usd": money.to_usd(account.running),
        "budget_usd": _usd(budget),
        "remaining_usd": _left(used, budget),
        "used_ratio": used_ratio(used, budget),
        "level": level(used, budget),
        "turns": account.all.turns,
        "tokens": tokens(account.all.use),
        "by_model": _by_model(account.models),
        "burn_usd_per_h": account.burn.per_hour(now),
        "exhausted_at": None if forecast is None else forecast[0],
        "exhausted_between": None if forecast is None else forecast[1],
        "notional": account.notional,
        "estimated_usd": money.to_usd(account.estimated),
        "unpriced": sorted(name for name, tally in account.models.items() if tally.unpriced)[:MAX_MODELS],
        "witnesses": m.Witnesses(
            agent_usd=money.to_usd(spent - account.estimated),
            priced_usd=money.to_usd(account.priced),
            transcript_usd=_usd(account.transcript),
        ),
        "drift_usd": money.to_usd(account.drift),
        "drift_cause": account.cause,
        "limits": list(limits),
        "at": now,
    }


def _usd(amount: int | None) -> float | None:
    return None if amount is None else money.to_usd(amount)


def allowances(node: int | None, sessions: Mapping[str, int | None], now: datetime) -> m.LedgerAllowances:
    left = {uid: _left(0, amount) for uid, amount in sessions.items()}
    return m.LedgerAllowances(node_usd=_left(0, node), sessions=left, at=now)


def tokens(use: Use) -> m.Tokens:
    return m.Tokens(
        input=use.input,
        output=use.output,
        cache_read=use.cache_read,
        cache_write=use.cache_write,
        cache_write_5m=use.cache_write_5m,
        cache_write_1h=use.cache_write_1h,
    )


def _by_model(models: Mapping[str, Tally]) -> dict[str, m.ModelCost]:
    used = {name: tally for name, tally in models.items() if tally.use != NOTHING}
    if len(used) > MAX_MODELS:
        ranked = sorted(used, key=lambda name: used[name].use.cost, reverse=True)
        others = Tally()
        for name in ranked[MAX_MODELS:]:
            others.add(used[name].use, used[name].turns)
        used = {**{name: used[name] for name in ranked[:MAX_MODELS]}, OTHERS: others}
    return {
        name: m.ModelCost(cost_usd=money.to_usd(y.use.cost), turns=y.turns, tokens=tokens(y.use))
        for name, y in sorted(used.items())
    }


def crossed(
    now: datetime, before: str, after: str, spent: int, budget: int | None, whose: Account | str
) -> Publish:
    """A level was crossed: of a session's budget, or of the node's for a period."""
    what = f"the node's budget ({whose})" if isinstance(whose, str) else "the session's budget"
    of = "no limit" if budget is None else f"{money.to_usd(budget):.2f} dollars"
    warned = not isinstance(whose, str) and after == EXHAUSTED and warned_only(whose)
    event = m.LedgerEvent(
        at=now,
        action="level",
        session=UNSET if isinstance(whose, str) else whose.session,
        uid=UNSET if isinstance(whose, str) else whose.uid,
        from_=before,
        to=after,
        reason=f"{what}: {money.to_usd(spent):.2f} spent of {of}" + ("; it only warns" if warned else ""),
    )
    return Publish(t.LEDGER_EVENTS, event)


QueryRow = tuple[str | int, str, Use, int, int]
"""(key, uid or empty, sums, turns, unpriced tokens); by day, the key numbers a quarter of an hour."""


def answer(by: str, rows: Iterable[QueryRow], zone: tzinfo) -> m.LedgerQueryResult:
    """The answer to a query: days in order, everything else by cost. Beyond `MAX_ROWS` the cheapest (by day:
    the oldest) are said together.
    """
    found: dict[tuple[str, str], Tally] = {}
    day = days_of(zone)
    for key, uid, use, turns, unpriced in rows:
        name = (day(int(key)) if by == "day" else str(key), uid)
        if name in found:
            found[name].add(use, turns, unpriced)
        else:
            found[name] = Tally(use, turns, unpriced)
    ranked = sorted(
        found.items(), key=lambda item: item[0][0] if by == "day" else item[1].use.cost, reverse=True
    )
    if len(ranked) > MAX_ROWS:
        left = [tally for _, tally in ranked[MAX_ROWS:]]
        use = Use(*map(sum, zip(*(tally.use for tally in left), strict=True)))
        others = Tally(use, sum(tally.turns for tally in left), sum(tally.unpriced for tally in left))
        ranked = [*ranked[:MAX_ROWS], ((OTHERS, ""), others)]
    if by == "day":
        ranked.reverse()
    said = [
        m.LedgerQueryRow(
            key=name,
            uid=uid or UNSET,
            spent_usd=money.to_usd(tally.use.cost),
            turns=tally.turns,
            tokens=tokens(tally.use),
            unpriced=tally.unpriced > 0,
        )
        for (name, uid), tally in ranked
    ]
    everything = sum(tally.use.cost for tally in found.values())
    return m.LedgerQueryResult(by=by, rows=said, total_usd=money.to_usd(everything))
