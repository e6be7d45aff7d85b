"""No file can be opened any more: who is connected goes on, who comes waits or is turned away."""

from __future__ import annotations

import logging
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

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
