"""The queue of messages that wait to be sent, and what it gives up when there are too many. Pure.

Theory of operation. Two lanes. The first carries everything that somebody waits for (facts, acknowledgements,
commands, replies, snapshots, QoS 1 events) in the order in which it was said; the bulk lane carries QoS 0
events, above all the deltas of a talking agent, and moves only while the first lane is empty. So an approval
never waits behind deltas.

| message | while disconnected | when the lane is full |
|---|---|---|
| snapshot | the newest of a topic waits | cannot be: one for each topic |
| QoS 1 event, command | waits | the oldest is dropped, counted as ``oldest`` |
| fact | not taken, not counted: the outbox sends it again on connecting | as QoS 1 events |
| QoS 0 event | dropped, counted as ``disconnected`` | dropped, counted as ``full`` |

A snapshot that is said again takes the place of the one that waits, in that one's position: a reader may see
a snapshot newer than the event before it, never an older one.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass

from bus.topics import Kind, Topic

FIRST_MAX = 10_000  # messages; an owner says at most a few for each frame of an agent
BULK_HIGH_DIVISOR = 4  # `bulk_high` from a quarter on: what is already on its way here still fits
BULK_MAX = 10_000  # messages; a third of a second at the fastest rate measured
BYTES_MAX = 128 * 1024 * 1024  # of either lane; a payload has at most 40 MiB


@dataclass(slots=True, eq=False)
class Entry:
    """One message on its way. ``topic`` is the full one."""

    row: Topic
    topic: str
    payload: bytes
    gone: bool = False  # dropped by policy while it waited: skipped when its turn comes


class OutQueue:
    """See the module. ``dropped`` counts by policy: ``disconnected``, ``full``, ``oldest``."""

    def __init__(
        self, *, first_max: int = FIRST_MAX, bulk_max: int = BULK_MAX, bytes_max: int = BYTES_MAX
    ) -> None:
        self.connected = False
        self.dropped: Counter[str] = Counter()
        self._first_max, self._bulk_max, self._bytes_max = first_max, bulk_max, bytes_max
        self._first: deque[Entry] = deque()
        self._bulk: deque[Entry] = deque()
        self._snapshots: dict[str, Entry] = {}  # the entries of _first that are snapshots, by topic
        self._droppable: deque[Entry] = deque()  # the entries of _first that are not, in the same order
        self._droppable_bytes = 0
        self._bulk_bytes = 0

    def __len__(self) -> int:
        return len(self._snapshots) + len(self._droppable) + len(self._bulk)

    @property
    def bulk_high(self) -> bool:
        """The bulk lane is so full that who fills it should pause."""
        return self.connected and len(self._bulk) > self._bulk_max // BULK_HIGH_DIVISOR

    @property
    def urgent(self) -> bool:
        """Something waits in the first lane."""
        return bool(self._first)

    def put(self, row: Topic, topic: str, payload: bytes) -> bool:
        """Take a message, or drop it by policy. Returns whether it was taken."""
        kind = row.kind
        if kind is Kind.EVENT and row.qos == 0:
            if not self.connected:
                self.dropped["disconnected"] += 1
                return False
            if len(self._bulk) >= self._bulk_max or self._bulk_bytes + len(payload) > self._bytes_max:
                self.dropped["full"] += 1
                return False
            self._bulk.append(Entry(row, topic, payload))
            self._bulk_bytes += len(payload)
            return True
        if kind is Kind.SNAPSHOT:
            waiting = self._snapshots.get(topic)
            if waiting is not None:
                waiting.payload = payload
                return True
            entry = self._snapshots[topic] = Entry(row, topic, payload)
            self._first.append(entry)
            return True
        if kind is Kind.FACT and not self.connected:
            return False
        entry = Entry(row, topic, payload)
        self._first.append(entry)
        self._droppable.append(entry)
        self._droppable_bytes += len(payload)
        self._trim()
        return True

    def take(self) -> Entry | None:
        """The next message to send, or None."""
        while self._first:
            entry = self._first.popleft()
            if entry.gone:
                continue
            if entry.row.kind is Kind.SNAPSHOT:
                del self._snapshots[entry.topic]
            else:
                self._droppable.popleft()
                self._droppable_bytes -= len(entry.payload)
            return entry
        if self._bulk:
            entry = self._bulk.popleft()
            self._bulk_bytes -= len(entry.payload)
            return entry
        return None

    def lost(self, unacknowledged: Iterable[Entry]) -> None:
        """The connection is gone. What was sent and not acknowledged by the broker waits again, before
        everything else; snapshots among it do not, because the owner sends all of its own again, and facts
        do not, because the outbox does.
        """
        self.connected = False
        if self._bulk:
            self.dropped["disconnected"] += len(self._bulk)
        self._bulk.clear()
        self._bulk_bytes = 0
        for entry in self._droppable:
            entry.gone = entry.row.kind is Kind.FACT
        again = [e for e in unacknowledged if e.row.qos and e.row.kind not in (Kind.SNAPSHOT, Kind.FACT)]
        self._first = deque(e for e in [*again, *self._first] if not e.gone)
        self._droppable = deque(e for e in self._first if e.row.kind is not Kind.SNAPSHOT)
        self._droppable_bytes = sum(len(e.payload) for e in self._droppable)
        self._trim()

    def _trim(self) -> None:
        while len(self._droppable) > self._first_max or self._droppable_bytes > self._bytes_max:
            oldest = self._droppable.popleft()
            oldest.gone = True
            self._droppable_bytes -= len(oldest.payload)
            self.dropped["oldest"] += 1
        if len(self._first) > 2 * (self._first_max + len(self._snapshots)):  # mostly gone ones: sweep
            self._first = deque(entry for entry in self._first if not entry.gone)
