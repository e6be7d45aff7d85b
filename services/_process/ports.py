"""Which port a listener gets, so that two stacks of one user never get the same.

A port that the user configured is taken or refused. Otherwise: the one that this home had last time, else the
default, else the next free one above it; the choice is kept in ``endpoints.json``.

Whether a port is free is seen by binding to it; but between that look and the listener's own bind another
stack may look too. So every claim is noted in a file of the user's, under a lock, with the process that made
it: a note counts while that process lives. Where another user's program wins the race, the listener's bind
fails, the service ends with exit code 4 and claims again at its next start.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import msgspec
import psutil

from services import SERVICES
from services._process.config_keys import MAX_METRICS_PORTS, Config, configured_ports
from services._process.errors import PortTakenError, WorldError
from services._process.home import Home

DEFAULTS = frozenset({1883, 9001, 6180, 6181, 6182, *range(9180, 9180 + MAX_METRICS_PORTS)})
SEARCHED = 200  # ports above the default that are tried
PATIENCE_S = 2.0  # a predecessor that was just killed may still be closing its port
POLL_S = 0.05

_NOTES = Path("/tmp")  # noqa: S108  # shared by all homes of a user; the file in it is checked to be ours


class Note(msgspec.Struct, frozen=True):
    """Who claimed a port: ``key`` is "bus.port"; ``started`` (Unix seconds) tells a reused pid apart."""

    home: str
    key: str
    pid: int
    started: float


def port_for(config: Config, home: Home, section: str, key: str) -> int:
    """Claim the port of a configuration key, such as ("ingest", "hooks_port"). See `claim_port`."""
    own = getattr(config, section)
    name = f"{section}.{key}"
    value = int(getattr(own, key))
    others = {port for other, port in configured_ports(config).items() if other != name}
    configured = value if name in config.given else None
    return claim_port(home, section, key, host=own.host, default=value, configured=configured, avoid=others)


def metrics_port_for(config: Config, home: Home, service: str) -> int:
    """Claim a service's metrics port: base_port plus the service's place in `services.SERVICES`."""
    port = config.metrics.base_port + SERVICES[service].metrics_port if service in SERVICES else 0
    configured = port if "metrics.base_port" in config.given and port else None
    others = set(configured_ports(config).values()) - {port}
    default = port or config.metrics.base_port + MAX_METRICS_PORTS
    return claim_port(
        home,
        "metrics",
        service,
        host=config.metrics.host,
        default=default,
        configured=configured,
        avoid=others,
    )


def claim_port(
    home: Home,
    section: str,
    key: str,
    *,
    host: str,
    default: int,
    configured: int | None,
    avoid: Collection[int] = (),
) -> int:
    """The port that this process may listen on at ``host``; it stands in ``endpoints.json`` on return.

    ``avoid`` are ports that the user gave to something else. A claim lasts as long as this process, and may
    be made again. Blocks up to two seconds where the wanted port is busy.

    Raises `PortTakenError` for a configured port that is in use (the text says by whom), and `WorldError`
    where the host cannot be listened on at all or no port is free.
    """
    name = f"{section}.{key}"
    kept = home.endpoints().get(section, {}).get(key)
    wanted = configured or (kept if isinstance(kept, int) and kept not in avoid else default)
    deadline = time.monotonic() + PATIENCE_S
    found = False
    while (
        wanted not in avoid and not (found := _try(home, name, host, wanted)) and time.monotonic() < deadline
    ):
        if wanted != configured and wanted != kept:
            break  # nobody of ours had it: no reason to think that it will be free soon
        time.sleep(POLL_S)
    if not found and configured:
        raise PortTakenError(
            f"{name} = {configured} at {host} is taken by {_holder(configured, home)}: "
            f"end that, or choose another {_setting(name)}"
        )
    port = wanted if found else _next_free(home, name, host, default, avoid)
    values = {key: port} if section == "metrics" else {"host": host, key: port}
    home.update_endpoints(section, values)
    return port


def _next_free(home: Home, name: str, host: str, default: int, avoid: Collection[int]) -> int:
    mine = {
        port
        for section, values in home.endpoints().items()
        for key, port in values.items()
        if isinstance(port, int) and f"{section}.{key}" != name
    }
    above = (port for port in range(default, min(default + SEARCHED, 65536)))
    for port in above:
        reserved = port in avoid or port in mine or (port in DEFAULTS and port != default)
        if not reserved and _try(home, name, host, port):
            return port
    raise WorldError(
        f"no port between {default} and {default + SEARCHED} is free at {host} for {name}: "
        f"set {_setting(name)}"
    )


def _setting(name: str) -> str:
    """The key of the configuration that chooses a port."""
    return "metrics.base_port" if name.startswith("metrics.") else name


def _try(home: Home, name: str, host: str, port: int) -> bool:
    with _notes() as notes:
        note = notes.get(port)
        if note and (note.home, note.key) != (str(home.path), name) and _lives(note):
            return False
        if not _free(host, port, name):
            return False
        me = psutil.Process()
        notes[port] = Note(str(home.path), name, me.pid, me.create_time())
    return True


def _free(host: str, port: int, name: str) -> bool:
    """Bind as a server would (SO_REUSEADDR: closed connections of a predecessor do not count)."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise WorldError(f"the host {host!r} of {name} is not known: {error.strerror}") from error
    bound = 0
    for family, kind, protocol, _, address in dict.fromkeys(addresses):
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind(address)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return False
                if error.errno in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                    continue  # "localhost" on a machine without IPv6
                raise WorldError(f"{name}: cannot listen on {host}:{port}: {error.strerror}") from error
            bound += 1
    if not bound:
        raise WorldError(f"{name}: {host} is no address of this machine")
    return True


def _holder(port: int, home: Home) -> str:
    """Who has the port, in words."""
    with _notes() as notes:
        note = notes.get(port)
    if note and _lives(note) and note.home != str(home.path):
        return f"the Pointsman of {note.home} ({note.key}, pid {note.pid})"
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
                if connection.pid is None:
                    break
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return "another user's program"


def _lives(note: Note) -> bool:
    try:
        return bool(abs(psutil.Process(note.pid).create_time() - note.started) < 1.0)
    except psutil.Error:
        return False


def _is_ours(info: os.stat_result) -> bool:
    """The place is everybody's: no pipe or device of another user's, and no second name of
    another file of ours, which would be overwritten.
    """
    return stat.S_ISREG(info.st_mode) and info.st_uid == os.getuid() and info.st_nlink == 1


@contextlib.contextmanager
def _notes() -> Iterator[dict[int, Note]]:
    """The user's claims, locked; what is changed in the dict is kept. Without a usable file: none."""
    path = _NOTES / f"pointsman-{os.getuid()}.ports"
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        handle = os.open(path, flags, 0o600)
    except OSError:
        yield {}
        return
    if not _is_ours(os.fstat(handle)):
        os.close(handle)
        yield {}
        return
    with open(handle, "r+b") as file:
        fcntl.flock(handle, fcntl.LOCK_EX)
        before = file.read()
        try:
            notes = msgspec.json.decode(before, type=dict[int, Note]) if before else {}
        except msgspec.DecodeError:
            notes = {}
        yield notes
        after = msgspec.json.encode({port: note for port, note in notes.items() if _lives(note)})
        if after != before:
            file.seek(0)
            file.truncate()
            file.write(after)
