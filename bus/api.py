"""What a service needs of the bus, whatever carries it: `bus.client` over MQTT, `bus.memory` in one process.

Both pass the same contract suite (tests/bus/test_contract.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from bus.messages import Payload
from bus.topics import Topic


@dataclass(frozen=True, slots=True)
class Received:
    """One message as it came: not decoded, so that who reads it decides what a bad payload means.

    ``values`` are the topic's parameters, checked against `bus.topics.PARAMETERS`. ``retained`` is true for
    what the broker had kept before we subscribed.
    """

    row: Topic
    values: dict[str, str]
    payload: bytes
    retained: bool
    topic: str  # relative to <root>/<node>/
    node: str


@dataclass(frozen=True, slots=True)
class Connected:
    """The connection stands (again) and every subscription is acknowledged by the broker."""

    count: int  # 1 for the first connection of this process


class Bus(Protocol):
    """A connection to the bus of one node, used by one task that receives and any that publish.

    Queues are bounded, and what happens when one is full is part of the contract:

    - in: the socket is read no further until there is room (the broker holds the rest);
    - out, snapshot: only the newest payload of a topic waits; it is sent again on every reconnect;
    - out, QoS 0 event: dropped at once while disconnected or when the queue is full, and counted;
    - out, QoS 1 event or command: waits for the connection, the oldest is dropped beyond the bound and
      counted;
    - out, fact: not taken while disconnected, and forgotten when the connection breaks: the outbox
      (`bus.durable`) sends it again on connecting, in order, until it is acknowledged.
    - out, longer than readers take (`bus.codec.max_bytes`): dropped and counted; a reply becomes an error.
    - Everything else goes out before deltas and other QoS 0 events: an approval never waits behind them.
    """

    @property
    def node(self) -> str: ...

    @property
    def connected(self) -> bool: ...

    @property
    def queued(self) -> int:
        """Messages waiting in and out; for health and metrics."""
        ...

    def subscribe(self, row: Topic, /, **values: str) -> None:
        """Ask for a row's messages, now and after every reconnect. Parameters not given match anything."""
        ...

    def look_again(self, row: Topic, /) -> None:
        """Have what stands retained under a row that was subscribed sent once more (MQTT 3.1.1, 3.8.4)."""
        ...

    def own(self, row: Topic, /, *, always: bool = False) -> None:
        """This process is the snapshot's owner: whatever stands retained under the row and was not published
        by this process is cleared (left over from before a crash, or forged), and what was changed is
        published again. Call it after the first publications of the stored snapshots. That is done for some
        seconds after every connect, because to watch one's own words costs as much as to say them; with
        ``always`` it goes on.
        """
        ...

    def publish(self, row: Topic, payload: Payload | str | bytes | None, /, **values: str) -> None:
        """Send, never blocking. ``None`` clears a snapshot. ``bytes`` are sent as they are.

        Raises `MisuseError` for a payload of another type than the row's, or an illegal parameter.
        """
        ...

    async def room(self) -> None:
        """Wait while so many QoS 0 events wait to go out that more would soon be dropped: for who can hold
        back where they come from. Does not wait while disconnected.
        """
        ...

    async def receive(self) -> Received | Connected:
        """The next message; `Connected` comes first and after each reconnect."""
        ...

    async def deliver(self, handler: Callable[[Received | Connected], None]) -> None:
        """Hand every message to ``handler``, until cancelled: `receive` for ever, but sooner. What the
        handler raises is raised here; the connection lives on.
        """
        ...
