"""A call that a hook has told of is examined before its question comes, and only that call."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from services.approvals.foresight import FRESH_S, MAX_CALLS, MAX_CHARS
from tests.services.approvals.support import RULES, SIGHT, World, policy

MAKE = '{"command":"make"}'
CLEAN = '{"command":"rm -rf build"}'
ASKS = policy({"tool": ["Bash"], "command": ["rm"], "decision": "ask", "name": "careful"})


class Watched(World):
    """Notes where paths lead that are looked at: whenever a call is examined."""

    def __init__(self, **more: Any) -> None:
        self.looked: list[str] = []

        def resolve(path: str) -> str:
            self.looked.append(path)
            return path

        super().__init__(sight=replace(SIGHT, resolve=resolve), **more)


@pytest.mark.parametrize("rules", [RULES, ASKS], ids=["no rule is about it", "a rule asks"])
def test_its_question_finds_it_examined(rules: Any) -> None:
    world, unwarned = Watched(rules=rules), Watched(rules=rules)
    world.judge(input_json=CLEAN)
    seen = len(world.looked)
    assert seen
    world.later(0.05)
    unwarned.later(0.05)
    world.ask(input_json=CLEAN)
    assert len(world.looked) == seen
    unwarned.ask(input_json=CLEAN)
    assert world.approval() == unwarned.approval()


@pytest.mark.parametrize(
    "other",
    [
        {"input_json": MAKE},
        {"input_json": CLEAN.replace("d", "\\u0064", 1)},  # the same to JSON, and other bytes
        {"tool": "Monitor"},
        {"cwd": "/"},
        {"session": "shop"},
        {"auto_approve": ["Bash"]},
    ],
    ids=str,
)
def test_another_call_is_examined_by_itself(other: dict[str, Any]) -> None:
    world, unwarned = Watched(), Watched()
    world.judge(input_json=CLEAN)
    seen = len(world.looked)
    world.ask(**{"input_json": CLEAN, **other})
    assert len(world.looked) > seen
    unwarned.ask(**{"input_json": CLEAN, **other})
    assert world.approval() == unwarned.approval()


@pytest.mark.parametrize("seconds", [FRESH_S + 0.001, -0.001], ids=["later", "the clock was set back"])
def test_what_was_seen_holds_for_a_moment(seconds: float) -> None:
    world = Watched()
    world.judge(input_json=CLEAN)
    seen = len(world.looked)
    world.later(seconds)
    world.ask(input_json=CLEAN)
    assert len(world.looked) > seen


def test_it_is_recalled_once() -> None:
    world = Watched()
    world.judge(input_json=CLEAN)
    world.ask("a1", CLEAN)
    seen = len(world.looked)
    world.ask("a2", CLEAN)
    assert len(world.looked) > seen


def test_an_agent_that_never_asks_is_not_waited_for() -> None:
    world = Watched()
    world.judge(input_json=CLEAN, permission_mode="bypassPermissions")
    assert world.looked == []


def test_what_is_remembered_is_bounded() -> None:
    world = Watched()
    for number in range(MAX_CALLS + 1):
        world.judge(f"h{number}", f'{{"command":"cat {number}"}}')
    long = f'{{"command":"cat {"x" * MAX_CHARS}"}}'
    world.judge("long", long)
    seen = len(world.looked)
    world.ask("a1", f'{{"command":"cat {MAX_CALLS}"}}')
    assert len(world.looked) == seen
    for approval, forgotten in (("a2", '{"command":"cat 0"}'), ("a3", long)):
        seen = len(world.looked)
        world.ask(approval, forgotten)
        assert len(world.looked) > seen
