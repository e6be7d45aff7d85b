"""All accounts: sums, periods, levels, and what stands on the bus of them. Pure.

The table that `core` works on, and everything that follows from a change in it: which level was crossed, who
is held, which snapshots have to be said again.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, tzinfo

from bus import messages as m
from bus import topics as t
from bus.effects import Effect, Publish
from bus.errors import RefusedError
from services.ledger import periods, say
from services.ledger.budgets import Holds, Spent, allowance
from services.ledger.levels import EXHAUSTED, level
from services.ledger.limits import Limits
from services.ledger.loaded import Loaded
from services.ledger.model import Account, KeepBudget, KeepSession, Near, Report, session_scope
from services.ledger.prices import Price
from services.ledger.runaway import Runaway
from services.ledger.running import KeepRunning, Running
from services.ledger.standing import Forget, Stood

NOTHING_STOOD = Stood()


class Accounts:
    """``recall`` finds the reports around one in the store; ``price`` says what tokens cost by a price table;
    ``loaded`` and ``stood`` are what was kept.
    """

    def __init__(
        self,
        *,
        zone: tzinfo,
        default_budget: int | None,
        loaded: Loaded,
        recall: Callable[[Report], Near],
        now: datetime,
        price: Price,
        stood: Stood = NOTHING_STOOD,
    ) -> None:
        self._zone = zone
        self._price = price
        self.holds = Holds(stood.holds, zone)
        self._running = Running(stood.running)
        self._limits = Limits(stood.limits)
        self._runaway = Runaway()
        self._default_budget = default_budget
        self._recall = recall
        self._accounts: dict[str, Account] = {}
        self._names: dict[str, str] = {}  # session → uid of the last one of that name
        self._burning: set[str] = set()  # uids with costs in the last `BURN_S`
        self.node = Account()
        self._budgets: dict[str, int | None] = dict.fromkeys(periods.PERIODS)
        self._quarters = dict(loaded.quarters)
        self._since: dict[str, datetime | None] = {}
        self._until: dict[str, datetime | None] = {}
        self._spent: dict[str, int] = {}
        self._levels: dict[str, str] = {}
        self._load(loaded, stood, now)
        self._begin_periods(now)
        for period in periods.PERIODS:
            self._levels[period] = self._level_of(period)

    def _load(self, loaded: Loaded, stood: Stood, now: datetime) -> None:
        for s in loaded.sessions:
            account = Account(s.uid, s.session, s.cwd, s.kind, s.opened_at, s.shown)
            self._accounts[s.uid] = account
            self._began(account, s.opened_at)
            self._names[s.session] = s.uid
        for row in loaded.sums:
            for account in (self._accounts[row.uid], self.node):
                account.add(row)
        for scope, budget in loaded.budgets.items():
            kind, _, name = scope.partition(":")
            if kind == "period":
                self._budgets[name] = budget
            elif name in self._accounts:
                self._accounts[name].budget = budget
                self._accounts[name].default_budget = scope in loaded.defaults
        for uid, at, cost in loaded.recent:
            for account in (self._accounts[uid], self.node):
                account.burn.add(at, cost)
        for uid in {uid for uid, _, _ in loaded.recent}:
            self._accounts[uid].burn.prune(now)
            if self._accounts[uid].burn:
                self._burning.add(uid)
        self.node.burn.prune(now)
        for uid, account in self._accounts.items():
            account.running = self._running.of(uid)
            account.notional = account.notional or uid in stood.notional
            account.level = level(account.used, account.budget)
        self.node.running = self._running.total
        self.node.budget = self._budgets["total"]

    # finding

    def _living(self, session: str, uid: str | None) -> Account:
        account = self._accounts.get(self._names.get(session, ""))
        if account is None or not account.shown:
            raise RefusedError("unknown_session", f"the ledger knows no session {session!r}")
        if uid is not None and uid != account.uid:
            raise RefusedError("unknown_session", f"{session!r} is {account.uid} now, not {uid}")
        return account

    def _account(self, uid: str, session: str, now: datetime, effects: list[Effect]) -> Account:
        """The session's; made if its `opened` comes late, or never: the cost counts all the same."""
        account = self._accounts.get(uid)
        if account is None:
            account = self._accounts[uid] = Account(uid, session, budget=self._default_budget)
            self._names[session] = uid
            default = KeepBudget(session_scope(uid), account.budget, "default", None, None, now)
            effects += [self._keep(account), default]
        return account

    # what follows when something was spent

    def _spent_more(self, account: Account, now: datetime) -> list[Effect]:
        """Everything that follows when a session has spent something."""
        effects = self._roll(now)
        crossed = [*self._crossed(account, now), *self._crossed_periods(now)]
        effects += [*self._settle(account, now), *self._say(account, now), self._total(now), *crossed]
        return effects + self._runaway.burns(account, now)

    def _run(self, uid: str, process: int, amount: int) -> int:
        grown = self._running.set(uid, process, amount)
        self._accounts[uid].running = self._running.of(uid)
        self.node.running = self._running.total
        return grown

    def _reported(self, uid: str, process: int, now: datetime) -> list[Effect]:
        """A process's turn is posted: nothing of it runs any more."""
        if process not in self._running.processes(uid):
            return []
        taken_back = self._run(uid, process, 0)
        for sums in (self._accounts[uid], self.node):
            sums.burn.add(now, taken_back)
        return [KeepRunning(uid, process, 0)]

    # holding

    def _settle(self, account: Account, now: datetime) -> list[Effect]:
        """Tell ingest whether the session is held."""
        if not account.shown or self._names.get(account.session) != account.uid:
            return []
        return self.holds.settle(account, self._periods(), now)

    def _settle_all(self, now: datetime) -> list[Effect]:
        effects: list[Effect] = []
        periods = self._periods()
        for uid in self._names.values():
            if self._accounts[uid].shown:
                effects += self.holds.settle(self._accounts[uid], periods, now)
        return effects

    def _forget(self, account: Account) -> list[Effect]:
        """A removed session: what still ran in it will not be reported any more."""
        for process in self._running.processes(account.uid):
            self._run(account.uid, process, 0)
        self._limits.forget(account.uid)
        self._runaway.forget(account.uid)
        return [Forget(account.uid)]

    # periods

    def _begin_periods(self, now: datetime) -> None:
        self._since = {period: periods.since(period, now, self._zone) for period in periods.PERIODS}
        self._until = {period: periods.until(period, now, self._zone) for period in periods.PERIODS}
        for period, first in self._since.items():
            if first is None:
                self._spent[period] = self.node.all.use.cost
            else:
                start = periods.quarter_of(first)
                self._spent[period] = sum(cost for q, cost in self._quarters.items() if q >= start)

    def _roll(self, now: datetime) -> list[Effect]:
        """Begin new periods when the day has changed, forward or (a clock that is set) back."""
        if periods.since("day", now, self._zone) == self._since["day"]:
            return []
        self._begin_periods(now)
        return [*self._crossed_periods(now), *self._settle_all(now)]

    def _level_of(self, period: str) -> str:
        return level(self._spent[period] + self._running.total, self._budgets[period])

    def _periods(self) -> dict[str, Spent]:
        return {
            p: Spent(self._spent[p] + self._running.total, self._budgets[p], self._until[p])
            for p in periods.PERIODS
        }

    # saying

    def _began(self, account: Account, at: datetime | None) -> None:
        """Burn rates are over the time since then, while that is short."""
        for sums in (account, self.node):
            if at is not None and (sums.burn.began is None or at < sums.burn.began):
                sums.burn.began = at

    @staticmethod
    def _keep(a: Account) -> KeepSession:
        return KeepSession(a.uid, a.session, a.cwd, a.kind, a.opened_at, a.shown)

    def _say(self, account: Account, now: datetime) -> list[Effect]:
        if not account.shown or self._names.get(account.session) != account.uid:
            return []
        return [Publish(t.LEDGER_SESSION, self._said(account, now), {"session": account.session})]

    def _said(self, account: Account, now: datetime) -> m.LedgerSession:
        account.burn.prune(now)
        return say.session(account, self._limits.of(account.uid, now), now)

    def _total(self, now: datetime) -> Publish:
        self.node.burn.prune(now)
        found = {
            p: say.period(
                self._spent[p], self._running.total, self._budgets[p], self._since[p], self._until[p]
            )
            for p in periods.PERIODS
        }
        return Publish(t.LEDGER_TOTAL, say.total(self.node, found, self._limits.all(now), now))

    def _crossed(self, account: Account, now: datetime) -> list[Effect]:
        spent, budget = account.used, account.budget
        before, account.level = account.level, level(spent, budget)
        if before == account.level or (not spent and before == "unlimited"):
            return []
        return [say.crossed(now, before, account.level, spent, budget, account)]

    def _crossed_periods(self, now: datetime) -> list[Effect]:
        effects: list[Effect] = []
        settle = False
        for period in periods.PERIODS:
            before, self._levels[period] = self._levels[period], self._level_of(period)
            if before != self._levels[period]:
                settle = settle or EXHAUSTED in (before, self._levels[period])
                spent, budget = self._spent[period] + self._running.total, self._budgets[period]
                effects.append(say.crossed(now, before, self._levels[period], spent, budget, period))
        return [*effects, *self._settle_all(now)] if settle else effects

    def allowances(self, now: datetime) -> Publish:
        """What may still be spent, for whoever has to stop it while we cannot."""
        purses = [p.budget - p.spent for p in self._periods().values() if p.budget is not None]
        left: dict[str, int | None] = {}
        for uid in self._names.values():
            account = self._accounts[uid]
            if account.shown:
                left[uid] = allowance(account, purses)
        return Publish(t.LEDGER_ALLOWANCES, say.allowances(min(purses, default=None), left, now))

    # for metrics

    def accounts(self) -> list[Account]:
        """One per session that ever was."""
        return list(self._accounts.values())

    def period_budget(self, period: str) -> int | None:
        return self._budgets[period]

    def spent(self, period: str) -> int:
        return self._spent[period]

    def account(self, uid: str) -> Account | None:
        return self._accounts.get(uid)
