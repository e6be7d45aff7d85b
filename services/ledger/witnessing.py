"""Accounts with a second witness: what the transcripts say is kept, booked and compared. Pure.

`witness` decides; here it meets the accounts: who they are, and what is said when they change.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from bus import messages as m
from bus.effects import Effect
from services.ledger import periods
from services.ledger.accounts import Accounts
from services.ledger.evidence import Archive, Lost, Read
from services.ledger.importing import Batch, Imports, KeepBatch, Run, accounts_of
from services.ledger.loaded import Loaded
from services.ledger.model import Account, KeepPosting, Posting, summed
from services.ledger.prices import Prices
from services.ledger.reading import uid_of
from services.ledger.witness import Witness


class Witnessing(Accounts):
    """``archive`` answers what the witness asks of the store."""

    def __init__(self, *, archive: Archive, prices: Prices, loaded: Loaded, **more: Any) -> None:
        super().__init__(loaded=loaded, price=prices.total, **more)
        self.witness = Witness(
            archive=archive,
            prices=prices,
            book=self.book,
            account=self._accounts.get,
            followed=loaded.followed,
            lost=loaded.lost,
            sums=loaded.witnessed,
        )
        self.imports = Imports(loaded.runs, known=archive.known, owner=self.witness.owner, prices=prices)
        told = [a.transcript for a in self._accounts.values() if a.transcript is not None]
        self.node.transcript = sum(told) if told else None

    def followed(self, fact: m.Fact, data: m.ConversationFollowed, now: datetime) -> list[Effect]:
        """A conversation of a session, whose transcript is a second witness."""
        effects: list[Effect] = []
        account = self._account(uid_of(fact, data.session), data.session, now, effects)
        return [*effects, *self.witness.followed(account.uid, data)]

    def unreported(self, fact: m.Fact, data: m.CostUnreported, now: datetime) -> list[Effect]:
        """A process is gone that has not told all."""
        effects: list[Effect] = []
        account = self._account(uid_of(fact, data.session), data.session, now, effects)
        return [*effects, *self.witness.unreported(account.uid, fact, data)]

    def read(self, uid: str, found: Sequence[Read], now: datetime) -> list[Effect]:
        """What is new in a session's transcripts."""
        account = self._accounts[uid]
        before = (account.transcript, account.drift, account.cause)
        effects = self.witness.read(uid, found, now)
        for lost in [effect for effect in effects if isinstance(effect, Lost)]:
            reported = self._reported(uid, lost.process, now)
            effects += [*reported, *self._spent_more(account, now)] if reported else []
        if (account.transcript, account.drift, account.cause) != before:
            drift = account.drift - before[1]
            self.node.drift += drift
            self.node.transcript = (self.node.transcript or 0) + (account.transcript or 0) - (before[0] or 0)
            effects += [*self._say(account, now), self._total(now)]
        return effects

    def _place(self, row: Posting) -> None:
        """Add it to the time in which it was spent."""
        quarter = periods.quarter_of(row.at)
        self._quarters[quarter] = self._quarters.get(quarter, 0) + row.use.cost
        for period, first in self._since.items():
            if first is None or row.at >= first:
                self._spent[period] += row.use.cost

    def imported(self, run: Run, batch: Batch, now: datetime) -> tuple[Run, list[Effect]]:
        """Some lines of an import. What was spent long ago says nothing of how fast money is spent now."""
        then, messages, rows = self.imports.batch(run, batch)
        effects: list[Effect] = [then]
        if not messages:
            return then, effects
        for uid, made in accounts_of(messages, batch.calls).items():
            if uid not in self._accounts:
                self._accounts[uid] = Account(uid, uid, made.cwd, made.kind, made.opened_at, shown=False)
                effects.append(made)
        for added, _ in summed(rows, lambda row: (row.uid, row.model)).values():
            for sums in (self._accounts[added.uid], self.node):
                sums.add(added)
        for row in rows:
            self._place(row)
        effects += [KeepBatch(messages, rows), *self._roll(now), self._total(now)]
        return then, [*effects, *self._crossed_periods(now), *self._settle_all(now)]

    def book(self, rows: Sequence[Posting], now: datetime) -> list[Effect]:
        """Keep postings of one session, and say what they change."""
        if not rows:
            return []
        account = self._accounts[rows[0].uid]
        for row in rows:
            for sums in (account, self.node):
                sums.add(row.sum())
                sums.burn.add(row.at, row.use.cost)
            self._place(row)
        self._burning.add(account.uid)
        return [*(KeepPosting(row) for row in rows), *self._spent_more(account, now)]
