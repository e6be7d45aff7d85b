"""The bus over MQTT 3.1.1: paho's connection, trio's waiting. The only importer of paho.

Theory of operation. `run` holds a connection for as long as it is not stopped: it reads the address again,
connects, and then three tasks drive paho's external loop (`loop_read`, `loop_write`, `loop_misc`) until one
of them finds the connection gone; then everything begins again after a pause that grows. PUBLISH and PUBACK
are read and written here (`bus.packets`), everything else is paho's: connecting, the will, subscriptions,
keepalive, the goodbye.

A new paho client is made for each connection and always with a clean session: what must survive lives in
`bus.queues` and `bus.snapshots`, never in paho or in the broker. A message leaves our queue when it is
written; QoS 1 ones are remembered until their PUBACK and wait again when the connection breaks first. A
PUBACK means that the broker had it, and nothing more (contract, section 2). Little is written at a time, so
that what is urgent finds at most 64 KiB before it.

Three things for whom somebody waits: an urgent row's message is given to the kernel by `publish` itself;
what follows it lingers for a moment, and then goes out together, because each write to a socket wakes the
broker, which takes the processor from those who are on the urgent one's way (measured: the dearest of all);
and `deliver` has messages handled by the task that read them.

Over 400 lines because the life of a connection is one piece: its tasks share every field.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import trio
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode

from bus import packets
from bus import topics as t
from bus.address import (
    BusAddress,
    Log,
    RefusedByBrokerError,
    broke,
    deaf,
    refused,
    silent,
    taken_over,
    unreachable,
    unreadable,
)
from bus.api import Connected, Received
from bus.base import CHECKPOINT_EVERY, OFFLINE, BusBase
from bus.errors import BusDownError
from bus.link import UNSENT_MAX, Link, connect
from bus.listener import stranger
from bus.packets import PacketError
from bus.patience import PUBACK_LOOKS, SUBACK_LOOKS, Patience
from bus.queues import Entry
from bus.topics import Kind

__all__ = ["BusAddress", "Log", "MqttBus", "RefusedByBrokerError"]

KEEPALIVE_S = 15
BACKOFF_MIN_S, BACKOFF_MAX_S = 0.1, 5.0
STOOD_S = 5.0  # a connection that lasted this long was a good one: the next pause is short again
LET_IN_TIMEOUT_S = 10.0  # from the TCP connection to the last SUBACK
PATIENT_ATTEMPTS = 4  # about a second: at the start the broker may be starting as well
TICK_S = 1.0  # loop_misc: keepalive
WATCH_OWN_S = 3.0  # after connecting: what is retained comes within milliseconds of the subscription
IN_FLIGHT_MAX = 256  # QoS 1 messages without their PUBACK
FILTERS_PER_PACKET = 50
LINGER_S = 0.01  # after something urgent, before the rest: see the module
FIRST_NUMBER = 0x8000  # of our packets; paho counts its own from 1
STOP_S = 1.0  # for what is still queued when we stop


class _Lost(Exception):  # noqa: N818  # the connection is gone: not an error, the normal end of one
    def __init__(self, why: BusDownError) -> None:
        super().__init__(str(why))
        self.why = why


class _Client(Client):
    """paho on a connection that already stands."""

    def __init__(self, link: Link, client_id: str) -> None:
        self._link = link
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=True,
            protocol=MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )

    def _create_socket(self) -> Any:
        return self._link


class MqttBus(BusBase):
    """Implements `bus.api.Bus`. ``address`` is read again at every attempt, because the broker's port may
    change; what it raises (OSError, `BusDownError`) counts as "cannot be reached".

    ``all_nodes``: subscriptions reach every node below the root (`Received.node` tells which).
    """

    def __init__(
        self,
        address: Callable[[], BusAddress],
        *,
        root: str,
        node: str,
        service: str | None = None,
        all_nodes: bool = False,
        log: Log | None = None,
    ) -> None:
        super().__init__(root=root, node=node, service=service, all_nodes=all_nodes)
        self._address = address
        self._log = log
        self._client: _Client | None = None
        self._link: Link | None = None
        self._writer_lot = trio.lowlevel.ParkingLot()
        self._idle_lot = trio.lowlevel.ParkingLot()  # everything went out
        self._changed_lot = trio.lowlevel.ParkingLot()  # connection or trouble changed
        self._in_flight: dict[int, Entry] = {}  # by packet number, in the order in which they were sent
        self._number = 0
        self._hurried_at = -LINGER_S
        self._handler: Callable[[Received | Connected], None] | None = None
        self._handler_error: Exception | None = None
        self._handler_ended = trio.Event()
        self._asked: dict[int, list[str]] = {}  # SUBSCRIBE's message id → filters without a SUBACK
        self._pubacks, self._subacks = Patience(PUBACK_LOOKS), Patience(SUBACK_LOOKS)
        self._let_in = False
        self._refused: str | None = None
        self._scope: trio.CancelScope | None = None
        self._stopping = False
        self._trouble: BusDownError | None = None
        self._told: str | None = None  # what the log has last been told of
        self._failures = 0  # in a row

    @property
    def trouble(self) -> BusDownError | None:
        """Why there is no connection, or None while there is one."""
        return None if self._connected else self._trouble

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the connection until cancelled or `stop`ped."""
        task_status.started()
        attempt = 0
        jitter = random.SystemRandom()
        while not self._stopping:
            began = trio.current_time()
            try:
                await self._connection()
            except _Lost as lost:
                self._fail(lost.why)
            attempt = 0 if trio.current_time() - began >= STOOD_S else attempt + 1
            if not self._stopping:
                pause = min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2.0 ** min(attempt, 10))
                await trio.sleep(pause * jitter.uniform(0.5, 1.0))

    async def stop(self) -> None:
        """Say goodbye: a service's ``offline``, what is queued (for at most `STOP_S`), DISCONNECT. Ends
        `run`.
        """
        if self._status_topic is not None:
            self._snapshots.set(t.SERVICE_STATUS, self._status_topic, OFFLINE)
            if self._connected:
                self._out.put(t.SERVICE_STATUS, self._status_topic, OFFLINE)
                self._wake()
        with trio.move_on_after(STOP_S):
            await self.drained()
        self._stopping = True
        if self._client is not None and self._link is not None:
            self._client.disconnect()
            self._client.loop_write()
            if self._link.fileno() >= 0:
                with suppress(OSError):  # gone already is what we want
                    self._link.flush()
        if self._scope is not None:
            self._scope.cancel()
        self._changed_lot.unpark_all()

    async def drained(self) -> None:
        """Wait until everything was sent, and acknowledged where it is, or the connection is gone."""
        while self._connected and (len(self._out) or self._in_flight):
            await self._idle_lot.park()

    async def wait_connected(self, timeout_s: float) -> None:
        """Wait for the connection. Raises `BusDownError`: at once when the broker refuses us, else after the
        time.
        """
        with trio.move_on_after(timeout_s):
            while not self._connected:
                if isinstance(self._trouble, RefusedByBrokerError):
                    raise self._trouble
                await self._changed_lot.park()
            return
        raise self._trouble or BusDownError(f"no connection to the bus within {timeout_s:g} s")

    async def deliver(self, handler: Callable[[Received | Connected], None]) -> None:
        while self._in:
            handler(await self.receive())
        self._handler, self._handler_ended = handler, trio.Event()
        try:
            await self._handler_ended.wait()
        finally:
            self._handler = None
        assert self._handler_error is not None  # noqa: S101  # set with the event
        raise self._handler_error

    # one connection

    async def _connection(self) -> None:
        try:
            address = self._address()
        except OSError as error:
            raise _Lost(unreadable(error)) from error
        except BusDownError as error:
            raise _Lost(error) from error
        uid = stranger(address.host, address.port) if address.own else None
        if uid is not None:
            raise _Lost(taken_over(address, uid))
        try:
            link = await connect(address.host, address.port, address.tls)
        except OSError as error:
            raise _Lost(unreachable(address, error)) from error
        who = self._router.node if self._status_topic is None else self._status_topic.split("/")[-2]
        client = _Client(link, f"{who[:16]}-{secrets.token_hex(6)}")
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_socket_register_write = self._on_register_write
        client.username_pw_set(address.username, address.password)
        if self._status_topic is not None:
            client.will_set(self._status_topic, OFFLINE, qos=1, retain=True)
        self._client, self._link, self._refused, self._let_in = client, link, None, False
        why: BusDownError | None = None
        try:
            with trio.CancelScope() as self._scope:
                if client.connect(address.host, address.port, KEEPALIVE_S) is MQTTErrorCode.MQTT_ERR_SUCCESS:
                    await self._drive(address)
        except* _Lost as lost:
            why = _first(lost).why
        finally:
            self._client = self._link = self._scope = None
            self._asked.clear()
            unacknowledged = list(self._in_flight.values())
            self._in_flight.clear()
            self._out.lost(unacknowledged)
            self._end_connection()
            link.close()
            self._idle_lot.unpark_all()
            self._changed_lot.unpark_all()
        if why is not None:
            raise _Lost(why)

    async def _drive(self, address: BusAddress) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read, address)
            nursery.start_soon(self._write, address)
            nursery.start_soon(self._tick, address)

    async def _read(self, address: BusAddress) -> None:
        client, link = self._client, self._link
        assert client is not None  # noqa: S101  # set by _connection
        assert link is not None  # noqa: S101
        while True:
            try:
                dry = self._read_some(client, link, address)
            except (OSError, PacketError):
                raise _Lost(self._gone(address)) from None
            self._hand_on()
            if link.unsent:
                self._wake()
            if not dry:
                await trio.lowlevel.checkpoint()
                if not self._has_room():
                    await self._wait_for_room()
            else:
                try:
                    await trio.lowlevel.wait_readable(link.sock)
                except (trio.ClosedResourceError, OSError):
                    raise _Lost(self._gone(address)) from None

    def _read_some(self, client: _Client, link: Link, address: BusAddress) -> bool:
        """At most `CHECKPOINT_EVERY` packets. Returns whether that was all."""
        count = 0
        while count < CHECKPOINT_EVERY and self._has_room():
            found = link.packets.take()
            if found is None:
                if not link.fill():
                    return True
                continue
            count += 1
            message = packets.published(*found)
            if message is not None:
                if message.number:
                    link.write(packets.puback(message.number))
                if message.topic is None:
                    self.counters.unknown_topics += 1
                else:
                    self._incoming(message.topic, message.payload, message.retained)
                continue
            number = packets.acknowledged(found[1])
            if number is not None and number in self._in_flight:
                self._acknowledge(number)
                continue
            link.aside(found[1])
            while link.pending():
                self._check(client.loop_read(), address)
        return False

    def _hand_on(self) -> None:
        try:
            while self._handler is not None and self._in:
                self._handler(self._pop())
        except Exception as error:  # noqa: BLE001  # it is for who delivers: the connection lives on
            self._handler, self._handler_error = None, error
            self._handler_ended.set()

    async def _write(self, address: BusAddress) -> None:
        client, link = self._client, self._link
        assert client is not None  # noqa: S101  # set by _connection
        assert link is not None  # noqa: S101
        while True:
            rest = self._hurried_at + LINGER_S - trio.current_time()
            if rest > 0:
                await trio.sleep(rest)
            fed = self._feed(link)
            if client.want_write():
                self._check(client.loop_write(), address)
            try:
                link.flush()
                if link.unsent or client.want_write():
                    await trio.lowlevel.wait_writable(link.sock)
                elif fed:
                    await trio.lowlevel.checkpoint()
                else:
                    self._idle_lot.unpark_all()
                    await self._writer_lot.park()
            except (trio.ClosedResourceError, OSError):
                raise _Lost(self._gone(address)) from None

    def _feed(self, link: Link) -> bool:
        """Write what is urgent now, and little. Returns whether more may follow at once."""
        if not self._let_in:
            return False
        while link.unsent < UNSENT_MAX and len(self._in_flight) < IN_FLIGHT_MAX:
            entry = self._out.take()
            if entry is None:
                return False
            self._write_entry(link, entry)
        return link.unsent >= UNSENT_MAX

    def _write_entry(self, link: Link, entry: Entry) -> None:
        row, number = entry.row, 0
        if row.qos:
            number = self._next_number()
            self._in_flight[number] = entry
        link.write(packets.publish(entry.topic, entry.payload, qos=row.qos, retain=row.retain, number=number))
        self._handed_over(row, entry.topic)

    def _next_number(self) -> int:
        while True:
            self._number = (self._number + 1) % FIRST_NUMBER
            if FIRST_NUMBER + self._number not in self._in_flight:
                return FIRST_NUMBER + self._number

    def _hurry(self) -> None:
        link = self._link
        if link is not None and self._let_in:
            while self._out.urgent and link.unsent < UNSENT_MAX and len(self._in_flight) < IN_FLIGHT_MAX:
                entry = self._out.take()
                if entry is not None:
                    self._write_entry(link, entry)
            self._hurried_at = trio.current_time()
            with suppress(OSError):  # the writer finds it as well, and says what follows
                link.flush()
            if not link.unsent and not len(self._out):
                return
        self._wake()

    def _acknowledge(self, number: int) -> None:
        self._pubacks.heard()
        full = len(self._in_flight) >= IN_FLIGHT_MAX
        entry = self._in_flight.pop(number)
        if entry.row.kind is Kind.SNAPSHOT:
            self._snapshots.acknowledged(entry.topic, entry.payload)
        if not self._in_flight:
            self._idle_lot.unpark_all()
        if full:
            self._wake()

    async def _tick(self, address: BusAddress) -> None:
        client = self._client
        assert client is not None  # noqa: S101  # set by _connection
        began = trio.current_time()
        watching = True
        self._pubacks, self._subacks = Patience(PUBACK_LOOKS), Patience(SUBACK_LOOKS)
        while True:
            await trio.sleep(TICK_S)
            self._check(client.loop_misc(), address)
            reads = self._connected and self._has_room()
            if self._pubacks.look(owed=reads and bool(self._in_flight)):
                raise _Lost(deaf(address, "messages", PUBACK_LOOKS * TICK_S))
            if self._subacks.look(owed=reads and bool(self._asked)):
                raise _Lost(deaf(address, "a subscription", SUBACK_LOOKS * TICK_S))
            if watching and self._connected and trio.current_time() - began > WATCH_OWN_S:
                watching = False
                self._stop_watching()
            if not self._connected and trio.current_time() - began > LET_IN_TIMEOUT_S:
                raise _Lost(silent(address, LET_IN_TIMEOUT_S))

    def _check(self, code: MQTTErrorCode, address: BusAddress) -> None:
        if code is MQTTErrorCode.MQTT_ERR_SUCCESS and self._client is not None and self._client.socket():
            return
        raise _Lost(self._gone(address))

    def _gone(self, address: BusAddress) -> BusDownError:
        return broke(address) if self._refused is None else refused(address, self._refused)

    def _fail(self, trouble: BusDownError) -> None:
        self.counters.failed_attempts += 1
        self._failures += 1
        starting = self._failures < PATIENT_ATTEMPTS and not self.counters.connections
        if self._log is not None and not self._stopping and not starting and self._told != str(trouble):
            self._told = str(trouble)
            self._log.warning("bus down", reason=str(trouble))
        self._trouble = trouble
        self._changed_lot.unpark_all()

    # paho's callbacks: they run within loop_read and loop_write, so within our tasks

    def _on_connect(
        self, client: Client, _user: Any, _flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        if reason.is_failure:
            self._refused = str(reason)
            return
        self._let_in = True
        self._begin_connection()
        filters = self._router.filters()
        for at in range(0, len(filters), FILTERS_PER_PACKET):
            self._ask(client, filters[at : at + FILTERS_PER_PACKET])
        self._all_acknowledged()
        self._wake()

    def _on_subscribe(
        self, _client: Client, _user: Any, message_id: int, reasons: list[ReasonCode], _properties: Any
    ) -> None:
        self._subacks.heard()
        for topic, reason in zip(self._asked.pop(message_id, []), reasons, strict=False):
            if reason.is_failure:
                self.refused_filters.add(topic)
                if self._log is not None:
                    self._log.warning("subscription refused by the broker's access rules", filter=topic)
            else:
                self.refused_filters.discard(topic)
        self._all_acknowledged()

    def _all_acknowledged(self) -> None:
        before = self._connected
        self._subscriptions_changed()
        if self._connected and not before:
            self._trouble = self._told = None
            self._failures = 0
            if self._log is not None:
                self._log.info("bus connected", count=self.counters.connections)
            self._changed_lot.unpark_all()

    def _on_register_write(self, _client: Client, _user: Any, _sock: Any) -> None:
        self._wake()

    # bus.base

    def _wake(self) -> None:
        if self._writer_lot:
            self._writer_lot.unpark()

    def _ask(self, client: Client, filters: list[tuple[str, int]]) -> None:
        _, message_id = client.subscribe(filters)
        if message_id is not None:
            self._asked[message_id] = [topic for topic, _ in filters]

    def _send_subscribe(self, filters: list[tuple[str, int]]) -> None:
        if self._client is not None and self._let_in:
            self._ask(self._client, filters)

    def _send_unsubscribe(self, topic: str) -> None:
        if self._client is not None and self._let_in and self._client.socket() is not None:
            self._client.unsubscribe(topic)

    def _pending_subscriptions(self) -> bool:
        return bool(self._asked)


def _first(group: BaseExceptionGroup[_Lost]) -> _Lost:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, _Lost)  # noqa: S101  # the group holds nothing else
    return found
