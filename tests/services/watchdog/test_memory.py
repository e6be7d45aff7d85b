"""What real processes use, and ending the right ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from ulid import ULID

from services.watchdog import processes
from services.watchdog.memory import Sampler, memory_limit
from tests.support.processes import until_begun

UID = str(ULID())  # other stacks may run on this machine
MIB = 1 << 20
HOG = "import sys, time\nhog = bytearray(b'x') * (60 << 20)\nprint('ready', flush=True)\ntime.sleep(600)\n"
# A child in a session of its own, whose parent ends at once: it is given to init.
ORPHAN = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], start_new_session=True)
print(child.pid, flush=True)
"""


class Yard:
    """Processes of a test; all are gone afterwards."""

    def __init__(self, folder: Path) -> None:
        self.sessions = folder / "sessions"
        (self.sessions / UID).mkdir(parents=True)
        self.children: list[subprocess.Popen[str]] = []
        self.pids: list[int] = []

    def start(self, code: str, *more: str, marked: bool = True, **options: Any) -> subprocess.Popen[str]:
        environ = {"PATH": os.environ["PATH"]} | ({"POINTSMAN_SESSION_UID": UID} if marked else {})
        child = subprocess.Popen(
            [sys.executable, "-c", code, *more], env=environ, text=True,
            **{"stdout": subprocess.PIPE, **options},
        )  # fmt: skip
        self.children.append(child)
        until_begun(child)
        return child

    def ready(self, *more: str, **options: Any) -> subprocess.Popen[str]:
        child = self.start(HOG, *more, **options)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        return child

    def close(self) -> None:
        for child in self.children:
            child.kill()
            child.wait()
            if child.stdout is not None:
                child.stdout.close()
        for pid in self.pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    it = Yard(tmp_path)
    yield it
    it.close()


def start_of(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return int(fields[19])


def test_an_agent_with_its_children_also_one_that_was_given_to_init(yard: Yard) -> None:
    agent_out = (yard.sessions / UID / "out.1").open("wb")
    agent = yard.start("import time; time.sleep(600)", stdout=agent_out, start_new_session=True)
    agent_out.close()
    child = yard.ready()
    left = yard.start(ORPHAN, HOG)
    assert left.stdout is not None
    reparented = int(left.stdout.readline())
    yard.pids.append(reparented)
    assert left.stdout.readline() == "ready\n"
    left.wait()
    yard.ready(marked=False)  # somebody else's
    sample = Sampler(yard.sessions).sample({}, 1.0)
    usage = sample.sessions[UID]
    assert usage.pid == agent.pid
    assert {pid for pid, _ in usage.members} == {agent.pid, child.pid, reparented}
    assert usage.processes == 3
    assert 120 * MIB < usage.rss_bytes < 220 * MIB


def test_a_child_that_clears_its_environment_is_known_by_its_parent_and_later_by_itself(yard: Yard) -> None:
    code = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {HOG!r}], env={{}}, stdout=sys.stdout)
print(child.pid, flush=True)
sys.stdin.read()
"""
    parent = yard.start(code, stdin=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdin is not None
    said = sorted(parent.stdout.readline() for _ in range(2))
    child = int(said[0])
    yard.pids.append(child)
    sampler = Sampler(yard.sessions)
    assert {pid for pid, _ in sampler.sample({}, 1.0).sessions[UID].members} == {parent.pid, child}
    parent.stdin.close()
    parent.wait()
    assert {pid for pid, _ in sampler.sample({}, 2.0).sessions[UID].members} == {child}


def test_a_service_with_its_children_and_cpu_time(yard: Yard) -> None:
    child = yard.ready(marked=False)
    busy = yard.start("while True: pass")
    sampler = Sampler(yard.sessions)
    first = sampler.sample({child.pid: "broker"}, 100.0)
    assert 60 * MIB < first.services["broker"] < 120 * MIB
    assert first.sessions[UID].cpu_percent == 0.0
    deadline = time.monotonic() + 30
    while psutil.Process(busy.pid).cpu_times().user < 0.2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert sampler.sample({}, 101.0).sessions[UID].cpu_percent >= 10.0


def test_where_the_kernel_gives_no_pss_it_is_rss(yard: Yard, tmp_path: Path) -> None:
    child = yard.ready()
    proc = tmp_path / "proc"
    (proc / str(child.pid)).mkdir(parents=True)
    for name in ("stat", "environ"):
        (proc / str(child.pid) / name).write_bytes(Path(f"/proc/{child.pid}/{name}").read_bytes())
    (proc / "self").mkdir()
    usage = Sampler(yard.sessions, proc).sample({}, 1.0).sessions[UID]
    assert usage.pid == 0
    assert 60 * MIB < usage.rss_bytes < 120 * MIB


@pytest.mark.parametrize(
    ("group", "files", "limit"),
    [
        ("0::/user/me\n", {"user/memory.max": "500", "user/me/memory.max": "max"}, 500),
        ("0::/user/me\n", {"user/memory.max": "500", "user/me/memory.max": "300"}, 300),
        ("0::/\n", {}, 1000),
        ("0::/\n", {"memory.max": "2000"}, 1000),
        ("5:cpu,memory:/a/b\n1:name=systemd:/a\n", {"memory/a/memory.limit_in_bytes": "400"}, 400),
        ("5:memory:/a\n", {"memory/a/memory.limit_in_bytes": str(2**63 - 4096)}, 1000),
        ("nonsense\n", {}, 1000),
    ],
)
def test_the_limit_of_the_cgroup(tmp_path: Path, group: str, files: dict[str, str], limit: int) -> None:
    (tmp_path / "group").write_text(group)
    root = tmp_path / "cgroup"
    root.mkdir()
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    assert memory_limit(1000, tmp_path / "group", root) == limit
    assert memory_limit(1000, tmp_path / "missing", root) == 1000


def test_only_the_process_that_was_seen_is_ended(yard: Yard) -> None:
    one, other = yard.ready(), yard.ready()
    wrong = (other.pid, start_of(other.pid) + 1)  # its number was given to another since
    assert processes.kill_all([(one.pid, start_of(one.pid)), wrong, (2**22 + 1, 1)]) == 1
    assert one.wait(30) == -signal.SIGKILL
    assert other.poll() is None


def test_only_a_listener_that_is_our_sibling_is_ended(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    child, other = yard.ready("services.supervision"), yard.ready("services.ledger")
    assert "is not our supervisord's" in (processes.kill_listener(child.pid) or "")
    monkeypatch.setattr(os, "getppid", os.getpid)  # as if we were its sibling
    assert "is not our supervisord's" in (processes.kill_listener(other.pid) or "")
    assert child.poll() is None
    assert processes.kill_listener(child.pid) is None
    assert child.wait(30) == -signal.SIGKILL
    assert processes.kill_listener(child.pid) is not None
    assert other.poll() is None


def test_nothing_is_ended_while_supervisord_itself_is_stopped(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = yard.ready()
    os.kill(stopped.pid, signal.SIGSTOP)
    os.waitpid(stopped.pid, os.WUNTRACED)
    monkeypatch.setattr(os, "getppid", lambda: stopped.pid)
    assert "stopped" in (processes.kill_listener(yard.ready("services.supervision").pid) or "")
