"""The configuration: every section and key, with its default and its rule (the contract's section 10)."""

from __future__ import annotations

import ipaddress
import typing
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from bus.messages import LEVELS, PermissionMode
from services._process import config_rules as rule

MAX_METRICS_PORTS = 20  # base_port and the ports above it that services may take


class Node(Struct, frozen=True, kw_only=True):
    name: typing.Annotated[str, rule.SLUG]
    home: typing.Annotated[Path, rule.PATH]


class BusConfig(Struct, frozen=True, kw_only=True):
    broker: typing.Annotated[
        typing.Literal["auto", "mosquitto", "amqtt", "external"],
        rule.one_of("auto", "mosquitto", "amqtt", "external"),
    ] = "auto"
    host: typing.Annotated[str, rule.HOST] = "127.0.0.1"
    port: typing.Annotated[int, rule.PORT] = 1883
    ws_port: typing.Annotated[int, rule.PORT] = 9001
    root: typing.Annotated[str, rule.SLUG] = "pointsman"
    username: typing.Annotated[str | None, rule.TEXT] = None
    password_file: typing.Annotated[Path | None, rule.PATH] = None
    tls_ca: typing.Annotated[Path | None, rule.PATH] = None
    acl: typing.Annotated[bool, rule.BOOL] = False
    listen: typing.Annotated[str | None, rule.ADDRESS] = None  # "host:port", "[::]:port"
    tls_cert: typing.Annotated[Path | None, rule.PATH] = None
    tls_key: typing.Annotated[Path | None, rule.PATH] = None

    @property
    def listen_address(self) -> tuple[str, int] | None:
        """``listen`` as (host, port)."""
        if self.listen is None:
            return None
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)


class Ingest(Struct, frozen=True, kw_only=True):
    host: typing.Annotated[str, rule.HOST] = "127.0.0.1"
    port: typing.Annotated[int, rule.PORT] = 6180
    hooks_port: typing.Annotated[int, rule.PORT] = 6182


class Gateway(Struct, frozen=True, kw_only=True):
    host: typing.Annotated[str, rule.HOST] = "127.0.0.1"
    port: typing.Annotated[int, rule.PORT] = 6181


class Metrics(Struct, frozen=True, kw_only=True):
    host: typing.Annotated[str, rule.HOST] = "127.0.0.1"
    base_port: typing.Annotated[int, rule.whole(1, 65535 - MAX_METRICS_PORTS)] = 9180


class Sessions(Struct, frozen=True, kw_only=True):
    keep_ended_s: typing.Annotated[float, rule.SECONDS] = 86400.0


class Agent(Struct, frozen=True, kw_only=True):
    claude: typing.Annotated[str, rule.PROGRAM] = "claude"  # a name on PATH, or an absolute path


class Approvals(Struct, frozen=True, kw_only=True):
    """Timeouts in seconds; 0 waits for ever."""

    timeout_s: typing.Annotated[float, rule.SECONDS] = 60.0
    timeout_question_s: typing.Annotated[float, rule.SECONDS] = 0.0
    timeout_plan_s: typing.Annotated[float, rule.SECONDS] = 0.0
    timeout_low_s: typing.Annotated[float | None, rule.SECONDS] = None
    timeout_medium_s: typing.Annotated[float | None, rule.SECONDS] = None
    timeout_high_s: typing.Annotated[float | None, rule.SECONDS] = None
    timeout_critical_s: typing.Annotated[float | None, rule.SECONDS] = None
    auto_approve: typing.Annotated[tuple[str, ...], rule.NAMES] = ("Read", "Glob", "Grep")
    max_permission_mode: typing.Annotated[PermissionMode, rule.one_of(*typing.get_args(PermissionMode))] = (
        "acceptEdits"
    )
    # What stands in the tables is for the gate to judge: it keeps its last good rules when these are not.
    rules: typing.Annotated[tuple[dict[str, object], ...], rule.TABLES] = ()

    def timeout_for(self, kind: str, level: str) -> float | None:
        """Seconds until an unanswered approval is denied, or None for never. An unknown level is critical."""
        if kind == "question":
            seconds = self.timeout_question_s
        elif kind == "plan":
            seconds = self.timeout_plan_s
        else:
            known = level if level in {"low", "medium", "high"} else "critical"
            own: float | None = getattr(self, f"timeout_{known}_s")
            seconds = self.timeout_s if own is None else own
        return seconds or None


class Device(Struct, frozen=True, kw_only=True):
    """[devices.<name>]: what a device's user has can only be lowered."""

    max_level: typing.Annotated[str, rule.one_of(*LEVELS)] = "critical"
    oldest: typing.Annotated[bool, rule.BOOL] = False  # an empty press may choose among several


class Ledger(Struct, frozen=True, kw_only=True):
    database: typing.Annotated[Path | str, rule.DATABASE]  # default: ledger.sqlite in the home; or a URL
    default_budget_usd: typing.Annotated[float | None, rule.BUDGET] = 10.0  # None: "unlimited"
    resume_when_reset: typing.Annotated[bool, rule.BOOL] = False


class Watchdog(Struct, frozen=True, kw_only=True):
    memory_budget: typing.Annotated[float | int, rule.MEMORY] = 0.5  # float: share; int: bytes
    idle_s: typing.Annotated[float, rule.SECONDS] = 3600.0
    max_sessions: typing.Annotated[int, rule.whole(1, 10_000)] = 10

    def memory_budget_bytes(self, machine_bytes: int) -> int:
        """The budget on a machine with so much memory."""
        if isinstance(self.memory_budget, float):
            return int(machine_bytes * self.memory_budget)
        return self.memory_budget


class Config(Struct, frozen=True, kw_only=True):
    """``given`` holds the keys that the user set ("bus.port"); ``file`` is the TOML file that was read.

    ``mistakes`` are those that `load_config` was to let pass. ``unread``: what is odd about variables that
    were passed over, one sentence each.
    """

    node: Node
    bus: BusConfig
    ingest: Ingest
    gateway: Gateway
    metrics: Metrics
    sessions: Sessions
    agent: Agent
    approvals: Approvals
    ledger: Ledger
    watchdog: Watchdog
    devices: Mapping[str, Device] = msgspec.field(default_factory=dict)
    given: frozenset[str] = frozenset()
    file: Path | None = None
    mistakes: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


SECTIONS: Mapping[str, type[Struct]] = {
    "node": Node, "bus": BusConfig, "ingest": Ingest, "gateway": Gateway, "metrics": Metrics,
    "sessions": Sessions, "agent": Agent, "approvals": Approvals, "ledger": Ledger, "watchdog": Watchdog,
}  # fmt: skip


DEVICES = "devices"  # a section of tables, one for each device


def configured_ports(config: Config) -> dict[str, int]:
    """The ports that the user chose, by key; those of an external broker are not ours."""
    keys = ["ingest.port", "ingest.hooks_port", "gateway.port", "metrics.base_port"]
    if config.bus.broker != "external":
        keys[:0] = ["bus.port", "bus.ws_port"]
    ports = {}
    for key in keys:
        section, _, name = key.partition(".")
        if key in config.given:
            ports[key] = int(getattr(getattr(config, section), name))
    if config.bus.listen_address is not None:
        ports["bus.listen"] = config.bus.listen_address[1]
    return ports


def is_loopback(host: str) -> bool:
    """True for localhost and the addresses of this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
