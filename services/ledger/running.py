"""What turns that still run have cost so far: counted against budgets, never posted.

Ingest tells the sum since the process's last report (`CostRunning`), again and again as it grows; it
is replaced by the next, and gone with the turn's own report. A process that dies before its report leaves its
sum standing, because that money is spent: until something is booked for that process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from bus import messages as m
from bus.effects import Keep
from bus.errors import PeerError
from services.ledger import money
from services.ledger.model import Use
from services.ledger.prices import Price


@dataclass(frozen=True, slots=True)
class KeepRunning(Keep):
    """``amount`` 0: nothing runs in that process."""

    uid: str
    process: int
    amount: int
    notional: bool = False


class Running:
    """Running sums by uid and process."""

    def __init__(self, rows: Mapping[tuple[str, int], int]) -> None:
        self._amounts = dict(rows)
        self._of: dict[str, int] = {}
        for (uid, _), amount in rows.items():
            self._of[uid] = self._of.get(uid, 0) + amount
        self.total = sum(rows.values())

    def of(self, uid: str) -> int:
        return self._of.get(uid, 0)

    def set(self, uid: str, process: int, amount: int) -> int:
        """The sum of a process is this now. Returns by how much it has grown."""
        grown = amount - self._amounts.get((uid, process), 0)
        if amount:
            self._amounts[uid, process] = amount
        else:
            self._amounts.pop((uid, process), None)
        self._of[uid] = self._of.get(uid, 0) + grown
        self.total += grown
        return grown

    def processes(self, uid: str) -> list[int]:
        return [process for of, process in self._amounts if of == uid]


DEAREST = {"opus": "claude-opus-4-1", "sonnet": "claude-sonnet-4-5", "haiku": "claude-haiku-4-5"}
"""Of each family of Claude, a model that no other of it was dearer than: what a new one may cost."""


def amount(data: m.CostRunning, price: Price, at: datetime) -> int:
    """What a running turn has cost. A model of Claude without a price counts as the dearest of its family:
    the turn's report says what it was. Any other without a price counts nothing until then.

    Raises `PeerError` for what cannot be.
    """
    try:
        if data.spent_usd is not None:
            return money.from_text(data.spent_usd)
    except ValueError as error:
        raise PeerError("bad_request", str(error)) from None
    found = sum(_priced(model, at, _use(usage), price) for model, usage in data.usage.items())
    if not 0 <= found <= money.MAX_REPORTED:
        raise PeerError("bad_request", "the tokens of this turn cost more than can be")
    return found


def _priced(model: str, at: datetime, use: Use, price: Price) -> int:
    known = price(model, at, use)
    if known is None and "claude" in model:
        like = next((name for family, name in DEAREST.items() if family in model), None)
        known = price(like, at, use) if like is not None else None
    return known or 0


def _use(said: m.RunningUsage) -> Use:
    written = said.cache_write_5m + said.cache_write_1h
    return Use(0, said.input, said.output, said.cache_read, written, said.cache_write_5m, said.cache_write_1h)
