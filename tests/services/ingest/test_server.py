"""Real sockets on loopback, a memory bus, the real store: who may come in, and what bad input does."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing
from trio_websocket import ConnectionClosed, WebSocketConnection

from bus import bridge_wire as bw
from bus import messages as m
from bus import topics as t
from services.ingest import server
from tests.services.ingest.rig import Rig, hung_up, receive, run, running, still_answers
from tests.services.ingest.support import FIGURES, INIT, TOKEN, UID, can_use, frame, result
from tests.support.waiting import eventually

BRIDGE = [bw.SUBPROTOCOL]


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
                await eventually(lambda: (rig.state() or {})["model"] == INIT["model"])
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
                await eventually(lambda: (rig.state() or {})["status"] == "waiting_approval")
                assert len(rig.broker.said(t.FACTS, producer="ingest", owner="approvals")) == 1
                offset = len(journal) + len(more)
                last = result("res", user_message_uuids=[uuid]) + b"\n"
                await bridge.send_message(bw.encode_data(offset, last))
                await eventually(lambda: (rig.state() or {})["status"] == "waiting_input")
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
                await eventually(lambda: "".join(e["text"] for e in rig.events("delta")) == text)
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
            await eventually(lambda: bool(rig.broker.said(t.ERRORS)) and len(rig.broker.said(t.REPLIES)) == 3)
            for raw in rig.broker.said(t.REPLIES):
                reply = json.loads(raw)
                codes[reply["id"]] = reply["error"]["code"]
            assert codes == {"a": "bad_request", "b": "unknown_session", "c": "busy"}
            await eventually(lambda: (rig.state() or {})["queued_prompts"] == 1)

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
                await eventually(lambda: bool((rig.state() or {})["model"]))
                before = rig.state()
                rig.scope.cancel()
                await hung_up(agent)
            await nursery.start(rig.run)
            await eventually(lambda: rig.state() is not None)
            after = rig.state()
            assert before is not None
            assert after is not None
            assert after["agent"] == before["agent"]
            async with rig.agent() as agent:
                await receive(agent)
                await agent.send_message(frame(**INIT))  # the same uuid: dropped
                await agent.send_message(result("res"))
                await eventually(lambda: (rig.state() or {})["turns"] == 1)
            nursery.cancel_scope.cancel()

    run(main)


class Socket:
    """A WebSocket that notes what is written, until its other side is gone."""

    def __init__(self) -> None:
        self.said: list[object] = []
        self.gone = False

    async def send_message(self, data: object) -> None:
        await trio.lowlevel.checkpoint()
        if self.gone:
            raise ConnectionClosed(None)
        self.said.append(data)

    async def aclose(self, code: int, _reason: str) -> None:
        self.said.append(code)


@pytest.mark.parametrize("gone", [False, True])
def test_the_goodbye_comes_last_and_nothing_piles_up_for_who_is_gone(gone: bool) -> None:
    async def main() -> None:
        socket, cut = Socket(), trio.Event()
        async with trio.open_nursery() as nursery:
            there = cast(WebSocketConnection, socket)
            connection = server.Connection(1, "one", there, nursery, bridge=True, cut=cut.set)
            for data in ("a", "b"):  # before its writer has begun
                connection.send(data)
            nursery.start_soon(connection.write)
            await trio.testing.wait_all_tasks_blocked()
            socket.gone = gone
            connection.send("c")
            connection.send("d")
            if gone:
                await trio.testing.wait_all_tasks_blocked()
                connection.send("e")
            connection.close(1001, "replaced")
            connection.send("late")
            assert len(connection._waiting) == (0 if gone else 2)
            await connection.said_goodbye()
            assert trio.current_time() == began, "nobody waits for who cannot be told"
        assert socket.said == (["a", "b"] if gone else ["a", "b", "c", "d", 1001])
        assert not cut.is_set()

    clock = trio.testing.MockClock(autojump_threshold=0)
    began = clock.current_time()
    trio.run(main, clock=clock)


def test_the_token_is_compared_whole() -> None:
    digest = hashlib.sha256(b"x").hexdigest()
    assert server.same(digest, digest)
    assert not server.same(digest, digest[:-1])
    assert not server.same(digest, "")
