"""Calls that were examined before anybody asked about them. Pure.

An agent lets its hook see each call, hears that no rule forbids it, and asks a moment later: 2 to 80 ms were
measured. Examining a call takes 1 to 3 ms, which its question would wait for; so it is done in between. What
was seen then holds for a moment only, because where a link leads may change.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from bus import messages as m
from services.approvals.question import Examined

FRESH_S = 1.0
MAX_CALLS = 64
MAX_CHARS = 16 * 1024  # of an input: a longer one takes memory, and is seldom

_Key = tuple[object, ...]


class Foresight:
    """Each call that is kept is recalled once."""

    def __init__(self) -> None:
        self._calls: dict[_Key, tuple[datetime, Examined]] = {}

    def keep(self, uid: str, q: m.Question, examined: Examined, now: datetime) -> None:
        if len(q.input_json) > MAX_CHARS:
            return
        if len(self._calls) >= MAX_CALLS:
            del self._calls[next(iter(self._calls))]
        self._calls[_key(uid, q)] = (now, examined)

    def recall(self, uid: str, q: m.Question, now: datetime) -> Examined | None:
        """None for a call that is another one in any way, or was seen too long ago."""
        found = self._calls.pop(_key(uid, q), None)
        if found is None or not timedelta() <= now - found[0] <= timedelta(seconds=FRESH_S):
            return None
        return found[1]


def _key(uid: str, q: m.Question) -> _Key:
    """All that `examine` goes by."""
    return (uid, q.session, q.kind, q.tool, q.cwd, q.input_json, *q.auto_approve)
