"""The WebSocket server that agents and bridges connect to. Who they are and what they say; no decisions.

`/ws/sessions/<name>`, with the session's own bearer token. Everything else is refused before the upgrade,
with 401 whatever the path (who has no token learns no names); a browser (``Origin``) with 403. A bridge asks
for the subprotocol `pointsman.bridge.v1`; an agent that connects by itself (``--sdk-url``) for none.

Bounds: a message has at most `MAX_MESSAGE_BYTES` (else close 1009), `READ_AHEAD` messages are read ahead of
what is dealt with (then TCP holds the agent back), and a reader that lets `MAX_WAITING_BYTES` pile up is
hung up on: what it did not read is kept and said again. Close codes 4001 and 4003 make Claude Code exit, so
only an ended session's agent gets one.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
from collections import deque
from collections.abc import Callable
from typing import Protocol

import trio  # noqa: TID251  # the shell's half that reads sockets
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, wrap_server_stream

from bus import bridge_wire as bw
from bus.errors import PeerError
from services.ingest.wire import LineReader, WireError

PATH = "/ws/sessions/"
MAX_MESSAGE_BYTES = bw.MAX_MESSAGE_BYTES
READ_AHEAD = 64  # with 16, a frame cost a quarter more where 500 agents talk at once than where 100 do
RECEIVE_BYTES = 64 * 1024  # one system call for many frames; measured: 4096 costs a third of the rate
HANDSHAKE_S = 5.0
MAX_STRANGERS = 256  # connections that have not shown a token; one more is hung up on
GOODBYE_S = 2.0
INSIST_S = 5.0
KEEPALIVE_S = 30.0  # a connection without a sign of life for this long is pinged, and given as long again
MAX_WAITING_BYTES = 64 * 1024 * 1024  # to one agent
MAX_CONNECTIONS = 2000  # agents and bridges: beyond any machine that could run so many


class Decides(Protocol):
    """What the server asks the shell."""

    def refusal(self, name: str, token_sha256: str, *, bridge: bool) -> int | None: ...
    def opened(self, name: str, connection: Connection) -> None: ...
    def heard(self, connection: Connection, message: bw.FromBridge) -> None: ...
    def said(self, connection: Connection, lines: list[bytes]) -> None: ...
    def closed(self, connection: Connection) -> None: ...
    def misbehaved(self, connection: Connection | None, error: str) -> None: ...
    async def room(self) -> None: ...


class Connection:
    """One accepted connection. ``send`` never waits: `write` does, a task for as long as it stands."""

    def __init__(
        self,
        number: int,
        name: str,
        socket: WebSocketConnection,
        nursery: trio.Nursery,
        *,
        bridge: bool,
        cut: Callable[[], None],
    ) -> None:
        """``cut`` ends the connection without a word."""
        self.number = number
        self.name = name
        self.bridge = bridge
        self.alive_at = trio.current_time()
        self.talks = False  # its last message had pieces of text: those are what it can be held back for
        self._socket = socket
        self._nursery = nursery
        self._cut = cut
        self._waiting: deque[bytes | str] = deque()
        self._size = 0
        self._wake = trio.lowlevel.ParkingLot()
        self._goodbye: tuple[int, str] | None = None
        self._written = trio.Event()  # the goodbye is, or nothing can be any more

    def send(self, data: bytes | str) -> None:
        if self._goodbye is not None or self._written.is_set():
            return
        self._waiting.append(data)
        self._size += len(data)
        if self._size > MAX_WAITING_BYTES:
            self._waiting.clear()
            self.close(1013, "reads too slowly")
        self._wake.unpark_all()

    def close(self, code: int, reason: str) -> None:
        """Hang up after what was sent, or without a word on who does not take that within `INSIST_S`."""
        if self._goodbye is None:
            self._goodbye = (code, reason)
            self._wake.unpark_all()
            self._nursery.start_soon(self._insist)

    async def _insist(self) -> None:
        with trio.move_on_after(INSIST_S):
            await self._written.wait()
            return
        self._cut()

    async def write(self) -> None:
        """What was sent, until the goodbye is through or there is nobody to write to."""
        try:
            while self._waiting or self._goodbye is None:
                if not self._waiting:
                    await self._wake.park()
                    continue
                data = self._waiting.popleft()
                self._size -= len(data)
                await self._socket.send_message(data)
            code, reason = self._goodbye
            with trio.move_on_after(GOODBYE_S):
                await self._socket.aclose(code, reason.encode()[:120].decode("utf-8", "ignore"))
        except (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError):
            self._waiting.clear()
        finally:
            self._written.set()

    async def said_goodbye(self) -> None:
        """Wait until the goodbye is through, if there is one."""
        if self._goodbye is not None:
            with trio.move_on_after(GOODBYE_S):
                await self._written.wait()

    async def ping(self) -> None:
        """Hang up unless it answers."""
        with trio.move_on_after(KEEPALIVE_S) as scope:
            try:
                await self._socket.ping()
                self.alive_at = trio.current_time()
            except ConnectionClosed:
                return
        if scope.cancelled_caught:
            self.close(1011, "no answer to a ping")


class Server:
    """Runs until cancelled; ``shell`` is told everything.

    The sockets are ours and closed here: the library leaves one open whose peer hangs up without a word.
    """

    def __init__(self, shell: Decides) -> None:
        self._shell = shell
        self._numbers = itertools.count(1)
        self._nursery: trio.Nursery | None = None
        self._strangers = 0
        self.connections: dict[int, Connection] = {}

    async def run(
        self, host: str, port: int, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen. Starts with the port. Raises OSError where that cannot be had."""
        listeners = await trio.open_tcp_listeners(port, host=host)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._keep_alive)
            task_status.started(listeners[0].socket.getsockname()[1])
            await trio.serve_listeners(self._meet, listeners, handler_nursery=nursery)

    async def _meet(self, stream: trio.SocketStream) -> None:
        """Someone connected. Whatever a stranger sends, and whatever the library makes of it, ends here."""
        self._strangers += 1
        known = False
        bugs: list[Exception] = []  # ours: they end the process
        try:
            if self._strangers > MAX_STRANGERS:
                return
            async with trio.open_nursery() as nursery:
                request = None
                with trio.move_on_after(HANDSHAKE_S):
                    request = await wrap_server_stream(
                        nursery, stream, message_queue_size=READ_AHEAD, max_message_size=MAX_MESSAGE_BYTES,
                        receive_buffer_size=RECEIVE_BYTES,
                    )  # fmt: skip
                if request is not None:
                    socket = await self._let_in(request)
                    self._strangers -= 1
                    known = True
                    if socket is not None:
                        try:
                            await self._serve(*socket)
                        except Exception as error:  # ours: told apart from the library below
                            bugs.append(error)
                            raise
                nursery.cancel_scope.cancel()
        except* (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it hung up
        except* Exception as group:  # a stranger's bytes in a library's parser
            if bugs:
                raise
            self._shell.misbehaved(None, repr(group.exceptions[0]))
        finally:
            self._strangers -= not known
            await trio.aclose_forcefully(stream)

    async def _keep_alive(self) -> None:
        while True:
            await trio.sleep(KEEPALIVE_S)
            old = trio.current_time() - KEEPALIVE_S
            for connection in list(self.connections.values()):
                if connection.alive_at < old and self._nursery is not None:
                    self._nursery.start_soon(connection.ping)

    async def _let_in(self, request: WebSocketRequest) -> tuple[str, WebSocketConnection, bool] | None:
        """Accept or reject the upgrade."""
        bridge = bw.SUBPROTOCOL in request.proposed_subprotocols
        name = request.path.partition("?")[0].removeprefix(PATH) if request.path.startswith(PATH) else ""
        token = hashlib.sha256(_bearer(request.headers).encode()).hexdigest()
        status = 403 if any(key.lower() == b"origin" for key, _ in request.headers) else None
        status = status or self._shell.refusal(name, token, bridge=bridge)
        if status is None and len(self.connections) >= MAX_CONNECTIONS:
            status = 503
        with trio.move_on_after(GOODBYE_S):
            if status is not None:
                headers = [(b"WWW-Authenticate", b"Bearer")] if status == 401 else []
                await request.reject(status, extra_headers=headers)
                return None
            socket = await request.accept(subprotocol=bw.SUBPROTOCOL if bridge else None)
            if self._shell.refusal(name, token, bridge=bridge) is None:  # it may have ended meanwhile
                return name, socket, bridge
        return None

    async def _serve(self, name: str, socket: WebSocketConnection, bridge: bool) -> None:
        assert self._nursery is not None  # noqa: S101  # we run in it
        scope = trio.CancelScope()
        connection = Connection(
            next(self._numbers), name, socket, self._nursery, bridge=bridge, cut=scope.cancel
        )
        self.connections[connection.number] = connection
        read = self._read_bridge if bridge else self._read_agent
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.write)
            try:
                self._shell.opened(name, connection)
                with scope:
                    await read(connection, socket)
            except ConnectionClosed:
                pass
            finally:
                del self.connections[connection.number]
                self._shell.closed(connection)
            await connection.said_goodbye()
            nursery.cancel_scope.cancel()

    async def _read_bridge(self, connection: Connection, socket: WebSocketConnection) -> None:
        heard, decode = self._shell.heard, bw.decode_from_bridge
        while True:
            message = await socket.get_message()
            connection.alive_at = trio.current_time()
            try:
                heard(connection, decode(message if isinstance(message, bytes) else b""))
            except PeerError as error:
                self._shell.misbehaved(connection, error.message)
                connection.close(1002, error.message)
                return await _until_closed(socket)
            if connection.talks:
                await self._shell.room()

    async def _read_agent(self, connection: Connection, socket: WebSocketConnection) -> None:
        reader, said = LineReader(), self._shell.said
        while True:
            message = await socket.get_message()
            connection.alive_at = trio.current_time()
            data = message if isinstance(message, bytes) else message.encode("utf-8", "surrogatepass")
            try:
                lines = reader.feed(data)
            except WireError as error:
                self._shell.misbehaved(connection, str(error))
                connection.close(1009, str(error))
                return await _until_closed(socket)
            if lines:
                said(connection, lines)
                if connection.talks:
                    await self._shell.room()


async def _until_closed(socket: WebSocketConnection) -> None:
    """Read and forget until our goodbye is through."""
    with trio.move_on_after(GOODBYE_S):
        while True:
            await socket.get_message()


def _bearer(headers: list[tuple[bytes, bytes]]) -> str:
    """The token of the upgrade; empty if there is none, or more than one header."""
    found = [value for key, value in headers if key.lower() == b"authorization"]
    scheme, _, token = found[0].decode("latin-1").partition(" ") if len(found) == 1 else ("", "", "")
    return token.strip() if scheme.lower() == "bearer" else ""


def same(left: str, right: str) -> bool:
    """Compare hashes without telling by the time it takes."""
    return hmac.compare_digest(left.encode(), right.encode())
