"""The switch that stops new work when this machine runs short (contract, section 8).

Theory of operation. Three things may be short: memory (used of budget), the disk of the home, and health of
the agents themselves (they crash in a loop). Each is judged in three levels, so that there is hysteresis:

| cause | trouble | calm |
|---|---|---|
| memory | `OPENS` of the budget or more | less than `CLOSES` |
| disk | less than `DISK_TROUBLE` free | `DISK_CALM` or more |
| crash_loop | `CRASHES` sessions failed within `CRASHES_S` | once it is open for that: none did |

The worst of them is what the breaker is told, at each measurement. While it is open nothing is admitted. Its
pause over, and the trouble with it (but not calm yet), it is half open: one agent is let through, the next
one only `PROBE_S` later, for it takes that long to see what an agent does to memory. When the trouble comes
back, or is still there after the pause, the next pause is twice as long, up to `PAUSE_MAX_S`; a breaker that
stayed closed for longer than its last pause begins with the first again. Calm closes it at once.

`TABLE` is the whole of it: (state, what happens) → (state, what is done).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from bus import messages as m
from bus.errors import RefusedError

OPENS = 0.80  # of the memory budget
CLOSES = 0.618
DISK_TROUBLE = 100 << 20
DISK_CALM = 200 << 20
CRASHES = 3  # in
CRASHES_S = 300.0
PAUSE_S = 15.0
PAUSE_MAX_S = 600.0
PROBE_S = 30.0


class State(enum.StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Signal(enum.Enum):
    """What can happen to the breaker."""

    CALM = enum.auto()
    BETWEEN = enum.auto()
    TROUBLE = enum.auto()
    PAUSE_OVER = enum.auto()  # and no trouble
    ASKED = enum.auto()  # may an agent be started?
    ASKED_AGAIN = enum.auto()  # … while the one that was let through is being watched


class Action(enum.Enum):
    NOTHING = enum.auto()
    OPEN = enum.auto()  # and pause
    HALF_OPEN = enum.auto()
    CLOSE = enum.auto()
    ADMIT = enum.auto()
    PROBE = enum.auto()  # admit, and watch
    REFUSE = enum.auto()


S, E, A = State, Signal, Action
TABLE: Mapping[tuple[State, Signal], tuple[State, Action]] = {
    (S.CLOSED, E.CALM): (S.CLOSED, A.NOTHING),
    (S.CLOSED, E.BETWEEN): (S.CLOSED, A.NOTHING),
    (S.CLOSED, E.TROUBLE): (S.OPEN, A.OPEN),
    (S.CLOSED, E.PAUSE_OVER): (S.CLOSED, A.NOTHING),
    (S.CLOSED, E.ASKED): (S.CLOSED, A.ADMIT),
    (S.CLOSED, E.ASKED_AGAIN): (S.CLOSED, A.ADMIT),
    (S.OPEN, E.CALM): (S.CLOSED, A.CLOSE),
    (S.OPEN, E.BETWEEN): (S.OPEN, A.NOTHING),
    (S.OPEN, E.TROUBLE): (S.OPEN, A.NOTHING),
    (S.OPEN, E.PAUSE_OVER): (S.HALF_OPEN, A.HALF_OPEN),
    (S.OPEN, E.ASKED): (S.OPEN, A.REFUSE),
    (S.OPEN, E.ASKED_AGAIN): (S.OPEN, A.REFUSE),
    (S.HALF_OPEN, E.CALM): (S.CLOSED, A.CLOSE),
    (S.HALF_OPEN, E.BETWEEN): (S.HALF_OPEN, A.NOTHING),
    (S.HALF_OPEN, E.TROUBLE): (S.OPEN, A.OPEN),
    (S.HALF_OPEN, E.PAUSE_OVER): (S.HALF_OPEN, A.NOTHING),  # the next one may come
    (S.HALF_OPEN, E.ASKED): (S.HALF_OPEN, A.PROBE),
    (S.HALF_OPEN, E.ASKED_AGAIN): (S.HALF_OPEN, A.REFUSE),
}

ACTIONS = {A.OPEN: "breaker_opened", A.HALF_OPEN: "breaker_half_open", A.CLOSE: "breaker_closed"}
ADVICE = {  # by cause
    "memory": "end or hibernate sessions to make room, or raise watchdog.memory_budget",
    "disk": "make room on that disk",
    "crash_loop": "`pointsman ls` says which failed, and `pointsman logs NAME` why",
}
LEVELS = (E.CALM, E.BETWEEN, E.TROUBLE)  # the worst last


@dataclass(frozen=True, slots=True)
class Measured:
    """What the breaker looks at. ``failed``: sessions whose agents crashed in a loop, within `CRASHES_S`."""

    used_bytes: int
    disk_free_bytes: int
    failed: int = 0


@dataclass(slots=True)
class Breaker:
    """``since`` is when the state was entered; ``retry_at`` when it may be worth asking again."""

    budget_bytes: int
    since: datetime
    state: State = State.CLOSED
    used_bytes: int = 0
    cause: str | None = None
    reason: str = "nothing is short"
    retry_at: datetime | None = None
    pause_s: float = 0.0  # the last one
    evicted: list[str] = field(default_factory=list)

    def measured(self, seen: Measured, now: datetime) -> list[m.WatchdogEvent]:
        """Returns what is to be told."""
        self.used_bytes = seen.used_bytes
        causes = self._causes(seen)
        level = max((signal for signal, _ in causes.values()), key=LEVELS.index)
        cause = next(name for name, (signal, _) in causes.items() if signal is level)
        if level is E.TROUBLE or self.cause is None or causes[self.cause][0] is E.CALM:
            self.cause = None if level is E.CALM else cause
        self.reason = causes[self.cause or "memory"][1]
        told = self._happens(level, now)
        if self.state is not S.CLOSED and self.retry_at is not None and now >= self.retry_at:
            if level is E.TROUBLE:
                self._pause(now)
            else:
                told += self._happens(E.PAUSE_OVER, now)
                self.retry_at = None
        if self.state is S.CLOSED:
            self.cause = self.retry_at = None
        return told

    def asked(self, now: datetime) -> None:
        """May an agent be started? Raises `RefusedError` (``breaker_open``)."""
        watched = self.state is S.HALF_OPEN and self.retry_at is not None and now < self.retry_at
        _, action = TABLE[self.state, E.ASKED_AGAIN if watched else E.ASKED]
        if action is A.PROBE:
            self.retry_at = now + timedelta(seconds=PROBE_S)
        elif action is A.REFUSE:
            at = self.retry_at or now + timedelta(seconds=PROBE_S)
            said = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            raise RefusedError(
                "breaker_open",
                f"no agent is started now: {self.reason}. It may go again at {said}; "
                f"{ADVICE[self.cause or 'memory']}",
                {"retry_at": said, "cause": self.cause},
            )

    def _causes(self, seen: Measured) -> dict[str, tuple[Signal, str]]:
        """By name: how bad it is, and the words for it."""
        ratio, free = self.used_ratio, seen.disk_free_bytes
        memory = E.TROUBLE if ratio >= OPENS else E.CALM if ratio < CLOSES else E.BETWEEN
        disk = E.TROUBLE if free < DISK_TROUBLE else E.CALM if free >= DISK_CALM else E.BETWEEN
        crashes = E.TROUBLE if seen.failed >= CRASHES else E.CALM
        if crashes is E.CALM and seen.failed and self.cause == "crash_loop":
            crashes = E.BETWEEN
        used, budget = self.used_bytes / 2**20, self.budget_bytes / 2**20
        return {
            "memory": (memory, f"memory is at {ratio:.0%} of its budget ({used:.0f} of {budget:.0f} MiB)"),
            "disk": (disk, f"{free // 2**20} MiB free on the disk of the home"),
            "crash_loop": (crashes, f"the agents of {seen.failed} sessions crashed in a loop"),
        }

    def _happens(self, signal: Signal, now: datetime) -> list[m.WatchdogEvent]:
        state, action = TABLE[self.state, signal]
        if state is not self.state:
            if (
                action is A.OPEN
                and self.state is S.CLOSED
                and now - self.since > timedelta(seconds=self.pause_s)
            ):
                self.pause_s = 0.0
            self.state, self.since = state, now
        if action is A.OPEN:
            self._pause(now)
        if action not in ACTIONS:
            return []
        return [m.WatchdogEvent(at=now, action=ACTIONS[action], reason=self.reason)]

    def _pause(self, now: datetime) -> None:
        self.pause_s = min(self.pause_s * 2, PAUSE_MAX_S) if self.pause_s else PAUSE_S
        self.retry_at = now + timedelta(seconds=self.pause_s)

    @property
    def used_ratio(self) -> float:
        """Used of budget; 0 where there is no budget to speak of."""
        return round(self.used_bytes / self.budget_bytes, 4) if self.budget_bytes > 0 else 0.0

    def snapshot(self) -> m.Breaker:
        return m.Breaker(
            state=self.state.value,
            cause=self.cause if self.state is not S.CLOSED else None,
            reason=self.reason,
            used_bytes=self.used_bytes,
            budget_bytes=self.budget_bytes,
            used_ratio=self.used_ratio,
            since=self.since,
            retry_at=self.retry_at,
            evicted=sorted(self.evicted),
        )
