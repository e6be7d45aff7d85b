"""Run the broker: choose it, write its files, start it, start it again when it dies; and keep its users."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import trio
from prometheus_client import ProcessCollector

from bus import codec
from bus import messages as m
from bus import topics as t
from bus.acl import User, new_password
from bus.api import Connected, Received
from bus.client import MqttBus
from bus.effects import Do, Keep
from bus.errors import PeerError
from bus.requests import new_id
from services import SERVICES
from services._process.connect import ASKING, HELD, REFUSED
from services._process.context import Context
from services._process.errors import ConfigError, WorldError
from services._process.ports import port_for
from services._process.station import Station
from services._process.store import open_store
from services.broker import core
from services.broker.child import Child, find_mosquitto, prepare, too_much, write_users
from services.broker.core import Claim, Kind, Listener
from services.broker.store import MIGRATIONS, Store
from services.broker.users import DropUser, Reload, SaveUser, Users, no_rules

GONE = "the users beside `operator`, with their roles and levels"


async def serve(context: Context) -> None:
    """Until cancelled. Raises `ConfigError`, `WorldError` or `StoreError`: a person must act."""
    bus = context.config.bus
    try:
        kind = core.choose(bus.broker, find_mosquitto(), listen=bus.listen is not None)
    except core.ChoiceError as error:
        raise WorldError(str(error)) from error
    context.home.update_endpoints("bus", {"broker": kind.value, "listen": bus.listen})
    shell = Shell(context, kind)
    if kind is Kind.EXTERNAL:
        where = {"host": bus.host, "port": bus.port, "ws_port": None, "claim": ASKING}
        context.home.update_endpoints("bus", where)
        try:
            await _hold_external(context)
        except ConfigError:
            context.home.update_endpoints("bus", {"claim": REFUSED})  # our other services end, too
            raise
        await shell.run()
        return
    context.home.update_endpoints("bus", {"claim": None})
    if bus.broker == "auto":
        context.log.info("chosen", broker=kind.value)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shell.run)
        await shell.carry()


class Shell:
    """The broker's users, and the broker itself where it is ours."""

    def __init__(self, context: Context, kind: Kind) -> None:
        self._context = context
        self._kind = kind
        self._directory = context.home.run / "broker"
        self._child: Child | None = None  # while it listens
        connection = open_store(context.home.store(context.service), MIGRATIONS, durable=True, gone=GONE)
        self._store = Store(connection)
        config = context.config.bus
        self.users = Users(
            self._store.users(),
            refusal=no_rules(kind, acl=config.acl, configured=config.broker == "amqtt"),
            password_file=lambda user: str(context.home.bus_password_file(user)),
            place=(config.root, context.config.node.name) if kind is Kind.EXTERNAL else None,
        )
        self.station = Station(context, connection, keep=self._keep, do=self._do)
        # mosquitto serves no metrics of its own.
        ProcessCollector("pointsman_mqtt_broker", lambda: self._pid, registry=context.registry)

    @property
    def _pid(self) -> int:
        """The broker's own; 0, which is no process, while there is none of ours."""
        child = self._child
        return child.pid if child is not None else 0

    async def run(self) -> None:
        """The users' commands, until cancelled."""
        users, station, now = self.users, self.station, self._context.now
        station.act([users.told(now(), new_id())])
        station.on_command(t.USER_ADD, m.AddUser, lambda c, _, at: users.add(c, at, new_id()))
        station.on_command(t.USER_REMOVE, m.RemoveUser, lambda c, _, at: users.remove(c, at, new_id()))
        station.on_command(t.USER_LIST, m.ListUsers, lambda c, _values, _at: users.list(c), remember=False)
        await station.run()

    def _keep(self, effect: Keep) -> None:
        if isinstance(effect, SaveUser):
            # Before the row: a user without a password could be made by nobody again.
            self._context.home.write_secret(f"bus/{effect.user.user}", new_password())
            self._store.save(effect)
        elif isinstance(effect, DropUser):
            self._store.drop(effect)
            self._context.home.bus_password_file(effect.name).unlink(missing_ok=True)

    def _do(self, effect: Do) -> None:
        if isinstance(effect, Reload) and self._child is not None and self._kind is Kind.MOSQUITTO:
            self._write_users()
            self._child.reload()

    # the broker itself

    async def carry(self) -> None:
        """Start it, and again whenever it ends. Until cancelled."""
        context = self._context
        failures = 0
        while True:
            listeners = _listeners(context, self._kind)
            passwords = self._passwords()
            argv = prepare(
                self._directory,
                self._kind,
                listeners,
                passwords,
                self._bus_users(),
                root=context.config.bus.root,
                node=context.config.node.name,
            )
            began = trio.current_time()
            child = Child.start(argv, context.home.logs / f"{self._kind}.log")
            code: int | None = None
            try:
                if await child.listening(listeners):
                    context.log.info(
                        "listening", broker=self._kind.value, pid=child.pid, port=listeners[0].port
                    )
                    self._child = child
                    if self._passwords() != passwords:  # somebody came or went while it started
                        self._do(Reload())
                    code = await self._bounded(child)
            finally:
                self._child = None
                await child.end()
            pause, failures = core.pause_s(failures, trio.current_time() - began)
            context.log.error(
                "the broker ended" if code is not None else "the broker does not listen",
                broker=self._kind.value,
                exit_code=code,
                output=child.output(),
                restart_in_s=pause,
            )
            context.errors.labels(code="unavailable").inc()
            await trio.sleep(pause)

    async def _bounded(self, child: Child) -> int:
        """Wait for its end, and bring it about once it holds too much. Returns the exit code."""

        async def relieve() -> None:
            held = await too_much(child.rss_bytes)
            self._context.log.error("the broker holds too much and is started anew, empty", rss_bytes=held)
            await child.end()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(relieve)
            code = await child.ended()
            nursery.cancel_scope.cancel()
        return code

    def _bus_users(self) -> list[User]:
        return [*core.users(SERVICES), *self.users.of_the_bus()]

    def _passwords(self) -> dict[str, str]:
        home = self._context.home
        return {
            user.username: home.read_or_make_secret(f"bus/{user.username}", new_password).strip()
            for user in self._bus_users()
        }

    def _write_users(self) -> None:
        config = self._context.config
        write_users(
            self._directory,
            self._kind,
            self._passwords(),
            self._bus_users(),
            root=config.bus.root,
            node=config.node.name,
        )


