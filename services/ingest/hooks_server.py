"""The listener for hooks: ``POST /hook/<event>`` over HTTP/1.1, on this machine alone. No decisions.

HTTP itself is h11's. Who may speak: whoever has a token (compared in constant time by the shell) and is no
web page: a request with ``Origin``, or for another host's name than this machine's (a rebound DNS name), is
refused. Bounds: `MAX_BODY` bytes a request, `READ_S` to send it, `MAX_CONNECTIONS` at once.

A request may be answered late (`Request.answer`); meanwhile the client is watched: that it hangs up is how an
agent says that somebody else has answered.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import h11
import trio  # noqa: TID251  # the shell's half that reads sockets

from services._process.hook_settings import PID_HEADER, SESSION_HEADER

MAX_BODY = 16 * 1024 * 1024  # a tool's result stands in it; Claude Code cuts those far below
MAX_HEAD = 64 * 1024
READ_S = 10.0  # a request comes in one piece, over loopback
IDLE_S = 300.0  # between requests of one connection
MAX_CONNECTIONS = 512
RECEIVE_BYTES = 64 * 1024

_PATH = re.compile(r"/hook/([A-Za-z]{1,64})\Z")
_LOOPBACK = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?\Z", re.IGNORECASE)


class Request:
    """One hook. ``answer`` counts once, from anywhere. ``inside``: the session of ours that it ran in."""

    def __init__(self, number: int, event: str, headers: dict[str, str], body: bytes) -> None:
        self.number = number
        self.event = event
        self.body = body
        scheme, _, token = headers.get("authorization", "").partition(" ")
        self.token = token.strip() if scheme.lower() == "bearer" else ""
        self.inside = headers.get(SESSION_HEADER.lower(), "")
        pid = headers.get(PID_HEADER.lower(), "")
        self.pid = int(pid) if pid.isascii() and pid.isdecimal() and len(pid) < 10 else 0
        self.reply: tuple[int, str] | None = None
        self.answered = trio.Event()

    def answer(self, body: str, status: int = 200) -> None:
        if self.reply is None:
            self.reply = (status, body)
            self.answered.set()


class Decides(Protocol):
    """What the listener asks the shell. ``asked`` answers the request now or later; ``unread`` at once: its
    body was not taken, ``status`` says why.
    """

    def knows(self, token: str) -> bool: ...
    def asked(self, request: Request) -> None: ...
    def unread(self, request: Request, status: int) -> None: ...
    def lost(self, request: Request) -> None: ...
    def done(self, request: Request) -> None: ...


class HooksServer:
    """Runs until cancelled."""

    def __init__(self, shell: Decides) -> None:
        self._shell = shell
        self._numbers = itertools.count(1)
        self._open = 0

    async def run(
        self, host: str, port: int, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen. Starts with the port. Raises OSError where that cannot be had."""
        listeners = await trio.open_tcp_listeners(port, host=host)
        async with trio.open_nursery() as nursery:
            task_status.started(listeners[0].socket.getsockname()[1])
            await trio.serve_listeners(self.serve, listeners, handler_nursery=nursery)

    async def serve(self, stream: trio.abc.Stream) -> None:
        """One connection, to its end."""
        self._open += 1
        try:
            if self._open <= MAX_CONNECTIONS:
                await self._converse(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
            pass  # it hung up, or speaks no HTTP
        finally:
            self._open -= 1
            await trio.aclose_forcefully(stream)

    async def _converse(self, stream: trio.abc.Stream) -> None:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        while True:
            with trio.move_on_after(IDLE_S):
                if not http.trailing_data[0]:
                    data = await stream.receive_some(RECEIVE_BYTES)
                    http.receive_data(bytes(data))
                    if not data:
                        return
            read: Request | int | None = None
            with trio.move_on_after(READ_S):
                try:
                    read = await self._read(http, stream)
                except h11.RemoteProtocolError as error:
                    read = error.error_status_hint
            if read is None:
                return
            if isinstance(read, int):
                await _write(http, stream, read, "{}", close=True)
                return
            if read.reply is not None:  # its body was not taken
                await _write(http, stream, *read.reply, close=True)
                return
            if not await self._answer(http, stream, read):
                return
            if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
                return
            http.start_next_cycle()

    async def _read(self, http: h11.Connection, stream: trio.abc.Stream) -> Request | int | None:
        """A request, or the status with which it is refused, or None: the client is gone."""
        head = await _next(http, stream)
        if not isinstance(head, h11.Request):
            return None
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in head.headers}
        path = _PATH.match(head.target.decode("latin-1"))
        if "origin" in headers or not _LOOPBACK.match(headers.get("host", "")):
            return 403
        request = Request(next(self._numbers), path[1] if path else "", headers, b"")
        if not self._shell.knows(request.token):
            return 401
        if path is None:
            return 404
        if head.method != b"POST":
            return 405
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > MAX_BODY:
            return self._unread(request)
        body = bytearray()
        while isinstance(event := await _next(http, stream), h11.Data):
            body += event.data
            if len(body) > MAX_BODY:
                return self._unread(request)
        if not isinstance(event, h11.EndOfMessage):
            return None
        request.body = bytes(body)
        return request

    def _unread(self, request: Request) -> Request:
        self._shell.unread(request, 413)
        return request

    async def _answer(self, http: h11.Connection, stream: trio.abc.Stream, request: Request) -> bool:
        """Have it answered. Returns False where the client did not wait for that."""
        written = False
        self._shell.asked(request)
        try:
            if not request.answered.is_set():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_until_hung_up, stream, nursery.cancel_scope.cancel)
                    await request.answered.wait()
                    nursery.cancel_scope.cancel()
            if request.reply is not None:
                await _write(http, stream, request.reply[0], request.reply[1])
                written = True
        finally:
            if written:
                self._shell.done(request)
            else:
                self._shell.lost(request)
        return written


async def _until_hung_up(stream: trio.abc.Stream, then: Callable[[], None]) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while await stream.receive_some(1024):
            pass  # a client that waits has nothing to say
    then()


async def _next(http: h11.Connection, stream: trio.abc.Stream) -> object:
    while (event := http.next_event()) is h11.NEED_DATA:
        http.receive_data(bytes(await stream.receive_some(RECEIVE_BYTES)))
    return event


async def _write(
    http: h11.Connection, stream: trio.abc.Stream, status: int, body: str, *, close: bool = False
) -> None:
    data = body.encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(data)))]
    if status == 401:
        headers.append(("WWW-Authenticate", "Bearer"))
    if close:
        headers.append(("Connection", "close"))
    parts = [h11.Response(status_code=status, headers=headers), h11.Data(data=data), h11.EndOfMessage()]
    with trio.move_on_after(READ_S) as scope:
        await stream.send_all(b"".join(http.send(part) or b"" for part in parts))
    if scope.cancelled_caught:
        raise trio.BrokenResourceError("the client does not read its answer")
