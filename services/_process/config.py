"""The configuration: one loader, frozen sections, and errors that a person can act on.

Keys and defaults are those of the contract's section 10. A value comes from the environment
(``POINTSMAN_<SECTION>_<KEY>``, and ``POINTSMAN_HOME`` for node.home), else from the TOML file, else from the
default below. An empty variable counts as not set. All mistakes are reported at once.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import pwd
import re
import socket
import tomllib
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from bus.messages import LEVELS, PermissionMode
from services._process import config_rules as rule
from services._process.errors import ConfigError
from services._process.redact import MASK, is_secret_name

PREFIX = "POINTSMAN_"
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
    """``given`` holds the keys that the user set ("bus.port"); ``file`` is the TOML file that was read."""

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


SECTIONS: Mapping[str, type[Struct]] = {
    "node": Node, "bus": BusConfig, "ingest": Ingest, "gateway": Gateway, "metrics": Metrics,
    "sessions": Sessions, "agent": Agent, "approvals": Approvals, "ledger": Ledger, "watchdog": Watchdog,
}  # fmt: skip


DEVICES = "devices"  # a section of tables, one for each device


def user_home(environ: Mapping[str, str]) -> Path:
    """The user's home directory, also where HOME is not set."""
    return Path(environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir)


def default_home(environ: Mapping[str, str]) -> Path:
    """Where Pointsman keeps its things unless told otherwise."""
    return user_home(environ) / ".local/state/pointsman"


def config_path(environ: Mapping[str, str]) -> Path:
    """Where the configuration file is, if there is one."""
    return Path(environ.get("POINTSMAN_CONFIG") or user_home(environ) / ".config/pointsman/config.toml")


def host_slug(name: str | None = None) -> str:
    """The host name as a node name: lower case, what may not stand in a slug becomes a hyphen."""
    text = (socket.gethostname() if name is None else name).split(".")[0].lower()
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-")[:63].rstrip("-") or "node"


def load_config(environ: Mapping[str, str], text: str | None = None) -> Config:
    """Read the configuration; ``text`` is read as if it stood in the file. Raises `ConfigError`, whose text
    names every mistake.
    """
    reader = _Reader(environ)
    file, document = reader.document() if text is None else (None, reader.parsed(text))
    reader.from_file(document)
    reader.from_environment()
    config = reader.build(file)
    reader.mistakes.extend(_contradictions(config))
    if reader.mistakes:
        raise ConfigError("\n".join(reader.mistakes))
    return config


