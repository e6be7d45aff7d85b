"""What devices may decide: a button on the wall, a remote control, a phone's automation. Pure.

Theory of operation. A device has no token: the broker's access rules let it alone write its own topics, so
what comes there is from it. It decides tools only, up to the level that its user has and the configuration
leaves it (`Limit`), with a yes and with a no. `devices/<device>/pending` holds just what it may decide now.

A press that names an approval decides that one, however often it arrives. An empty one decides the single
approval that waits for the device. It cannot say which one it was meant for, and it may arrive twice; so it
counts only if that approval has waited for `WAITED_S`, so that a person can have seen it, and if the device
has decided nothing for `QUIET_S`, so that the second arrival of a press does not decide the next approval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from bus import messages as m
from bus import topics as t
from bus.effects import Effect, Publish
from bus.errors import RefusedError
from bus.messages import level_rank
from services.approvals import say
from services.approvals.model import Approval, Approver

WAITED_S = 1.0
QUIET_S = 2.0


@dataclass(frozen=True, slots=True)
class Limit:
    """What the configuration says of a device. ``oldest``: an empty press may choose among several."""

    max_level: str = "critical"
    oldest: bool = False


NO_LIMIT = Limit()


class Devices:
    """``users`` are all users of the bus, of which some are devices; ``decided_at``: when each of those last
    decided something.
    """

    def __init__(
        self,
        users: Iterable[m.BusUser] = (),
        limit: Callable[[str], Limit] = lambda _device: NO_LIMIT,
        decided_at: Mapping[str, datetime] | None = None,
    ) -> None:
        self._limit = limit
        self._decided_at = dict(decided_at or {})
        self.users = list(users)
        self._devices = _devices(self.users)
        self._said: dict[str, m.PendingApprovals] = {}

    def __contains__(self, device: str) -> bool:
        return device in self._devices

    def admit(self, users: Iterable[m.BusUser]) -> list[Effect]:
        """These are the users now. Clears what stands for devices that are gone."""
        self.users = list(users)
        before, self._devices = self._devices, _devices(self.users)
        for name, user in before.items():
            if self._devices.get(name) != user:
                self._decided_at.pop(name, None)
        gone = [name for name in self._said if name not in self._devices]
        for name in gone:
            del self._said[name]
        return [Publish(t.DEVICE_PENDING, None, {"device": name}) for name in gone]

    def limited(self, limit: Callable[[str], Limit]) -> None:
        """The configuration has changed; say `pending` then."""
        self._limit = limit

    def approver(self, device: str) -> Approver:
        """The device as one who decides, up to the lower of its own level and the configured one. Raises
        `RefusedError` where there is no such device.
        """
        user = self._devices.get(device)
        if user is None:
            raise no_device(device)
        levels = (user.max_level or "low", self._limit(device).max_level)
        return Approver(device, min(levels, key=level_rank), user.since)

    def check(self, device: Approver, a: Approval) -> None:
        """Raises `RefusedError` where the device may not decide this approval."""
        if a.kind != "tool":
            raise RefusedError("not_allowed", f"{a.id} is a {a.kind}: a device decides tools only")
        if level_rank(a.danger.level) > level_rank(device.max_level):
            raise RefusedError(
                "level_too_high",
                f"{device.user} may decide up to {device.max_level}, and this is {a.danger.level}",
            )

    def single(
        self, device: Approver, session: str | None, pending: Iterable[Approval], now: datetime
    ) -> Approval:
        """The approval that an empty press is for. Raises `RefusedError` where there is none."""
        last = self._decided_at.get(device.user)
        if last is not None and now - last < timedelta(seconds=QUIET_S):
            raise RefusedError(
                "busy", f"this device has decided less than {QUIET_S:g} s ago: the press may be the same one"
            )
        mine = [a for a in self._mine(device, pending) if session in {None, a.session}]
        if not mine:
            raise RefusedError("unknown_approval", "nothing waits that this device may decide")
        if len(mine) > 1 and not self._limit(device.user).oldest:
            raise RefusedError(
                "ambiguous",
                f"{len(mine)} approvals wait for this device: name one, or set devices.{device.user}.oldest",
            )
        if now - mine[0].created_at < timedelta(seconds=WAITED_S):
            raise RefusedError(
                "busy", f"it has waited for less than {WAITED_S:g} s: the press may have been for another"
            )
        return mine[0]

    def has_decided(self, device: str, now: datetime) -> None:
        self._decided_at[device] = now

    def pending(self, approvals: Sequence[Approval], items: Mapping[str, m.PendingItem]) -> list[Effect]:
        """The snapshots that have changed. ``approvals`` oldest first, ``items`` by their ids."""
        said: list[Effect] = []
        for name in self._devices:
            mine = self._mine(self.approver(name), approvals)
            now = say.waiting(mine, (items[a.id] for a in mine))
            if self._said.get(name) != now:
                self._said[name] = now
                said.append(Publish(t.DEVICE_PENDING, now, {"device": name}))
        return said

    @staticmethod
    def _mine(device: Approver, pending: Iterable[Approval]) -> list[Approval]:
        top = level_rank(device.max_level)
        return [
            a
            for a in pending
            if a.kind == "tool"
            and level_rank(a.danger.level) <= top
            and all(vote.user != device.user for vote in a.votes)
        ]


def no_device(name: str) -> RefusedError:
    return RefusedError(
        "not_allowed",
        f"there is no device {name!r}: `pointsman device add {name} --max-level low` makes one, on a broker "
        "with access rules",
    )


def _devices(users: Iterable[m.BusUser]) -> dict[str, m.BusUser]:
    return {user.user: user for user in users if user.role == "device"}
