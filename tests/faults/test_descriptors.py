"""No file can be opened any more: who is connected goes on, who comes waits or is turned away."""

from __future__ import annotations

import logging
import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, start_http_server

from services._process.logs import SELDOM_S, tell_seldom
from services._process.metrics import ACCEPT_PAUSE_S, _be_patient
from tests.services.ingest.support import INIT, frame
from tests.services.ingest.test_server import receive, run, running, still_answers, until
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
                    await until(lambda: (rig.state() or {})["model"] == INIT["model"], 30)
                    assert (rig.state() or {})["connected"] is True
                for stranger in strangers:
                    stranger.close()
            await still_answers(rig)

    with caplog.at_level(logging.ERROR, logger="trio.serve_listeners"):
        run(main)


def test_the_metrics_do_not_spin_either(monkeypatch: pytest.MonkeyPatch) -> None:
    server, thread = start_http_server(0, addr="127.0.0.1", registry=CollectorRegistry())
    server.shutdown()  # its own loop: ours alone asks now
    thread.join()
    pauses: list[float] = []
    _be_patient(server)
    server.socket.setblocking(False)  # nobody is there: an OSError, as when no descriptor is left
    monkeypatch.setattr(time, "sleep", pauses.append)
    with pytest.raises(OSError, match="temporarily unavailable"):
        server.get_request()
    server.server_close()
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
