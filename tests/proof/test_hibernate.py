"""Hibernation with the real Claude Code CLI: what was said before is still known after waking."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.proof.test_first_light import Leg, open_leg
from tests.support.stack import Recorder, eventually

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


@pytest.fixture
def leg(tmp_path: Path) -> Iterator[Leg]:
    yield from open_leg(tmp_path, "mosquitto", "2.1.329", "managed")


def agents(leg: Leg) -> list[psutil.Process]:
    return [p for p in leg.stack.processes() if "--output-format" in p.cmdline()]


def is_now(recorder: Recorder, name: str, *statuses: str) -> dict[str, Any]:
    def probe() -> dict[str, Any] | None:
        state = recorder.last(f"sessions/{name}/state")
        return state if state is not None and state["status"] in statuses else None

    return eventually(probe, f"{name} is {' or '.join(statuses)}")


def test_asleep_and_awake_again_with_its_conversation_whoever_is_killed(leg: Leg) -> None:
    stack = leg.stack
    with stack.recorder() as recorder:
        leg.open("dozy")
        stack.pointsman("send", "dozy", "SAY the word is marigold")
        leg.results(recorder, "dozy", 1)
        conversation = is_now(recorder, "dozy", "waiting_input")["agent"]["session_id"]
        stack.pointsman("hibernate", "dozy")
        stack.kill("ingest")
        stack.kill("tmux")
        assert is_now(recorder, "dozy", "hibernated")["agent"]["session_id"] == conversation
        eventually(lambda: agents(leg) == [], "its agent has ended")

        requests = len(leg.api.requests)
        stack.pointsman("send", "dozy", "RECALL")
        stack.kill("tmux")
        [_, result] = leg.results(recorder, "dozy", 2)
        assert not result["is_error"]
        assert "marigold" in recorder.all("sessions/dozy/events/message")[-1]["text"]
        told = [str(r["messages"]) for r in leg.api.requests[requests:] if "RECALL" in str(r["messages"])]
        assert len(told) == 1, "the prompt reached the model once"
        assert "the word is marigold" in told[0], "with what was said before"
        assert is_now(recorder, "dozy", "waiting_input")["agent"]["session_id"] == conversation
        leg.assert_cost(recorder, "dozy")

        stack.pointsman("hibernate", "dozy")
        is_now(recorder, "dozy", "hibernated")
        stack.pointsman("wake", "dozy")
        is_now(recorder, "dozy", "ready")
        [agent] = agents(leg)
        assert conversation in agent.cmdline()
        os.kill(agent.pid, 0)
        seqs = [event["seq"] for event in recorder.all("sessions/dozy/events/+") if "seq" in event]
        assert sorted(set(seqs)) == list(range(min(seqs), max(seqs) + 1))
