"""What ingest tells the ledger of an agent that was killed: the messages that no total has counted."""

from __future__ import annotations

from typing import Any

import pytest

from bus import bridge_wire as bw
from bus import messages as m
from services.ingest import evidence
from services.ingest.life import DRAIN_S
from tests.services.ingest.support import INIT, Play, result


def said(message: str, **more: Any) -> dict[str, Any]:
    answer = {"id": message, "role": "assistant", "content": [{"type": "text", "text": "Well."}]}
    return {"type": "assistant", "message": answer, **more}


def streamed(event: dict[str, Any]) -> dict[str, Any]:
    return {"type": "stream_event", "event": event, "parent_tool_use_id": None}


def killed(play: Play, *, drained: bool = True) -> None:
    if drained:
        gone = bw.Exit(process=play.record.process, code=None, size=len(play.journal))
        play.act(play.core.agent_gone(play.number, gone, play.now))
    exited = m.AgentExited(process=play.record.process, exit_code=-9, reason="killed", final=False)
    play.fact(exited)


def test_what_came_after_the_last_total_is_named_each_once_in_order(play: Play) -> None:
    play.say(INIT, said("m1"), said("m2"), result("res-1", "0.1"))
    play.say(said("m9"), said("m3", parent_tool_use_id="toolu_1"), said("m9"))
    play.crash()
    play.connect()
    play.say(said("m4"), said("m3", parent_tool_use_id="toolu_1"))
    killed(play)
    (fact,) = play.facts("unreported")
    assert (fact.process, fact.turn, fact.first, fact.whole) == (1, 1, "m9", True)
    assert fact.messages == ["m9", "m3", "m4"]


def test_what_a_total_counts_is_not_named(play: Play) -> None:
    play.say(INIT, said("m1"), result("res-1", "0.1"))
    killed(play)
    assert play.facts("unreported") == []


def test_whether_it_was_heard_to_its_end_is_said(play: Play) -> None:
    play.say(INIT, said("m1"))
    killed(play, drained=False)
    assert play.facts("unreported") == []  # its bridge may come again
    play.later(DRAIN_S + 1)
    (fact,) = play.facts("unreported")
    assert (fact.messages, fact.whole) == (["m1"], False)


def test_what_is_read_after_the_end_is_told_before_the_next_process(play: Play) -> None:
    begin = {"type": "message_start", "message": {"id": "m1", "model": "claude-opus-5-5", "usage": {}}}
    play.say(INIT, streamed(begin), said("m1"))
    play.say(streamed({"type": "message_delta", "usage": {"output_tokens": 9}}))
    play.say(streamed({"type": "message_stop"}))
    killed(play, drained=False)
    play.later(DRAIN_S + 1)
    play.connect()
    play.say(said("m2"))
    play.fact(m.AgentStarted(process=2, resume="conv-1"))
    first, second = play.facts("unreported")
    assert (first.process, first.messages, set(first.usage)) == (1, ["m1"], {"claude-opus-5-5"})
    assert (second.process, second.messages, second.usage) == (1, ["m2"], {})


def test_there_is_a_bound(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "MAX_HEARD", 2)
    play.say(INIT, said("m1"), said("m2"), said("m3"))
    killed(play)
    (fact,) = play.facts("unreported")
    assert (fact.messages, fact.whole) == (["m1", "m2"], False)


def test_a_turn_that_an_older_ingest_has_begun_is_known_by_its_first_message(play: Play) -> None:
    play.say(INIT, said("m1"))
    play.record.heard = []  # it kept no more than the first
    play.say(said("m2"))
    killed(play)
    (fact,) = play.facts("unreported")
    assert (fact.first, fact.messages, fact.whole) == ("m1", [], False)
    assert play.record.uncovered is None
