"""Issue "First light", point 9: the real Claude Code CLI, supervised end to end over MQTT.

A scripted Messages API on loopback plays the model; everything else is what a user runs.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli_versions import claude_path
from tests.support.messages_api import MessagesApi
from tests.support.real_cli import clean_env
from tests.support.stack import SERVICES, Recorder, Stack, eventually

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

LEGS = {
    "bridge-mosquitto": ("mosquitto", "2.1.329", "managed"),
    "bridge-amqtt": ("amqtt", "2.1.329", "managed"),
    "sdk-url-mosquitto": ("mosquitto", "2.1.119", "sdk-url"),
}


class Leg:
    """One stack, one scripted model, one kind of session."""

    def __init__(self, stack: Stack, api: MessagesApi, kind: str, cwd: Path) -> None:
        self.stack, self.api, self.kind, self.cwd = stack, api, kind, cwd

    def open(self, name: str, *more: str) -> dict[str, Any]:
        state: dict[str, Any] = self.stack.pointsman(
            "new", name, "--cwd", str(self.cwd), "--kind", self.kind, *more
        )
        return state

    def pending(self, name: str) -> dict[str, Any]:
        """The one approval that this session waits for."""
        return eventually(
            lambda: next((a for a in self.stack.pointsman("approvals") if a["session"] == name), None),
            f"{name} asks for an approval",
        )

    def decide(self, recorder: Recorder, approval: str, decision: str) -> dict[str, Any]:
        """Publish the decision from outside with the operator's token; the outcome once it was applied."""
        token = eventually(
            lambda: recorder.last(f"approvals/{approval}/tokens/operator"), "a token for the operator"
        )
        self.stack.publish(
            f"approvals/{approval}/decision",
            {"id": f"out-{approval}", "decision": decision, "token": token["token"]},
        )
        reply = eventually(lambda: recorder.last(f"replies/out-{approval}"), "a reply to the decision")
        assert reply["ok"], reply
        return eventually(
            lambda: next(
                (o for o in recorder.all(f"approvals/{approval}/outcome") if o["applied"] is not None), None
            ),
            "the outcome, applied",
        )

    def results(self, recorder: Recorder, name: str, count: int) -> list[dict[str, Any]]:
        """The first ``count`` turns' results."""
        return eventually(
            lambda: found if len(found := recorder.all(f"sessions/{name}/events/result")) >= count else None,
            f"{count} results of {name}",
        )

    def billed_usd(self) -> float:
        return self.api.total_picodollars() / 1e12

    def assert_cost(self, recorder: Recorder, name: str) -> None:
        """The ledger agrees with what the scripted API billed, to the micro-dollar."""

        def agrees() -> dict[str, Any] | None:
            found = recorder.last(f"ledger/sessions/{name}")
            return found if found and abs(found["spent_usd"] - self.billed_usd()) < 1e-6 else None

        eventually(agrees, f"the ledger says {self.billed_usd()}, as billed", 20)


@pytest.fixture(params=LEGS, ids=list(LEGS))
def leg(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Leg]:
    """A running stack for one leg of the proof."""
    broker, version, kind = LEGS[request.param]
    yield from open_leg(tmp_path, broker, version, kind)


@pytest.fixture
def main_leg(tmp_path: Path) -> Iterator[Leg]:
    yield from open_leg(tmp_path, "mosquitto", "2.1.329", "managed")


def open_leg(tmp_path: Path, broker: str, version: str, kind: str) -> Iterator[Leg]:
    user_home, cwd = tmp_path / "user", tmp_path / "work"
    user_home.mkdir()
    cwd.mkdir()
    with MessagesApi() as api:
        environment = clean_env(user_home, api.url)
        settings = {
            "POINTSMAN_BUS_BROKER": broker,
            "POINTSMAN_AGENT_CLAUDE": str(claude_path(version)),
        }
        with Stack(tmp_path / "home", environment, **settings) as stack:
            yield Leg(stack, api, kind, cwd)


