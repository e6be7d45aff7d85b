"""Warnings of agents that run in circles: when, and that they do not spam."""

from __future__ import annotations

from typing import Any

import pytest

from bus import messages as m
from services.ledger.runaway import CALLS, REPEATS, REST_S
from tests.services.ledger.support import UID, World


class Calls:
    def __init__(self) -> None:
        self.world = World()
        self.world.open(budget_usd=100.0)
        self.n = 0

    def call(self, command: str = "make test", output: str = "1 failed", **more: Any) -> None:
        self.n += 1
        self.world.later(1)
        common = {
            "session": "web", "uid": UID, "seq": 2 * self.n, "at": self.world.now, "tool": "Bash",
            "tool_use_id": f"toolu_{self.n}", "summary": command,
        }  # fmt: skip
        for fields in (
            {"phase": "started", "input": {"command": command}},
            {"phase": "progress"},
            {"phase": "finished", "output": output, "is_error": True},
        ):
            event = m.ToolEvent(**{**common, **fields, **more})
            self.world.act(self.world.ledger.tool(event, self.world.now))

    @property
    def warnings(self) -> list[str]:
        return [event.reason for event in self.world.events("runaway")]


def test_the_same_call_again_and_again() -> None:
    calls = Calls()
    for _ in range(REPEATS - 1):
        calls.call()
    assert calls.warnings == []
    calls.call()
    (warning,) = calls.world.events("runaway")
    assert (warning.session, warning.uid) == ("web", UID)
    assert warning.reason == ("the same call with the same answer, 8 times in its last 8: Bash (make test)")
    for _ in range(100):
        calls.call()
    assert len(calls.warnings) == 1


def test_a_circle_of_two() -> None:
    calls = Calls()
    for n in range(2 * REPEATS):
        calls.call(f"step {n % 2}")
    assert len(calls.warnings) == 1


def test_the_same_call_with_other_answers_is_work() -> None:
    calls = Calls()
    for n in range(50):
        calls.call(output=f"{n} failed")
        calls.call(command=f"edit {n}", output="ok")
    assert calls.warnings == []


def test_it_warns_again_after_it_had_stopped() -> None:
    calls = Calls()
    for again in (1, 2):
        for _ in range(REPEATS):
            calls.call()
        assert len(calls.warnings) == again
        for n in range(CALLS):
            calls.call(command=f"other {again} {n}")
        if again == 1:
            for _ in range(REPEATS):
                calls.call()
            assert len(calls.warnings) == 1  # too soon
            for n in range(CALLS):
                calls.call(command=f"another {n}")
        calls.world.later(REST_S)


def test_calls_whose_begin_was_not_heard_count_nothing() -> None:
    calls = Calls()
    for _ in range(50):
        calls.call(phase="finished")
    assert calls.warnings == []
    for _ in range(1000):
        calls.call(phase="started")  # and such as never end are forgotten
    assert calls.warnings == []


def spend(world: World, turn: int, cents: int) -> int:
    """Five minutes later, a turn of so many cents."""
    world.later(300)
    world.spent = getattr(world, "spent", 0) + cents  # type: ignore[attr-defined]
    world.cost(turn, f"{world.spent / 100}")  # type: ignore[attr-defined]
    return turn


@pytest.mark.parametrize("killed", [False, True])
def test_burning_far_above_its_habit(killed: bool) -> None:
    world = World()
    world.open(budget_usd=1000.0)
    for turn in range(1, 13):
        spend(world, turn, 10)
    if killed:
        world.restart()  # the habit is read from the postings
    assert world.events("runaway") == []
    spend(world, 13, 200)
    (warning,) = world.events("runaway")
    assert warning.reason == "it spent 2.10 dollars in the last ten minutes, 10 times what it usually does"
    spend(world, 14, 200)
    spend(world, 15, 200)
    assert len(world.events("runaway")) == 1


@pytest.mark.parametrize(("habit", "then", "turns"), [(10, 200, 4), (1, 40, 12), (10, 40, 12)])
def test_no_habit_small_sums_and_ordinary_ones(habit: int, then: int, turns: int) -> None:
    world = World()
    world.open(budget_usd=1000.0)
    for turn in range(1, turns + 1):
        spend(world, turn, habit)
    spend(world, turns + 1, then)
    assert world.events("runaway") == []


def test_a_running_turn_warns_within_itself() -> None:
    world = World()
    world.open(budget_usd=1000.0)
    for turn in range(1, 13):
        spend(world, turn, 10)
    world.later(300)
    for cents in range(0, 300, 20):
        world.later(10)
        world.running(f"{cents / 100}", turn=13)
    assert len(world.events("runaway")) == 1
