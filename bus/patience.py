"""When a broker that lives is left all the same: it owes an acknowledgement for too long. Pure.

A broker may answer pings and do nothing else: a stuck one, or one whose part for this connection has died
(amqtt's may). What is counted are looks, one a second, and not the time: a process that was stopped itself
has heard nothing meanwhile, and that is nobody's fault.
"""

from __future__ import annotations

PUBACK_LOOKS = 20
SUBACK_LOOKS = 10  # who asks for something waits for its subscription first, and 15 s in all


class Patience:
    """For one kind of acknowledgement over one connection. ``limit``: looks in a row."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0
        self._heard = False

    def heard(self) -> None:
        """One of them came."""
        self._heard = True

    def look(self, *, owed: bool) -> bool:
        """Returns whether it is over. ``owed``: something is unacknowledged, and we do read."""
        self._count = self._count + 1 if owed and not self._heard else 0
        self._heard = False
        return self._count >= self._limit
