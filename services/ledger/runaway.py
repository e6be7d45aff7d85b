"""Agents that run in circles: a warning before the budget is gone.

Two signs, each with its hysteresis: it warns once, and again only after the sign had gone and `REST_S` have
passed.

- The same call again and again: of a session's last `CALLS` tool calls, `REPEATS` were the same tool with the
  same input and the same answer. It has gone when fewer than `CALM` are. (The same test run between edits
  has other answers; waiting for something by asking again and again has not, and is worth a look.)
- Burning far above the session's habit: in the last ten minutes or less `TIMES` what it usually spends in
  such a time while it works, and `MIN_SPENT` at least. The habit is the mean of its active spells of five
  minutes in the last hours; with fewer than `ENOUGH` of them it has none. It has gone at `CALM_TIMES`.

Calls are heard as events, which may be lost: nothing is decided here, and after a restart it begins anew.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from datetime import datetime, timedelta

import msgspec

from bus import messages as m
from bus import topics as t
from bus.effects import Effect, Publish
from services.ledger import money
from services.ledger.model import Account

CALLS = 20
REPEATS = 8
CALM = 4
TIMES = 5
CALM_TIMES = 2
MIN_SPENT = money.PICO // 2
ENOUGH = 6
REST_S = 600.0
MAX_OPEN = 500  # calls of a session that have not finished


class _Sign:
    """Something that may be there; tells when it is to be said."""

    __slots__ = ("_last", "_there")

    def __init__(self) -> None:
        self._there = False
        self._last: datetime | None = None

    def look(self, now: datetime, *, there: bool, gone: bool) -> bool:
        if gone:
            self._there = False
        rested = self._last is None or abs(now - self._last) >= timedelta(seconds=REST_S)
        if there and not self._there and rested:
            self._there, self._last = True, now
            return True
        return False


class _Calls:
    __slots__ = ("counts", "last", "open", "sign")

    def __init__(self) -> None:
        self.open: dict[str, bytes] = {}  # tool_use_id → input, hashed
        self.last: deque[bytes] = deque(maxlen=CALLS)
        self.counts: Counter[bytes] = Counter()
        self.sign = _Sign()

    def add(self, what: bytes) -> int:
        """Returns how often it was called lately."""
        if len(self.last) == CALLS:
            oldest = self.last[0]
            self.counts[oldest] -= 1
            if not self.counts[oldest]:
                del self.counts[oldest]
        self.last.append(what)
        self.counts[what] += 1
        return self.counts[what]


class Runaway:
    """The signs of all sessions."""

    def __init__(self) -> None:
        self._calls: dict[str, _Calls] = {}
        self._burns: dict[str, _Sign] = {}

    def forget(self, uid: str) -> None:
        self._calls.pop(uid, None)
        self._burns.pop(uid, None)

    def called(self, event: m.ToolEvent, now: datetime) -> list[Effect]:
        calls = self._calls.setdefault(event.uid, _Calls())
        if event.phase == "started":
            if len(calls.open) >= MAX_OPEN:
                calls.open.clear()
            calls.open[event.tool_use_id] = _hash(event.tool, event.input)
            return []
        given = calls.open.pop(event.tool_use_id, None) if event.phase == "finished" else None
        if given is None:
            return []
        count = calls.add(_hash(given.hex(), event.output, event.is_error))
        most = max(calls.counts.values())
        if not calls.sign.look(now, there=count >= REPEATS, gone=most < CALM):
            return []
        what = f"{event.tool} ({event.summary[:200]})" if event.summary else event.tool
        reason = f"the same call with the same answer, {count} times in its last {len(calls.last)}: {what}"
        return [_say(event.session, event.uid, reason, now)]

    def burns(self, account: Account, now: datetime) -> list[Effect]:
        """To be called when something was spent."""
        recent, habit = compared(account, now)
        if habit is None:
            return []
        sign = self._burns.setdefault(account.uid, _Sign())
        there = recent >= TIMES * habit and recent >= MIN_SPENT
        if not sign.look(now, there=there, gone=recent < CALM_TIMES * habit):
            return []
        reason = (
            f"it spent {money.to_usd(recent):.2f} dollars in the last ten minutes, "
            f"{recent / habit:.0f} times what it usually does"
        )
        return [_say(account.session, account.uid, reason, now)]


def compared(account: Account, now: datetime) -> tuple[int, int | None]:
    """What was spent in the running spell and the one before, and what two active spells usually cost."""
    recent, before = 0, []
    for age, amount in account.burn.spells(now):
        if age <= 1:
            recent += amount
        elif amount > 0:
            before.append(amount)
    return recent, (2 * sum(before) // len(before) or None) if len(before) >= ENOUGH else None


def _hash(*parts: object) -> bytes:
    """Of any values, also such as came from JSON."""
    return hashlib.sha256(msgspec.json.encode([None if p is msgspec.UNSET else p for p in parts])).digest()[
        :16
    ]


def _say(session: str, uid: str, reason: str, now: datetime) -> Effect:
    return Publish(
        t.LEDGER_EVENTS, m.LedgerEvent(at=now, action="runaway", session=session, uid=uid, reason=reason)
    )
