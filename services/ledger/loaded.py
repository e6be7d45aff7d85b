"""What the ledger knows when it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from services.ledger.evidence import Followed, Lost, Witnessed
from services.ledger.importing import Run
from services.ledger.model import KeepSession, Sum


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a start reads from the store. ``budgets`` by scope (`scope`); ``sessions`` oldest first."""

    sessions: Sequence[KeepSession] = ()
    sums: Sequence[Sum] = ()
    budgets: Mapping[str, int | None] = field(default_factory=dict)
    defaults: frozenset[str] = frozenset()  # scopes whose budget is the configured default
    quarters: Mapping[int, int] = field(default_factory=dict)  # cost of the node in the last `KEPT_DAYS`
    recent: Sequence[tuple[str, datetime, int]] = ()  # (uid, when, cost), oldest first
    followed: Sequence[Followed] = ()
    lost: Sequence[Lost] = ()
    witnessed: Sequence[Witnessed] = ()
    runs: Sequence[Run] = ()