class _Reader:
    """Collects values and mistakes; nothing is raised before all has been looked at."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.home = user_home(environ)
        self.mistakes: list[str] = []
        self.values: dict[str, dict[str, object]] = {section: {} for section in SECTIONS}

    def document(self) -> tuple[Path | None, dict[str, object]]:
        explicit = self.environ.get("POINTSMAN_CONFIG")
        path = config_path(self.environ)
        named = f"{path} (from POINTSMAN_CONFIG)" if explicit else str(path)
        try:
            return path, tomllib.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            if explicit:
                raise ConfigError(f"the configuration file {named} is not there") from None
            return None, {}
        except OSError as error:
            raise ConfigError(f"the configuration file {named} cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"the configuration file {named} is not valid TOML: {error}") from error
        finally:
            self.named = str(path)

    def parsed(self, text: str) -> dict[str, object]:
        self.named = "the given text"
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"not valid TOML: {error}") from error

    def from_file(self, document: Mapping[str, object]) -> None:
        where = f"in {self.named}"
        for section, table in document.items():
            if section == DEVICES and isinstance(table, dict):
                self._devices(table, where)
            elif section not in SECTIONS:
                allowed = f"there is no such section; {_nearest(section, {**SECTIONS, DEVICES: Device})}"
                self.mistakes.append(f"[{section}] {where}: {allowed}")
            elif not isinstance(table, dict):
                self.mistakes.append(f"{section} = {table!r} {where}: must be a table, [{section}]")
            else:
                for key, value in table.items():
                    self._take(section, key, value, where)

    def _devices(self, tables: Mapping[str, object], where: str) -> None:
        for name, table in tables.items():
            section = f"{DEVICES}.{name}"
            try:
                rule.SLUG.parse(name, self.home)
            except ValueError:
                self.mistakes.append(f"[{section}] {where}: a device's name must be {rule.SLUG.allowed}")
                continue
            if not isinstance(table, dict):
                self.mistakes.append(f"{section} = {table!r} {where}: must be a table, [{section}]")
                continue
            self.values[section] = {}
            for key, value in table.items():
                self._take(section, key, value, where)

    def from_environment(self) -> None:
        for variable, text in sorted(self.environ.items()):
            if not variable.startswith(PREFIX) or not text:
                continue
            section, _, key = variable.removeprefix(PREFIX).lower().partition("_")
            if section in SECTIONS and key:
                self._take(section, key, text, f"from {variable}", from_text=True)
        home, also = self.environ.get("POINTSMAN_HOME"), self.environ.get("POINTSMAN_NODE_HOME")
        if home and also and home != also:
            self.mistakes.append(
                f"POINTSMAN_HOME = {home!r} and POINTSMAN_NODE_HOME = {also!r}: both set node.home; set one"
            )
        if home:
            self._take("node", "home", home, "from POINTSMAN_HOME", from_text=True)

    def _take(self, section: str, key: str, value: object, where: str, *, from_text: bool = False) -> None:
        rules = _rules(SECTIONS.get(section, Device))
        if key not in rules:
            allowed = f"there is no such key; {_nearest(key, rules, section + '.')}"
            shown = MASK if is_secret_name(key) else repr(value)  # bus.password = … is an easy mistake
            self.mistakes.append(f"{section}.{key} = {shown} {where}: {allowed}")
            return
        found = rules[key]
        try:
            if from_text:
                assert isinstance(value, str)  # noqa: S101  # the environment holds nothing else
                value = found.from_text(value)
            self.values[section][key] = found.parse(value, self.home)
        except ValueError as error:
            detail = f" ({error})" if str(error) else ""
            self.mistakes.append(f"{section}.{key} = {value!r} {where}: must be {found.allowed}{detail}")

    def build(self, file: Path | None) -> Config:
        given = frozenset(f"{section}.{key}" for section, keys in self.values.items() for key in keys)
        node = {"name": host_slug(), "home": default_home(self.environ), **self.values["node"]}
        home = typing.cast(Path, node["home"])
        self.values["node"] = node
        self.values["ledger"] = {"database": home / "ledger.sqlite", **self.values["ledger"]}
        sections = {name: kind(**self.values[name]) for name, kind in SECTIONS.items()}
        devices = {
            name.removeprefix(f"{DEVICES}."): msgspec.convert(values, Device)
            for name, values in self.values.items()
            if name not in SECTIONS
        }
        return Config(**sections, devices=devices, given=given, file=file)  # type: ignore[arg-type]  # one struct per section


def _rules(section: type[Struct]) -> dict[str, rule.Rule]:
    hints = typing.get_type_hints(section, include_extras=True)
    return {
        field.name: next(extra for extra in hints[field.name].__metadata__ if isinstance(extra, rule.Rule))
        for field in msgspec.structs.fields(section)
    }


def _nearest(name: str, known: Mapping[str, object], prefix: str = "") -> str:
    swapped = [word for word in known if sorted(word) == sorted(name)]  # "prot" is port rather than root
    found = swapped or difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {prefix}{found[0]}? " if found else ""
    return f"{hint}allowed: {', '.join(sorted(known))}"


def _contradictions(config: Config) -> Iterator[str]:
    """What no single key shows."""
    bus = config.bus
    if bus.listen is not None:
        if bus.broker in {"amqtt", "external"}:
            yield (
                f"bus.listen = {bus.listen!r}: must be left out with bus.broker = {bus.broker!r}: "
                "only mosquitto, started by Pointsman, serves devices on the network"
            )
        missing = [key for key in ("tls_cert", "tls_key") if getattr(bus, key) is None]
        if missing:
            named = " and ".join(f"bus.{key}" for key in missing)
            yield f"bus.listen = {bus.listen!r}: needs TLS: set {named} as well (a PEM file)"
    elif bus.tls_cert or bus.tls_key:
        yield "bus.tls_cert, bus.tls_key: are for bus.listen, which is not set"
    if bus.broker != "external" and not is_loopback(bus.host):
        yield (
            f"bus.host = {bus.host!r}: must be a loopback address, such as 127.0.0.1, unless bus.broker is "
            "'external': the network is served by bus.listen, with TLS"
        )
    if bus.broker == "external":
        if bus.password_file is not None and bus.username is None:
            yield f"bus.password_file = '{bus.password_file}': needs bus.username as well"
        elif bus.username is not None and bus.password_file is None:
            yield f"bus.username = {bus.username!r}: needs bus.password_file as well (the password alone)"
    users: dict[int, str] = {}
    for key, port in configured_ports(config).items():
        if port in users:
            yield f"{key} = {port}: must differ from {users[port]}, which has the same port"
        users.setdefault(port, key)


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