def test_a_session_from_start_to_end(leg: Leg) -> None:
    """Start, prompt, approve from outside, deny, see the cost, end, and nothing is left."""
    stack = leg.stack
    with stack.recorder() as recorder:
        state = leg.open("demo")
        assert state["session"] == "demo"
        assert state["kind"] == leg.kind

        stack.pointsman("send", "demo", "BASH touch approved.txt && echo made ;; SAY all done")
        approval = leg.pending("demo")
        assert approval["tool"] == "Bash"
        assert approval["input"]["command"] == "touch approved.txt && echo made"
        assert not (leg.cwd / "approved.txt").exists()
        outcome = leg.decide(recorder, approval["id"], "approve")
        assert (outcome["decision"], outcome["by"], outcome["applied"]) == ("approved", "operator", True)
        [result] = leg.results(recorder, "demo", 1)
        assert (leg.cwd / "approved.txt").exists()
        assert not result["is_error"]
        assert recorder.all("sessions/demo/events/message")[-1]["text"] == "all done"

        stack.pointsman("send", "demo", "BASH touch denied.txt ;; SAY understood")
        approval = leg.pending("demo")
        outcome = leg.decide(recorder, approval["id"], "deny")
        assert (outcome["decision"], outcome["applied"]) == ("denied", True)
        leg.results(recorder, "demo", 2)
        assert not (leg.cwd / "denied.txt").exists()

        if leg.kind == "managed":
            leg.assert_cost(recorder, "demo")
        else:  # 2.1.119 prices one-hour cache writes as five-minute ones: its own total, exactly
            total = recorder.all("sessions/demo/events/result")[-1]["total_cost_usd"]
            eventually(
                lambda: (
                    abs((recorder.last("ledger/sessions/demo") or {}).get("spent_usd", -1) - total) < 1e-6
                ),
                "the ledger says what the agent counted",
            )

        seqs = [event["seq"] for event in recorder.all("sessions/demo/events/+") if "seq" in event]
        assert seqs == list(range(seqs[0], seqs[0] + len(seqs))), "no gap in the events, none twice"

        stack.pointsman("end", "demo")
        eventually(lambda: (recorder.last("sessions/demo/state") or {})["status"] == "ended", "ended")
    own = {stack.supervisord.pid} if stack.supervisord else set()
    services = {child.pid for pid in own for child in _children(pid)}
    left = eventually(
        lambda: [p for p in stack.processes() if p.pid not in own | services] or "none",
        "no process of the session",
    )
    if left != "none":
        eventually(
            lambda: not [p for p in stack.processes() if p.pid not in own | services],
            f"no process of the session is left, but {left}",
            15,
        )
    assert not list((stack.home / "sessions").iterdir())
    stack.stop()
    assert stack.processes() == []
    assert stack.sockets() == []


def _children(pid: int) -> list[Any]:
    import psutil

    return psutil.Process(pid).children(recursive=True)


def test_ingest_killed_in_mid_turn_and_broker_killed_while_an_approval_is_pending(main_leg: Leg) -> None:
    """The session goes on, and the approval can still be given."""
    leg, stack = main_leg, main_leg.stack
    with stack.recorder() as recorder:
        leg.open("tough")
        stack.pointsman("send", "tough", "STREAM 40 50 ;; BASH touch survived.txt ;; SAY still here")
        eventually(lambda: recorder.all("sessions/tough/events/delta"), "the turn has begun to stream")
        before = stack.service_pid("ingest")
        stack.kill("ingest")
        eventually(lambda: _alive_anew(stack, "ingest", before), "ingest is back")

        approval = leg.pending("tough")
        before = stack.service_pid("broker")
        stack.kill("broker")
        eventually(lambda: _alive_anew(stack, "broker", before), "the broker is back")
        stack.wait_online()
        assert leg.pending("tough")["id"] == approval["id"], "the same approval is still pending"
    with stack.recorder() as recorder:
        outcome = leg.decide(recorder, approval["id"], "approve")
        assert (outcome["decision"], outcome["applied"]) == ("approved", True)
        eventually(lambda: (leg.cwd / "survived.txt").exists(), "the approved command ran")
        eventually(
            lambda: (recorder.last("sessions/tough/state") or {}).get("status") == "waiting_input",
            "the turn ended",
        )
        leg.assert_cost(recorder, "tough")
        history = stack.pointsman("history", "tough")
        events = history["events"] if isinstance(history, dict) else history
        assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
        assert len([e for e in events if e["type"] == "result"]) == 1
        texts = [e["text"] for e in events if e["type"] == "message" and e["role"] == "assistant"]
        assert texts[-1] == "still here"
        assert len(texts) == len(set(texts)), "no message twice"


