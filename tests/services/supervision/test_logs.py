"""The services' logs under a real supervisord: who writes them, and what the world may do to them."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.cli.logs import LogFile
from tests.support.stack import ROOT, eventually
from tests.support.supervisord import Supervisord, our_conf

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

TALK = f"{sys.executable} -m tests.services.process.toy talk --log-on-stdout"
LOST = "lines of this log were lost"


class Site:
    """A stack of one service that logs as many lines as it is asked for."""

    def __init__(self, folder: Path, conf: Path, name: str) -> None:
        self.home = folder / name
        (folder / "config.toml").touch()
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "POINTSMAN_HOME": str(self.home),
            "POINTSMAN_BUS_BROKER": "external",
            "POINTSMAN_NODE_NAME": name,
        }
        self.supervisord = Supervisord(conf, environ, folder / f"{name}.out")

    def asks(self, number: int) -> None:
        eventually(self.home.exists, "the home is made", 60)
        (self.home / "wanted").write_text(f"{number}.")
        said = self.home / "said"
        eventually(
            lambda: said.exists() and said.read_text() == f"{number}.", f"{number} lines were said", 60
        )

    def lines(self, *names: str) -> list[dict[str, Any]]:
        """Of these files, which hold JSON and nothing else; without a last one that is being written."""
        found: list[dict[str, Any]] = []
        for name in names or ("ledger.log.1", "ledger.log"):
            with contextlib.suppress(FileNotFoundError):  # it is being rotated
                *whole, _ = (self.home / "logs" / name).read_text().split("\n")
                found += [json.loads(line) for line in whole]
        return found

    def talked(self, *names: str) -> list[int]:
        return [line["number"] for line in self.lines(*names) if line["event"] == "talk"]

    def has(self, number: int) -> None:
        """It is the last one that was logged."""
        eventually(lambda: self.talked()[-1:] == [number], f"line {number} is in the log", 60)
        self.reopen()

    def reopen(self) -> None:
        """As logrotate does. When supervisord has heard it, it is not amid a rotation."""
        word, out = "log reopen request", self.supervisord
        before = out.said().count(word)
        out.signal(signal.SIGUSR2)
        eventually(lambda: out.said().count(word) > before, "supervisord heard it", 60)


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[list[Site]]:
    """Two stacks of one supervisord.conf; logs are rotated at 20 KB."""
    conf = our_conf(tmp_path, {"ledger": TALK}, stdout_logfile_maxbytes="20KB")
    with contextlib.ExitStack() as stack:
        sites = [Site(tmp_path, conf, name) for name in ("one", "two")]
        for site in sites:
            stack.enter_context(site.supervisord)
        yield sites


def test_supervisord_writes_and_rotates_the_logs_of_two_homes(sites: list[Site], tmp_path: Path) -> None:
    one, two = sites
    two.asks(3)
    two.has(3)
    reader, read = LogFile(one.home / "logs/ledger.log"), list[dict[str, Any]]()
    for number in range(10, 201, 10):  # about 5 KB each time: at most one rotation between two looks
        one.asks(number)

        def seen(number: int = number) -> bool:
            read.extend(json.loads(line) for line in reader.new_lines())
            return any(line.get("number") == number for line in read)

        eventually(seen, f"line {number} is read", 60)
    reader.close()
    one.has(200)
    assert [line["number"] for line in read if line["event"] == "talk"] == list(range(1, 201))
    files = ["ledger.log", "ledger.log.1", "ledger.log.2"]
    assert sorted(path.name for path in (one.home / "logs").iterdir()) == files
    assert all(stat.S_IMODE((one.home / "logs" / name).stat().st_mode) == 0o600 for name in files)
    assert all(20_000 < (one.home / "logs" / name).stat().st_size < 40_000 for name in files[1:])
    kept = one.talked(*reversed(files))
    assert kept == list(range(kept[0], 201)), "no line is torn by rotation"
    for site in sites:
        assert {line["service"] for line in site.lines()} == {"ledger"}
    started = {line["node"] for line in two.lines() if line["event"] == "started"}
    assert (two.talked(), started) == ([1, 2, 3], {"two"})
    for word in ("a library's word", "a child's word"):
        assert word in one.supervisord.said()
    assert not list(tmp_path.glob("*.log*")), "nothing beside the homes"

    (one.home / "logs/ledger.log").rename(tmp_path / "moved")
    one.reopen()
    assert not (one.home / "logs/ledger.log").read_text()
    one.asks(201)
    one.has(201)

    one.supervisord.signal(signal.SIGINT)
    assert one.supervisord.process.wait(60) == 0
    assert [line["event"] for line in one.lines()[-2:]] == ["stopping", "stopped"]


def test_a_supervisord_that_stands_still_or_has_no_room_costs_lines_and_nothing_else(
    sites: list[Site],
) -> None:
    site = sites[0]
    site.asks(1)
    site.has(1)
    site.supervisord.signal(signal.SIGSTOP)
    site.asks(3000)  # a megabyte, where the pipe takes 64 KB: the service's loop goes on
    site.supervisord.signal(signal.SIGCONT)
    eventually(lambda: len(site.talked()) > 1, "supervisord reads on", 60)
    site.asks(3001)
    site.has(3001)
    lines = site.lines("ledger.log.2", "ledger.log.1", "ledger.log")
    (lost,) = [line["lines"] for line in lines if line["event"] == LOST]
    missing = 3001 - sum(line["event"] == "talk" for line in lines)
    assert 0 < missing <= lost <= missing + 5, "beside some that the service says by itself, as of the bus"

    pid, limit = site.supervisord.pid, resource.RLIMIT_FSIZE
    resource.prlimit(
        pid, limit, (0, resource.RLIM_INFINITY)
    )  # neither the logs nor its terminal: not a byte more
    site.asks(3100)
    site.supervisord.signal(signal.SIGUSR2)
    site.asks(3200)
    (service,) = [p for p in psutil.Process(pid).children() if "talk" in p.cmdline()]
    resource.prlimit(pid, limit, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    site.asks(3201)
    site.has(3201)
    assert site.supervisord.process.poll() is None
    assert service.is_running(), "the same process"
    assert "Traceback" not in site.supervisord.said()


def test_where_no_lock_can_be_made_services_are_started_all_the_same(tmp_path: Path) -> None:
    """They say what is in the way, and are started again until it is not."""
    (tmp_path / "home/run/broker.lock").mkdir(parents=True, mode=0o700)
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "POINTSMAN_HOME": str(tmp_path / "home")}
    conf = our_conf(tmp_path, {"ledger": "/bin/cat"})
    with Supervisord(conf, environ, tmp_path / "out") as supervisord:
        eventually(lambda: "spawned: 'ledger'" in supervisord.said(), "it starts the service")


HOLDS = """
import sys
from pathlib import Path
from services._process.home import Home
from services._process.lock import hold_lock
with hold_lock(Home(Path(sys.argv[1])), "broker"):
    print("holds", flush=True)
    input()
