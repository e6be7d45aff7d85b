"""Ingest on real sockets and a memory bus, and a WebSocket client that is not its own library's."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio
from prometheus_client import CollectorRegistry, Counter
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)  # fmt: skip
from wsproto.utilities import LocalProtocolError

from bus import messages as m
from bus import topics as t
from bus.codec import encode_data
from bus.memory import MemoryBroker
from bus.requests import Requester
from services._process.config import load_config
from services._process.context import Context
from services._process.home import Home
from services._process.logs import captured_log
from services.ingest.shell import Shell
from tests.services.ingest.support import INIT, TOKEN, UID, created, frame
from tests.support.brokers import free_port
from tests.support.waiting import eventually


class RejectedError(Exception):
    pass


class ClosedError(Exception):
    """The server hung up; ``code`` 1006 without a word."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Client:
    """A WebSocket client of our own making: not the library that the server uses."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.ws = WSConnection(ConnectionType.CLIENT)
        self.subprotocol: str | None = None
        self._parts: list[bytes] = []

    async def handshake(self, path: str, headers: list[tuple[bytes, bytes]], protocols: list[str]) -> None:
        request = Request(host="127.0.0.1", target=path, extra_headers=headers, subprotocols=protocols)
        await self.stream.send_all(self.ws.send(request))
        while True:
            self.ws.receive_data(await self.stream.receive_some() or None)
            for event in self.ws.events():
                if isinstance(event, RejectConnection):
                    raise RejectedError(event.status_code)
                if isinstance(event, AcceptConnection):
                    self.subprotocol = event.subprotocol
                    return

    async def send_message(self, data: bytes | str) -> None:
        message = BytesMessage(data) if isinstance(data, bytes) else TextMessage(data)
        await self.stream.send_all(self.ws.send(message))

    async def get_message(self) -> bytes:
        while True:
            for event in self.ws.events():
                if isinstance(event, CloseConnection):
                    with contextlib.suppress(LocalProtocolError, trio.BrokenResourceError):
                        await self.stream.send_all(self.ws.send(event.response()))
                    raise ClosedError(event.code)
                if isinstance(event, Ping):
                    await self.stream.send_all(self.ws.send(event.response()))
                elif isinstance(event, TextMessage | BytesMessage):
                    data = event.data
                    self._parts.append(data.encode() if isinstance(data, str) else bytes(data))
                    if event.message_finished:
                        whole, self._parts = b"".join(self._parts), []
                        return whole
            try:
                data = await self.stream.receive_some()
            except trio.BrokenResourceError:
                raise ClosedError(1006) from None
            if not data:
                raise ClosedError(1006)
            self.ws.receive_data(data)


class Rig:
    def __init__(self, folder: Path, join_s: float = 0.02) -> None:
        self.folder = folder
        self.home = Home(folder / "home")
        self.broker = MemoryBroker()
        self.user = self.broker.client(name="user")
        self.ask = Requester(self.user, by="operator").ask
        self.tmux = self.broker.client(service="tmux")
        self.port = free_port()
        self.join_s = join_s
        self.shell: Shell
        self.scope = trio.CancelScope()
        self._facts = 0

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        environ = {
            "HOME": str(self.folder), "POINTSMAN_HOME": str(self.home.path), "POINTSMAN_NODE_NAME": "node",
            "POINTSMAN_INGEST_PORT": str(self.port),
        }  # fmt: skip
        registry = CollectorRegistry()
        bus = self.broker.client(service="ingest")
        context = Context(
            service="ingest", config=load_config(environ), home=self.home, bus=bus, log=captured_log()[0],
            registry=registry, errors=Counter("errors", "errors", ["code"], registry=registry),
            now=lambda: datetime.now(UTC),
        )  # fmt: skip
        self.shell = Shell(context, join_s=self.join_s)
        with trio.CancelScope() as self.scope:
            await self.shell.run(task_status=task_status)
        self.broker.drop(bus)

    def fact(self, kind: str, data: m.Payload, uid: str = UID) -> None:
        self._facts += 1
        fact = m.Fact(id=f"f{self._facts}", type=kind, uid=uid, at=datetime.now(UTC), data=encode_data(data))
        self.tmux.publish(t.FACTS, fact, producer="tmux", owner="ingest")

    async def open(self, name: str = "one", uid: str = UID, **more: Any) -> None:
        self.fact("created", created(name, **more), uid)
        self.fact("started", m.AgentStarted(process=1, resume=None), uid)
        await eventually(lambda: self.state(name) is not None)

    def state(self, name: str = "one") -> dict[str, Any] | None:
        raw = self.broker.standing(t.SESSION_STATE, session=name)
        return json.loads(raw) if raw else None

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [json.loads(raw) for raw in self.broker.said(t.SESSION_EVENT, session="one", type=kind)]

    @asynccontextmanager
    async def agent(
        self, name: str = "one", token: str | None = TOKEN, protocols: list[str] | None = None, **headers: str
    ) -> AsyncIterator[Client]:
        extra = [(key.encode(), value.encode()) for key, value in headers.items()]
        if token is not None:
            extra.append((b"Authorization", f"Bearer {token}".encode()))
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            client = Client(stream)
            await client.handshake(
                f"/ws/sessions/{name}" if "/" not in name else name, extra, protocols or []
            )
            yield client

    async def refused(self, *args: Any, **more: Any) -> int:
        with pytest.raises(RejectedError) as caught:
            async with self.agent(*args, **more):
                pass
        return int(caught.value.args[0])


async def hung_up(client: Client) -> int:
    """The code with which the server closes the connection."""
    with trio.fail_after(30):
        while True:
            try:
                await client.get_message()
            except ClosedError as closed:
                return closed.code


@asynccontextmanager
async def running(folder: Path, **more: Any) -> AsyncIterator[Rig]:
    rig = Rig(folder, **more)
    async with trio.open_nursery() as nursery:
        await nursery.start(rig.run)
        yield rig
        nursery.cancel_scope.cancel()


async def receive(connection: Client) -> dict[str, Any]:
    with trio.fail_after(30):
        found: dict[str, Any] = json.loads(await connection.get_message())
    return found


async def still_answers(rig: Rig) -> None:
    async with rig.agent() as agent:
        said = await receive(agent)
        assert said["type"] == "control_request"
        await agent.send_message(frame(**INIT) + b"\n")
        await eventually(lambda: (rig.state() or {})["model"] == "claude-opus-5-5")


def run(test: Callable[[], Any]) -> None:
    trio.run(test)
