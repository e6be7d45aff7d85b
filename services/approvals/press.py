"""A device's press: told apart from what only looks like one, decided, and answered. Pure.

A press is a message that comes while we listen. What the broker had kept (retained) is none, and neither is
the empty message that clears such a one later; but that one comes without the broker's mark, like an empty
press. So it is told by what was there before (`Standing`): the broker is asked again for what stands on these
topics after each press with a payload, and while something stands there, or for `CLEARING_S` after such a
press, an empty message decides nothing.
"""

from __future__ import annotations

import enum
from datetime import datetime, timedelta
from typing import Literal

import msgspec

from bus import codec
from bus import messages as m
from bus import topics as t
from bus.api import Received
from bus.effects import Effect, Keep, Publish, ReplyTo
from bus.errors import PeerError, RefusedError
from services.approvals import rows
from services.approvals.core import Gate
from services.approvals.model import Approval, DeviceDecided, Save

CLEARING_S = 2.0  # far longer than the broker takes to tell what stands
_CLEARED = RefusedError(
    "bad_request",
    "an empty message right after another one, or where a retained one stood, only clears it: nothing was "
    "decided. Let the device publish without `retain`",
)


class Looks(enum.Enum):
    """What a message on a device's topic is."""

    PRESS = enum.auto()
    RETAINED = enum.auto()  # from before we listened, or told again because we asked
    CLEARING = enum.auto()


class Standing:
    """What stands retained on the topics of devices, as far as the broker has told on this connection."""

    def __init__(self) -> None:
        self._stands: set[str] = set()
        self._full_at: dict[str, datetime] = {}  # topic → when its last press with a payload came

    def connected(self) -> None:
        """A new connection: the broker tells again what stands."""
        self._stands.clear()

    def look(self, message: Received, now: datetime) -> Looks:
        topic = message.topic
        if message.retained:
            if message.payload:
                self._stands.add(topic)
            return Looks.RETAINED
        if message.payload:
            self._full_at[topic] = now
            return Looks.PRESS
        last = self._full_at.get(topic)
        if topic in self._stands or (last is not None and now - last < timedelta(seconds=CLEARING_S)):
            self._stands.discard(topic)
            return Looks.CLEARING
        return Looks.PRESS


def press(gate: Gate, message: Received, looks: Looks, now: datetime) -> list[Effect]:
    """What a message on a device's topic does. Raises `RefusedError` where there is no such device."""
    if looks is Looks.RETAINED:
        return []
    device = gate.devices.approver(message.values["device"])
    said: Literal["approve", "deny"] = "approve" if message.row is t.DEVICE_APPROVE else "deny"
    d = m.Decision(decision=said, via="device")
    approval: Approval | None = None
    named = ""
    try:
        if looks is Looks.CLEARING:
            raise _CLEARED
        payload = _read(message)
        named = payload.approval or payload.text
        d = msgspec.structs.replace(d, reason=rows.short(payload.reason))
        if not named:
            approval = gate.devices.single(device, payload.session, gate.waiting(), now)
        else:
            approval = gate.find(named)
            if approval is None or payload.session not in {None, approval.session}:
                raise RefusedError("unknown_approval", f"there is no approval {named!r}")
            if approval.outcome is None:
                gate.devices.check(device, approval)
    except RefusedError as error:
        return _answered(device.user, approval, gate.refuse(d, named, device.user, now, error))
    effects = gate.vote(approval, d, device, "device", now)
    if any(isinstance(e, ReplyTo) and e.error is not None for e in effects):
        return _answered(device.user, approval, effects)
    gate.devices.has_decided(device.user, now)
    decided: list[Keep] = [DeviceDecided(device.user, now)]
    return [*decided, *_answered(device.user, approval, effects)]


def _read(message: Received) -> m.DevicePress:
    try:
        payload = codec.decode(message.row, message.payload, m.DevicePress)
    except PeerError as error:
        raise RefusedError(error.code, error.message) from error
    text = payload.text.strip()
    if text and not t.PARAMETERS["id"].match(text):
        raise RefusedError("bad_request", "neither an approval's id, nor empty, nor a JSON object")
    if payload.approval is not None and not t.PARAMETERS["id"].match(payload.approval):
        raise RefusedError("bad_request", "approval is not an approval's id")
    return msgspec.structs.replace(payload, text=text)


def _answered(device: str, approval: Approval | None, effects: list[Effect]) -> list[Effect]:
    """The reply goes to the device's topic. It is not told the outcome of what others decided."""
    error = next((e.error for e in effects if isinstance(e, ReplyTo) and e.error is not None), None)
    state = next((e.approval.state for e in effects if isinstance(e, Save)), None)
    reply = m.DeviceReply(
        ok=error is None,
        approval=msgspec.UNSET if approval is None else approval.id,
        decision=msgspec.UNSET if error is not None or state is None else state.value,
        error=msgspec.UNSET if error is None else m.ErrorBody(code=error.code, message=error.message),
    )
    others = [e for e in effects if not isinstance(e, ReplyTo)]
    return [*others, Publish(t.DEVICE_REPLY, reply, {"device": device})]
