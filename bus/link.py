"""A connected socket with two buffers, so that many packets share a system call, in the form that paho wants.

What comes in is cut into packets: those for paho are put aside for it (`Link.aside`), the rest is the
connection's (`bus.client`).

`connect` does the slow parts (name look-up, TCP, TLS) without blocking trio, which paho would.
"""

from __future__ import annotations

import contextlib
import socket
import ssl

import trio

from bus.packets import Packets

READ_BYTES = 128 * 1024
UNSENT_MAX = 64 * 1024  # beyond it paho is told to wait: what is here can no longer be overtaken
SEND_BUFFER = 128 * 1024  # the kernel's, for the same reason
CONNECT_TIMEOUT_S = 5.0


async def connect(host: str, port: int, tls: ssl.SSLContext | None) -> Link:
    """A connection. Raises OSError (also ssl.SSLError) when there is none within `CONNECT_TIMEOUT_S`."""
    with trio.move_on_after(CONNECT_TIMEOUT_S):
        stream = await trio.open_tcp_stream(host, port)
        try:
            raw = socket.socket(fileno=stream.socket.detach())
        except OSError:
            await trio.aclose_forcefully(stream)
            raise
        try:
            raw.setblocking(False)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # without it p99 is 40 ms, measured
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            if tls is not None:
                raw = await _handshake(raw, tls, host)
        except BaseException:  # cancelled, too: tidy up and go on raising
            raw.close()
            raise
        return Link(raw)
    raise TimeoutError(f"no connection within {CONNECT_TIMEOUT_S:.0f} s")


async def _handshake(raw: socket.socket, tls: ssl.SSLContext, host: str) -> ssl.SSLSocket:
    wrapped = tls.wrap_socket(raw, server_hostname=host, do_handshake_on_connect=False)
    try:
        while True:
            try:
                wrapped.do_handshake()
            except ssl.SSLWantReadError:
                await trio.lowlevel.wait_readable(wrapped)
            except ssl.SSLWantWriteError:
                await trio.lowlevel.wait_writable(wrapped)
            else:
                return wrapped
    except BaseException:  # ``raw`` is empty now: it is ours to close; go on raising
        wrapped.close()
        raise


class Link:
    """paho's ``SocketLike``. ``unsent`` counts bytes not yet given to the kernel."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.packets = Packets()
        self._aside = bytearray()
        self._out = bytearray()

    @property
    def unsent(self) -> int:
        return len(self._out)

    def fill(self) -> bool:
        """Read once into `packets`. False: there is nothing. Raises OSError, also when the peer hung up."""
        try:
            data = self.sock.recv(READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        if not data:
            raise ConnectionResetError("the broker hung up")
        self.packets.feed(data)
        return True

    def aside(self, packet: bytes) -> None:
        """A packet for paho: it may `recv` now."""
        self._aside += packet

    def recv(self, size: int) -> bytes:
        if not self._aside:
            raise BlockingIOError
        data = bytes(self._aside[:size])
        del self._aside[:size]
        return data

    def write(self, packet: bytes) -> None:
        """A packet of our own, to go out with the next `flush`."""
        self._out += packet

    def send(self, data: bytes | bytearray) -> int:
        if len(self._out) >= UNSENT_MAX:
            raise BlockingIOError
        self._out += data
        return len(data)

    def flush(self) -> None:
        """Give the kernel what it takes now. Raises OSError when the connection is broken."""
        while self._out:
            try:
                sent = self.sock.send(self._out)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            del self._out[:sent]

    def pending(self) -> int:
        return len(self._aside)

    def fileno(self) -> int:
        return self.sock.fileno()

    def setblocking(self, flag: bool) -> None:  # paho calls it so
        """Never blocks, whatever paho asks for."""

    def close(self) -> None:
        """Gives the kernel what is left first: a DISCONNECT keeps the last will from being said."""
        if self.sock.fileno() >= 0:
            with contextlib.suppress(OSError):
                self.flush()
            trio.lowlevel.notify_closing(self.sock)
            self.sock.close()
