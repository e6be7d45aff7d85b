"""Who is held because a budget is exhausted, and how ingest hears of it, exactly once.

Theory of operation. Whether a session has to be held is a function of what was spent and of the budgets
alone (`wanted`); what ingest was told last is kept (`KeepHold`) in the transaction of the fact that tells it.
So whatever happens, and wherever the ledger is killed, comparing the two says what is still to be told:
`Holds.settle` is called after everything that could have changed the answer, and for all sessions at start.
Facts cross once and in order, so ingest ends up where this ends up.

A session is held by its own budget, or by one of the node's; of several, by the one that ends last. Not held:

- an external session: nothing interrupts it;
- one whose costs are notional (a subscription), by the default budget: nobody asked for that one.

Those are warned about by the level alone. A period's budget has its room back when the period ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo

from bus import messages as m
from bus.codec import encode_data
from bus.effects import Effect, Keep, Post
from services.ledger import money
from services.ledger.levels import EXHAUSTED, level
from services.ledger.model import Account

SESSION = "session"
LASTING = ("total", "month", "week", "day")
"""The node's periods, the one that is exhausted for longest first."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Why a session is held: the budget of ``scope`` (``session`` or a period), in 10⁻¹² dollars."""

    scope: str
    budget: int
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Spent:
    """A period of the node: what was spent (running turns included), of what, until when."""

    spent: int
    budget: int | None
    until: datetime | None


@dataclass(frozen=True, slots=True)
class KeepHold(Keep):
    """What ingest was told of a session: number ``n``. ``hold`` None: it is free."""

    uid: str
    n: int
    hold: Hold | None


class Holds:
    """What ingest was told last: number and hold by uid."""

    def __init__(self, told: Mapping[str, tuple[int, Hold | None]], zone: tzinfo) -> None:
        self._told = dict(told)
        self._zone = zone

    def settle(self, account: Account, periods: Mapping[str, Spent], now: datetime) -> list[Effect]:
        """Tell ingest, if it has to hear something else than it did."""
        n, told = self._told.get(account.uid, (0, None))
        hold = wanted(account, periods)
        if hold == told:
            return []
        n += 1
        self._told[account.uid] = (n, hold)
        data = m.BudgetHold(session=account.session, held=False)
        if hold is not None:
            spent = account.used if hold.scope == SESSION else periods[hold.scope].spent
            message = explained(account.session, hold, spent, self._zone)
            data = m.BudgetHold(
                session=account.session, held=True, scope=hold.scope, until=hold.until, message=message
            )
        fact = m.Fact(
            id=f"hold-{account.uid}-{n}", type="hold", uid=account.uid, at=now, data=encode_data(data)
        )
        return [KeepHold(account.uid, n, hold), Post("ingest", fact)]

    def count(self) -> int:
        """Sessions that are held, for metrics."""
        return sum(hold is not None for _, hold in self._told.values())


def wanted(account: Account, periods: Mapping[str, Spent]) -> Hold | None:
    """Why the session has to be held, or None."""
    if account.kind == "external":
        return None
    own = account.budget
    if own is not None and not warned_only(account) and level(account.used, own) == EXHAUSTED:
        return Hold(SESSION, own)
    return exhausted_period(periods)


def allowance(account: Account, purses: Sequence[int]) -> int | None:
    """What a session may still spend before it is held (`wanted`), None: nothing would hold it. ``purses``:
    what is left of the node's budgets.
    """
    if account.kind == "external":
        return None
    left = list(purses)
    if account.budget is not None and not warned_only(account):
        left.append(account.budget - account.used)
    return min(left, default=None)


def warned_only(account: Account) -> bool:
    """Whether the session's own budget is one that only warns."""
    return account.kind == "external" or (account.default_budget and account.notional)


def exhausted_period(periods: Mapping[str, Spent]) -> Hold | None:
    for name in LASTING:
        period = periods[name]
        if period.budget is not None and level(period.spent, period.budget) == EXHAUSTED:
            return Hold(name, period.budget, period.until)
    return None


def explained(session: str, hold: Hold, spent: int, zone: tzinfo) -> str:
    """For whoever is refused: what has happened, and what to do."""
    amounts = f"{_usd(spent)} of {_usd(hold.budget)} dollars"
    more = _more(hold.budget, spent)
    if hold.scope == SESSION:
        return f"{session} has spent {amounts}, its budget: raise it with `pointsman budget {session} {more}`"
    raised = f"raise it with `pointsman budget --{hold.scope} {more}`"
    if hold.until is None:
        return f"this node has spent {amounts}, its budget: {raised}"
    ends = hold.until.astimezone(zone).strftime("%A %H:%M")
    return f"this node has spent {amounts}, its budget for the {hold.scope}: {raised}, or wait until {ends}"


def _usd(amount: int) -> str:
    usd = money.to_usd(amount)
    return f"{usd:.2f}" if usd >= 1 or not usd else f"{usd:.4f}"


def _more(budget: int, spent: int) -> str:
    """An example of a budget that lets it go on: twice the present one, or what is spent, in whole cents."""
    cents = -(-2 * max(budget, spent) // (money.PICO // 100))
    return f"{cents / 100:g}" if cents else "1"
