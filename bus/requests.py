"""Ask an owner and wait for its answer: the client's half of a command with an id.

The reply's topic is subscribed, and the subscription acknowledged, before the command goes out; the same id
is sent again until the answer is there, so that neither a broker nor an owner that dies in between loses the
question, and the owner acts on it once (contract, section 2).
"""

from __future__ import annotations

from typing import Any

import msgspec
import trio
from ulid import ULID

from bus import codec
from bus import messages as m
from bus import topics as t
from bus.api import Received
from bus.base import BusBase
from bus.errors import BusDownError, MisuseError, PeerError, RefusedError
from bus.topics import Kind, Topic

TIMEOUT_S = 15.0
RESEND_FIRST_S = 2.0
RESEND_MAX_S = 5.0


def new_id() -> str:
    """A command id that was never used."""
    return str(ULID())


class Requester:
    """Commands with answers over one connection; any number of tasks may ask at once.

    ``by`` is put into commands that do not state one.
    """

    def __init__(self, bus: BusBase, *, by: str | None = None, via: str | None = None) -> None:
        self._bus = bus
        self._by = by
        self._via = via

    async def ask(
        self, row: Topic, command: m.Command, /, *, timeout_s: float = TIMEOUT_S, **values: str
    ) -> Any:
        """Send the command until it is answered. Returns the reply's ``result`` (plain JSON values).

        Raises `RefusedError` with the owner's error, or with ``unavailable`` when nobody answered in time
        (the command may still take effect: ask again with the same ``id`` to know); `BusDownError` when there
        was no connection all the time.
        """
        if row.kind is not Kind.COMMAND:
            raise MisuseError(f"{row.pattern} is no command")
        request_id = command.id or new_id()
        stated = {"by": command.by or self._by, "via": command.via or self._via}
        command = msgspec.structs.replace(command, id=request_id, **stated)
        answer: list[m.Reply] = []
        answered = trio.Event()

        def on_reply(message: Received) -> None:
            try:
                reply = codec.decode(t.REPLIES, message.payload, m.Reply)
            except PeerError:
                return  # not an owner's: the right one may still come
            if not answered.is_set():
                answer.append(reply)
                answered.set()

        sent = False
        with self._bus.divert(t.REPLIES, on_reply, id=request_id) as topic, trio.move_on_after(timeout_s):
            pause = RESEND_FIRST_S
            while not answered.is_set():
                if (
                    sent
                ):  # brokers lose a subscription at times: amqtt, when one like it has just been dropped
                    self._bus.ask_anew(topic, t.REPLIES.qos)
                await self._bus.subscriptions_stand()
                if topic in self._bus.refused_filters:
                    raise RefusedError("not_allowed", "this user may not read replies, so it cannot ask")
                self._bus.publish(row, command, **values)
                sent = True
                with trio.move_on_after(pause):
                    await answered.wait()
                pause = min(RESEND_MAX_S, pause * 1.5)
        if not answer:
            if not sent:
                raise self._bus.trouble or BusDownError(
                    f"the bus could not be reached within {timeout_s:g} s"
                )
            owner = next(iter(row.readers))
            raise RefusedError(
                "unavailable",
                f"no answer from the {owner} service within {timeout_s:g} s; it may still act on it. See "
                f"`pointsman health` and `pointsman logs {owner}`",
                {"id": request_id},
            )
        return result_of(answer[0])


def result_of(reply: m.Reply) -> Any:
    """A reply's result. Raises `RefusedError` with its error."""
    if reply.ok:
        return None if reply.result is msgspec.UNSET else reply.result
    if isinstance(reply.error, m.ErrorBody):
        details = None if reply.error.details is msgspec.UNSET else reply.error.details
        raise RefusedError(reply.error.code, reply.error.message, details)
    raise RefusedError("internal", "the owner refused without saying why")
