"""Real sockets on loopback, a memory bus, the real store: who may come in, and what bad input does."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
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

from bus import bridge_wire as bw
from bus import messages as m
from bus import topics as t
from bus.codec import encode_data
from bus.memory import MemoryBroker
from bus.requests import Requester
from services._process.config import load_config
from services._process.context import Context
from services._process.home import Home
from services._process.logs import captured_log
from services.ingest import server
from services.ingest.shell import Shell
from tests.services.ingest.support import FIGURES, INIT, TOKEN, UID, can_use, created, frame, result

BRIDGE = [bw.SUBPROTOCOL]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


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
        await until(lambda: self.state(name) is not None)

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


async def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    with trio.fail_after(timeout_s):
        while not condition():  # noqa: ASYNC110  # the world outside of trio sets no event
            await trio.sleep(0.005)


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
        await until(lambda: (rig.state() or {})["model"] == "claude-opus-5-5")


def run(test: Callable[[], Any]) -> None:
    trio.run(test)


def test_who_may_come_in(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as rig:
            await rig.open(kind="sdk-url")
            for args in (
                ("one", None), ("one", "wrong"), ("two", TOKEN), ("/ws/sessions/../one", TOKEN),
                ("/ws/sessions/", TOKEN),
                ("/metrics", None), ("/ws/sessions/one/x", TOKEN), ("one", "x" * 5000), ("%6fne", TOKEN),
            ):  # fmt: skip
                assert await rig.refused(*args) == 401
            assert await rig.refused("one", TOKEN, Origin="http://evil.example") == 403
            assert await rig.refused("one", TOKEN, protocols=BRIDGE) == 403
            assert await rig.refused("one", None, Authorization="Basic b25lOnR3bw==") == 401
            assert (rig.state() or {})["connected"] is False
            await still_answers(rig)

    run(main)


def test_what_is_no_websocket_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HANDSHAKE_S", 0.3)

    async def main() -> None:
        async with running(tmp_path) as rig:
            await rig.open(kind="sdk-url")
            for said in (
                b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                b"\x00\xff\x16\x03\x01 garbage\r\n\r\n",
                b"",
                b"x" * 200_000,
            ):
                stream = await trio.open_tcp_stream("127.0.0.1", rig.port)
                try:
                    await stream.send_all(said)
                    await stream.send_eof()
                    with trio.fail_after(30):
                        while await stream.receive_some():
                            pass
                except trio.BrokenResourceError:
                    pass
                await stream.aclose()
            await still_answers(rig)

    run(main)


def test_bad_frames_leave_it_answering(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as rig:
            await rig.open(kind="sdk-url")
            async with rig.agent() as agent:
                await receive(agent)
                await agent.send_message(b"\x00\x01\x02 binary\n")
                await agent.send_message("not json\n{}\n[]\n")
                await agent.send_message(
                    '{"type":"assistant","message":7}\n{"type":"result","total_cost_usd":"x"'
                )
                await agent.send_message("}\n" + json.dumps(INIT))
                await until(lambda: (rig.state() or {})["model"] == INIT["model"])
            assert rig.shell.sessions.malformed >= 4
            await still_answers(rig)

    run(main)


def test_oversize(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_MESSAGE_BYTES", 10_000)

    async def main() -> None:
        async with running(tmp_path) as rig:
            await rig.open(kind="sdk-url")
            async with rig.agent() as agent:
                await receive(agent)
                await agent.send_message(b"x" * 20_000)
                assert await hung_up(agent) == 1009
            await still_answers(rig)

    run(main)


def test_a_second_agent_by_sdk_url_replaces_the_first(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as rig:
            await rig.open(kind="sdk-url")
            async with rig.agent() as first:
                await receive(first)
                async with rig.agent() as second:
                    await receive(second)
                    assert await hung_up(first) == 1001  # the CLI connects again after this one
                    assert (rig.state() or {})["connected"] is True

    run(main)


def test_a_bridge_carries_a_turn(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as rig:
            await rig.open()
            reply = await rig.ask(t.SESSION_PROMPT, m.Prompt(id="p1", text="hi"), session="one")
            assert reply == {"queued_prompts": 1, "method": "bridge"}
            async with rig.agent(protocols=BRIDGE) as bridge:
                assert bridge.subprotocol == bw.SUBPROTOCOL
                hello = bw.BridgeHello(process=1, written=0, agent_pid=1, size=0)
                await bridge.send_message(bw.encode(hello))
                greeting = {"t": "hello", "process": 1, "offset": 0, "figures": True}
                assert await receive(bridge) == greeting
                await bridge.send_message(bw.encode(FIGURES))
                line = await receive(bridge)
                request = json.loads(line["data"])
                journal = (
                    frame(
                        type="control_response",
                        response={"subtype": "success", "request_id": request["request_id"], "response": {}},
                    )
                    + b"\n"
                )
                await bridge.send_message(bw.encode_data(0, journal))
                prompt = await receive(bridge)
                while prompt["t"] != "line":
                    prompt = await receive(bridge)
                uuid = json.loads(prompt["data"])["uuid"]
                await bridge.send_message(bw.encode(bw.Taken(n=prompt["n"])))
                more = frame(**INIT) + b"\n" + can_use("r1") + b"\n"
                await bridge.send_message(bw.encode_data(len(journal), more))
                await until(lambda: (rig.state() or {})["status"] == "waiting_approval")
                assert len(rig.broker.said(t.FACTS, producer="ingest", owner="approvals")) == 1
                offset = len(journal) + len(more)
                last = result("res", user_message_uuids=[uuid]) + b"\n"
                await bridge.send_message(bw.encode_data(offset, last))
                await until(lambda: (rig.state() or {})["status"] == "waiting_input")
                assert rig.shell.sessions.bridges() == {"one": FIGURES}
                ack: dict[str, Any] = {}
                while ack.get("offset") != offset + len(last):
                    ack = await receive(bridge)
                assert ack["t"] == "ack"
                await bridge.send_message(bw.encode_data(7, b"{}\n"))  # does not follow
                await hung_up(bridge)
            history = await rig.ask(t.SESSION_HISTORY, m.History(limit=3), session="one")
            assert [e["seq"] for e in history["events"]] == [1, 2, 3]
            assert history["last_seq"] == len(rig.shell.store.history(UID, 0, 1000))

    run(main)


def test_a_bridge_that_speaks_nonsense(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as rig:
            await rig.open()
            hello = bw.encode(bw.BridgeHello(process=1, written=0, agent_pid=1, size=0))
            for said in (
                b"",
                b"nonsense",
                b'{"t":"data","offset":0}\nno newline',
                b'{"t":"line","n":1,"data":""}',
                "text",
            ):
                async with rig.agent(protocols=BRIDGE) as bridge:
                    await bridge.send_message(hello)
                    await receive(bridge)
                    await bridge.send_message(said)
                    assert await hung_up(bridge) == 1002
            async with rig.agent(protocols=BRIDGE) as bridge:
                await bridge.send_message(hello)
                assert (await receive(bridge))["t"] == "hello"

    run(main)


@pytest.mark.parametrize("join_s", [0.0, 0.02])
def test_deltas(tmp_path: Path, join_s: float) -> None:
    async def main() -> None:
        async with running(tmp_path, join_s=join_s) as rig:
            await rig.open(kind="sdk-url")
            async with rig.agent() as agent:
                await receive(agent)
                start = {"type": "message_start", "message": {"id": "msg-1"}}
                await agent.send_message(frame(**INIT))
                await agent.send_message(frame(type="stream_event", event=start))
                for number in range(20):
                    delta = {"type": "text_delta", "text": f"{number} "}
                    event = {"type": "content_block_delta", "index": 0, "delta": delta}
                    await agent.send_message(
                        frame(type="stream_event", event=event, uuid=str(number)) + b"\n"
                    )
                text = "".join(f"{number} " for number in range(20))
                await until(lambda: "".join(e["text"] for e in rig.events("delta")) == text)
                said = rig.events("delta")
                assert [e["index"] for e in said] == list(range(len(said)))
                assert {e["message_id"] for e in said} == {"msg-1"}
                assert (len(said) == 20) is (join_s == 0)

    run(main)


def test_commands_that_are_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as rig:
            await rig.open()
            rig.user.publish(t.SESSION_PROMPT, b'{"id":"a","text":""}', session="one")
            rig.user.publish(t.SESSION_PROMPT, b'{"id":"b","text":"x"}', session="none")
            rig.user.publish(t.SESSION_HIBERNATE, b'{"id":"c"}', session="one")
            rig.user.publish(t.SESSION_PROMPT, b"\xff\xfe", session="one")
            rig.user.publish(t.SESSION_PROMPT, b"just text", session="one")
            codes = {}
            await until(lambda: bool(rig.broker.said(t.ERRORS)) and len(rig.broker.said(t.REPLIES)) == 3)
            for raw in rig.broker.said(t.REPLIES):
                reply = json.loads(raw)
                codes[reply["id"]] = reply["error"]["code"]
            assert codes == {"a": "bad_request", "b": "unknown_session", "c": "busy"}
            await until(lambda: (rig.state() or {})["queued_prompts"] == 1)

    run(main)


def test_a_restart_keeps_everything_and_the_agent_comes_back(tmp_path: Path) -> None:
    async def main() -> None:
        rig = Rig(tmp_path)
        async with trio.open_nursery() as nursery:
            await nursery.start(rig.run)
            await rig.open(kind="sdk-url")
            async with rig.agent() as agent:
                await receive(agent)
                await agent.send_message(frame(**INIT))
                await until(lambda: bool((rig.state() or {})["model"]))
                before = rig.state()
                rig.scope.cancel()
                await hung_up(agent)
            await nursery.start(rig.run)
            await until(lambda: rig.state() is not None)
            after = rig.state()
            assert before is not None
            assert after is not None
            assert after["agent"] == before["agent"]
            async with rig.agent() as agent:
                await receive(agent)
                await agent.send_message(frame(**INIT))  # the same uuid: dropped
                await agent.send_message(result("res"))
                await until(lambda: (rig.state() or {})["turns"] == 1)
            nursery.cancel_scope.cancel()

    run(main)


def test_the_token_is_compared_whole() -> None:
    digest = hashlib.sha256(b"x").hexdigest()
    assert server.same(digest, digest)
    assert not server.same(digest, digest[:-1])
    assert not server.same(digest, "")
