"""What sessions may spend while the ledger says nothing. Pure: no clock.

The ledger stops what has used up its budget. When it is dead, hung or cut off, nobody would be stopped; so it
says every few seconds what each session has left (``ledger/allowances``), and after `SILENT_S` without a word
that is kept to here:

| what the last word left it | its own figure | while the ledger is silent |
|---|---|---|
| no limit that stops it (or it is external) | any | goes on |
| some dollars | its agent tells it | goes on until it has spent them, then it is held |
| some dollars | its agent tells none, or began anew since | held after `BLIND_S` |
| never heard of it (younger than the silence) | any | held after `BLIND_S` |

The node's budgets are one purse: what all sessions have spent since the last word comes out of it. Held is as
by an exhausted budget (`holds`), but prompts are refused as ``unavailable``: what is wrong is the ledger. The
next word of the ledger, whatever it says, releases; from then on its own holds count.

Silence is what `passed` adds up, in small steps, so that a process that stood still, or a clock that was set,
does not count as one. `SILENT_S`: the ledger says it every 5 s, and when it is killed it is there again
after 1 to 2 s, on a busy machine 8; so nobody notices that, and a message or two may be late. `BLIND_S`: one
that hangs is noticed after 25 s, stopped after 3 more, and back within 40; for that nobody is interrupted who
may have spent nothing at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from bus import messages as m
from services.ingest.holds import CONTROLLED
from services.ingest.model import Record

SILENT_S = 15.0
BLIND_S = 60.0
STEP_S = 1.0  # the most that one step counts
ADVICE = "`pointsman health` and `pointsman logs ledger` tell why; when it is back this goes on by itself"


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a session had left, and where its agent's figure stood then. ``left`` None: nothing stops it."""

    left: Decimal | None
    process: int
    figure: Decimal


class Allowances:
    """The ledger's last word, and how long ago it was."""

    def __init__(self) -> None:
        self.silent_s = 0.0
        self._node: Decimal | None = None
        self._by_uid: dict[str, Allowance] = {}

    @property
    def silent(self) -> bool:
        """Whether the ledger has been silent for too long."""
        return self.silent_s >= SILENT_S

    def heard(self, word: m.LedgerAllowances, records: Iterable[Record], *, retained: bool) -> None:
        """``retained``: an old word, which the broker has kept; it proves no life."""
        if not retained:
            self.silent_s = 0.0
        self._node = _dollars(word.node_usd)
        known = {record.uid: record for record in records}
        self._by_uid = {
            uid: Allowance(_dollars(left), known[uid].process, figure(known[uid]))
            for uid, left in word.sessions.items()
            if uid in known
        }

    def passed(self, seconds: float) -> None:
        self.silent_s += min(seconds, STEP_S)

    def spent_since(self, records: Iterable[Record]) -> Decimal:
        """What all sessions together have spent since the last word, as far as their agents tell."""
        return sum((self._spent(r) or Decimal(0) for r in records), Decimal(0))

    def refused(self, r: Record, spent_by_all: Decimal) -> str | None:
        """Why the session has to be held while the ledger is silent; None: it need not be."""
        if r.kind == "external":
            return None
        why = f"the ledger, which watches the budgets, has been silent for {self.silent_s:.0f} s"
        known = self._by_uid.get(r.uid)
        blind = self.silent_s >= BLIND_S
        if known is None:
            return f"{why}, and does not know {r.session} yet. {ADVICE}" if blind else None
        if known.left is None:
            return None
        spent = self._spent(r)
        if spent is None:
            return f"{why}, and only it knows what {r.session} spends. {ADVICE}" if blind else None
        if spent < known.left and (self._node is None or spent_by_all < self._node):
            return None
        return f"{why}, and what it had left to spend is spent. {ADVICE}"

    def _spent(self, r: Record) -> Decimal | None:
        """Since the last word; None: its agent does not tell, or is another one now."""
        known = self._by_uid.get(r.uid)
        if known is None or known.process != r.process or not r.tells_cost or r.kind not in CONTROLLED:
            return None
        return max(figure(r) - known.figure, Decimal(0))


def figure(r: Record) -> Decimal:
    """What the agent process has spent by its own count, the running turn included."""
    return Decimal(r.cost.total) + Decimal(r.running.told)


def _dollars(usd: float | None) -> Decimal | None:
    return None if usd is None else Decimal(repr(usd))
