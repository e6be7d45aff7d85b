"""The ledger's figures for Prometheus. Read when it asks, in a thread of its own: so lists are copied first.

Sessions that have ended have no series: a thousand of them would stay for a day.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bus import messages as m
from services.ledger import money
from services.ledger.core import Ledger
from services.ledger.levels import BOUNDS, UNLIMITED
from services.ledger.periods import PERIODS

MAX_MODELS = 50  # names come from agents: what is beyond is counted together
OVER = frozenset({"ended", "failed"})


class LedgerFigures(Collector):
    """``living``: uids of the sessions that go on; ``burn_usd_per_h``: as the last tick found it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.living: frozenset[str] | None = None  # not known yet: all whose snapshot stands
        self.burn_usd_per_h: float | None = None

    def listed(self, index: m.SessionIndex) -> None:
        self.living = frozenset(entry.uid for entry in index.sessions if entry.status not in OVER)

    def collect(self) -> Iterable[Metric]:
        yield from self._periods()
        yield from self._models()
        yield from self._sessions()

    def _periods(self) -> Iterable[Metric]:
        spent = GaugeMetricFamily("pointsman_spent_dollars", "Spent in the running period", labels=["period"])
        budget = GaugeMetricFamily("pointsman_budget_dollars", "What may be spent in it", labels=["period"])
        used = GaugeMetricFamily(
            "pointsman_budget_used_ratio", "What of it is spent, running turns included", labels=["period"]
        )
        for period in PERIODS:
            total, limit = self._ledger.spent(period), self._ledger.period_budget(period)
            spent.add_metric([period], money.to_usd(total))
            if limit:
                budget.add_metric([period], money.to_usd(limit))
                used.add_metric([period], total / limit)
        burn = GaugeMetricFamily(
            "pointsman_burn_dollars_per_hour",
            "What all sessions spend at the present rate",
            value=self.burn_usd_per_h or 0.0,
        )
        return spent, budget, used, burn

    def _models(self) -> Iterable[Metric]:
        cost = CounterMetricFamily("pointsman_cost_dollars", "Cost of all time", labels=["model"])
        tokens = CounterMetricFamily("pointsman_tokens", "Tokens of all time", labels=["model", "kind"])
        costs: dict[str, float] = {}
        counts: dict[tuple[str, str], int] = {}
        for place, (name, tally) in enumerate(sorted(self._ledger.node.models.copy().items())):
            model = name if place < MAX_MODELS else "other"
            use = tally.use
            costs[model] = costs.get(model, 0.0) + money.to_usd(use.cost)
            for kind, count in (
                ("input", use.input),
                ("output", use.output),
                ("cache_read", use.cache_read),
                ("cache_write", use.cache_write),
            ):
                counts[model, kind] = counts.get((model, kind), 0) + count
        for model, dollars in costs.items():
            cost.add_metric([model], dollars)
        for (model, kind), count in counts.items():
            tokens.add_metric([model, kind], count)
        return cost, tokens

    def _sessions(self) -> Iterable[Metric]:
        spent = GaugeMetricFamily(
            "pointsman_session_spent_dollars", "Of a living session", labels=["session"]
        )
        used = GaugeMetricFamily(
            "pointsman_session_budget_used_ratio", "Of a living session that has one", labels=["session"]
        )
        levels = dict.fromkeys((UNLIMITED, *(name for _, name in BOUNDS)), 0)
        for account in self._ledger.accounts():
            if not account.shown or (self.living is not None and account.uid not in self.living):
                continue
            levels[account.level] += 1
            spent.add_metric([account.session], money.to_usd(account.used))
            if account.budget:
                used.add_metric([account.session], account.used / account.budget)
        by_level = GaugeMetricFamily(
            "pointsman_budget_sessions", "Living sessions by the level of their budget", labels=["level"]
        )
        for level, count in levels.items():
            by_level.add_metric([level], count)
        held = GaugeMetricFamily(
            "pointsman_sessions_held", "Sessions that a budget holds", value=self._ledger.holds.count()
        )
        return spent, used, by_level, held
