"""What is ours and belongs to nobody is ended; everything beside it lives on. Real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ulid import ULID

from services._process.home import Home
from services.tmux.orphans import HALF_WRITTEN_S, ORPHAN_S, Orphan, Orphans
from tests.support.processes import until_begun

SLEEP = "import time; time.sleep(600)"


class Yard:
    """A home, and processes; all are gone afterwards."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = Home(folder / "home")
        self.uid = str(ULID())
        self.children: list[subprocess.Popen[bytes]] = []

    def out(self, uid: str, number: int = 1, home: Home | None = None) -> Path:
        folder = (home or self.home).sessions / uid
        folder.mkdir(exist_ok=True)
        return folder / f"out.{number}"

    def start(
        self, *more: str, out: Path | None = None, mark: str | None = None, leads: bool = True
    ) -> subprocess.Popen[bytes]:
        environ = {"PATH": os.environ["PATH"]} | ({"POINTSMAN_SESSION_UID": mark} if mark else {})
        with (out or self.folder / "elsewhere").open("ab") as stdout:
            child = subprocess.Popen(
                [sys.executable, "-c", SLEEP, *more], env=environ, stdout=stdout, start_new_session=leads
            )
        self.children.append(child)
        until_begun(child)
        return child


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    it = Yard(tmp_path)
    yield it
    for child in it.children:
        child.kill()
        child.wait()


def found(orphans: Orphans, **records: int) -> dict[int, str]:
    """pid → what, after the second look."""
    assert orphans.look(records, 100.0) == [], "once is not enough"
    return {o.process[0]: o.what for o in orphans.look(records, 100.0 + ORPHAN_S)}


def test_only_what_is_ours_in_every_respect(yard: Yard) -> None:
    uid, known, other = yard.uid, str(ULID()), str(ULID())
    orphan = yard.start(out=yard.out(uid), mark=uid)
    removed = yard.start(out=yard.out(other), mark=other)
    yard.out(other).unlink()
    yard.out(other).parent.rmdir()
    bridge = yard.start("-m", "services.bridge", str(yard.home.sessions / uid), mark=uid)
    superseded = yard.start(out=yard.out(known, 1), mark=known)

    neighbour = Home(yard.folder / "second")
    spared = [
        yard.start(out=yard.out(known, 2), mark=known),  # an agent as it should be
        yard.start(mark=uid),  # something that an agent left running
        yard.start(out=yard.out(uid)),  # somebody writes into our file, without the mark
        yard.start(out=yard.out(uid), mark=other),  # the mark is another's
        yard.start(out=yard.out(uid), mark=uid, leads=False),  # a child of an agent, in its session
        yard.start(out=yard.out(other, home=neighbour), mark=other),  # another home's agent
        yard.start(str(yard.home.sessions / uid / "out.1"), mark=uid),  # somebody reads it
        yard.start("-m", "services.bridge", str(neighbour.sessions / uid), mark=uid),  # another home's bridge
        yard.start("-m", "services.bridge", str(yard.home.sessions / known), mark=known),  # a bridge at work
    ]
    orphans = Orphans(yard.home)
    assert found(orphans, **{known: 2}) == {
        orphan.pid: "agent", removed.pid: "agent", superseded.pid: "agent", bridge.pid: "bridge",
    }  # fmt: skip
    for seen in orphans.look({known: 2}, 200.0):
        assert orphans.end(seen)
    for child in (orphan, removed, superseded, bridge):
        assert child.wait(30) == -signal.SIGKILL
    assert [child.poll() for child in spared] == [None] * len(spared)
    assert orphans.look({known: 2}, 300.0) == []
    assert not orphans.suspects


def test_a_number_that_was_given_to_another_is_not_ended(yard: Yard) -> None:
    child = yard.start(out=yard.out(yard.uid), mark=yard.uid)
    assert not Orphans(yard.home).end(Orphan((child.pid, 1), yard.uid, "agent"))
    assert child.poll() is None


def test_its_process_group_goes_with_it(yard: Yard) -> None:
    out = yard.out(yard.uid)
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEP!r}, 'child']); {SLEEP}"
    with out.open("ab") as stdout:
        agent = subprocess.Popen(
            [sys.executable, "-c", code],
            env={"PATH": os.environ["PATH"], "POINTSMAN_SESSION_UID": yard.uid},
            stdout=stdout,
            start_new_session=True,
        )
    yard.children.append(agent)
    orphans = Orphans(yard.home)
    deadline = time.monotonic() + 30
    while len(_group(agent.pid)) < 2 or not found(orphans):
        assert time.monotonic() < deadline
        orphans = Orphans(yard.home)
    for orphan in orphans.look({}, 200.0):
        orphans.end(orphan)
    agent.wait(30)
    while _group(agent.pid):
        assert time.monotonic() < deadline


def _group(leader: int) -> list[int]:
    members = []
    for path in Path("/proc").iterdir():
        try:
            if path.name.isdecimal() and os.getpgid(int(path.name)) == leader:
                state = (path / "stat").read_bytes().rpartition(b")")[2].split()[0]
                members += [int(path.name)] if state != b"Z" else []
        except OSError:
            continue
    return members


def test_half_written_files(yard: Yard) -> None:
    home = yard.home
    home.update_endpoints("bus", {"port": 1})
    home.write_secret("bus/operator", "x")
    old, now = time.time() - HALF_WRITTEN_S - 1, time.time()
    begun = [home.path / ".endpoints.json.ab12cd_e", home.secrets / "bus/.operator.zzzzzzzz"]
    others = [
        home.path / ".endpoints.json.backup1x.old", home.path / ".mine.ab12cd_e",
        home.path / "endpoints.json", home.path / ".endpoints.json.freshfil",
    ]  # fmt: skip
    for path in [*begun, *others]:
        path.touch()
        os.utime(path, (old, old))
    os.utime(others[-1], (now, now))
    assert sorted(Orphans(home).half_written(now)) == sorted(begun)
    assert all(path.exists() for path in others)
    assert not any(path.exists() for path in begun)
    assert home.endpoints()["bus"] == {"port": 1}
