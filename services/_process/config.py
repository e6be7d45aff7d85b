"""The configuration read: one loader, and errors that a person can act on.

Keys and defaults stand in `services._process.config_keys`. A value comes from the environment
(``POINTSMAN_<SECTION>_<KEY>``, and ``POINTSMAN_HOME`` for node.home), else from the TOML file, else from the
default. An empty variable counts as not set. All mistakes are reported at once. Variables that name no
section are others' business; one that nearly names one is told in ``unread``.
"""

from __future__ import annotations

import difflib
import os
import pwd
import re
import socket
import tomllib
import typing
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from services._process import config_rules as rule
from services._process.config_keys import (
    DEVICES,
    SECTIONS,
    BusConfig,
    Config,
    Device,
    configured_ports,
    is_loopback,
)
from services._process.errors import ConfigError
from services._process.redact import MASK, is_secret_name

PREFIX = "POINTSMAN_"
GIVEN_TO_AGENTS = "POINTSMAN_SESSION_UID"  # no key of a section: who starts us may be an agent
NEARLY = 0.8  # difflib's ratio of "aprovals" to "approvals" is 0.94, of "approve" 0.75
TO_THE_BUS = frozenset({"node", "bus"})  # all that a client needs

Mistake = tuple[str, str]
"""The section that it is in, and the sentence for the user."""


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


def load_config(
    environ: Mapping[str, str], text: str | None = None, *, needed: Container[str] | None = None
) -> Config:
    """Read the configuration; ``text`` is read as if it stood in the file. Raises `ConfigError`, whose text
    names every mistake.

    With ``needed`` (sections), mistakes in other sections stand in the result's ``mistakes`` instead, and
    defaults in their place.
    """
    reader = _Reader(environ)
    file, document = reader.document() if text is None else (None, reader.parsed(text))
    reader.from_file(document)
    reader.from_environment()
    config = reader.build(file)
    found = [*reader.mistakes, *_contradictions(config)]
    sentences = tuple(sentence for _, sentence in found)
    if any(needed is None or section in needed for section, _ in found):
        raise ConfigError("\n".join(sentences))
    return msgspec.structs.replace(config, mistakes=sentences)


class _Reader:
    """Collects values and mistakes; nothing is raised before all has been looked at."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.home = user_home(environ)
        self.mistakes: list[Mistake] = []
        self.unread: list[str] = []
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
                known = {**SECTIONS, DEVICES: Device}
                meant = _closest(section, known) or section
                allowed = f"there is no such section; {_nearest(section, known)}"
                self.mistakes.append((meant, f"[{section}] {where}: {allowed}"))
            elif not isinstance(table, dict):
                self._mistake(section, f"{section} = {table!r} {where}: must be a table, [{section}]")
            else:
                for key, value in table.items():
                    self._take(section, key, value, where)

    def _devices(self, tables: Mapping[str, object], where: str) -> None:
        for name, table in tables.items():
            section = f"{DEVICES}.{name}"
            try:
                rule.SLUG.parse(name, self.home)
            except ValueError:
                self._mistake(section, f"[{section}] {where}: a device's name must be {rule.SLUG.allowed}")
                continue
            if not isinstance(table, dict):
                self._mistake(section, f"{section} = {table!r} {where}: must be a table, [{section}]")
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
            elif key and variable != GIVEN_TO_AGENTS and (meant := _closest(section, SECTIONS, NEARLY)):
                hint = f"{PREFIX}{meant}_{key}".upper()
                self.unread.append(f"{variable}: there is no section {section!r}; did you mean {hint}?")
        home, also = self.environ.get("POINTSMAN_HOME"), self.environ.get("POINTSMAN_NODE_HOME")
        if home and also and home != also:
            self._mistake(
                "node",
                f"POINTSMAN_HOME = {home!r} and POINTSMAN_NODE_HOME = {also!r}: both set node.home; set one",
            )
        if home:
            self._take("node", "home", home, "from POINTSMAN_HOME", from_text=True)

    def _mistake(self, section: str, sentence: str) -> None:
        self.mistakes.append((section, sentence))

    def _take(self, section: str, key: str, value: object, where: str, *, from_text: bool = False) -> None:
        rules = _rules(SECTIONS.get(section, Device))
        if key not in rules:
            allowed = f"there is no such key; {_nearest(key, rules, section + '.')}"
            shown = MASK if is_secret_name(key) else repr(value)  # bus.password = … is an easy mistake
            self._mistake(section, f"{section}.{key} = {shown} {where}: {allowed}")
            return
        found = rules[key]
        try:
            if from_text:
                assert isinstance(value, str)  # noqa: S101  # the environment holds nothing else
                value = found.from_text(value)
            self.values[section][key] = found.parse(value, self.home)
        except ValueError as error:
            detail = f" ({error})" if str(error) else ""
            self._mistake(section, f"{section}.{key} = {value!r} {where}: must be {found.allowed}{detail}")

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
        return Config(**sections, devices=devices, given=given, file=file, unread=tuple(self.unread))  # type: ignore[arg-type]  # one struct per section


def _rules(section: type[Struct]) -> dict[str, rule.Rule]:
    hints = typing.get_type_hints(section, include_extras=True)
    return {
        field.name: next(extra for extra in hints[field.name].__metadata__ if isinstance(extra, rule.Rule))
        for field in msgspec.structs.fields(section)
    }


def _closest(name: str, known: Iterable[str], ratio: float = 0.6) -> str | None:
    """What was probably meant; ``ratio`` is difflib's."""
    words = list(known)
    swapped = [word for word in words if sorted(word) == sorted(name)]  # "prot" is port rather than root
    return next(iter(swapped or difflib.get_close_matches(name, words, n=1, cutoff=ratio)), None)


def _nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    words = sorted(known)
    meant = _closest(name, words)
    hint = f"did you mean {prefix}{meant}? " if meant else ""
    return f"{hint}allowed: {', '.join(words)}"


def _contradictions(config: Config) -> Iterator[Mistake]:
    """What no single key shows."""
    for sentence in _of_the_bus(config.bus):
        yield "bus", sentence
    users: dict[int, str] = {}
    for key, port in configured_ports(config).items():
        if port in users:
            yield (
                key.partition(".")[0],
                f"{key} = {port}: must differ from {users[port]}, which has the same port",
            )
        users.setdefault(port, key)


def _of_the_bus(bus: BusConfig) -> Iterator[str]:
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
