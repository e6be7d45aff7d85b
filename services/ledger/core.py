"""What is counted, and what is said of it. Pure: no bus, no clock, no disk.

Theory of operation. Ingest reports an agent's running totals at the end of each turn, and a baseline wherever
an agent starts from an old total; `chain` makes postings of them. Postings are the truth. The sums here
(`Account`: one per session, and one for the node) are those of all postings, read from the store at start and
kept up to date; nothing is ever computed from a sum that was shown.

A session's name may be used again: what is said under ``ledger/sessions/<name>`` belongs to the session that
was opened last under it, by order of opening (uids go by a clock that may be set back). What the ones before
spent stays in the node's totals and in queries. A snapshot stands for as long as ingest lists the session
(``sessions/index``); when the session is removed, it is cleared.

Budgets: a session's own, set when it is opened (the configured default, unless the command that made it says
otherwise) and by command, and the node's by period. A level is a function of spent and budget alone, so it is
right after any crash; the event that tells of a crossing is said once, and may be lost as any event.
Stopping what is exhausted is not done here yet.

The burn rate is what was booked in the last `BURN_S`, by the hour; null when nothing was. A forecast needs at
least two turns in that time: from one, no rate can be told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo

from msgspec import UNSET

from bus import messages as m
from bus import topics as t
from bus.effects import Effect, Publish, ReplyTo
from bus.errors import PeerError, RefusedError
from services.ledger import money, periods, say
from services.ledger.chain import postings
from services.ledger.levels import level
from services.ledger.model import (
    BURN_S,
    Account,
    Counted,
    KeepBudget,
    KeepPosting,
    KeepReport,
    KeepSession,
    Loaded,
    Near,
    Posting,
    Report,
    period_scope,
    session_scope,
)
from services.ledger.prices import Price
from services.ledger.reading import read_report


class Ledger:
    """Events in (methods), effects out. ``recall`` finds the reports around one in the store; ``price`` says
    what tokens cost by the price table.
    """

    def __init__(
        self,
        *,
        zone: tzinfo,
        default_budget: int | None,
        loaded: Loaded,
        recall: Callable[[Report], Near],
        price: Price,
        now: datetime,
    ) -> None:
        self._zone = zone
        self._default_budget = default_budget
        self._recall = recall
        self._price = price
        self._accounts: dict[str, Account] = {}
        self._names: dict[str, str] = {}  # session → uid of the last one of that name
        self._burning: set[str] = set()  # uids with costs in the last `BURN_S`
        self.node = Account()
        self._budgets: dict[str, int | None] = dict.fromkeys(periods.PERIODS)
        self._quarters = dict(loaded.quarters)
        self._since: dict[str, datetime | None] = {}
        self._spent: dict[str, int] = {}
        self._levels: dict[str, str] = {}
        self._load(loaded)
        self._begin_periods(now)
        for period in periods.PERIODS:
            self._levels[period] = self._level_of(period)

    def _load(self, loaded: Loaded) -> None:
        for s in loaded.sessions:
            self._accounts[s.uid] = Account(s.uid, s.session, s.cwd, s.kind, s.opened_at, s.shown)
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
        for uid, at, cost in loaded.recent:
            self._accounts[uid].recent.append((at, cost))
            self.node.recent.append((at, cost))
            self._burning.add(uid)
        for account in self._accounts.values():
            account.level = level(account.all.use.cost, account.budget)
        self.node.budget = self._budgets["total"]

    # facts

    def opened(self, fact: m.Fact, data: m.SessionOpened, now: datetime) -> list[Effect]:
        """A session exists. Again for the same uid: nothing new."""
        uid = _uid(fact, data.session)
        account = self._accounts.get(uid)
        if account is not None and account.opened_at is not None:
            return []
        if data.budget_usd is UNSET:
            budget, source = self._default_budget, "default"
        else:
            budget, source = None if data.budget_usd is None else money.from_usd(data.budget_usd), "opened"
        if account is None:
            account = self._accounts[uid] = Account(uid)
        account.session, account.cwd, account.kind = data.session, data.cwd, data.kind
        account.opened_at = fact.at
        self._names[data.session] = uid
        account.budget = budget
        crossed = self._crossed(account, now)
        return [
            self._keep(account),
            KeepBudget(session_scope(uid), budget, source, None, None, now),
            *self._say(account, now),
            *crossed,
        ]

    def cost(self, fact: m.Fact, data: m.CostReported, now: datetime) -> list[Effect]:
        """An agent's running totals. Raises `PeerError` for what cannot be, or contradicts others."""
        report = read_report(_uid(fact, data.session), fact, data)
        near = self._recall(report)
        if near.same is not None:
            return self._repeated(report, near.same)
        rows, made = postings(report, near)
        rows = [replace(row, priced=self._price(row.model, row.at, row.use)) for row in rows]
        if self.node.all.use.cost + sum(max(0, row.use.cost) for row in rows) > money.MAX_TOTAL:
            raise PeerError("bad_request", "the ledger cannot hold such sums: is this agent's cost true?")
        effects: list[Effect] = []
        account = self._accounts.get(report.uid)
        if account is None:  # its `opened` comes late, or never: the cost counts all the same
            account = self._accounts[report.uid] = Account(report.uid, report.session)
            account.budget = self._default_budget
            self._names[report.session] = report.uid
            default = KeepBudget(session_scope(report.uid), account.budget, "default", None, None, now)
            effects += [self._keep(account), default]
        effects.append(KeepReport(report))
        effects += [KeepPosting(row) for row in rows]
        rest = made.rest if report.models else 0
        effects.append(Counted(rows, reset=made.reset, late=near.after is not None, rest=rest))
        if rows:
            self._book(account, rows)
            effects += [*self._roll(now), *self._say(account, now), self._total(now)]
            effects += [*self._crossed(account, now), *self._crossed_periods(now)]
        return effects

    def _repeated(self, report: Report, known: Report) -> list[Effect]:
        same = replace(known, at=report.at, fact=report.fact) == report
        if same or known.fact == report.fact:
            return []
        raise PeerError(
            "bad_request",
            f"turn {report.turn} of process {report.process} was reported before, with "
            f"{money.to_usd(known.total)} dollars and not {money.to_usd(report.total)}",
        )

    def _book(self, account: Account, rows: Iterable[Posting]) -> None:
        for row in rows:
            for sums in (account, self.node):
                sums.add(row.sum())
                sums.recent.append((row.at, row.use.cost))
            quarter = periods.quarter_of(row.at)
            self._quarters[quarter] = self._quarters.get(quarter, 0) + row.use.cost
            for period, first in self._since.items():
                if first is None or row.at >= first:
                    self._spent[period] += row.use.cost
        self._burning.add(account.uid)

    # commands

    def set_budget(self, command: m.SetBudget, session: str, now: datetime) -> list[Effect]:
        """Result: the session's snapshot."""
        account = self._living(session, command.uid)
        account.budget = None if command.budget_usd is None else money.from_usd(command.budget_usd)
        crossed = self._crossed(account, now)
        return [
            self._keep_budget(session_scope(account.uid), account.budget, command, now),
            *self._say(account, now),
            ReplyTo(command.id, say.session(account, now)),
            *crossed,
        ]

    def set_period_budget(self, command: m.SetBudget, period: str, now: datetime) -> list[Effect]:
        """Result: the node's snapshot."""
        budget = None if command.budget_usd is None else money.from_usd(command.budget_usd)
        self._budgets[period] = budget
        self.node.budget = self._budgets["total"]
        rolled = self._roll(now)
        total = self._total(now)
        return [
            self._keep_budget(period_scope(period), budget, command, now),
            *rolled,
            total,
            ReplyTo(command.id, total.payload),
            *self._crossed_periods(now),
        ]

    def _living(self, session: str, uid: str | None) -> Account:
        account = self._accounts.get(self._names.get(session, ""))
        if account is None or not account.shown:
            raise RefusedError("unknown_session", f"the ledger knows no session {session!r}")
        if uid is not None and uid != account.uid:
            raise RefusedError("unknown_session", f"{session!r} is {account.uid} now, not {uid}")
        return account

    @staticmethod
    def _keep_budget(scope: str, budget: int | None, command: m.SetBudget, now: datetime) -> KeepBudget:
        return KeepBudget(scope, budget, "command", command.by, command.via, now)

    # other people's messages, and time

    def listed(self, index: m.SessionIndex, now: datetime) -> list[Effect]:
        """Ingest says which sessions there are: others' snapshots need not stand any longer."""
        if index.at.tzinfo is None:
            raise PeerError("bad_request", "times need their zone")
        there = {entry.uid for entry in index.sessions}
        effects: list[Effect] = []
        for name, uid in self._names.items():
            account = self._accounts[uid]
            if uid in there and not account.shown:
                account.shown = True
                effects += [self._keep(account), *self._say(account, now)]
            elif uid not in there and account.shown and account.opened_at and index.at > account.opened_at:
                account.shown = False
                effects += [self._keep(account), Publish(t.LEDGER_SESSION, None, {"session": name})]
        return effects

    def tick(self, now: datetime) -> list[Effect]:
        """To be called every half minute or so: burn rates fall, days end."""
        effects: list[Effect] = []
        for uid in sorted(self._burning):
            account = self._accounts[uid]
            _prune(account, now)
            if not account.recent:
                self._burning.discard(uid)
            effects += self._say(account, now)
        day = self._since["day"]
        rolled = self._roll(now)
        if effects or self.node.recent or day != self._since["day"]:
            effects = [*effects, *rolled, self._total(now)]
        return effects

    def snapshots(self, now: datetime) -> list[Effect]:
        """Everything that stands on the bus."""
        effects: list[Effect] = []
        for uid in self._names.values():
            effects += self._say(self._accounts[uid], now)
        return [*effects, *self._roll(now), self._total(now)]

    # periods

    def _begin_periods(self, now: datetime) -> None:
        self._since = {period: periods.since(period, now, self._zone) for period in periods.PERIODS}
        oldest = periods.quarter_of(now - timedelta(days=periods.KEPT_DAYS))
        self._quarters = {q: cost for q, cost in self._quarters.items() if q >= oldest}
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
        return self._crossed_periods(now)

    def _level_of(self, period: str) -> str:
        return level(self._spent[period], self._budgets[period])

    # saying

    @staticmethod
    def _keep(a: Account) -> KeepSession:
        return KeepSession(a.uid, a.session, a.cwd, a.kind, a.opened_at, a.shown)

    def _say(self, account: Account, now: datetime) -> list[Effect]:
        if not account.shown or self._names.get(account.session) != account.uid:
            return []
        _prune(account, now)
        return [Publish(t.LEDGER_SESSION, say.session(account, now), {"session": account.session})]

    def _total(self, now: datetime) -> Publish:
        _prune(self.node, now)
        found = {p: (self._spent[p], self._budgets[p], self._since[p]) for p in periods.PERIODS}
        return Publish(t.LEDGER_TOTAL, say.total(self.node, found, now))

    def _crossed(self, account: Account, now: datetime) -> list[Effect]:
        spent, budget = account.all.use.cost, account.budget
        before, account.level = account.level, level(spent, budget)
        if before == account.level or (not spent and before == "unlimited"):
            return []
        return [say.crossed(now, before, account.level, spent, budget, account)]

    def _crossed_periods(self, now: datetime) -> list[Effect]:
        effects: list[Effect] = []
        for period in periods.PERIODS:
            before, self._levels[period] = self._levels[period], self._level_of(period)
            if before != self._levels[period]:
                spent, budget = self._spent[period], self._budgets[period]
                effects.append(say.crossed(now, before, self._levels[period], spent, budget, period))
        return effects

    # for metrics

    def spent(self, period: str) -> int:
        return self._spent[period]

    def levels(self) -> dict[str, int]:
        """Sessions whose snapshot stands, by level."""
        found: dict[str, int] = {}
        for uid in list(self._names.values()):  # at once: metrics are read in a thread of their own
            account = self._accounts[uid]
            if account.shown:
                found[account.level] = found.get(account.level, 0) + 1
        return found

    def account(self, uid: str) -> Account | None:
        return self._accounts.get(uid)


def _prune(account: Account, now: datetime) -> None:
    """Forget what is too old for the burn rate (or, after the clock was set back, too far ahead)."""
    window = timedelta(seconds=BURN_S)
    while account.recent and not now - window < account.recent[0][0] <= now + window:
        account.recent.popleft()


def _uid(fact: m.Fact, session: str) -> str:
    if not fact.uid:
        raise PeerError("bad_request", "a fact for the ledger needs the session's uid")
    if fact.at.tzinfo is None:
        raise PeerError("bad_request", "times need their zone")
    if not t.PARAMETERS["session"].match(session):
        raise PeerError("bad_request", f"{session[:80]!r} is no session's name")
    return fact.uid
