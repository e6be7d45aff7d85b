"""Which broker carries the bus, what it is told, and whose node it is. Pure: no files, no clock."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bus import messages as m
from bus.acl import Role, User
from bus.codec import MAX_FACT_BYTES

MAX_PACKET_BYTES = MAX_FACT_BYTES + 1024 * 1024  # what readers refuse as too large must still reach them
MAX_QUEUED = 100_000  # messages for one slow client; mosquitto's own 1,000 silently dropped acknowledged ones
MAX_QUEUED_BYTES = 128 * 1024 * 1024  # for one slow client, or one that is away: three of the largest facts
MAX_INFLIGHT = 1_000  # QoS 1 messages on their way to one client; mosquitto's own 20 is a round trip each
BACKOFF_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # pauses before the broker is started again
STEADY_S = 10.0  # a broker that lived this long was a good one: the next pause is the first again
CLAIM_WAIT_S = 2.0  # a living holder answers a challenge within a round trip


class Kind(enum.StrEnum):
    MOSQUITTO = "mosquitto"
    AMQTT = "amqtt"
    EXTERNAL = "external"


class ChoiceError(Exception):
    """The broker that was asked for cannot be had. The text says what to do."""


def choose(wanted: str, mosquitto: str | None, *, listen: bool = False) -> Kind:
    """The broker for ``bus.broker``. ``mosquitto`` is the path of its program, or None."""
    if wanted == "external":
        return Kind.EXTERNAL
    if wanted == "amqtt" or (wanted == "auto" and mosquitto is None and not listen):
        return Kind.AMQTT
    if mosquitto is None:
        why = "bus.listen (devices on the network)" if wanted == "auto" else "bus.broker = 'mosquitto'"
        raise ChoiceError(
            f"{why} needs mosquitto, which is not installed: `apt-get install mosquitto` (or your system's "
            "package), or leave it out: then amqtt carries the bus on this machine alone"
        )
    return Kind.MOSQUITTO


def users(services: Iterable[str]) -> list[User]:
    """Those that every broker of ours has."""
    return [User("operator", Role.OPERATOR), *(User(f"service-{name}", Role.SERVICE) for name in services)]


@dataclass(frozen=True, slots=True)
class Listener:
    """Where the broker listens. ``certificate`` and ``key`` are PEM files; only ``extra`` ones have them."""

    host: str
    port: int
    websockets: bool = False
    certificate: str | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """All that a broker's configuration depends on. Paths are absolute."""

    listeners: tuple[Listener, ...]
    password_file: str
    acl_file: str
    as_root: bool


def mosquitto_conf(settings: Settings) -> str:
    """mosquitto.conf(5)."""
    lines = [
        "# Made by Pointsman at every start: do not edit.",
        "per_listener_settings false",
        "allow_anonymous false",
        f"password_file {settings.password_file}",
        f"acl_file {settings.acl_file}",
        "persistence false",
        f"max_queued_messages {MAX_QUEUED}",
        f"max_queued_bytes {MAX_QUEUED_BYTES}",
        "persistent_client_expiration 1d",  # who stays away longer begins anew
        f"max_inflight_messages {MAX_INFLIGHT}",
        f"max_packet_size {MAX_PACKET_BYTES}",
        "set_tcp_nodelay true",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        "connection_messages false",
    ]
    if settings.as_root:
        lines.append("user root")  # else it becomes another user, who may not read files of 0600
    for listener in settings.listeners:
        if listener.websockets:
            lines += ["", *_websockets(listener)]
        else:
            lines += ["", f"listener {listener.port} {listener.host}"]
        if listener.certificate is not None:
            lines += [f"certfile {listener.certificate}", f"keyfile {listener.key}"]
    return "\n".join(lines) + "\n"


def _websockets(listener: Listener) -> list[str]:
    """Its lines. mosquitto 2.0.11 (Debian 12) with an IPv4 address listens on every address of the machine,
    unless it is told to speak IPv4 only; with a name it listens nowhere, and says nothing of it.
    """
    host = "127.0.0.1" if listener.host == "localhost" else listener.host
    lines = [f"listener {listener.port} {host}", "protocol websockets"]
    return lines if ":" in host else [*lines, "socket_domain ipv4"]


def amqtt_conf(settings: Settings) -> str:
    """What `services.broker.amqtt_server` reads."""
    listeners: dict[str, dict[str, Any]] = {}
    for number, listener in enumerate(settings.listeners):
        host = f"[{listener.host}]" if ":" in listener.host else listener.host
        listeners["default" if number == 0 else f"listener-{number}"] = {
            "type": "ws" if listener.websockets else "tcp",
            "bind": f"{host}:{listener.port}",
        }
    return json.dumps({"listeners": listeners, "password_file": settings.password_file}, indent=1)


def pause_s(failures: int, lived_s: float) -> tuple[float, int]:
    """How long to wait before the next start, and the count of failures in a row."""
    failures = 0 if lived_s >= STEADY_S else failures
    return BACKOFF_S[min(failures, len(BACKOFF_S) - 1)], failures + 1


@dataclass(frozen=True, slots=True)
class Claim:
    """This home's claim of its node on a broker that others use too.

    Theory of operation. `claim` is a snapshot. A newcomer that finds another home's claim there writes its
    own over it, marked as ``asking``, and waits `CLAIM_WAIT_S`. A living holder owns the snapshot
    (`Bus.own`), so that its claim comes back at once: then the newcomer gives up. No answer: the holder is
    gone, and the newcomer holds. Of two newcomers at once the one with the smaller id goes on.
    """

    home: str
    host: str
    at: datetime
    held: bool = False

    def payload(self) -> m.NodeClaim:
        return m.NodeClaim(home=self.home, host=self.host, at=self.at, held=self.held)

    def beaten_by(self, other: m.NodeClaim, *, retained: bool) -> bool:
        """Whether a claim that was seen ends ours. A retained one may be a dead holder's."""
        if other.home == self.home or retained or self.held:
            return False
        return other.held or other.home < self.home
