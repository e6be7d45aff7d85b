"""The verb about budgets, and what stands beside costs: what is left, until when, and of which limits."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET

from bus import messages as m
from bus import topics as t
from bus.errors import RefusedError
from services.cli.line import Line, UsageError, World, connected
from services.cli.out import say, say_json
from services.cli.sessions import _asked
from services.cli.text import one_line, span, usd

PERIODS = ("day", "week", "month", "total")
_SAID = {"day": "today", "week": "this week", "month": "this month", "total": "in all"}


async def budget(world: World, args: Namespace) -> int:
    """Set what is given; show what there is if nothing is."""
    node: list[tuple[str, float | None]] = [
        (period, value) for period in PERIODS if (value := getattr(args, period)) is not UNSET
    ]
    name, amount = args.name, args.usd
    if args.node:
        if name not in PERIODS or amount is UNSET:
            raise UsageError(f"--node takes a period and a sum: {', '.join(PERIODS)}")
        node, name = [*node, (name, amount)], None
    elif name is not None and amount is UNSET and node:
        raise UsageError(f"budget {name}: which sum? --day, --week, --month and --total are the node's")
    async with connected(world) as line:
        if amount is UNSET and not node:
            return await _show(world, line, name)
        results: list[Any] = []
        for period, value in node:
            results.append(await line.ask(t.LEDGER_BUDGET, m.SetBudget(budget_usd=value), period=period))
            _set(world, f"This node ({period})", value, _period_of(results[-1], period))
        if name is not None:
            command = m.SetBudget(budget_usd=amount)
            results.append(await _asked(line, name, t.LEDGER_SESSION_BUDGET, command))
            _set(world, f"Session {one_line(name)}", amount, results[-1])
    if world.json:
        say_json(results[-1])
    return 0


def _period_of(result: Any, period: str) -> Any:
    periods = result.get("periods") if isinstance(result, dict) else None
    return periods.get(period) if isinstance(periods, dict) else None


def _set(world: World, whose: str, amount: float | None, result: Any) -> None:
    if world.json:
        return
    if amount is None:
        say(f"{whose} has no budget any more.")
        return
    left = ""
    if isinstance(result, dict) and isinstance(result.get("remaining_usd"), int | float):
        spent = result.get("level") == "exhausted"
        left = " All of it is spent." if spent else f" {usd(float(result['remaining_usd']))} are left."
    say(f"{whose} may spend {usd(amount)} in all.{left}")


async def _show(world: World, line: Line, name: str | None) -> int:
    found = await line.read(t.LEDGER_TOTAL, t.LEDGER_SESSION)
    rows = sorted(found.all(t.LEDGER_SESSION, m.LedgerSession), key=lambda row: row.session)
    total = found.one(t.LEDGER_TOTAL, m.LedgerTotal)
    if name is not None:
        rows, total = [row for row in rows if row.session == name], None
        if not rows:
            raise RefusedError(
                "unknown_session",
                f"no budget of a session {one_line(name)!r} is known; see `pointsman budget`",
            )
    if world.json:
        periods = {} if total is None or total.periods is UNSET else total.periods
        sessions = [
            {field: getattr(row, field) for field in ("session", "budget_usd", "remaining_usd", "level")}
            for row in rows
        ]
        say_json(msgspec.to_builtins({"periods": periods, "sessions": sessions}))
        return 0
    for row in rows:
        say(f"{one_line(row.session)}: {_used(row.spent_usd + row.running_usd, row)}")
    for text in lines(total, rows, world.now()):
        say(text)
    if total is not None and not any(text for text in _periods(total)):
        say("This node has no budget of its own: see `pointsman budget --help`.")
    return 0


def _used(spent: float, row: m.LedgerTotal | m.Period) -> str:
    if row.budget_usd is None:
        return f"{usd(spent)} spent, no budget."
    left = usd(row.remaining_usd)
    return f"{usd(spent)} of {usd(row.budget_usd)} spent, {left} left ({one_line(row.level)})."


def lines(total: m.LedgerTotal | None, rows: Sequence[m.LedgerSession], now: datetime) -> Iterable[str]:
    """What a table of costs does not tell."""
    for row in rows:
        name = one_line(row.session)
        if row.level == "exhausted":
            yield f"{name}: its budget is spent; raise it with `pointsman budget {name} USD`."
        elif row.exhausted_at is not None:
            yield f"{name}: at this rate its budget is spent in {_when(row, now)}."
    if total is not None:
        yield from _periods(total)
    limits = total.limits if total is not None else [limit for row in rows for limit in row.limits]
    for limit in limits:
        used = "" if limit.utilization is None else f" {limit.utilization:.0%} used,"
        ends = "at some time" if limit.resets_at is None else f"in {_span(limit.resets_at, now)}"
        yield f"Usage limit {one_line(limit.window)}:{used} reset {ends}."


def _when(row: m.LedgerTotal, now: datetime) -> str:
    assert row.exhausted_at is not None  # noqa: S101  # the caller has looked
    said = _span(row.exhausted_at, now)
    if row.exhausted_between is None:
        return said
    first, last = (_span(at, now) for at in row.exhausted_between)
    return said if first == last else f"{said} (between {first} and {last})"


def _span(at: datetime, now: datetime) -> str:
    return span((at - now).total_seconds())


def _periods(total: m.LedgerTotal) -> Iterable[str]:
    if total.periods is UNSET:
        return
    for name in PERIODS:
        period = total.periods.get(name)
        if period is not None and period.budget_usd is not None:
            spent = max(period.spent_usd, period.budget_usd - (period.remaining_usd or 0.0))
            yield f"This node {_SAID[name]}: {_used(spent, period)}"
