"""The session directory, and waiting for files to grow."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from services.bridge.files import Kept, LaunchError, SessionDir, punch
from services.bridge.watch import Watch
from tests.services.bridge.rig import Session


@pytest.fixture
def folder(session: Session) -> SessionDir:
    session.launch("obedient")
    return SessionDir(session.path)


@pytest.mark.parametrize(
    ("endpoints", "url"),
    [
        ({"ingest": {"host": "127.0.0.1", "port": 6180}}, "ws://127.0.0.1:6180/ws/sessions/work"),
        ({"ingest": {"host": "0.0.0.0", "port": 7}}, "ws://127.0.0.1:7/ws/sessions/work"),
        ({"ingest": {"host": "::", "port": 7, "hooks_port": 8}}, "ws://[::1]:7/ws/sessions/work"),
    ],
)
def test_where_ingest_is(session: Session, folder: SessionDir, endpoints: object, url: str) -> None:
    (session.home / "endpoints.json").write_text(json.dumps(endpoints))
    assert folder.ingest_url() == url


@pytest.mark.parametrize("text", [None, "", "{}", '{"ingest":{"port":0}}', '{"ingest":{"port":"x"}}', "\xff"])
def test_where_ingest_is_not(session: Session, folder: SessionDir, text: str | None) -> None:
    if text is not None:
        (session.home / "endpoints.json").write_text(text)
    with pytest.raises(LookupError, match=r"endpoints\.json"):
        folder.ingest_url()


def test_secrets_are_not_in_the_repr(folder: SessionDir) -> None:
    assert folder.launch.token not in repr(folder.launch)
    assert "also-not" not in repr(folder.launch)


@pytest.mark.parametrize("changes", [{"argv": []}, {"process": 0}, {"env": ["A=b"]}, {"token": None}])
def test_a_bad_launch_file_names_the_field(session: Session, changes: dict[str, Any]) -> None:
    session.launch("obedient", **changes)
    with pytest.raises(LaunchError, match=next(iter(changes))):
        SessionDir(session.path)


def test_what_is_kept_belongs_to_a_process(session: Session, folder: SessionDir) -> None:
    assert folder.load() == Kept(process=1)
    kept = Kept(process=1, written=3, kept=9, unwritable=[(2, "why")])
    folder.save(kept)
    assert (session.path / "written").stat().st_mode & 0o077 == 0, "whatever the umask"
    assert SessionDir(session.path).load() == kept
    session.launch("obedient")
    assert SessionDir(session.path).load() == Kept(process=2)
    (session.path / "written").write_text("garbage")
    assert SessionDir(session.path).load() == Kept(process=2)


def test_an_agent_that_is_not_ours_is_not_taken_for_it(folder: SessionDir) -> None:
    assert folder.open_agent() is None
    folder.journal.touch()
    try:
        folder.pid_file.write_text(f"{os.getpid()}\n")  # the number was given to another process: this one
        assert folder.open_agent() is None
        folder.pid_file.write_text("")
        assert folder.agent_pid() is None
    finally:
        folder.pid_file.unlink()  # the fixture ends what it finds there


def test_a_hole_frees_whole_blocks_and_keeps_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 100_000)
    with file.open("r+b") as opened:
        assert punch(opened.fileno(), 90_000)  # tmpfs, ext4, xfs, btrfs and overlayfs can
        assert punch(opened.fileno(), 10)
    assert file.stat().st_size == 100_000
    assert file.stat().st_blocks * 512 <= 16_384
    assert file.read_bytes()[90_000:] == b"x" * 10_000


@pytest.mark.parametrize("poll", [False, True])
def test_growth_wakes_the_waiter(tmp_path: Path, poll: bool) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.touch()
    two.touch()

    async def main() -> None:
        with Watch((one, two), poll=poll) as watch:
            assert watch.polls == poll
            if poll:
                await watch.changed()  # the first look is one change
            for file in (one, two, one):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(watch.changed)
                    await trio.testing.wait_all_tasks_blocked(0.001)
                    assert nursery.child_tasks
                    with file.open("a") as opened:
                        opened.write("x")

    trio.run(main)


def test_a_file_that_is_not_there_means_polling(tmp_path: Path) -> None:
    with Watch((tmp_path / "missing",)) as watch:
        assert watch.polls
