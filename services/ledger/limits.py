"""The account's usage limits, as the agents tell them: how much of each window is used, and when it ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from bus import messages as m
from bus import topics as t
from bus.effects import Keep, Publish

MAX_WINDOWS = 20  # of one session; there are five or so


@dataclass(frozen=True, slots=True)
class KeepLimit(Keep):
    """The last word on a window. They are few, and all sessions of an account share them."""

    uid: str
    window: str
    status: str
    utilization: float | None
    resets_at: datetime | None
    at: datetime


class Limits:
    """By session, and of all."""

    def __init__(self, rows: Iterable[KeepLimit] = ()) -> None:
        self._of: dict[str, dict[str, KeepLimit]] = {}
        for row in rows:
            self._of.setdefault(row.uid, {})[row.window] = row

    def seen(self, uid: str, data: m.LimitSeen, at: datetime) -> list[KeepLimit]:
        known = self._of.setdefault(uid, {})
        if len(known) >= MAX_WINDOWS and data.window not in known:
            return []
        row = KeepLimit(uid, data.window, data.status, data.utilization, data.resets_at, at)
        known[data.window] = row
        return [row]

    def forget(self, uid: str) -> None:
        self._of.pop(uid, None)

    def of(self, uid: str, now: datetime) -> list[m.LimitWindow]:
        return said(self._of.get(uid, {}), now)

    def all(self, now: datetime) -> list[m.LimitWindow]:
        """The newest word on each window, whoever's agent said it."""
        newest: dict[str, KeepLimit] = {}
        for rows in self._of.values():
            for window, row in rows.items():
                if window not in newest or newest[window].at <= row.at:
                    newest[window] = row
        return said(newest, now)


def said(rows: Mapping[str, KeepLimit], now: datetime) -> list[m.LimitWindow]:
    """Windows that have not ended: a new one begins unused."""
    return [
        m.LimitWindow(window=row.window, utilization=row.utilization, resets_at=row.resets_at)
        for _, row in sorted(rows.items())
        if row.resets_at is None or row.resets_at > now
    ]


def over(uid: str, data: m.LimitOver, now: datetime) -> Publish:
    """A prompt was sent again after a reset: whether it worked."""
    result = "it worked" if data.ok else f"it failed again: {data.message}"
    event = m.LedgerEvent(
        at=now,
        action="limit_reset",
        session=data.session,
        uid=uid,
        reason=f"the limit {data.window} was reset, {', '.join(data.prompt_ids)} was sent again: {result}",
    )
    return Publish(t.LEDGER_EVENTS, event)
