"""No file can be opened any more, or somebody takes all there is: who is connected goes on."""

from __future__ import annotations

import logging
import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest
import trio
import trio.lowlevel
import trio.testing
from prometheus_client import CollectorRegistry, start_http_server
from trio_websocket import WebSocketConnection

from services._process.logs import SELDOM_S, tell_seldom
from services._process.metrics import ACCEPT_PAUSE_S, _be_patient
from services.ingest import server
from tests.services.ingest.rig import receive, run, running, still_answers
from tests.services.ingest.support import INIT, frame
from tests.support.waiting import eventually

STRANGERS = 20


@contextmanager
def none_left() -> Iterator[None]:
    """No descriptor can be opened within: the limit stands at the highest, and every gap below is filled."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(link.name) for link in Path("/proc/self/fd").iterdir())
    filled: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, before[1]))
    try:
        try:
            while True:
                filled.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for descriptor in filled:
            os.close(descriptor)


def test_a_session_goes_on_while_strangers_take_every_descriptor(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with running(tmp_path) as rig:
            await rig.open(kind="sdk-url")
            async with rig.agent() as agent:
                assert (await receive(agent))["type"] == "control_request"
                strangers = [socket.socket() for _ in range(STRANGERS)]
                with none_left():
                    for stranger in strangers:
                        stranger.setblocking(False)
                        with pytest.raises(BlockingIOError):
                            stranger.connect(("127.0.0.1", rig.port))
                    # It pauses after each refusal of the kernel, and says so: no loop that turns and turns.
                    await eventually(lambda: "retrying" in caplog.text)
                    await agent.send_message(frame(**INIT) + b"\n")
                    await eventually(lambda: (rig.state() or {})["model"] == INIT["model"], 30)
                    assert (rig.state() or {})["connected"] is True
                for stranger in strangers:
                    stranger.close()
            await still_answers(rig)

    with caplog.at_level(logging.ERROR, logger="trio.serve_listeners"):
        run(main)


def test_the_metrics_do_not_spin_either(monkeypatch: pytest.MonkeyPatch) -> None:
    http, thread = start_http_server(0, addr="127.0.0.1", registry=CollectorRegistry())
    http.shutdown()  # its own loop: ours alone asks now
    thread.join()
    pauses: list[float] = []
    _be_patient(http)
    http.socket.setblocking(False)  # nobody is there: an OSError, as when no descriptor is left
    monkeypatch.setattr(time, "sleep", pauses.append)
    with pytest.raises(OSError, match="temporarily unavailable"):
        http.get_request()
    http.server_close()
    assert pauses == [ACCEPT_PAUSE_S]


def test_the_same_complaint_is_told_seldom(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    tell_seldom("of.a.library")
    logger = logging.getLogger("of.a.library")
    for _ in range(3):
        logger.error("no file can be opened")
    now += SELDOM_S
    logger.error("still not")
    assert [record.message for record in caplog.records] == ["no file can be opened", "still not"]


def test_strangers_are_hung_up_on_beyond_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_STRANGERS", 2)

    async def main() -> None:
        async with running(tmp_path) as rig:
            await rig.open(kind="sdk-url")
            strangers = [await trio.open_tcp_stream("127.0.0.1", rig.port) for _ in range(2)]
            await eventually(lambda: rig.shell.server._strangers == 2)
            async with await trio.open_tcp_stream("127.0.0.1", rig.port) as third:
                with trio.fail_after(30):
                    assert await third.receive_some() == b""
            for stranger in strangers:
                await stranger.aclose()
            await eventually(lambda: rig.shell.server._strangers == 0)
            await still_answers(rig)

    run(main)


class Stuck:
    """A WebSocket whose other side reads nothing until it is let."""

    def __init__(self) -> None:
        self.read = trio.Event()
        self.closed: list[int] = []

    async def send_message(self, _data: bytes | str) -> None:
        await self.read.wait()

    async def aclose(self, code: int, _reason: str) -> None:
        self.closed.append(code)


def test_what_waits_for_an_agent_that_reads_nothing_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_WAITING_BYTES", 1000)

    async def main() -> None:
        stuck = Stuck()
        async with trio.open_nursery() as nursery:
            socket = cast(WebSocketConnection, stuck)
            cut = trio.Event()
            connection = server.Connection(1, "one", socket, nursery, bridge=True, cut=cut.set)
            nursery.start_soon(connection.write)
            for _ in range(100):
                connection.send(b"x" * 300)
                await trio.testing.wait_all_tasks_blocked()
                assert sum(map(len, connection._waiting)) <= 1000
            assert stuck.closed == []
            stuck.read.set()  # it comes to life: it is sent away, connects again, and is told all of it
        assert stuck.closed == [1013]
        assert not cut.is_set()

    trio.run(main)


def test_who_reads_nothing_is_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too much waits for it, and it does not even take the goodbye."""
    monkeypatch.setattr(server, "MAX_WAITING_BYTES", 8_000_000)  # beyond what the kernel holds
    monkeypatch.setattr(server, "INSIST_S", 0.1)

    async def main() -> None:
        async with running(tmp_path) as rig:
            await rig.open(kind="sdk-url")
            async with rig.agent():  # it never asks for a message, so its library reads one or two
                await eventually(lambda: rig.shell.server.connections)
                (connection,) = rig.shell.server.connections.values()
                while rig.shell.server.connections:
                    connection.send(b"x" * 100_000)
                    await trio.lowlevel.checkpoint()
            async with rig.agent() as again:
                assert (await receive(again))["type"] == "control_request"

    run(main)
