"""Who may say and hear what, from the topics table: mosquitto's access rules and its password file. Pure.

A row's writers and readers are service names, roles or ``services`` (any service). For each user that gives
filters it may publish to and filters it may subscribe to; there is never a ``#``, and who is not listed may
nothing. The parameters that stand for a name are replaced by the user's own: ``{self}`` where a service
writes of itself, ``{producer}`` and ``{owner}`` on whichever side it is, ``{user}`` and ``{device}`` for a
reader or a device.

Password hashes are mosquitto's own: ``$7$<iterations>$<salt>$<PBKDF2-HMAC-SHA512>`` (mosquitto_passwd(1)).
"""

from __future__ import annotations

import base64
import enum
import hashlib
import hmac
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from bus.topics import PARAMETERS, TABLE, Kind, Topic

# mosquitto_passwd's own. The passwords are 256 random bits: the hash need not be slow, and mosquitto works
# out every connected client's anew when it reads its files again, while the bus waits.
ITERATIONS = 101
SALT_BYTES = 12
KEY_BYTES = 64  # SHA-512


class Role(enum.StrEnum):
    """What a user is (contract, section 1)."""

    VIEWER = "viewer"
    APPROVER = "approver"
    OPERATOR = "operator"
    DEVICE = "device"
    SERVICE = "service"


_PEOPLE = {
    Role.VIEWER: frozenset({"viewer"}),
    Role.APPROVER: frozenset({"viewer", "approver"}),
    Role.OPERATOR: frozenset({"viewer", "approver", "operator"}),
}


@dataclass(frozen=True, slots=True)
class User:
    """A user of the bus. A service's ``username`` is ``service-<name>``."""

    username: str
    role: Role

    @property
    def name(self) -> str:
        """The name that stands in topics: a service's own, else the username."""
        return self.username.removeprefix("service-") if self.role is Role.SERVICE else self.username


@dataclass(frozen=True, slots=True)
class Rights:
    """Filters below ``<root>/<node>/``, or, with a leading slash, of another product."""

    write: tuple[str, ...]
    read: tuple[str, ...]


# Which parameter of a fact's or acknowledgement's topic is the writer, and which the reader.
_WRITER = {Kind.FACT: "producer", Kind.EVENT: "owner"}
_READER = {Kind.FACT: "owner", Kind.EVENT: "producer"}


def rights(user: User, rows: Iterable[Topic] = TABLE) -> Rights:
    """What the table gives to a user."""
    table = tuple(rows)
    return Rights(
        tuple(dict.fromkeys(f for row in table for f in _writes(user, row))),
        tuple(dict.fromkeys(f for row in table for f in _reads(user, row))),
    )


def _among(user: User, actors: frozenset[str]) -> bool:
    if user.role is Role.SERVICE:
        return user.name in actors or "services" in actors
    if user.role is Role.DEVICE:
        return "device" in actors
    return bool(_PEOPLE[user.role] & actors)


def _writes(user: User, row: Topic) -> Iterator[str]:
    if not _among(user, row.writers):
        return
    own = {"self"}
    if {"producer", "owner"} <= set(row.parameters):
        own = {_WRITER[row.kind]}
    if user.role is Role.DEVICE:
        own = {"device"}
    yield row.filter(**{name: user.name for name in own if name in row.parameters})


def _reads(user: User, row: Topic) -> Iterator[str]:
    if not _among(user, row.readers):
        return
    own = {"user"}
    if {"producer", "owner"} <= set(row.parameters):
        own = {_READER[row.kind]}
    if user.role is Role.DEVICE:
        own = {"device"}
    yield row.filter(**{name: user.name for name in own if name in row.parameters})


def own_rows(service: str, rows: Iterable[Topic] = TABLE) -> list[Topic]:
    """The snapshots that a service owns and must see, to clear what is left over (`Bus.own`)."""
    return [row for row in rows if row.kind is Kind.SNAPSHOT and row.writers & {service, "services"}]


def acl_file(root: str, node: str, users: Iterable[User], rows: Iterable[Topic] = TABLE) -> str:
    """mosquitto's ``acl_file`` (mosquitto.conf(5)).

    A service also reads the snapshots that it owns. Raises ValueError for a name that may not stand in a
    topic.
    """
    table = tuple(rows)
    lines = ["# Made by Pointsman at every start from the table of topics (bus/topics.py): do not edit."]
    for user in sorted(users, key=lambda user: user.username):
        if not PARAMETERS["user"].match(user.username):
            raise ValueError(f"user name {user.username!r}")
        given = rights(user, table)
        reads = list(given.read)
        if user.role is Role.SERVICE:
            reads += [
                row.filter(**({"self": user.name} if "self" in row.parameters else {}))
                for row in own_rows(user.name, table)
            ]
        lines += ["", f"user {user.username}"]
        lines += [f"topic write {full(root, node, path)}" for path in given.write]
        lines += [f"topic read {full(root, node, path)}" for path in dict.fromkeys(reads)]
    return "\n".join(lines) + "\n"


def full(root: str, node: str, path: str) -> str:
    """A filter of `Rights` as the broker knows it."""
    return path[1:] if path.startswith("/") else f"{root}/{node}/{path}"


def new_password() -> str:
    """256 random bits as text that may stand in a file, an URL and a shell."""
    return secrets.token_urlsafe(32)


def mosquitto_hash(password: str, salt: bytes | None = None) -> str:
    """A password as mosquitto 2.0 keeps it."""
    salt = secrets.token_bytes(SALT_BYTES) if salt is None else salt
    key = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ITERATIONS, KEY_BYTES)
    return f"$7${ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(key).decode()}"


def mosquitto_passwords(passwords: Mapping[str, str]) -> str:
    """mosquitto's ``password_file`` for username → password."""
    return "".join(f"{name}:{mosquitto_hash(word)}\n" for name, word in sorted(passwords.items()))


def digest_passwords(passwords: Mapping[str, str]) -> str:
    """The file that our plugin for amqtt reads: username and SHA-256. A plain hash is enough for 256 random
    bits, and argon2 would cost 144 ms of CPU for each connection (measured).
    """
    return "".join(f"{name}:{_sha256(word)}\n" for name, word in sorted(passwords.items()))


def check_digest(digests: Mapping[str, str], username: str | None, password: str | None) -> bool:
    """Whether the password is the user's, in a time that does not depend on where it differs."""
    known = digests.get(username or "")
    given = _sha256(password or "")
    return hmac.compare_digest(known or _sha256(""), given) and known is not None and bool(password)


def read_digests(text: str) -> dict[str, str]:
    """The content of `digest_passwords`' file."""
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def _sha256(word: str) -> str:
    return hashlib.sha256(word.encode()).hexdigest()