def _listeners(context: Context, kind: Kind) -> tuple[Listener, ...]:
    """Claim the ports, again at every start: another program may have taken one in between."""
    config, home = context.config, context.home
    found = [
        Listener(config.bus.host, port_for(config, home, "bus", "port")),
        Listener(config.bus.host, port_for(config, home, "bus", "ws_port"), websockets=True),
    ]
    address = config.bus.listen_address
    if address is not None and kind is Kind.MOSQUITTO:
        certificate, key = config.bus.tls_cert, config.bus.tls_key
        assert certificate is not None  # noqa: S101  # the configuration is checked when it is read
        assert key is not None  # noqa: S101
        _check_tls(certificate, key)
        found.append(Listener(*address, certificate=str(certificate), key=str(key)))
    return tuple(found)


def _check_tls(certificate: Path, key: Path) -> None:
    """What mosquitto would only put into its log. Raises `ConfigError`."""
    for name, path in (("bus.tls_cert", certificate), ("bus.tls_key", key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"{name} = '{path}' cannot be read: {error.strerror} (bus.listen needs it)"
            ) from error
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: "")
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(
            f"bus.tls_cert = '{certificate}' and bus.tls_key = '{key}' are not a certificate and its key: "
            f"{error}. Both are PEM files, the key without a password"
        ) from error


async def _hold_external(context: Context) -> None:
    """Claim our node on somebody else's broker, and hold it (`core.Claim`)."""
    bus = context.bus
    if isinstance(bus, MqttBus):
        await bus.wait_connected(
            float("inf")
        )  # a broker that is away is waited for, one that refuses us is not
    home = context.home.read_or_make_secret("home-id", new_id)
    claim = Claim(home, socket.gethostname(), context.now())
    bus.subscribe(t.NODE_CLAIM)
    bus.publish(t.NODE_CLAIM, claim.payload())
    with trio.move_on_after(core.CLAIM_WAIT_S):
        while True:
            _check(context, claim, await bus.receive())
    claim = Claim(home, claim.host, context.now(), held=True)
    bus.publish(t.NODE_CLAIM, claim.payload())
    bus.own(t.NODE_CLAIM, always=True)
    context.home.update_endpoints("bus", {"claim": HELD})
    context.log.info("node claimed", node=bus.node)


def _check(context: Context, claim: Claim, message: Received | Connected) -> None:
    if isinstance(message, Connected) or message.row is not t.NODE_CLAIM:
        return
    try:
        other = codec.decode(t.NODE_CLAIM, message.payload, m.NodeClaim)
    except PeerError:
        return  # an empty message, or rubbish that is overwritten
    if claim.beaten_by(other, retained=message.retained):
        raise ConfigError(
            f"node.name = {context.bus.node!r} is already on this bus, from another home on the host "
            f"{other.host}: choose another node.name for this one"
        )
