"""Where the bus is, and with which password we come: for services and for the ``pointsman`` command alike."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from pathlib import Path

from bus.client import BusAddress, MqttBus
from bus.errors import BusDownError
from services._process.config_keys import Config
from services._process.errors import ConfigError, HomeError, WorldError
from services._process.home import Home
from services._process.logs import Log

BROKER_USER = "service-broker"
ASKING, HELD, REFUSED = (
    "asking",
    "held",
    "refused",
)  # bus.claim in endpoints.json; the broker writes it
GRACE_S = 5.0  # for the broker to start beside us; `run` warns if it has not by then


def bus_address(config: Config, home: Home, username: str) -> Callable[[], BusAddress]:
    """A function for `MqttBus`, which asks again at every attempt: the broker may have moved.

    ``username`` is a user of our own broker; with ``bus.broker = external`` all come as ``bus.username``.
    Raises `WorldError` at once when bus.tls_ca cannot be used; the function itself raises `BusDownError`.
    """
    if config.bus.broker == "external":
        gated = username.startswith("service-") and username != BROKER_USER
        return _external(config, home if gated else None)

    def own() -> BusAddress:
        found = home.endpoints().get("bus", {})
        try:
            password = home.bus_password(username)
            host, port = str(found["host"]), int(found["port"])
        except HomeError as error:
            raise BusDownError(str(error)) from error
        except (KeyError, ValueError) as error:
            raise BusDownError(
                f"the broker of {home.path} is not started: do `make run`, or see `pointsman doctor`"
            ) from error
        hint = str(home.bus_password_file(username))
        return BusAddress(host, port, username, password, None, hint, own=True)

    return own


def _external(config: Config, gate: Home | None) -> Callable[[], BusAddress]:
    """With a ``gate`` only once the broker service of that home holds the node (services/broker/core.py):
    two homes that speak for one node would overwrite each other.
    """
    tls: ssl.SSLContext | None = None
    if config.bus.tls_ca is not None:
        try:
            tls = ssl.create_default_context(cafile=config.bus.tls_ca)
        except OSError as error:  # ssl.SSLError is one
            raise WorldError(f"bus.tls_ca = '{config.bus.tls_ca}' cannot be used: {error}") from error

    def external() -> BusAddress:
        bus, password = config.bus, ""
        claim = gate.endpoints().get("bus", {}).get("claim") if gate is not None else HELD
        if claim == REFUSED:
            raise ConfigError(f"node.name = {config.node.name!r} belongs to another home on this bus")
        if claim != HELD:
            raise BusDownError("the broker service has not claimed this node yet")
        if bus.password_file is not None:
            password = _password(bus.password_file)
        return BusAddress(bus.host, bus.port, bus.username or "", password, tls, str(bus.password_file or ""))

    return external


def _password(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BusDownError(f"bus.password_file = '{path}' cannot be read: {error}") from error


class ConnectionLog:
    """The connection's view of a log. It keeps the terminal quiet while a stack starts, because every service
    is up before the broker is, and once ``stopping`` is set, because then the broker may be the first to end.
    """

    def __init__(self, log: Log) -> None:
        self.stopping = False
        self._log = log
        self._quiet_until = time.monotonic() + GRACE_S

    def info(self, event: str, /, **fields: object) -> None:
        self._log.info(event, **fields)

    def warning(self, event: str, /, **fields: object) -> None:
        if self.stopping or time.monotonic() < self._quiet_until:
            self._log.info(event, **fields)
        else:
            self._log.warning(event, **fields)


def connect_service(
    config: Config, home: Home, service: str, log: Log, connection_log: ConnectionLog
) -> MqttBus:
    """A service's connection; it stands once its ``run`` does. ``log`` learns the password, to mask it."""
    address = bus_address(config, home, f"service-{service}")

    def watched() -> BusAddress:
        found = address()
        log.secret(found.password)
        return found

    return MqttBus(watched, root=config.bus.root, node=config.node.name, service=service, log=connection_log)
