"""One WebSocket connection to ingest, from the attempt to its end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from urllib.parse import urlsplit

import trio
import trio_websocket

from bus import bridge_wire as wire
from bus.errors import PeerError
from bus.listener import stranger

CONNECT_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 1.0
PING_S = 20.0  # a connection whose other end has vanished must be noticed

Send = Callable[[bytes], Awaitable[None]]


async def converse(
    url: str,
    token: str,
    connected: Callable[[], None],
    received: Callable[[wire.FromIngest], None],
    sending: Callable[[Send], Awaitable[None]],
) -> str:
    """Connect, and hand over what comes until the connection ends. Returns why it ended, in words.

    ``connected`` is called once it is open; ``sending`` runs beside it and is cancelled at its end.
    """
    where = urlsplit(url)
    uid = stranger(where.hostname or "", where.port or 0)
    if uid is not None:  # it would be told the token, and could answer the agent's questions
        return f"a program of another user (uid {uid}) listens at {where.netloc}, where ingest was"
    reason = ""
    try:
        async with _opened(url, token) as socket, trio.open_nursery() as nursery:
            connected()
            nursery.start_soon(sending, socket.send_message)
            nursery.start_soon(_ping, socket)
            while True:
                message = await socket.get_message()
                received(wire.decode_from_ingest(message.encode() if isinstance(message, str) else message))
    except* trio_websocket.ConnectionRejected as group:
        reason = f"refused with status {getattr(first_of(group), 'status_code', '?')}"
    except* trio_websocket.ConnectionClosed as group:
        reason = f"closed: {getattr(first_of(group), 'reason', None)}"
    except* (trio_websocket.HandshakeError, OSError, trio.TooSlowError, PeerError) as group:
        first = first_of(group)
        reason = str(first) or type(first).__name__
    return reason


def _opened(url: str, token: str) -> AbstractAsyncContextManager[trio_websocket.WebSocketConnection]:
    return trio_websocket.open_websocket_url(
        url,
        subprotocols=[wire.SUBPROTOCOL],
        extra_headers=[(b"Authorization", b"Bearer " + token.encode())],
        max_message_size=wire.MAX_MESSAGE_BYTES,
        connect_timeout=CONNECT_TIMEOUT_S,
        disconnect_timeout=CLOSE_TIMEOUT_S,
    )


async def _ping(socket: trio_websocket.WebSocketConnection) -> None:
    """Raises TooSlowError when the other end has vanished without a word."""
    while True:
        await trio.sleep(PING_S)
        with trio.fail_after(PING_S):
            await socket.ping()


def first_of(error: BaseException) -> BaseException:
    """The first of what a nursery has raised."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
