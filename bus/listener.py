"""Whose program listens on a port of this machine: asked before a password or a session's token goes there.

While Pointsman is down its ports are anybody's. Another user of the machine who listens there then would be
told the operator's password, and could answer an agent's questions in ingest's place. Linux says whose socket
it is (``/proc/net/tcp``, proc(5)); where nothing says so, nothing is refused.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator
from pathlib import Path

TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_LISTEN = "0A"
_ROOT = 0  # can read the password file anyway


def stranger(host: str, port: int) -> int | None:
    """The uid of another user whose program listens there; None for our own or root's, or if nobody says."""
    try:
        wanted = {ipaddress.ip_address(host)}
    except ValueError:  # a name: localhost
        wanted = {ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")}
    rows = [(address, uid) for address, at, uid in _listeners() if at == port]
    exact = [uid for address, uid in rows if address in wanted]
    everywhere = [uid for address, uid in rows if address.is_unspecified]
    return next((uid for uid in exact or everywhere if uid not in (_ROOT, os.getuid())), None)


def _listeners() -> Iterator[tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int, int]]:
    """(address, port, uid) of every listening socket. They stand before all others: the rest is not read."""
    for table in TABLES:
        try:
            with table.open(encoding="ascii") as lines:
                next(lines)  # the headings
                for line in lines:
                    words = line.split()
                    if words[3] != _LISTEN:
                        break
                    address, _, port = words[1].partition(":")
                    yield _address(address), int(port, 16), int(words[7])
        except (OSError, StopIteration, ValueError, IndexError):
            continue  # not Linux, or not as we know it


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The kernel prints the words of an address as numbers of this machine's byte order."""
    words = [socket.htonl(int(text[at : at + 8], 16)) if _LITTLE else int(text[at : at + 8], 16)
             for at in range(0, len(text), 8)]  # fmt: skip
    raw = b"".join(word.to_bytes(4, "big") for word in words)
    found = ipaddress.ip_address(raw)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


_LITTLE = socket.htonl(1) != 1
