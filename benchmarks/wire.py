"""Agent sockets for load: a WebSocket client that costs next to nothing, so that the load generator is not
what is measured. Frames are encoded once (mask key zero, which RFC 6455 allows a client to send) and written
with plain sends.
"""

from __future__ import annotations

import base64
import os
import struct
import uuid

import msgspec
import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, Ping, RejectConnection, Request, TextMessage

FRAME_BYTES = 300  # a delta as the CLI sends them is about this long (recorded frames)
STAMP = "%020d|"  # nanoseconds of CLOCK_MONOTONIC in each text; "|" counts the frames of a joined delta


def delta_line(stamp_ns: int) -> bytes:
    """One `stream_event` line of `FRAME_BYTES` bytes whose text carries a time stamp."""
    frame = {
        "type": "stream_event",
        "event": {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": STAMP % stamp_ns},
        },
        "session_id": "",
        "parent_tool_use_id": None,
        "uuid": str(uuid.uuid4()),
    }
    line = msgspec.json.encode(frame)
    pad = FRAME_BYTES - len(line) - 1
    frame["event"]["delta"]["text"] += "x" * max(0, pad)  # type: ignore[index]  # built two lines above
    return msgspec.json.encode(frame) + b"\n"


def encode_text(payload: bytes) -> bytes:
    """A masked client text frame with a zero mask key."""
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", 0x81, 0x80 | size)
    elif size < 65536:
        head = struct.pack("!BBH", 0x81, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", 0x81, 0x80 | 127, size)
    return head + b"\0\0\0\0" + payload


class AgentSocket:
    """One agent's WebSocket. ``send_raw`` takes what `encode_text` made."""

    def __init__(self, stream: trio.SocketStream, connection: WSConnection) -> None:
        self.stream = stream
        self._connection = connection
        self._text = ""
        self._sending = trio.Lock()

    @classmethod
    async def connect(cls, host: str, port: int, session: str, token: str) -> AgentSocket:
        stream = await trio.open_tcp_stream(host, port)
        stream.setsockopt(6, 1, 1)  # IPPROTO_TCP, TCP_NODELAY
        connection = WSConnection(ConnectionType.CLIENT)
        headers = [(b"Authorization", b"Bearer " + token.encode())]
        await stream.send_all(
            connection.send(
                Request(host=f"{host}:{port}", target=f"/ws/sessions/{session}", extra_headers=headers)
            )
        )
        self = cls(stream, connection)
        while True:
            connection.receive_data(await stream.receive_some())
            for event in connection.events():
                if isinstance(event, AcceptConnection):
                    return self
                if isinstance(event, RejectConnection):
                    raise ConnectionRefusedError(f"{session}: refused with {event.status_code}")

    async def send_raw(self, data: bytes) -> None:
        async with self._sending:
            await self.stream.send_all(data)

    async def receive_lines(self) -> list[bytes]:
        """The next text from the server, split into lines; [] when the server hung up."""
        while True:
            lines: list[bytes] = []
            for event in self._connection.events():
                if isinstance(event, Ping):
                    await self.send_raw(self._connection.send(event.response()))
                elif isinstance(event, TextMessage | BytesMessage):
                    text = event.data if isinstance(event.data, str) else bytes(event.data).decode()
                    self._text += text
                    if event.message_finished:
                        lines += [part.encode() for part in self._text.splitlines() if part]
                        self._text = ""
            if lines:
                return lines
            data = await self.stream.receive_some()
            if not data:
                return []
            self._connection.receive_data(data)


def new_token() -> str:
    return base64.urlsafe_b64encode(os.urandom(32)).decode()
