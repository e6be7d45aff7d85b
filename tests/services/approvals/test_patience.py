"""An input that is written to take long costs the gate little, and is never harmless for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from services.approvals.attention import FOR_S
from services.approvals.danger import assess
from services.approvals.danger.sight import Sight, TooLongError, Unparsed
from services.approvals.model import State
from services.approvals.question import judge_again
from services.approvals.reading import MAX_VALUES, parse, summary, view
from tests.services.approvals.support import HOME, SIGHT, UID, World, fact, policy, question

OTHER = "01JD0000000000000000000001"


class Clock:
    """The processor's seconds: each look at it takes a hundredth, so that a test counts looks."""

    def __init__(self, look_s: float = 0.01) -> None:
        self.now_s, self.look_s, self.looks = 0.0, look_s, 0

    def __call__(self) -> float:
        self.now_s += self.look_s
        self.looks += 1
        return self.now_s


LONG: dict[str, tuple[str, dict[str, Any]]] = {
    "wrappers": ("Bash", {"command": "sudo " * 300 + "ls"}),
    "commands": ("Bash", {"command": "rm x;" * 1900}),
    "texts": ("Bash", {"command": "\n".join(f"sh -c 'ls; ls; ls {n}'" for n in range(300))}),
    "paths": ("Write", {"file_path": "a.md", "content": " ".join(f"../{n}" for n in range(20_000))}),
    "fields": ("Other", {f"../{n}": n for n in range(20_000)}),
}


@pytest.mark.parametrize("name", LONG)
def test_one_judgment_ends_when_its_patience_does(name: str) -> None:
    tool, value = LONG[name]
    clock = Clock()
    danger = assess(tool, parse(json.dumps(value)), "/work/app", HOME, replace(SIGHT, spent=clock))
    assert danger.level == "critical"
    assert "takes too long to judge" in danger.reason
    assert clock.looks <= 0.5 / 0.01 + 20, "nobody goes on after it is over"


def test_what_was_found_before_stands() -> None:
    """Also when a worse one is found first, and when the parser used all the time."""
    clock = Clock()

    def slow(_text: str, within_s: float) -> Unparsed:
        assert 0 < within_s <= 0.5, "it gets what is left"
        clock.now_s += 10
        return Unparsed("it took too long")

    sight = replace(SIGHT, spent=clock, parse=slow)
    danger = assess("Bash", parse('{"command":"ls"}'), "/work/app", HOME, sight)
    assert (danger.level, danger.reason) == ("critical", "Bash takes too long to judge")
    text = json.dumps({"command": f"cat {HOME}/secrets/x"})
    danger = assess("Bash", parse(text), "/work/app", HOME, sight)
    assert "Pointsman's own home" in danger.reason


def test_an_everyday_call_does_not_notice() -> None:
    clock = Clock(0.002)
    sight = replace(SIGHT, spent=clock)
    for text, level in (("git status && ls -la src | wc -l", "low"), ("rm -rf /", "critical")):
        assert assess("Bash", parse(json.dumps({"command": text})), "/work/app", HOME, sight).level == level


def test_a_variable_that_doubles_takes_no_memory() -> None:
    text = "a=xxxxxxxx;" + "a=$a$a;" * 200 + "echo $a"
    assert assess("Bash", parse(json.dumps({"command": text})), "/work/app", HOME, SIGHT).level != "low"


def test_patience_begins_with_each_judgment() -> None:
    clock = Clock()
    sight = replace(SIGHT, spent=clock, limit_s=1.0)
    first = sight.once()
    assert first.once() is first, "one judgment has one"
    clock.now_s += 5
    assert first.left_s == 0
    with pytest.raises(TooLongError):
        first.check()
    sight.once().check()


# ── the gate ─────────────────────────────────────────────────────────────────────────────────────────────


def gate_with(parse: Callable[[str, float], Unparsed], clock: Clock) -> World:
    sight = replace(SIGHT, spent=clock, parse=parse)
    return World(sight=sight, rules=policy({"decision": "allow", "tool": "Bash"}))


def test_what_took_too_long_is_let_through_by_no_usual_rule_and_may_be_decided() -> None:
    clock = Clock(0)

    def slow(_text: str, _within_s: float) -> Unparsed:
        clock.now_s += 10
        return Unparsed("it took too long")

    world = gate_with(slow, clock)
    world.ask()
    assert world.approval().state is State.PENDING
    assert world.approval().danger.level == "critical"
    world.decide()
    assert world.approval().state is State.APPROVED


def test_a_session_that_took_long_is_read_in_a_hurry_and_others_are_not() -> None:
    clock = Clock(0)
    given: list[float] = []

    def slow(text: str, within_s: float) -> Unparsed:
        given.append(round(within_s, 3))
        clock.now_s += 0.4 if "slow" in text else 0.002
        return Unparsed("nothing here can be parsed")

    def ask(approval: str, text: str, uid: str = UID) -> float:
        given.clear()
        q = question(approval, json.dumps({"command": text}))
        world.act(world.gate.question(fact(approval, "question", q, uid), q, world.now))
        return given[0]

    world = gate_with(slow, clock)
    assert ask("a1", "quick") == 0.5
    assert ask("a2", "slow 1") == 0.5
    assert ask("a3", "slow 2") == 0.1
    assert ask("a4", "quick 2") == 0.1
    assert ask("a5", "quick 3", OTHER) == 0.5
    world.later(FOR_S)
    assert ask("a6", "quick 4") == 0.5


def test_what_is_gone_through_in_one_go_is_gone_through_in_a_hurry() -> None:
    world = World(sight=SIGHT)
    world.ask()
    assert world.gate.hurried.sight.limit_s < SIGHT.limit_s
    danger, verdict = judge_again(
        world.approval(), policy({"decision": "deny", "tool": "*"}), world.gate.hurried
    )
    assert (danger.level, verdict.answer) == ("low", "deny")


# ── what is shown ────────────────────────────────────────────────────────────────────────────────────────


MANY: list[dict[str, Any]] = [
    {str(n): "x" for n in range(MAX_VALUES + 1)},
    {"a": [["x"]] * MAX_VALUES},
    {"a": {str(n): [] for n in range(MAX_VALUES)}, "b": 1},
    {str(n): [["x"]] * 400 for n in range(40)},
]


@pytest.mark.parametrize("value", MANY)
def test_of_many_values_not_all_are_shown_one_by_one(value: dict[str, Any]) -> None:
    text = json.dumps(value)
    shown = view(text, parse(text))
    assert shown.partial
    assert any(isinstance(item, str) and "⟦" in item for item in shown.value.values())
    assert shown.value.get("b") == value.get("b"), "the others are"
    assert summary("tool", "Other", parse(text)).startswith("Other: ")


def test_a_blind_gate_is_patient() -> None:
    assert Sight(parse=lambda _text, _within_s: Unparsed("x")).once().left_s == 0.5
