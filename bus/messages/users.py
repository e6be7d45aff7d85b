"""The users of the bus, people and devices."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, UnsetType

from bus.messages.envelope import Command, ErrorBody, Level, Payload


class AddUser(Command, frozen=True, kw_only=True):
    """``max_level``: what it may approve at most; a device ``low``, others anything unless it is given."""

    user: str  # checked by the owner, so that a bad name is bad_name and not bad_request
    role: Literal["viewer", "approver", "operator", "device"]
    max_level: Level | None = None


class AddedUser(Payload, frozen=True, kw_only=True):
    """``rights`` stands there for a broker of somebody else's: what must be allowed to the user there."""

    user: str
    role: str
    username: str
    password_file: str
    max_level: str | None
    rights: UserRights | UnsetType = UNSET


class UserRights(Payload, frozen=True, kw_only=True):
    """Full topic filters."""

    write: list[str]
    read: list[str]


class RemoveUser(Command, frozen=True, kw_only=True):
    user: str


class ListUsers(Command, frozen=True, kw_only=True):
    """Asks for all users that people and devices have."""


class BusUser(Payload, frozen=True, kw_only=True):
    """``since``: the id (a ULID) of the change that made the user. So it is no other user's, not even of one
    that gets the name of a removed one.
    """

    user: str
    role: str
    max_level: str | None
    since: str


class DevicePress(Payload, frozen=True, kw_only=True):
    """A device's yes or no. The topic also takes the bare approval id, or nothing."""

    approval: str | None = None
    session: str | None = None
    reason: str | None = None
    text: str = ""  # the payload where it is no JSON


class DeviceReply(Payload, frozen=True, kw_only=True):
    """``decision``: where the approval stands now (``pending`` while another approver is needed)."""

    ok: bool
    approval: str | UnsetType = UNSET
    decision: str | UnsetType = UNSET
    error: ErrorBody | UnsetType = UNSET
