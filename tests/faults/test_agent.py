"""A disk without room under a session: under its bridge, and under its agent."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.services.bridge.rig import Ingest, Session, alive, until

pytestmark = pytest.mark.real


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with Session(tmp_path) as made:
        yield made


def no_room(pid: int) -> None:
    """Not a byte more, into no file."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def test_a_bridge_that_cannot_keep_its_notes_ends_and_the_next_loses_no_line(session: Session) -> None:
    async def main() -> None:
        session.launch("obedient")
        ingest = Ingest(session)
        async with ingest.listening():
            bridge = session.bridge()
            await until(lambda: ingest.hellos, "hello")
            await ingest.ask(id="before")
            await until(lambda: ingest.taken == 1, "the first is read")
            agent = session.pid()
            no_room(bridge.pid)
            await ingest.ask(id="during")
            await until(lambda: bridge.poll() is not None, "the bridge's end")
            await ingest.ask(id="after")
            session.bridge()  # there is room again
            await until(lambda: ingest.last().get("id") == "after", "all of it")
            got = [frame["id"] for frame in ingest.frames() if frame["type"] == "got"]
            assert list(dict.fromkeys(got)) == ["before", "during", "after"]
            assert session.pid() == agent
            assert alive(agent)

    trio.run(main)


def test_an_agent_that_cannot_write_ends_and_that_is_told(session: Session) -> None:
    async def main() -> None:
        session.launch("obedient")
        ingest = Ingest(session)
        async with ingest.listening():
            session.bridge()
            await until(lambda: ingest.hellos, "hello")
            await ingest.ask(id="before")
            await until(lambda: ingest.last().get("id") == "before", "the first")
            whole = session.journal()
            no_room(session.pid())
            await ingest.ask(id="during")
            await until(lambda: ingest.exit is not None, "its end")
        assert ingest.exit is not None
        assert ingest.exit.code
        assert ingest.data == session.journal() == whole

    trio.run(main)
