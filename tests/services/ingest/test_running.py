"""What a running turn has cost: asked of the agent when a model call has finished, else counted."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bus import messages as m
from tests.services.ingest.support import INIT, Play, frame, result

HALF = Decimal("0.00005")


@pytest.fixture
def play(tmp_path: Path) -> Play:
    play = Play(tmp_path / "ingest.sqlite")
    play.open(prompt="work")
    play.initialize()
    play.say(INIT)
    return play


def call(
    play: Play, *, model: str = "claude-opus-5-5", output: int = 10, parent: str | None = None, **usage: Any
) -> None:
    """One model call, as it streams."""
    start = {"input_tokens": 7, "output_tokens": 1, "cache_read_input_tokens": 100, **usage}
    for event in (
        {"type": "message_start", "message": {"id": "msg", "model": model, "usage": start}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hm"}},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": output}},
        {"type": "message_stop"},
    ):
        play.say(frame(type="stream_event", event=event, parent_tool_use_id=parent))


def asked(play: Play) -> list[str]:
    """Request ids of the questions that are open."""
    return [key for key, what in play.record.requests.items() if what.startswith("cost:")]


def tell(play: Play, usd: str) -> None:
    (request_id,) = asked(play)
    play.respond(request_id, {"text": f"Estimated cost:        ${usd}\nUsage by model:"})


def running(play: Play) -> list[tuple[int, str]]:
    """(turn, what was said); told is the least that such a figure means, half a unit less."""
    return [(fact.turn, f"{Decimal(fact.spent_usd) + HALF:.4f}") for fact in play.facts("running")]


def test_asked_when_a_model_call_has_finished(play: Play) -> None:
    call(play)
    assert len(asked(play)) == 1
    tell(play, "0.0144")
    assert running(play) == [(1, "0.0144")]
    call(play)
    call(play)  # finished before the answer: asked again after it
    assert len(asked(play)) == 1
    tell(play, "0.0200")
    tell(play, "0.0250")
    assert not asked(play)
    assert running(play) == [(1, "0.0144"), (1, "0.0200"), (1, "0.0250")]


def test_only_what_is_new_is_told(play: Play) -> None:
    for figure in ("0.0100", "0.0100", "0.0090"):
        call(play)
        tell(play, figure)
    assert running(play) == [(1, "0.0100")]


def test_counted_from_the_turns_before(play: Play) -> None:
    call(play)
    tell(play, "0.0100")
    play.say(result("r1", "0.0123"))
    play.say({**INIT, "uuid": "init-2"})
    call(play)
    tell(play, "0.0200")
    assert running(play)[-1] == (2, "0.0077")


def test_a_late_answer_says_nothing(play: Play) -> None:
    call(play)
    (request_id,) = asked(play)
    play.say(result("r1", "0.0123"))
    play.respond(request_id, {"text": "Total cost: $0.0123"})
    assert running(play) == []
    assert not asked(play)


def test_asked_every_five_seconds_while_it_works(play: Play) -> None:
    play.later(4)
    assert not asked(play)
    play.later(1)
    tell(play, "0.0001")
    play.later(5)
    tell(play, "0.0002")
    play.say(result("r1"))
    play.later(5)
    play.later(5)
    assert not asked(play)
    assert running(play) == [(1, "0.0001"), (1, "0.0002")]


def test_an_answer_changes_no_snapshot(play: Play) -> None:
    before = len([payload for _, payload, _ in play.published if isinstance(payload, m.SessionState)])
    call(play)
    tell(play, "0.0100")
    after = len([payload for _, payload, _ in play.published if isinstance(payload, m.SessionState)])
    assert after == before


def test_an_agent_that_tells_none_is_counted(play: Play) -> None:
    call(play, cache_creation={"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4})
    (request_id,) = asked(play)
    play.say({"type": "control_response", "response": {
        "subtype": "error", "request_id": request_id, "error": "Unsupported control request subtype",
    }})  # fmt: skip
    call(play, model="claude-haiku-4-5", cache_creation_input_tokens=9)
    assert not asked(play)
    told = play.facts("running")
    opus = m.RunningUsage(input=7, output=10, cache_read=100, cache_write_5m=3, cache_write_1h=4)
    haiku = m.RunningUsage(input=7, output=10, cache_read=100, cache_write_5m=9)
    assert [fact.spent_usd for fact in told] == [None, None]
    assert told[0].usage == {"claude-opus-5-5": opus}
    assert told[1].usage == {"claude-opus-5-5": opus, "claude-haiku-4-5": haiku}
    play.later(6)
    assert not asked(play)
    play.say(result("r1"))
    play.say({**INIT, "uuid": "init-2"})
    call(play, output=20)
    last = play.facts("running")[-1]
    assert (last.turn, last.usage["claude-opus-5-5"].output) == (2, 20)


def test_nothing_is_told_twice_after_a_crash(play: Play) -> None:
    call(play)
    tell(play, "0.0144")
    play.crash()
    play.connect()
    call(play)
    tell(play, "0.0200")
    assert running(play) == [(1, "0.0144"), (1, "0.0200")]
    assert len({fact.id for fact in play.post_log if fact.type == "running"}) == 2


@pytest.mark.parametrize(
    "usage", [[], "x", {"input_tokens": "many"}, {"input_tokens": -5}, {"output_tokens": 10**30}]
)
def test_any_usage_is_survived(play: Play, usage: Any) -> None:
    play.record.tells_cost = False
    event = {"type": "message_start", "message": {"id": "msg", "model": "x" * 500, "usage": usage}}
    play.say(frame(type="stream_event", event=event))
    play.say(frame(type="stream_event", event={"type": "message_delta", "usage": usage}))
    play.say(frame(type="stream_event", event={"type": "message_stop"}))
    (told,) = play.facts("running")
    ((model, counted),) = told.usage.items()
    assert len(model) == 200
    assert all(0 <= value <= 10**12 for value in (counted.input, counted.output))


def test_background_agents_are_followed_after_the_turn(play: Play) -> None:
    play.say(frame(type="system", subtype="task_started", task_id="a1", task_type="local_agent"))
    play.say(result("r1", "0.0100"))
    sub = {"type": "user", "parent_tool_use_id": "toolu_1", "uuid": "s1"}
    play.say({**sub, "message": {"role": "user", "content": "the result of a tool"}})
    tell(play, "0.0150")
    play.later(5)
    tell(play, "0.0210")
    assert running(play) == [(2, "0.0050"), (2, "0.0110")]
    play.say(frame(type="system", subtype="task_notification", task_id="a1", status="completed"))
    play.later(5)
    play.later(5)
    assert not asked(play)


def test_a_new_conversation_counts_from_zero(play: Play) -> None:
    call(play)
    tell(play, "0.5000")
    play.say(frame(type="conversation_reset", new_conversation_id="c2", uuid="c"))
    call(play)
    tell(play, "0.0100")
    assert running(play) == [(1, "0.5000"), (1, "0.0100")]


@pytest.mark.parametrize(
    ("said", "least"),
    [("0.0144", "0.01435"), ("0.50", "0.495"), ("12.35", "12.345"), ("0.0000", "0"), ("3", "2.5")],
)
def test_the_least_that_a_rounded_figure_means(play: Play, said: str, least: str) -> None:
    call(play)
    tell(play, said)
    assert [Decimal(fact.spent_usd) for fact in play.facts("running")] == (
        [Decimal(least)] if least != "0" else []
    )
