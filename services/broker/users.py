"""Who may come to the bus beside the first operator and the services. Pure.

Theory of operation. A user is a row of the broker's store and a password's file. `Shell` makes mosquitto's
two files anew from both after each change and has it read them again: a new user is let in at once, and one
that is removed is cut off, connected or not. The gate learns of each change by a fact that carries the whole
list, and of the list as it is at every start, so that a gate which lost its own store is told again.

On a broker that enforces no access rules there is one trust domain (contract, section 2): nobody is added,
the gate is told of nobody, and users from before are kept for the day when there is such a broker again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

import msgspec

from bus import codec
from bus import messages as m
from bus.acl import Role, User, full, rights
from bus.effects import Do, Effect, Keep, Post, ReplyTo
from bus.errors import RefusedError
from bus.topics import PARAMETERS
from services.broker.core import Kind

OPERATOR = m.BusUser(user="operator", role=Role.OPERATOR, max_level="critical", since="")
# The first is there from the start; the others stand in an outcome's `by` where no user decided.
TAKEN = frozenset({"operator", "agent", "timeout", "budget", "hook", "screen"})
MAX_USERS = 1000  # each has a token for each approval that waits


@dataclass(frozen=True, slots=True)
class SaveUser(Keep):
    """Keep the user, with a new password."""

    user: m.BusUser


@dataclass(frozen=True, slots=True)
class DropUser(Keep):
    """The user is none any more."""

    name: str


@dataclass(frozen=True, slots=True)
class Reload(Do):
    """The broker shall know the users as they are now."""


def no_rules(kind: Kind, *, acl: bool, configured: bool) -> str | None:
    """Why this broker can have no further users, and the way out; None where it can.

    ``acl`` is bus.acl; ``configured``: the user chose amqtt in the configuration.
    """
    if kind is Kind.MOSQUITTO or (kind is Kind.EXTERNAL and acl):
        return None
    if kind is Kind.EXTERNAL:
        return (
            "your own broker (bus.broker = 'external') is trusted to enforce no access rules, so whoever may "
            "connect is trusted with everything. If it enforces them, set bus.acl = true and start Pointsman "
            "again: each user that you add then comes with the rules that your broker needs"
        )
    chosen = "take bus.broker = 'amqtt' out of the configuration, " if configured else ""
    return (
        "the embedded broker amqtt enforces no access rules, so whoever has a password is trusted with "
        f"everything. Install mosquitto (`sudo apt-get install mosquitto`), {chosen}and start Pointsman again"
    )


class Users:
    """``refusal``: see `no_rules`. ``place``: root and node, where users must be told their rights."""

    def __init__(
        self,
        users: Iterable[m.BusUser],
        *,
        refusal: str | None,
        password_file: Callable[[str], str],
        place: tuple[str, str] | None = None,
    ) -> None:
        self._users = {user.user: user for user in users}
        self._refusal = refusal
        self._password_file = password_file
        self._place = place

    def active(self) -> list[m.BusUser]:
        """Those that the broker lets in."""
        return [] if self._refusal is not None else list(self._users.values())

    def of_the_bus(self) -> list[User]:
        """The same for the access rules."""
        return [User(user.user, Role(user.role)) for user in self.active()]

    def add(self, c: m.AddUser, now: datetime, since: str) -> list[Effect]:
        """``since``: an id that was never used. Raises `RefusedError`."""
        if self._refusal is not None:
            raise RefusedError("not_allowed", self._refusal)
        if not PARAMETERS["user"].match(c.user) or c.user.startswith("service-"):
            raise RefusedError(
                "bad_name",
                f"{c.user[:80]!r} cannot be a user's name: lower-case letters, digits and hyphens, at most "
                "63, not beginning with service-",
            )
        if c.user in self._users or c.user in TAKEN:
            known = self._users.get(c.user)
            there = f"there is a user {c.user!r}" if known else f"the name {c.user!r} is taken"
            way = f" (role {known.role}): `pointsman user remove {c.user}` first" if known else ""
            raise RefusedError("name_taken", there + way)
        if c.role == "viewer" and c.max_level is not None:
            raise RefusedError("bad_request", "a viewer decides nothing: leave max_level out")
        if len(self._users) >= MAX_USERS:
            raise RefusedError("not_allowed", f"there are {MAX_USERS} users: remove one first")
        usual = {Role.VIEWER: None, Role.DEVICE: "low"}.get(Role(c.role), "critical")
        user = m.BusUser(user=c.user, role=c.role, max_level=c.max_level or usual, since=since)
        self._users[user.user] = user
        return [SaveUser(user), self.told(now, since), Reload(), ReplyTo(c.id, self._added(user))]

    def _added(self, user: m.BusUser) -> m.AddedUser:
        allowed: m.UserRights | msgspec.UnsetType = msgspec.UNSET
        if self._place is not None:
            given = rights(User(user.user, Role(user.role)))
            allowed = m.UserRights(
                write=[full(*self._place, path) for path in given.write],
                read=[full(*self._place, path) for path in given.read],
            )
        return m.AddedUser(
            user=user.user,
            role=user.role,
            username=user.user,
            password_file=self._password_file(user.user),
            max_level=user.max_level,
            rights=allowed,
        )

    def remove(self, c: m.RemoveUser, now: datetime, change: str) -> list[Effect]:
        """``change``: an id that was never used. Raises `RefusedError`."""
        if c.user == OPERATOR.user:
            raise RefusedError("not_allowed", "the user operator is there from the start and stays")
        user = self._users.pop(c.user, None)
        if user is None:
            raise RefusedError("bad_request", f"there is no user {c.user[:80]!r}")
        return [DropUser(user.user), self.told(now, change), Reload(), ReplyTo(c.id, user)]

    def list(self, c: m.ListUsers) -> list[Effect]:
        users = [OPERATOR, *sorted(self._users.values(), key=lambda user: user.user)]
        return [ReplyTo(c.id, {"users": users, "refused": self._refusal})]

    def told(self, now: datetime, change: str) -> Post:
        """What the gate must know."""
        data = m.BusUsers(users=self.active())
        fact = m.Fact(id=f"users-{change}", type="users", at=now, data=codec.encode_data(data))
        return Post("approvals", fact)
