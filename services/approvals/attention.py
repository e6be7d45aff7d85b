"""How much of the gate's time each session gets for the reading of its questions. Pure.

One assessment is bounded (`danger.patience`), but an agent may ask again and again. So a session whose
question took long is read in a hurry for a while: its everyday calls are judged as ever, for they take a
twentieth of that, and what is written to take long costs the others little.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta

from services.approvals.model import Place

HURRIED_S = 0.1  # of processor time for an assessment
FOR_S = 60.0
LONG = 0.5  # of what an assessment may take is long
MAX_SESSIONS = 1000  # that are remembered


class Attention:
    """``hurried`` is the place for whoever looks at many questions in one go, too."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.hurried = replace(place, sight=replace(place.sight, limit_s=HURRIED_S))
        self._until: dict[str, datetime] = {}

    @contextmanager
    def to(self, uid: str, now: datetime) -> Iterator[Place]:
        """Read a question of this session here."""
        until = self._until.get(uid)
        place = self._place if until is None or until <= now else self.hurried
        began_s = place.sight.spent()
        yield place
        if place.sight.spent() - began_s > place.sight.limit_s * LONG:
            self.forget(uid)
            self._until[uid] = now + timedelta(seconds=FOR_S)
            if len(self._until) > MAX_SESSIONS:
                self.forget(next(iter(self._until)))

    def forget(self, uid: str | None) -> None:
        """The session is over."""
        self._until.pop(uid or "", None)
