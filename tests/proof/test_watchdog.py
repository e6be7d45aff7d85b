"""The watchdog on a running stack: real memory, real hangs; scripted agents."""

from __future__ import annotations

import json
import os
import signal
import sys
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.demo.stack import scripted_claude
from tests.support.real_cli import clean_env
from tests.support.stack import Recorder, Stack, eventually

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

BUDGET = 640 << 20
# Grows by 10 MiB each 200 ms, while the file `grow` is there; in a process group of its own.
HOG = """
import os, time
if os.fork():
    os.wait()
    os._exit(0)
os.setsid()
print(os.getpid(), file=open("hog.pid", "w"), flush=True)
kept = []
while True:
    time.sleep(0.2)
    wanted = open("grow").read() if os.path.exists("grow") else ""
    if wanted.isdigit() and len(kept) < int(wanted):
        kept.append(bytearray(b"x") * (10 << 20))
"""  # grows to as many times 10 MiB as the file says
STEP = 4  # times 10 MiB: a sixteenth of the budget, so that no step leads from below 0.80 to beyond 0.95


class Site:
    """A stack with scripted agents, and what can be seen of it."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack, self.work = stack, folder / "work"
        self.work.mkdir()

    def open(self, name: str) -> None:
        self.stack.pointsman("new", name, "--cwd", str(self.work))

    def is_now(self, recorder: Recorder, name: str, *statuses: str) -> dict[str, Any]:
        def probe() -> dict[str, Any] | None:
            state = recorder.last(f"sessions/{name}/state")
            return state if state is not None and state["status"] in statuses else None

        return eventually(probe, f"{name} is {' or '.join(statuses)}")

    def told(self, recorder: Recorder, action: str, about: str | None = None) -> dict[str, Any]:
        def probe() -> dict[str, Any] | None:
            events = recorder.all("watchdog/events")
            found = [e for e in events if e["action"] == action]
            return next((e for e in found if about in (None, e.get("session"), e.get("service"))), None)

        return eventually(probe, f"{action} of {about}", 60)

    def holds(self, held: int) -> bool:
        """Whether the watchdog has measured so much of the hog, in 10 MiB."""
        return (self.metric('pointsman_session_memory_bytes{session="hog"}') or 0) >= held * 10 << 20

    def metric(self, text: str) -> float | None:
        """A line of the watchdog's /metrics."""
        endpoints = json.loads((self.stack.home / "endpoints.json").read_text())
        url = f"http://127.0.0.1:{endpoints['metrics']['watchdog']}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(text + " ")), None)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    claude = scripted_claude(tmp_path)
    (tmp_path / "user").mkdir()
    settings = {
        "POINTSMAN_BUS_BROKER": "mosquitto",
        "POINTSMAN_AGENT_CLAUDE": str(claude),
        "POINTSMAN_WATCHDOG_MEMORY_BUDGET": str(BUDGET),
    }
    with Stack(tmp_path / "home", clean_env(tmp_path / "user", "http://127.0.0.1:9"), **settings) as stack:
        yield Site(stack, tmp_path)


def test_memory_runs_short_and_a_service_hangs(site: Site) -> None:
    """The idle session sleeps, the breaker opens, the hog is ended, the service is started again."""
    stack, grow = site.stack, site.work / "grow"
    (site.work / "hog.py").write_text(HOG)
    with stack.recorder() as recorder:
        site.open("idle")
        stack.pointsman("send", "idle", "SAY the word is marigold")
        eventually(lambda: recorder.all("sessions/idle/events/result"), "a result of idle")
        site.open("hog")
        stack.pointsman("send", "hog", f"BASH {sys.executable} hog.py")
        approval = eventually(lambda: stack.pointsman("approvals"), "the hog asks")[0]
        stack.pointsman("approve", approval["id"])
        said = site.work / "hog.pid"
        eventually(lambda: said.exists() and said.read_text().strip(), "the hog runs")
        hog = int(said.read_text())
        assert os.getpgid(hog) == hog

        held = 0
        while not site.metric('pointsman_breaker_state{state="open"}'):
            held += STEP
            grow.write_text(str(held))
            eventually(partial(site.holds, held), f"{held * 10} MiB of the hog are measured")
        site.told(recorder, "evicted", "idle")
        site.is_now(recorder, "idle", "hibernated")
        site.told(recorder, "breaker_opened")
        breaker = eventually(
            lambda: b if (b := recorder.last("breaker")) and b["state"] == "open" else None, "breaker: open"
        )
        assert (breaker["cause"], breaker["evicted"]) == ("memory", ["idle"])
        assert breaker["budget_bytes"] == BUDGET
        assert breaker["used_ratio"] >= 0.8
        resources = eventually(lambda: recorder.last("sessions/hog/resources"), "resources of the hog")
        assert psutil.Process(resources["pid"]).environ()["POINTSMAN_SESSION"] == "hog"

        for verb in (["new", "more", "--cwd", str(site.work)], ["wake", "idle"]):
            refused = stack.run(*verb, "--json")
            assert refused.returncode == 1
            error = json.loads(refused.stdout)["error"]
            assert error["code"] == "breaker_open"
            assert error["details"]["retry_at"].endswith("Z")
        stack.pointsman("send", "idle", "RECALL")
        state = eventually(
            lambda: s if (s := recorder.last("sessions/idle/state")) and s["blocked"] else None,
            "idle: blocked",
        )
        assert (state["status"], state["blocked"]["by"]) == ("hibernated", "breaker")
        assert state["queued_prompts"] == 1
        assert (recorder.last("sessions/hog/state") or {})["status"] == "working", "what runs goes on"

        grow.write_text("400")
        ended = site.told(recorder, "agent_ended", "hog")
        assert "working) is ended" in ended["reason"]
        eventually(lambda: not psutil.pid_exists(hog), "what left the agent's group is gone as well")
        site.told(recorder, "breaker_closed")
        eventually(lambda: len(recorder.all("sessions/idle/events/result")) == 2, "idle was woken", 60)
        assert "marigold" in recorder.all("sessions/idle/events/message")[-1]["text"]
        site.told(recorder, "resumed", "idle")
        assert site.metric('pointsman_evictions_total{how="hibernated"}') == 1
        assert site.metric('pointsman_evictions_total{how="ended"}') == 1
        assert site.metric('pointsman_breaker_state{state="closed"}') == 1
        phases = [e["phase"] for e in recorder.all("sessions/idle/events/prompt") if e["text"] == "RECALL"]
        assert phases == ["queued", "delivered"]

        hung = stack.service_pid("ledger")  # only now: without it no budget is known
        eventually(lambda: recorder.last("services/ledger/health"), "the ledger beats")
        os.kill(hung, signal.SIGSTOP)
        site.told(recorder, "service_stale", "ledger")
        assert "no heartbeat for" in site.told(recorder, "service_restarted", "ledger")["reason"]
        eventually(lambda: not psutil.pid_exists(hung), "SIGKILL for what does not heed SIGTERM", 60)
        stack.wait_online()
        assert site.metric('pointsman_service_restarts_total{name="ledger"}') == 1
        others = [e for e in recorder.all("watchdog/events") if e.get("service") not in (None, "ledger")]
        assert others == [], "nobody else was ended"
