"""What a bridge tells of itself and its keeper: counted from events, measured at real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest
import trio

from services import version
from services.bridge import model
from services.bridge.figures import Tally, used
from tests.services.bridge.rig import Ingest, Session, alive, until, wait


def test_what_happens_is_counted() -> None:
    tally = Tally()
    for event in (
        model.Lost("nobody there"),
        model.Connected(),
        model.Chunk(0, b"{}\n{}\n{"),
        model.Chunk(7, b"}\n"),
        model.Wrote(1, 10),
        model.NotWritten(2, "not JSON"),
        model.Lost("closed"),
        model.Lost("nobody there"),
        model.Connected(),
    ):
        tally.count(event)
    assert (tally.lines_out, tally.bytes_out) == (3, 9)
    assert (tally.lines_in, tally.bytes_in, tally.unwritable) == (1, 10, 1)
    assert (tally.connections, tally.failed_connections) == (2, 2)


def test_what_a_process_uses_is_what_proc_says() -> None:
    me = used(os.getpid())
    assert me is not None
    assert me.rss_bytes > 1 << 20
    assert me.cpu_s > 0
    assert me.open_fds >= 3
    assert 0 < me.started_s <= time.time() + 1
    gone = subprocess.Popen(["true"])
    wait(lambda: not alive(gone.pid), "its end")
    assert used(gone.pid) is None, "a zombie uses nothing"
    gone.wait()
    assert used(gone.pid) is None


@pytest.mark.real
def test_a_bridge_tells_of_itself_and_its_keeper_at_each_greeting(session: Session) -> None:
    async def main() -> None:
        session.launch("obedient")
        ingest = Ingest(session)
        async with ingest.listening():
            bridge = session.bridge()
            await until(lambda: ingest.figures, "figures")
            first = ingest.figures[0]
            assert first.version == version()
            assert first.connections == 1
            assert first.keeper is not None
            assert first.keeper.rss_bytes < first.bridge.rss_bytes
            n = await ingest.ask(count=3, size=5000)
            await until(lambda: ingest.taken == n and ingest.kinds()[-1] == "got", "the answer")
        keeper = session.keeper()
        os.kill(keeper, signal.SIGKILL)
        await until(lambda: not alive(keeper), "the keeper's end")
        told = len(ingest.figures)
        async with ingest.listening():
            await until(lambda: len(ingest.figures) > told, "figures for the next ingest")
            after = ingest.figures[-1]
            assert bridge.poll() is None
        assert after.keeper is None
        assert after.connections == 2
        assert after.lines_in == 1
        assert after.lines_out >= len(ingest.kinds())
        assert after.waiting_lines == 0
        assert after.journal_bytes > 0
        assert after.unacknowledged_bytes == 0
        assert after.bridge.started_s == pytest.approx(first.bridge.started_s, abs=5)

    trio.run(main)


@pytest.mark.real
def test_an_older_ingest_hears_no_word_that_it_does_not_know(session: Session) -> None:
    async def main() -> None:
        session.launch("obedient")
        ingest = Ingest(session)
        ingest.wants_figures = False  # the rig asserts
        async with ingest.listening():
            session.bridge()
            n = await ingest.ask(count=1, size=1)
            await until(lambda: ingest.taken == n, "the line is taken")
        assert ingest.figures == []

    trio.run(main)