"""


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_second_supervisord_for_the_same_home_ends(tmp_path: Path, by_hand: bool) -> None:
    """Unless the broker alone runs already, started by hand: then there are services to start."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "POINTSMAN_HOME": str(tmp_path / "home")}
    supervised = {**environ, **({} if by_hand else {"SUPERVISOR_ENABLED": "1"})}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS, environ["POINTSMAN_HOME"]],
        env=supervised, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holds\n"
        conf = our_conf(tmp_path, {"ledger": "/bin/cat"})
        with Supervisord(conf, environ, tmp_path / "out") as second:
            if by_hand:
                eventually(lambda: "spawned: 'ledger'" in second.said(), "it starts what does not run")
            else:
                assert second.process.wait(60) == 3
                (said,) = second.said().splitlines()
                served = f"runs for {tmp_path / 'home'}, by another supervisord (pid {os.getpid()})"
                assert served in said
        holder.kill()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("a mistake", "supervisord: bus.prot = 1 in "),
        ("open to others", "supervisord: others may write into the home "),
        ("in the way", "/home/logs cannot be made: "),
    ],
)
def test_what_no_service_could_start_with_ends_supervisord_with_one_message(
    tmp_path: Path, what: str, said: str
) -> None:
    home, config = tmp_path / "home", tmp_path / "config.toml"
    home.mkdir()
    config.write_text("[bus]\nprot = 1\n" if what == "a mistake" else "")
    if what == "open to others":
        home.chmod(0o777)
    elif what == "in the way":
        (home / "logs").touch()
    environ = {"HOME": str(tmp_path), "POINTSMAN_HOME": str(home), "POINTSMAN_CONFIG": str(config)}
    with Supervisord(ROOT / "supervisord.conf", environ, tmp_path / "out") as supervisord:
        assert supervisord.process.wait(60) == 2
        assert said in supervisord.said()
        assert len(supervisord.said().splitlines()) == 1


def test_a_terminal_that_may_not_be_opened_again_ends_it_with_one_message(tmp_path: Path) -> None:
    """A socket, as the journal's, refuses that to everybody."""
    environ = {"HOME": str(tmp_path), "POINTSMAN_HOME": str(tmp_path / "home")}
    ours, theirs = socket.socketpair()
    with ours, theirs:
        done = subprocess.run(
            [str(Path(sys.executable).parent / "supervisord"), "-c", str(ROOT / "supervisord.conf")],
            env=environ, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=theirs.fileno(), timeout=60,
            check=False,
        )  # fmt: skip
        said = ours.recv(4096).decode()
    assert done.returncode == 4
    assert said.startswith("supervisord: where this is printed, no service may print (")
    assert "make run" in said
