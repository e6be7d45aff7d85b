"""The bare pipeline that ours is held against: trio-websocket → msgspec → paho's external loop → broker.

No state, no store, no rules: what any program with these libraries must at least do. ``ingest`` publishes
each frame (or joins deltas for ``--join-ms``); ``relay`` passes what it gets on the next topic, as a gate
without a store would.

Usage: ``python -m benchmarks.bare ingest --broker-port P [--join-ms N]`` and
``python -m benchmarks.bare relay --broker-port P``, each with ``--username`` and ``--password-file`` if the
broker wants them; both print one JSON line when ready.
"""

from __future__ import annotations

import argparse
import json
import socket
import time
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as mqtt
import trio
import trio_websocket
from paho.mqtt.enums import CallbackAPIVersion


class BarePaho:
    """paho driven by trio, nothing else."""

    def __init__(self, port: int, username: str, password: str) -> None:
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, clean_session=True)
        self.client.username_pw_set(username, password)
        self.client.on_socket_open = self._no_delay
        self.client.max_inflight_messages_set(1000)
        self._port = port
        self._wake = trio.Event()

    @staticmethod
    def _no_delay(_client: Any, _user: Any, sock: Any) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def run(self, subscriptions: list[tuple[str, int]]) -> None:
        connected = False

        def on_connect(*_args: Any) -> None:
            nonlocal connected
            connected = True

        self.client.on_connect = on_connect
        self.client.connect("127.0.0.1", self._port)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._reader)
            nursery.start_soon(self._writer)
            nursery.start_soon(self._misc)
            while not connected:  # noqa: ASYNC110  # once, at start; bare means bare
                await trio.sleep(0.01)
            if subscriptions:
                self.client.subscribe(subscriptions)
            self._wake.set()

    def publish(self, topic: str, payload: bytes | bytearray, qos: int = 0) -> None:
        self.client.publish(topic, payload, qos)
        self._wake.set()

    async def _reader(self) -> None:
        sock = self.client.socket()
        assert sock is not None
        while True:
            await trio.lowlevel.wait_readable(sock)
            self.client.loop_read()
            if self.client.want_write():
                self._wake.set()

    async def _writer(self) -> None:
        sock = self.client.socket()
        assert sock is not None
        while True:
            if self.client.want_write():
                await trio.lowlevel.wait_writable(sock)
                self.client.loop_write()
            else:
                await self._wake.wait()
                self._wake = trio.Event()

    async def _misc(self) -> None:
        while True:
            await trio.sleep(1)
            self.client.loop_misc()


def password(args: argparse.Namespace) -> str:
    return Path(args.password_file).read_text().strip() if args.password_file else ""


class Delta(msgspec.Struct):
    text: str = ""


class Inner(msgspec.Struct):
    index: int = 0
    delta: Delta = msgspec.field(default_factory=Delta)


class Frame(msgspec.Struct):
    type: str
    event: Inner = msgspec.field(default_factory=Inner)


async def ingest(args: argparse.Namespace) -> None:
    bus = BarePaho(args.broker_port, args.username, password(args))
    decoder = msgspec.json.Decoder(Frame)
    encoder = msgspec.json.Encoder()
    joined: dict[str, list[str]] = {}
    sockets: dict[str, trio_websocket.WebSocketConnection] = {}
    outgoing_send, outgoing = trio.open_memory_channel[tuple[str, str]](1000)

    def on_message(_client: Any, _user: Any, message: mqtt.MQTTMessage) -> None:
        session = message.topic.rsplit("/", 1)[1]
        outgoing_send.send_nowait((session, message.payload.decode()))

    bus.client.on_message = on_message

    async def answers() -> None:
        async for session, text in outgoing:
            asked = msgspec.json.decode(text)
            allowed = {"behavior": "allow", "updatedInput": asked["request"]["input"]}
            said = allowed if asked["request"]["subtype"] == "can_use_tool" else {}
            response = {"subtype": "success", "request_id": asked["request_id"], "response": said}
            frame = {"type": "control_response", "response": response}
            await sockets[session].send_message(encoder.encode(frame).decode() + "\n")

    async def flush() -> None:
        while True:
            await trio.sleep(args.join_ms / 1000)
            for topic, texts in joined.items():
                bus.publish(topic, encoder.encode({"type": "delta", "text": "".join(texts)}))
            joined.clear()

    async def serve(request: trio_websocket.WebSocketRequest) -> None:
        session = request.path.rsplit("/", 1)[1]
        connection = await request.accept()
        sockets[session] = connection
        topic = f"bare/{session}/delta"
        try:
            while True:
                data = await connection.get_message()
                for line in (data.encode() if isinstance(data, str) else data).splitlines():
                    frame = decoder.decode(line)
                    if frame.type == "control_request":
                        bus.publish(f"bare/question/{session}", line, 1)
                    elif args.join_ms:
                        joined.setdefault(topic, []).append(frame.event.delta.text)
                    else:
                        bus.publish(topic, encoder.encode({"type": "delta", "text": frame.event.delta.text}))
        except trio_websocket.ConnectionClosed:
            return

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bus.run, [("bare/answer/+", 1)])
        nursery.start_soon(answers)
        if args.join_ms:
            nursery.start_soon(flush)
        server = await nursery.start(partial(trio_websocket.serve_websocket, serve, "127.0.0.1", 0, None))
        print(json.dumps({"port": server.port}), flush=True)


async def relay(args: argparse.Namespace) -> None:
    """question → request, decision → answer: the two hops of a gate. A hook is answered at once."""
    bus = BarePaho(args.broker_port, args.username, password(args))

    def on_message(_client: Any, _user: Any, message: mqtt.MQTTMessage) -> None:
        kind, session = message.topic.split("/")[1:]
        asked = kind == "question" and b'"can_use_tool"' in message.payload
        target = "request" if asked else "answer"
        bus.publish(f"bare/{target}/{session}", message.payload, 1)

    bus.client.on_message = on_message
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bus.run, [("bare/question/+", 1), ("bare/decision/+", 1)])
        await trio.sleep(0.3)
        print(json.dumps({"ready": time.time()}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["ingest", "relay"])
    parser.add_argument("--broker-port", type=int, required=True)
    parser.add_argument("--username", default="")
    parser.add_argument("--password-file", default="")
    parser.add_argument("--join-ms", type=float, default=0.0)
    args = parser.parse_args()
    trio.run(ingest if args.role == "ingest" else relay, args)


if __name__ == "__main__":
    main()
