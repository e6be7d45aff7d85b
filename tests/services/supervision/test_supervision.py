"""Our listener and handler in a real supervisord, with toys for the watchdog and a service."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.stack import eventually
from tests.support.supervisord import Supervisord, our_conf

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

LEDGER = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), file=open("ledger.pid", "a"), flush=True)
time.sleep(600)
"""
# Answers as the watchdog does, writes down what it hears, and asks for what stands in the file `wish`.
WATCHDOG = """
import json, os, sys
heard = open("heard", "a")
def say(text):
    os.write(1, b"<!--XSUPERVISOR:BEGIN-->" + text.encode() + b"<!--XSUPERVISOR:END-->")
for line in sys.stdin:
    print(json.dumps({"pid": os.getpid(), **json.loads(line)}), file=heard, flush=True)
    if '"processes"' in line:
        say("{}")
        if os.path.exists("wish"):
            wish = open("wish").read()
            os.unlink("wish")
            print("a word for the log", flush=True)
            say(wish)
"""


class Stand:
    """supervisord with the sections of our own file, but for the commands of the toys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        toys = {"ledger": LEDGER, "watchdog": WATCHDOG}
        for name, code in toys.items():
            (folder / f"{name}.py").write_text(code)
        conf = our_conf(
            folder, {name: f"{sys.executable} {folder / name}.py" for name in toys}, directory=folder
        )
        self.supervisord = Supervisord(conf, {"HOME": str(folder)}, folder / "out")
        self.process = self.supervisord.process

    def pids(self) -> list[int]:
        """Of the ledger's processes, the last one is its present one."""
        path = self.folder / "ledger.pid"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def heard(self) -> list[dict[str, Any]]:
        path = self.folder / "heard"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wish(self, text: str) -> None:
        beside = self.folder / "wish.new"
        beside.write_text(text)
        beside.rename(self.folder / "wish")

    def says(self, text: str) -> None:
        eventually(lambda: text in self.supervisord.said(), f"supervisord says {text!r}", 60)

    def log(self, name: str) -> str:
        """In the default home: nothing of the environment is needed."""
        return (self.folder / f".local/state/pointsman/logs/{name}.log").read_text()

    def hears(self, word: str, value: str) -> dict[str, Any]:
        found = eventually(
            lambda: [said for said in self.heard() if said.get(word) == value], f"{word} {value}", 90
        )
        return dict(found[-1])


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    stand = Stand(tmp_path)
    with stand.supervisord:
        yield stand


def test_services_and_the_watchdog_itself_are_restarted_by_supervisord(stand: Stand) -> None:
    """Also one that does not heed SIGTERM; nonsense does no harm; the environment holds HOME alone."""
    first = eventually(stand.pids, "the ledger runs", 60)[0]
    everybody = eventually(stand.heard, "supervisord speaks", 60)[0]["processes"]
    assert {info["name"]: info["statename"] for info in everybody} == {
        "ledger": "RUNNING",
        "watchdog": "RUNNING",
        "supervision": "RUNNING",
    }
    assert first in [info["pid"] for info in everybody]

    stand.wish("nonsense")
    stand.says("supervision: JSONDecodeError")
    assert stand.log("watchdog") == "a word for the log\n", "what stands between marks is not in it"
    stand.wish(json.dumps({"restart": "ledger", "pid": first + 1}))
    assert "is not ledger" in stand.hears("restarted", "ledger")["problem"]
    assert stand.pids() == [first]
    stand.wish(json.dumps({"restart": "ledger", "pid": first}))
    eventually(lambda: len(stand.pids()) == 2, "another ledger", 60)
    assert stand.hears("restarted", "ledger")["problem"] is None
    assert not psutil.pid_exists(first)
    stand.says("stopped: ledger (terminated by SIGKILL)")

    eventually(lambda: stand.heard()[-1].get("processes"), "supervisord speaks on", 60)
    os.kill(stand.pids()[-1], signal.SIGKILL)
    stand.hears("died", "ledger")
    eventually(lambda: len(stand.pids()) == 3, "autorestart", 60)

    hung = stand.heard()[-1]["pid"]
    os.kill(hung, signal.SIGSTOP)
    told = stand.hears("restarted", "watchdog")
    assert told["reason"] == "it did not answer supervisord for 25 s: it hung"
    assert told["pid"] != hung
    assert not psutil.pid_exists(hung)
    listener = [
        p for p in psutil.Process(stand.process.pid).children() if "services.supervision" in p.cmdline()
    ]
    stand.process.send_signal(signal.SIGINT)
    assert stand.process.wait(60) == 0
    assert not listener[0].is_running()
