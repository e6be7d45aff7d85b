"""When a service counts as online, offline or stale.

Theory of operation. What proves life is a sign of it: a heartbeat (``services/<s>/health``, every 10 s), or
``online`` said while we listen. Its age goes by our own monotonic clock from its arrival; the peer's clock
and the broker's promises do not come in. Only a heartbeat that was retained before we came counts with the
age that its ``at`` gives it, and a retained ``online`` proves nothing.

A last will alone is not trusted: a broker may publish the will of a connection that has long been replaced.
So ``offline`` counts once a heartbeat has been missed as well; until then the service is what its heart says.

| last word | silent for | verdict |
|---|---|---|
| online | never heard, awaited for `STALE_S` or more | stale |
| any | else never heard | offline |
| online, or none | less than `STALE_S` | online |
| online, or none | `STALE_S` or more | stale: hung, or cut off |
| offline | less than `MISSED_S` | online |
| offline | `MISSED_S` or more | offline |

While we are deaf ourselves (no connection to the bus, or our own loop stood still) nobody's silence grows, if
they were online before; who was not stays as they were until heard.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from bus import messages as m

HEARTBEAT_S = 10.0  # contract, section 3
MISSED_S = 12.0  # one heartbeat, and what the way may take
STALE_S = 25.0  # two heartbeats and a half: within the 30 s in which a hang must be noticed


class Verdict(enum.StrEnum):
    ONLINE = "online"
    OFFLINE = "offline"
    STALE = "stale"


class Word(enum.Enum):
    """What ``services/<s>/status`` said last."""

    NONE = enum.auto()
    ONLINE = enum.auto()
    OFFLINE = enum.auto()


@dataclass(slots=True)
class Pulse:
    """One service. ``quiet_since`` is the monotonic time (seconds) of its last sign of life, or since when we
    have waited for the first. ``missed``: its silence has been reported.
    """

    quiet_since: float
    heard: bool = False
    word: Word = Word.NONE
    health: m.ServiceHealth | None = None
    missed: bool = False

    def verdict(self, mono: float) -> Verdict:
        """By the table above."""
        if not self.heard:
            hung = self.word is Word.ONLINE and self.silence(mono) >= STALE_S
            return Verdict.STALE if hung else Verdict.OFFLINE
        if self.word is Word.OFFLINE:
            return Verdict.OFFLINE if self.silence(mono) >= MISSED_S else Verdict.ONLINE
        return Verdict.STALE if self.silence(mono) >= STALE_S else Verdict.ONLINE

    def silence(self, mono: float) -> float:
        """Seconds."""
        return max(0.0, mono - self.quiet_since)

    def says(self, word: str, mono: float, *, retained: bool) -> None:
        """A word that we do not know counts as none."""
        self.word = {"online": Word.ONLINE, "offline": Word.OFFLINE}.get(word, Word.NONE)
        if self.word is Word.ONLINE and not retained:
            self._alive(mono)

    def beats(self, health: m.ServiceHealth, mono: float, *, age_s: float | None) -> None:
        """A heartbeat. ``age_s``: it was retained, and is so old by its own account; None: it came now."""
        self.health = health
        if age_s is None:
            if self.word is Word.OFFLINE:
                self.word = Word.NONE  # it lives: that will was an old connection's
            self._alive(mono)
        elif not self.heard or mono - age_s > self.quiet_since:
            self.heard = True
            self.quiet_since = mono - max(0.0, age_s)
            self.missed = self.missed and age_s >= STALE_S

    def _alive(self, mono: float) -> None:
        self.heard, self.missed = True, False
        self.quiet_since = mono

    def not_listening(self, since: float, until: float) -> None:
        """We could not hear anybody from ``since`` to ``until``."""
        awaited = not self.heard and not self.missed
        if awaited or self.verdict(since) is Verdict.ONLINE:
            self.quiet_since = max(self.quiet_since, until)
