"""The command's connection to the bus: whole sets of snapshots, and commands with their answers.

When has a reader all retained messages? MQTT does not say: they may come before or after the SUBACK, among
others, in any order. What is here, from the surest to the last resort:

1. Some snapshots name others (the index of sessions its states, the pending approvals their requests): when
   all that are named are there, nothing is missing. While one is missing, it is waited for until nothing
   has come for `READ_S`.
2. Otherwise a sentinel: the services' statuses are subscribed last. mosquitto answers one connection's
   subscriptions in order, and each service keeps a retained status; so with the first status, everything that
   was asked for before it has come.
3. Without a status (nothing was ever started), or on another broker (amqtt sends what is retained before it
   is asked for): nothing has come for `QUIET_S` after the broker acknowledged the subscriptions.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
import trio

from bus import codec
from bus import messages as m
from bus import topics as t
from bus.api import Received
from bus.base import BusBase
from bus.client import MqttBus
from bus.errors import BusDownError, PeerError, RefusedError
from bus.requests import TIMEOUT_S, Requester
from bus.topics import Topic
from services._process.config_keys import Config
from services._process.connect import bus_address
from services._process.home import Home

USER = "operator"
CONNECT_S = 4.0  # a broker that is being restarted is back within two
READ_S = 3.0
READ_MOST_S = 30.0  # in all, also where snapshots change all the time
QUIET_S = 0.4
OFFLINE_S = 5.0  # a service that was killed is back within two
SILENT_S = 25.0  # then the watchdog, too, takes it for hung
PATIENT_S = 24 * 3600.0  # a million lines a minute; who has more than that to read in may wait

P = TypeVar("P", bound=m.Payload)
Connect = Callable[[Config, Home], BusBase]
Asked = tuple[Topic, dict[str, str]]


class UsageError(Exception):
    """The user's fault, seen before anything was asked. Exit code 2."""


def wall_clock() -> datetime:
    return datetime.now(UTC)


@dataclass
class World:
    """What the command uses of the world; tests give it another one."""

    config: Config
    home: Home
    environ: dict[str, str]
    connect: Connect
    json: bool = False
    now: Callable[[], datetime] = wall_clock


class Snapshots:
    """What stands retained under some rows: payload by topic, newest kept, cleared ones gone."""

    def __init__(self) -> None:
        self._found: dict[str, Received] = {}

    def put(self, message: Received) -> None:
        if message.payload:
            self._found[message.topic] = message
        else:
            self._found.pop(message.topic, None)

    def rows(self, row: Topic) -> list[Received]:
        return [message for message in self._found.values() if message.row is row]

    def all(self, row: Topic, payload: type[P]) -> list[P]:
        """Typed; what does not fit is left out: it is somebody else's fault, and not ours to stumble over."""
        found = []
        for message in self.rows(row):
            try:
                found.append(codec.decode(row, message.payload, payload))
            except PeerError:
                continue
        return found

    def one(self, row: Topic, payload: type[P]) -> P | None:
        found = self.all(row, payload)
        return found[0] if found else None

    def raw(self, row: Topic) -> list[dict[str, Any]]:
        """The JSON documents as they stand, fields that we do not know included."""
        found = []
        for message in self.rows(row):
            try:
                found.append(msgspec.json.decode(message.payload))
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
        return [document for document in found if isinstance(document, dict)]


Complete = Callable[[Snapshots], bool | None]


