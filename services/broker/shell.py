"""Run the broker: choose it, write its files, start it, start it again when it dies."""

from __future__ import annotations

import socket
from pathlib import Path

import trio

from bus import codec
from bus import messages as m
from bus import topics as t
from bus.acl import new_password
from bus.api import Connected, Received
from bus.client import MqttBus
from bus.errors import PeerError
from bus.requests import new_id
from services import SERVICES
from services._process.connect import ASKING, HELD, REFUSED
from services._process.context import Context
from services._process.errors import ConfigError, WorldError
from services._process.ports import port_for
from services.broker import core
from services.broker.child import Child, find_mosquitto, prepare
from services.broker.core import Claim, Kind, Listener


async def serve(context: Context) -> None:
    """Until cancelled. Raises `ConfigError` or `WorldError` for what a person must put right."""
    bus = context.config.bus
    try:
        kind = core.choose(bus.broker, find_mosquitto(), listen=bus.listen is not None)
    except core.ChoiceError as error:
        raise WorldError(str(error)) from error
    context.home.update_endpoints("bus", {"broker": kind.value})
    if kind is Kind.EXTERNAL:
        where = {"host": bus.host, "port": bus.port, "ws_port": None, "claim": ASKING}
        context.home.update_endpoints("bus", where)
        try:
            await _hold_external(context)
        except ConfigError:
            context.home.update_endpoints("bus", {"claim": REFUSED})  # our other services end, too
            raise
        return
    context.home.update_endpoints("bus", {"claim": None})
    if bus.broker == "auto":
        context.log.info("chosen", broker=kind.value)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_drain, context)
        await _keep_running(context, kind)


async def _keep_running(context: Context, kind: Kind) -> None:
    users = core.users(SERVICES)
    failures = 0
    while True:
        listeners = _listeners(context, kind)
        passwords = {
            user.username: context.home.read_or_make_secret(f"bus/{user.username}", new_password).strip()
            for user in users
        }
        directory = context.home.run / "broker"
        argv = prepare(
            directory,
            kind,
            listeners,
            passwords,
            users,
            root=context.config.bus.root,
            node=context.config.node.name,
        )
        began = trio.current_time()
        child = Child.start(argv, context.home.logs / f"{kind}.log")
        try:
            if await child.listening(listeners):
                context.log.info("listening", broker=kind.value, pid=child.pid, port=listeners[0].port)
                code: int | None = await child.ended()
            else:
                code = None
        finally:
            await child.end()
        pause, failures = core.pause_s(failures, trio.current_time() - began)
        context.log.error(
            "the broker ended" if code is not None else "the broker does not listen",
            broker=kind.value,
            exit_code=code,
            output=child.output(),
            restart_in_s=pause,
        )
        context.errors.labels(code="unavailable").inc()
        await trio.sleep(pause)


def _listeners(context: Context, kind: Kind) -> tuple[Listener, ...]:
    """Claim the ports, again at every start: another program may have taken one in between."""
    config, home = context.config, context.home
    found = [
        Listener(config.bus.host, port_for(config, home, "bus", "port")),
        Listener(config.bus.host, port_for(config, home, "bus", "ws_port"), websockets=True),
    ]
    address = config.bus.listen_address
    if address is not None and kind is Kind.MOSQUITTO:
        for path in (config.bus.tls_cert, config.bus.tls_key):
            if path is not None and not Path(path).is_file():
                raise ConfigError(
                    f"bus.listen: {path} is not there (bus.tls_cert and bus.tls_key are PEM files)"
                )
        found.append(Listener(*address, certificate=str(config.bus.tls_cert), key=str(config.bus.tls_key)))
    return tuple(found)


async def _drain(context: Context) -> None:
    """Nothing is asked of this service (yet); what comes must not pile up."""
    while True:
        await context.bus.receive()


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
    await _drain(context)


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