def _alive_anew(stack: Stack, service: str, before: int) -> bool:
    try:
        pid = stack.service_pid(service)
        os.kill(pid, 0)
    except (ProcessLookupError, ValueError, IndexError, FileNotFoundError):
        return False
    return pid != before


def test_sessions_live_on_without_the_stack_and_are_adopted(main_leg: Leg) -> None:
    """Ctrl-C ends services and broker; the agent lives on, and the next start takes it up again."""
    leg, stack = main_leg, main_leg.stack
    state = leg.open("steady")
    with stack.recorder() as recorder:
        stack.pointsman("send", "steady", "SAY first")
        leg.results(recorder, "steady", 1)
    agents = [p.pid for p in stack.processes() if "--output-format" in p.cmdline()]
    assert agents
    stack.stop()
    assert stack.sockets() == [] or all("tmux" in path.name for path in stack.sockets())
    for pid in agents:
        os.kill(pid, 0)
    stack.start()
    again = eventually(
        lambda: next((s for s in stack.pointsman("ls") if s["session"] == "steady" and s["connected"]), None),
        "the session is adopted",
    )
    assert again["uid"] == state["uid"]
    with stack.recorder() as recorder:
        stack.pointsman("send", "steady", "RECALL")
        leg.results(recorder, "steady", 1)
        assert "first" in recorder.all("sessions/steady/events/message")[-1]["text"]
    assert [p.pid for p in stack.processes() if "--output-format" in p.cmdline()] == agents
    stack.pointsman("end", "--all")
    stack.stop()
    assert stack.processes() == []
    assert stack.sockets() == []


def test_kill_9_of_supervisord_doubles_nothing(main_leg: Leg) -> None:
    """Every service ends with its supervisor; a new one takes over; the session goes on."""
    leg, stack = main_leg, main_leg.stack
    leg.open("orphan")
    stack.pointsman("send", "orphan", "BASH touch later.txt ;; SAY ok")
    approval = leg.pending("orphan")
    theirs = {f"services.{name}" for name in SERVICES}
    before = [p for p in stack.processes() if theirs & set(p.cmdline())]
    assert len(before) == len(SERVICES)
    assert stack.supervisord is not None
    stack.supervisord.kill()
    stack.supervisord.wait()
    stack.start(wait=False)
    eventually(lambda: not set(before) & set(stack.processes()), "every service ends with its supervisor", 60)
    stack.wait_online()
    services = [p for p in stack.processes() if any(part.startswith("services.") for part in p.cmdline())]
    names = [next(part for part in p.cmdline() if part.startswith("services.")) for p in services]
    assert len([n for n in names if n == "services.ingest"]) == 1, names
    with stack.recorder() as recorder:
        outcome = leg.decide(recorder, approval["id"], "approve")
        assert outcome["applied"] is True
        eventually(lambda: (leg.cwd / "later.txt").exists(), "the approved command ran")


def test_two_stacks_side_by_side(tmp_path: Path) -> None:
    """Two homes, one checkout: other ports, nothing shared."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with (
        Stack(tmp_path / "a" / "home", environment) as first,
        Stack(tmp_path / "b" / "home", environment) as second,
    ):
        one, two = first.bus(), second.bus()
        assert one["port"] != two["port"]
        assert one["ws_port"] != two["ws_port"]
        assert Path(one["password_file"]).read_text() != Path(two["password_file"]).read_text()
        assert first.wait_online()["ok"]
        assert second.wait_online()["ok"]


def test_everything_comes_online(tmp_path: Path) -> None:
    """Every service comes online, and a stranger without a password is refused."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    stack = Stack(tmp_path / "home", environment)
    with stack:
        health = stack.wait_online()
        assert set(health["services"]) >= {"broker", "ingest", "tmux", "approvals", "ledger", "watchdog"}
        broken = subprocess.run(
            ["mosquitto_pub", "-p", str(stack.bus()["port"]), "-t", "x", "-m", "y"],
            capture_output=True,
            check=False,
        )
        assert broken.returncode != 0, "a stranger without a password is refused"
        assert json.loads(stack.run("ls", "--json").stdout) == []
