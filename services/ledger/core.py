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
otherwise) and by command, and the node's by period. What counts against them is what is posted and what the
running turns have cost so far (`running`). A level is a function of that and the budget alone, so it is right
after any crash; the event that tells of a crossing is said once, and may be lost as any event. What is
exhausted is held (`budgets`): that is a fact for ingest, and is not lost.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from msgspec import UNSET

from bus import messages as m
from bus import topics as t
from bus.effects import Effect, Publish, ReplyTo
from bus.errors import PeerError
from services.ledger import limits, money
from services.ledger.chain import postings
from services.ledger.model import (
    Account,
    Counted,
    KeepBudget,
    KeepReport,
    Report,
    period_scope,
    session_scope,
)
from services.ledger.reading import read_report, uid_of
from services.ledger.running import KeepRunning
from services.ledger.running import amount as running_amount
from services.ledger.witnessing import Witnessing


class Ledger(Witnessing):
    """Events in (methods), effects out."""

    # facts

    def opened(self, fact: m.Fact, data: m.SessionOpened, now: datetime) -> list[Effect]:
        """A session exists. Again for the same uid: nothing new."""
        uid = uid_of(fact, data.session)
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
        self._began(account, fact.at)
        self._names[data.session] = uid
        account.budget, account.default_budget = budget, source == "default"
        crossed = self._crossed(account, now)
        return [
            self._keep(account),
            KeepBudget(session_scope(uid), budget, source, None, None, now),
            *self._settle(account, now),
            *self._say(account, now),
            *crossed,
        ]

    def cost(self, fact: m.Fact, data: m.CostReported, now: datetime) -> list[Effect]:
        """An agent's running totals. Raises `PeerError` for what cannot be, or contradicts others."""
        report = read_report(uid_of(fact, data.session), fact, data)
        near = self._recall(report)
        if near.same is not None:
            self._repeated(report, near.same)
            # Kept before, but perhaps not what follows from it: with a server there are two databases.
            reported = self._reported(report.uid, report.process, now)
            return [*reported, *self._spent_more(self._accounts[report.uid], now)] if reported else []
        rows, made = postings(report, near)
        rows = [replace(row, priced=self._price(row.model, row.at, row.use)) for row in rows]
        if self.node.all.use.cost + sum(max(0, row.use.cost) for row in rows) > money.MAX_TOTAL:
            raise PeerError("bad_request", "the ledger cannot hold such sums: is this agent's cost true?")
        effects: list[Effect] = []
        account = self._account(report.uid, report.session, now, effects)
        effects.append(KeepReport(report))
        rest = made.rest if report.models else 0
        effects.append(Counted(rows, reset=made.reset, late=near.after is not None, rest=rest))
        taken_back, more = self.witness.covered(report)
        effects += more
        if rows and not report.baseline:
            effects += self._reported(report.uid, report.process, now)
        effects += self.book([*rows, *taken_back], now)
        self.witness.reported(report, account.all.use.cost)
        return effects

    def running(self, fact: m.Fact, data: m.CostRunning, now: datetime) -> list[Effect]:
        """What a running turn has cost so far. Raises `PeerError` for what cannot be."""
        uid = uid_of(fact, data.session)
        amount = running_amount(data, self._price, fact.at)
        effects: list[Effect] = []
        account = self._account(uid, data.session, now, effects)
        account.notional = account.notional or data.notional
        effects.append(KeepRunning(uid, data.process, amount, account.notional))
        grown = self._run(uid, data.process, amount)
        for sums in (account, self.node):
            sums.burn.add(now, grown)
        self._burning.add(uid)
        return effects + self._spent_more(account, now)

    def limit(self, fact: m.Fact, data: m.LimitSeen, now: datetime) -> list[Effect]:
        """An agent told of a usage limit."""
        effects: list[Effect] = []
        account = self._account(uid_of(fact, data.session), data.session, now, effects)
        effects += self._limits.seen(account.uid, data, fact.at)
        return [*effects, *self._say(account, now), self._total(now)]

    def limit_over(self, fact: m.Fact, data: m.LimitOver, now: datetime) -> list[Effect]:
        """A prompt was sent again after a limit's reset."""
        return [limits.over(uid_of(fact, data.session), data, now)]

    def _repeated(self, report: Report, known: Report) -> None:
        same = replace(known, at=report.at, fact=report.fact) == report
        if same or known.fact == report.fact:
            return
        raise PeerError(
            "bad_request",
            f"turn {report.turn} of process {report.process} was reported before, with "
            f"{money.to_usd(known.total)} dollars and not {money.to_usd(report.total)}",
        )

    # commands

    def set_budget(self, command: m.SetBudget, session: str, now: datetime) -> list[Effect]:
        """Result: the session's snapshot."""
        account = self._living(session, command.uid)
        account.budget = None if command.budget_usd is None else money.from_usd(command.budget_usd)
        account.default_budget = False
        crossed = self._crossed(account, now)
        return [
            self._keep_budget(session_scope(account.uid), account.budget, command, now),
            *self._settle(account, now),
            *self._say(account, now),
            ReplyTo(command.id, self._said(account, now)),
            *crossed,
        ]

    def set_period_budget(self, command: m.SetBudget, period: str, now: datetime) -> list[Effect]:
        """Result: the node's snapshot."""
        budget = None if command.budget_usd is None else money.from_usd(command.budget_usd)
        self._budgets[period] = budget
        self.node.budget = self._budgets["total"]
        rolled = self._roll(now)
        crossed = self._crossed_periods(now)
        total = self._total(now)
        return [
            self._keep_budget(period_scope(period), budget, command, now),
            *rolled,
            *self._settle_all(now),
            total,
            ReplyTo(command.id, total.payload),
            *crossed,
        ]

    @staticmethod
    def _keep_budget(scope: str, budget: int | None, command: m.SetBudget, now: datetime) -> KeepBudget:
        return KeepBudget(scope, budget, "command", command.by, command.via, now)

    # other people's messages, and time

    def listed(self, index: m.SessionIndex, now: datetime) -> list[Effect]:
        """Ingest says which sessions there are: others' snapshots need not stand any longer."""
        there = {entry.uid for entry in index.sessions}
        effects: list[Effect] = []
        for name, uid in self._names.items():
            account = self._accounts[uid]
            if uid in there and not account.shown:
                account.shown = True
                effects += [self._keep(account), *self._settle(account, now), *self._say(account, now)]
            elif uid not in there and account.shown and account.opened_at and index.at > account.opened_at:
                account.shown = False
                effects += [self._keep(account), *self._forget(account)]
                effects.append(Publish(t.LEDGER_SESSION, None, {"session": name}))
        return effects

    def tick(self, now: datetime) -> list[Effect]:
        """To be called every half minute or so: burn rates fall, days end."""
        effects: list[Effect] = []
        for uid in sorted(self._burning):
            account = self._accounts[uid]
            account.burn.prune(now)
            if not account.burn:
                self._burning.discard(uid)
            effects += self._say(account, now)
        day = self._since["day"]
        rolled = self._roll(now)
        if effects or rolled or self.node.burn or day != self._since["day"]:
            effects = [*effects, *rolled, self._total(now)]
        return effects

    def snapshots(self, now: datetime) -> list[Effect]:
        """Everything that stands on the bus."""
        effects: list[Effect] = [*self._roll(now), *self._settle_all(now)]
        for uid in self._names.values():
            effects += self._say(self._accounts[uid], now)
        return [*effects, self._total(now)]

    def tool(self, event: m.ToolEvent, now: datetime) -> list[Effect]:
        """An agent called a tool, or has its answer: the same again and again is a runaway."""
        return self._runaway.called(event, now)
