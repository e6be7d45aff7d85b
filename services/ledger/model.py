"""What the ledger knows, in values, and what it asks its store to keep."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, TypeVar

from bus.effects import Do, Keep
from services.ledger.forecast import Burn

AGENT = "agent"  # a posting's source: what the agent itself said
TRANSCRIPT = "transcript"  # … what stands in its transcript
IMPORT = "import"  # … what stood there before Pointsman
UNATTRIBUTED = "unattributed"  # the model of a cost of which the agent does not say what for


class Use(NamedTuple):
    """Cost in 10⁻¹² dollars, and tokens. ``cache_write`` includes its two kinds, where they are known."""

    cost: int = 0
    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0

    def plus(self, other: Use) -> Use:
        return Use(*(a + b for a, b in zip(self, other, strict=True)))

    def minus(self, other: Use) -> Use:
        return Use(*(a - b for a, b in zip(self, other, strict=True)))

    @property
    def tokens(self) -> int:
        return self.input + self.output + self.cache_read + self.cache_write


NOTHING = Use()


@dataclass(frozen=True, slots=True)
class Report:
    """What an agent said of itself: ``total`` and ``models`` are running totals of one agent process.

    A baseline says where counting starts from now on and is no cost. ``fact`` is the id it came with.
    """

    uid: str
    session: str
    process: int
    turn: int
    baseline: bool
    at: datetime
    total: int
    models: Mapping[str, Use]
    model: str | None
    write_5m: int  # of this turn alone, as is write_1h
    write_1h: int
    notional: bool
    fact: str

    @property
    def place(self) -> tuple[int, bool, datetime, str]:
        """Its place among the reports of its process. A baseline follows the turn whose number it has; the
        time orders two baselines within one turn.
        """
        return (self.turn, self.baseline, self.at, self.fact)


@dataclass(frozen=True, slots=True)
class Near:
    """The reports around a new one in its process. ``same`` is one of the same turn."""

    same: Report | None = None
    before: Report | None = None
    after: Report | None = None


@dataclass(frozen=True, slots=True)
class Posting:
    """A row that never changes. ``turns`` is 1 on one row of each turn; ``share`` is 1 where the model took
    part in the turn; both are 0 on a correction. ``estimated``: the agent could not say it any more.
    ``priced`` is what the tokens cost by the price table, None where it does not know the model.
    """

    id: str
    uid: str
    process: int
    turn: int
    model: str
    at: datetime
    use: Use
    turns: int
    share: int
    source: str
    notional: bool
    fact: str
    estimated: bool = False
    priced: int | None = None

    def sum(self) -> Sum:
        """What it adds."""
        unpriced = self.use.tokens if self.priced is None else 0
        estimated = self.use.cost if self.estimated else 0
        more = (self.turns, self.share, estimated, self.priced or 0, unpriced, self.notional)
        return Sum(self.uid, self.model, self.use, *more)


K = TypeVar("K")


def summed(rows: Iterable[Posting], key: Callable[[Posting], K]) -> dict[K, tuple[Sum, int]]:
    """Sums of many rows by a key, and of how many. ``uid`` and ``model`` are those of a key's first row."""
    found: dict[K, tuple[Posting, list[int]]] = {}
    for row in rows:
        name = key(row)
        if name not in found:
            found[name] = (row, [0] * 13)
        counts = found[name][1]
        for place, count in enumerate(row.use):
            counts[place] += count
        counts[7] += row.turns
        counts[8] += row.share
        counts[9] += row.use[0] if row.estimated else 0
        if row.priced is None:
            counts[11] += row.use.tokens
        else:
            counts[10] += row.priced
        counts[12] += 1
        if row.notional and not found[name][0].notional:
            found[name] = (row, counts)
    return {
        name: (
            Sum(row.uid, row.model, Use(*c[:7]), c[7], c[8], c[9], c[10], c[11], row.notional),
            c[12],
        )
        for name, (row, c) in found.items()
    }


@dataclass(slots=True)
class Tally:
    """Sums. ``unpriced``: tokens for which the price table has no price."""

    use: Use = NOTHING
    turns: int = 0
    unpriced: int = 0

    def add(self, use: Use, turns: int, unpriced: int = 0) -> None:
        self.use = self.use.plus(use)
        self.turns += turns
        self.unpriced += unpriced


@dataclass(frozen=True, slots=True)
class Sum:
    """One row of sums, from the store or of a posting."""

    uid: str
    model: str
    use: Use
    turns: int
    share: int
    estimated: int
    priced: int
    unpriced: int  # tokens that have no price
    notional: bool


@dataclass(slots=True)
class Account:
    """Sums of one session, or of the node (``uid`` empty). ``shown``: its snapshot stands on the bus."""

    uid: str = ""
    session: str = ""
    cwd: str = ""
    kind: str = ""
    opened_at: datetime | None = None
    shown: bool = True
    budget: int | None = None
    default_budget: bool = True  # nobody has set it: it is the configured default
    level: str = "unlimited"
    running: int = 0  # of turns that have not reported yet: counts against the budget, is not posted
    all: Tally = field(default_factory=Tally)
    models: dict[str, Tally] = field(default_factory=dict)
    estimated: int = 0
    priced: int = 0  # what the price table says of the same tokens
    transcript: int | None = None  # what the transcripts say; None: none was found
    drift: int = 0  # what is counted, less what the witness says
    cause: str | None = None  # of a drift that is told
    notional: bool = False
    burn: Burn = field(default_factory=Burn)

    @property
    def used(self) -> int:
        """What counts against the budget."""
        return self.all.use.cost + self.running

    def add(self, row: Sum) -> None:
        self.all.add(row.use, row.turns, row.unpriced)
        self.models.setdefault(row.model, Tally()).add(row.use, row.share, row.unpriced)
        self.notional = self.notional or row.notional
        self.estimated += row.estimated
        self.priced += row.priced


# ── to be kept ───────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class KeepSession(Keep):
    """A session, or what has become known of it. ``opened_at`` None: only its costs have been heard of."""

    uid: str
    session: str
    cwd: str
    kind: str
    opened_at: datetime | None
    shown: bool


@dataclass(frozen=True, slots=True)
class KeepReport(Keep):
    report: Report


@dataclass(frozen=True, slots=True)
class KeepPosting(Keep):
    posting: Posting


@dataclass(frozen=True, slots=True)
class KeepBudget(Keep):
    """``scope``: ``session:<uid>`` or ``period:<period>``; ``source``: ``default``, ``opened`` or
    ``command``. The last one of a scope holds; the others tell how it came to be.
    """

    scope: str
    budget: int | None
    source: str
    by: str | None
    via: str | None
    at: datetime


# ── to be done ───────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Counted(Do):
    """For metrics: what a report led to. ``rest`` is the cost that no model accounts for."""

    postings: Sequence[Posting]
    reset: bool
    late: bool
    rest: int


def session_scope(uid: str) -> str:
    return f"session:{uid}"


def period_scope(period: str) -> str:
    return f"period:{period}"
