"""What this process has said that must stand on the bus, and what to say again when it does not. Pure.

An owner's snapshots live in its own store; this is the copy of what it last published, so that a broker that
came back empty can be told everything again. A cleared snapshot leaves a tombstone until the broker has
acknowledged the clearing: a broker that was away when it happened still holds the old one.

Of rows that this process owns (`own`), what comes back from the broker is compared: a message that we did not
publish is left over from before a crash, or forged. Most are the echoes of our own publications, which may be
older than our present one; only a message beyond the number of those that we sent is somebody else's. The
retain flag does not help: which of our own was kept when we subscribed cannot be known. A miscount costs one
more publication of the present truth, never a wrong one.
"""

from __future__ import annotations

from collections import Counter

from bus.topics import Topic


class Snapshots:
    """Own snapshots by full topic."""

    def __init__(self) -> None:
        self._current: dict[str, tuple[Topic, bytes]] = {}
        self._cleared: dict[str, Topic] = {}
        self._echoes: Counter[str] = Counter()  # sent on this connection and not yet come back

    def set(self, row: Topic, topic: str, payload: bytes) -> None:
        """The owner says this now; an empty payload clears."""
        if payload:
            self._current[topic] = (row, payload)
            self._cleared.pop(topic, None)
        else:
            self._current.pop(topic, None)
            self._cleared[topic] = row

    def get(self, topic: str) -> bytes | None:
        found = self._current.get(topic)
        return found[1] if found else None

    def sent(self, topic: str) -> None:
        """Handed to the broker on this connection."""
        self._echoes[topic] += 1

    def acknowledged(self, topic: str, payload: bytes) -> None:
        """The broker has this one: a tombstone that it has is needed no more."""
        if not payload:
            self._cleared.pop(topic, None)

    def reconnected(self) -> list[tuple[Topic, str, bytes]]:
        """Everything to say on a new connection: snapshots, then tombstones."""
        self._echoes.clear()
        return [(row, topic, payload) for topic, (row, payload) in self._current.items()] + [
            (row, topic, b"") for topic, row in self._cleared.items()
        ]

    def forget_echoes(self) -> None:
        """Nothing that we say comes back any more."""
        self._echoes.clear()

    def seen(self, topic: str, payload: bytes) -> bytes | None:
        """A message of an owned row came. Returns what must be published to put it right, or None."""
        found = self._current.get(topic)
        current = found[1] if found else b""
        if waiting := self._echoes.get(topic):
            self._echoes[topic] = waiting - 1
            return None
        return None if payload == current else current