class Line:
    """One connection. ``ask`` is `Requester.ask`."""

    def __init__(self, bus: BusBase, *, ordered: bool) -> None:
        self.bus = bus
        self.ordered = ordered
        self._read_before = False  # then statuses of the first reading may still be on their way
        self._requester = Requester(bus, by=USER, via="cli")

    async def ask(self, row: Topic, command: m.Command, timeout_s: float = TIMEOUT_S, **values: str) -> Any:
        return await self._requester.ask(row, command, timeout_s=timeout_s, **values)

    async def ask_patiently(self, row: Topic, command: m.Command, **values: str) -> Any:
        """`ask` for what may take hours: it waits for as long as the owner gives signs of life.

        Raises `RefusedError` (``unavailable``) when the owner has been offline for `OFFLINE_S`, or silent for
        `SILENT_S`; `BusDownError` when the bus was away that long.
        """
        owner = next(iter(row.readers))
        with trio.CancelScope(deadline=trio.current_time() + SILENT_S) as patience:

            def on_status(message: Received) -> None:
                if message.payload == b"offline":  # supervisord may be starting it again
                    patience.deadline = min(patience.deadline, trio.current_time() + OFFLINE_S)
                elif not message.retained:
                    patience.deadline = trio.current_time() + SILENT_S

            def on_health(message: Received) -> None:
                if not message.retained:
                    patience.deadline = trio.current_time() + SILENT_S

            with (
                self.bus.divert(t.SERVICE_STATUS, on_status, self=owner),
                self.bus.divert(t.SERVICE_HEALTH, on_health, self=owner),
            ):
                return await self.ask(row, command, PATIENT_S, **values)
        raise self.bus.trouble or RefusedError(
            "unavailable",
            f"the {owner} service does not answer: see `pointsman health` and `pointsman logs {owner}`, and "
            "try again when it is back. What it has begun it may still finish",
        )

    async def read(
        self, *asked: Asked | Topic, complete: Complete | None = None, sentinel: bool = True
    ) -> Snapshots:
        """Everything retained under the rows (see the module for what "everything" rests on).

        ``complete`` looks at what has come: True: that is all; False: something is missing; None: unknown.
        ``sentinel`` False: for who wants the statuses themselves, of which the first is no sign of the last.
        """
        for want in asked:
            row, values = want if isinstance(want, tuple) else (want, {})
            self.bus.subscribe(row, **values)
        self.bus.subscribe(t.SERVICE_STATUS)  # last: the sentinel
        await self._stands()
        found = Snapshots()
        usable, self._read_before = sentinel and self.ordered and not self._read_before, True
        passed = False
        most = trio.current_time() + READ_MOST_S
        while True:
            verdict = complete(found) if complete else None
            if verdict or (verdict is None and passed and usable):
                return found
            until = trio.current_time() + (READ_S if verdict is False else QUIET_S)
            came = False
            with trio.move_on_at(min(most, until)) as waited:
                while True:  # all that is there, before it is looked at as a whole
                    message = await self.bus.receive()
                    if isinstance(message, Received):
                        came = True
                        found.put(message)
                        passed = passed or message.row is t.SERVICE_STATUS
                        waited.deadline = -math.inf
            if not came:
                return found

    async def _stands(self) -> None:
        with trio.move_on_after(CONNECT_S):
            await self.bus.subscriptions_stand()
            return
        raise self.bus.trouble or BusDownError(f"the bus could not be reached within {CONNECT_S:g} s")

    async def sessions(self) -> list[m.IndexEntry]:
        """The index of sessions; empty where there is none."""
        found = await self.read(
            t.SESSIONS_INDEX, complete=lambda seen: bool(seen.rows(t.SESSIONS_INDEX)) or None
        )
        index = found.one(t.SESSIONS_INDEX, m.SessionIndex)
        return index.sessions if index else []


def connect_user(config: Config, home: Home) -> MqttBus:
    """The real connection. Raises `BusDownError` at once where nothing was ever started."""
    if config.bus.broker != "external" and "port" not in home.endpoints().get("bus", {}):
        raise BusDownError(f"Pointsman has not been started with the home {home.path}")
    address = bus_address(config, home, USER)
    address()
    return MqttBus(address, root=config.bus.root, node=config.node.name)


@asynccontextmanager
async def connected(world: World) -> AsyncIterator[Line]:
    """A connection that stands. Raises `BusDownError`."""
    bus = world.connect(world.config, world.home)
    async with trio.open_nursery() as nursery:
        await nursery.start(bus.run)  # type: ignore[attr-defined]  # both kinds of connection have it
        try:
            if isinstance(bus, MqttBus):
                await bus.wait_connected(CONNECT_S)
            yield Line(bus, ordered=world.home.endpoints().get("bus", {}).get("broker") == "mosquitto")
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(1.0):
                await bus.stop()  # type: ignore[attr-defined]  # as above
            nursery.cancel_scope.cancel()
