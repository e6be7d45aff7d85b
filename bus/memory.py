"""A bus within one process, for tests: the same queues and rules, no sockets, any clock (trio's MockClock).

`MemoryBroker.client` makes connections, and needs no task that runs them. Within trio a message is delivered
at the next turn of the scheduler, so that what is published together goes out by priority as on a real
connection; outside of trio (a plain test of a service's shell) it is delivered at once.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import trio

from bus.api import Connected, Received
from bus.base import OFFLINE, BusBase
from bus.topics import Topic


@dataclass(frozen=True, slots=True)
class Message:
    """What went through the broker. ``sender`` is the client's name."""

    topic: str
    payload: bytes
    retain: bool
    sender: str


def matches(pattern: str, topic: str) -> bool:
    """Whether an MQTT filter (``+``, a last ``#``) matches a topic."""
    wants, levels = pattern.split("/"), topic.split("/")
    if wants[-1] == "#":
        wants = wants[:-1]
        levels = levels[: len(wants)]
    return len(wants) == len(levels) and all(w in ("+", x) for w, x in zip(wants, levels, strict=True))


class MemoryBroker:
    """Retained messages, wildcards, last wills; `drop`, `restore` and `restart` play the world's part.

    ``log`` holds every message that went through, ``retained`` what stands, by full topic.
    """

    def __init__(self, root: str = "pointsman") -> None:
        self.root = root
        self.log: list[Message] = []
        self.retained: dict[str, bytes] = {}
        self._clients: list[MemoryBus] = []

    def client(
        self,
        node: str = "node",
        *,
        service: str | None = None,
        name: str | None = None,
        all_nodes: bool = False,
        connect: bool = True,
    ) -> MemoryBus:
        """A connection. ``service``: as in `BusBase`; ``name`` stands in the log."""
        bus = MemoryBus(self, node, service, name or service or f"client-{len(self._clients)}", all_nodes)
        self._clients.append(bus)
        if connect:
            bus.up()
        return bus

    def drop(self, client: MemoryBus) -> None:
        """The connection breaks without a word: the broker publishes the will."""
        client.down()
        if client.will is not None:
            self.publish(client.will, OFFLINE, retain=True, sender=client.name)

    def restore(self, client: MemoryBus) -> None:
        """The client reaches the broker again."""
        client.up()

    def restart(self) -> None:
        """kill -9 of the broker and a new, empty one: no wills, nothing retained; everybody reconnects."""
        for client in self._clients:
            client.down()
        self.retained.clear()
        for client in self._clients:
            client.up()

    def publish(
        self, topic: str, payload: bytes | str, *, retain: bool = False, sender: str = "outside"
    ) -> None:
        """Any message by anyone, as `mosquitto_pub` would send it. ``topic`` is the full one."""
        raw = payload.encode() if isinstance(payload, str) else payload
        self.log.append(Message(topic, raw, retain, sender))
        if retain and raw:
            self.retained[topic] = raw
        elif retain:
            self.retained.pop(topic, None)
        for client in self._clients:
            client.offer(topic, raw, retained=False)

    def said(self, row: Topic, node: str = "node", /, **values: str) -> list[bytes]:
        """Payloads that went through on a row's topics, oldest first."""
        pattern = f"{self.root}/{node}/{row.filter(**values)}"
        return [m.payload for m in self.log if matches(pattern, m.topic)]

    def standing(self, row: Topic, node: str = "node", /, **values: str) -> bytes | None:
        """The retained payload of one topic."""
        return self.retained.get(f"{self.root}/{node}/{row.path(**values)}")


class MemoryBus(BusBase):
    """One client of a `MemoryBroker`."""

    def __init__(
        self, broker: MemoryBroker, node: str, service: str | None, name: str, all_nodes: bool
    ) -> None:
        super().__init__(root=broker.root, node=node, service=service, all_nodes=all_nodes)
        self.name = name
        self.will = self._status_topic
        self._broker = broker
        self._up = False
        self._asked: set[str] = set()
        self._waiting: deque[tuple[str, bytes, bool]] = deque()  # held by the broker while there is no room
        self._draining = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """As `bus.client.MqttBus.run`, for code that runs either; nothing needs to run here."""
        task_status.started()
        await trio.sleep_forever()

    async def stop(self) -> None:
        """Say goodbye as `bus.client.MqttBus.stop` does."""
        if self.will is not None:
            self._broker.publish(self.will, OFFLINE, retain=True, sender=self.name)
        self.down()
        await trio.lowlevel.checkpoint()

    def up(self) -> None:
        if self._up:
            return
        self._up = True
        self._begin_connection()
        self._ask(self._router.filters())
        self._subscriptions_changed()
        self._wake()

    def down(self) -> None:
        self._up = False
        self._asked.clear()
        self._waiting.clear()
        self._out.lost(())
        self._end_connection()

    def offer(self, topic: str, payload: bytes, *, retained: bool) -> None:
        """The broker has a message; it is for us if we asked for it."""
        if self._up and any(matches(pattern, topic) for pattern in self._asked):
            self._waiting.append((topic, payload, retained))
            self._take()

    def _take(self) -> None:
        while self._waiting and self._has_room():
            self._incoming(*self._waiting.popleft())

    async def receive(self) -> Received | Connected:
        message = await super().receive()
        self._take()
        return message

    def _wake(self) -> None:
        if not self._up:
            return
        try:
            trio.lowlevel.current_trio_token().run_sync_soon(self._drain, idempotent=True)
        except RuntimeError:  # not within trio
            self._drain()

    def _drain(self) -> None:
        if self._draining:
            return  # called by a message that this very loop delivers
        self._draining = True
        try:
            while self._up and (entry := self._out.take()) is not None:
                self._handed_over(entry.row, entry.topic)
                if entry.row.retain:
                    self._snapshots.acknowledged(entry.topic, entry.payload)
                self._broker.publish(entry.topic, entry.payload, retain=entry.row.retain, sender=self.name)
        finally:
            self._draining = False

    def _send_subscribe(self, filters: list[tuple[str, int]]) -> None:
        if self._up:
            self._ask(filters)

    def _ask(self, filters: list[tuple[str, int]]) -> None:
        for pattern, _ in filters:
            self._asked.add(pattern)
            for topic, payload in list(self._broker.retained.items()):
                if matches(pattern, topic):
                    self._waiting.append((topic, payload, True))
        self._take()

    def _send_unsubscribe(self, topic: str) -> None:
        self._asked.discard(topic)

    def _pending_subscriptions(self) -> bool:
        return False
