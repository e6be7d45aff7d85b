"""The switch that stops new work when memory runs short (contract, section 8).

Today it measures, and is closed: what it sees is the memory of the services, and no agent's, so nothing that
it measures may refuse anybody's work. `TABLE` has therefore one row; the rows that open it and close it again
belong with the measuring of agents and disks, and change this table and nothing around it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from bus import messages as m


class State(enum.StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Signal(enum.Enum):
    """What can happen to the breaker."""

    MEASURED = enum.auto()  # a new figure of used memory, of the services alone


TABLE: Mapping[tuple[State, Signal], State] = {
    (State.CLOSED, Signal.MEASURED): State.CLOSED,
}
"""(state, what happens) → state. What is not in it cannot happen."""

SEEN = "the memory of the services; agents are not measured"


@dataclass(slots=True)
class Breaker:
    """``since`` is when the state was entered."""

    budget_bytes: int
    since: datetime
    state: State = State.CLOSED
    used_bytes: int = 0

    def measured(self, used_bytes: int, now: datetime) -> None:
        self.used_bytes = used_bytes
        state = TABLE[self.state, Signal.MEASURED]
        if state is not self.state:
            self.state, self.since = state, now

    @property
    def used_ratio(self) -> float:
        """Used of budget; 0 where there is no budget to speak of."""
        return round(self.used_bytes / self.budget_bytes, 4) if self.budget_bytes > 0 else 0.0

    def snapshot(self) -> m.Breaker:
        return m.Breaker(
            state=self.state.value,
            cause=None,
            reason=SEEN,
            used_bytes=self.used_bytes,
            budget_bytes=self.budget_bytes,
            used_ratio=self.used_ratio,
            since=self.since,
            retry_at=None,
            evicted=[],
        )
