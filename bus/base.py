"""What every kind of connection shares (`bus.client` over MQTT, `bus.memory` in one process): queues,
subscriptions, own snapshots, and handing on what comes in. A kind of connection adds the way out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from bus import messages as m
from bus import topics as t
from bus.api import Connected, Received
from bus.codec import encode, max_bytes
from bus.errors import BusDownError, MisuseError
from bus.messages import Payload
from bus.queues import OutQueue
from bus.router import Router
from bus.snapshots import Snapshots
from bus.topics import Kind, Topic

IN_MAX = 2_000  # messages that wait to be received before the socket is read no further
IN_BYTES_MAX = 32 * 1024 * 1024
CHECKPOINT_EVERY = 32  # messages received in a row before other tasks get their turn

ONLINE, OFFLINE = b"online", b"offline"


@dataclass(slots=True)
class Counters:
    """For metrics: messages by row pattern, and what went wrong. All only grow."""

    received: Counter[Topic] = field(default_factory=Counter)
    published: Counter[Topic] = field(default_factory=Counter)
    unknown_topics: int = 0
    connections: int = 0  # reconnects are all but the first
    failed_attempts: int = 0
    corrected: int = 0  # foreign or old snapshots under rows that we own


class BusBase(ABC):
    """Implements `bus.api.Bus` but for the way out: `_wake`, `_send_subscribe`, `_send_unsubscribe`.

    ``service`` is the name of the service that this process is, or None for a client. A service has a last
    will, says ``online`` on every connect, and again when it sees its own ``offline``.
    """

    def __init__(self, *, root: str, node: str, service: str | None, all_nodes: bool) -> None:
        self.counters = Counters()
        self.refused_filters: set[str] = set()  # subscriptions that the broker's access rules forbid
        self._router = Router(root=root, node=node, service=service, all_nodes=all_nodes)
        self._out = OutQueue()
        self._snapshots = Snapshots()
        self._owned: dict[Topic, bool] = {}  # row → whether it is watched always
        self._watched: set[Topic] = set()  # of those, the ones that are looked at now
        self._in: deque[Received | Connected] = deque()
        self._in_bytes = 0
        self._in_lot = trio.lowlevel.ParkingLot()
        self._room_lot = trio.lowlevel.ParkingLot()
        self._bulk_lot = trio.lowlevel.ParkingLot()
        self._subscribed_lot = trio.lowlevel.ParkingLot()
        self._received_in_a_row = 0
        self._early: list[Received] | None = None  # what comes before `Connected` has been said
        self._diverted: dict[str, Callable[[Received], None]] = {}
        self._connected = False
        self._status_topic: str | None = None
        if service is not None:
            self._status_topic = self._router.topic(t.SERVICE_STATUS, (("self", service),))
            self._snapshots.set(t.SERVICE_STATUS, self._status_topic, ONLINE)
            self._router.add(self._status_topic, 1)

    # what a kind of connection must add

    @abstractmethod
    def _wake(self) -> None:
        """There is something in the queue."""

    def _hurry(self) -> None:
        """There is something in the queue that somebody waits for."""
        self._wake()

    @abstractmethod
    def _send_subscribe(self, filters: list[tuple[str, int]]) -> None:
        """Ask the broker now, if there is a connection; else it is done on connecting."""

    @abstractmethod
    def _send_unsubscribe(self, topic: str) -> None:
        """Likewise."""

    @abstractmethod
    def _pending_subscriptions(self) -> bool:
        """Whether the broker has not yet acknowledged all."""

    # bus.api.Bus

    @property
    def node(self) -> str:
        return self._router.node

    @property
    def connected(self) -> bool:
        return self._connected

    @property
    def trouble(self) -> BusDownError | None:
        """Why there is no connection, or None while there is one or nothing is known."""
        return None

    @property
    def queued(self) -> int:
        return len(self._in) + len(self._out)

    @property
    def dropped(self) -> Counter[str]:
        """Messages given up by policy (`bus.queues`), and those that were ``too_large`` for any reader."""
        return self._out.dropped

    def subscribe(self, row: Topic, /, **values: str) -> None:
        self._send_subscribe([self._router.subscribe(row, values)])

    def look_again(self, row: Topic, /) -> None:
        self._send_subscribe([(self._router.filter(row), row.qos)])

    def own(self, row: Topic, /, *, always: bool = False) -> None:
        if not row.retain:
            raise MisuseError(f"{row.pattern} is no snapshot: nothing of it stands")
        self._owned[row] = always
        self._watched.add(row)
        self._send_subscribe([self._router.own(row)])

    def publish(self, row: Topic, payload: Payload | str | bytes | None, /, **values: str) -> None:
        topic = self._router.topic(row, tuple(values.items()))
        raw = encode(row, payload)
        if len(raw) > max_bytes(row):
            self._out.dropped["too_large"] += 1
            if row is not t.REPLIES:
                return
            text = f"the answer has {len(raw)} bytes; at most {max_bytes(row)} can be sent: ask for less"
            raw = encode(
                row, m.Reply(id=values["id"], ok=False, error=m.ErrorBody(code="too_large", message=text))
            )
        if row.kind is Kind.SNAPSHOT:
            self._snapshots.set(row, topic, raw)
        if self._out.put(row, topic, raw):
            if row.urgent and raw:
                self._hurry()
            else:
                self._wake()

    async def room(self) -> None:
        while self._out.bulk_high:
            await self._bulk_lot.park()

    async def receive(self) -> Received | Connected:
        """The next message. Gives way to other tasks when it waits, and every few messages."""
        self._received_in_a_row += 1
        if self._received_in_a_row >= CHECKPOINT_EVERY:
            self._received_in_a_row = 0
            await trio.lowlevel.checkpoint()
        while not self._in:
            self._received_in_a_row = 0
            await self._in_lot.park()
        return self._pop()

    async def deliver(self, handler: Callable[[Received | Connected], None]) -> None:
        while True:
            handler(await self.receive())

    def _pop(self) -> Received | Connected:
        message = self._in.popleft()
        if isinstance(message, Received):
            self._in_bytes -= len(message.payload)
        if self._room_lot and self._has_room():
            self._room_lot.unpark_all()
        return message

    # for bus.requests and clients

    @contextmanager
    def divert(self, row: Topic, handler: Callable[[Received], None], /, **values: str) -> Iterator[str]:
        """Within the block one topic's messages go to ``handler`` and not to `receive`. Subscribes to just
        that topic, and unsubscribes in the end. Gives the full topic. See also `subscriptions_stand`.
        """
        topic = self._router.topic(row, tuple(values.items()))
        self._diverted[topic] = handler
        self._router.add(topic, row.qos)
        self._send_subscribe([(topic, row.qos)])
        try:
            yield topic
        finally:
            del self._diverted[topic]
            self._router.remove(topic)
            self._send_unsubscribe(topic)

    def ask_anew(self, topic: str, qos: int) -> None:
        """Ask the broker again for what `divert` gave the topic of."""
        self._send_subscribe([(topic, qos)])

    async def subscriptions_stand(self) -> None:
        """Wait until there is a connection and the broker has acknowledged every subscription."""
        await trio.lowlevel.checkpoint()
        while not self._connected or self._pending_subscriptions():
            await self._subscribed_lot.park()

    # what a kind of connection calls

    def _has_room(self) -> bool:
        return len(self._in) < IN_MAX and self._in_bytes < IN_BYTES_MAX

    async def _wait_for_room(self) -> None:
        while not self._has_room():
            await self._room_lot.park()

    def _begin_connection(self) -> None:
        """The broker has let us in; nothing is subscribed yet."""
        self._early = []
        self._watched = set(self._owned)
        self._out.connected = True
        for row, topic, raw in self._snapshots.reconnected():
            self._out.put(row, topic, raw)

    def _subscriptions_changed(self) -> None:
        """Call when the broker has acknowledged something; `Connected` is said after the first time all
        stand.
        """
        if self._pending_subscriptions():
            return
        if self._early is not None:
            early, self._early = self._early, None
            self._connected = True
            self.counters.connections += 1
            self._append(Connected(self.counters.connections))
            for message in early:
                self._append(message)
        self._subscribed_lot.unpark_all()

    def _stop_watching(self) -> None:
        """What stood under our own rows from before has been put right by now (see `bus.api.Bus.own`)."""
        for row in [row for row in self._watched if not self._owned[row]]:
            self._watched.discard(row)
            topic = self._router.only_owned(row)
            if topic is not None:
                self._send_unsubscribe(topic)
        self._snapshots.forget_echoes()

    def _end_connection(self) -> None:
        self._connected = False
        self._early = None
        self._bulk_lot.unpark_all()

    def _append(self, message: Received | Connected) -> None:
        self._in.append(message)
        if isinstance(message, Received):
            self._in_bytes += len(message.payload)
        if self._in_lot:
            self._in_lot.unpark()

    def _incoming(self, topic: str, payload: bytes, retained: bool) -> None:
        """One message as the broker delivered it. Runs within the reader: never blocks, never raises for what
        a peer sent.
        """
        route = self._router.route(topic)
        if route is None:
            self.counters.unknown_topics += 1
            return
        self.counters.received[route.row] += 1
        if topic == self._status_topic:
            if payload != ONLINE and self._snapshots.get(topic) == ONLINE:
                self._correct(route.row, topic, ONLINE)  # our own will, fired late by the broker
        elif route.owned and route.row in self._watched:
            right = self._snapshots.seen(topic, payload)
            if right is not None:
                self._correct(route.row, topic, right)
        handler = self._diverted.get(topic) if self._diverted else None
        if handler is None and not route.wanted:
            return
        message = Received(route.row, dict(route.values), payload, retained, route.path, route.node)
        if handler is not None:
            handler(message)
        elif self._early is not None:
            self._early.append(message)
        else:
            self._append(message)

    def _correct(self, row: Topic, topic: str, payload: bytes) -> None:
        self.counters.corrected += 1
        self._snapshots.set(row, topic, payload)
        if self._out.put(row, topic, payload):
            self._wake()

    def _handed_over(self, row: Topic, topic: str) -> None:
        """A message went to the broker."""
        if self._bulk_lot and not self._out.bulk_high:
            self._bulk_lot.unpark_all()
        self.counters.published[row] += 1
        if row in self._watched:
            self._snapshots.sent(topic)
