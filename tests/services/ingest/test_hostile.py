"""An agent that lies and floods: nothing it says stops ingest, grows without bound, or cannot be read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bus import codec
from bus import messages as m
from bus import topics as t
from bus.codec import MAX_PAYLOAD_BYTES, encode
from bus.errors import PeerError
from services.ingest import callbacks, questions
from services.ingest.deltas import MAX_KNOWN
from services.ingest.wire import MAX_ID_CHARS
from tests.services.ingest.support import INIT, Play, can_use, result

LONG = "A" * (MAX_PAYLOAD_BYTES + 1000)


def largest(play: Play) -> int:
    """Bytes of the longest payload that was published, as its row has it."""
    return max(len(encode(row, payload)) for row, payload, _ in play.published if payload is not None)


def asks(**fields: Any) -> dict[str, Any]:
    request = {"subtype": "can_use_tool", "tool_name": "Bash", "input": {}, **fields}
    return {"type": "control_request", "request_id": "q", "request": request}


@pytest.mark.parametrize("said", ["1e999", "99999999999999999999e999", "-1e999", "-5", '"5"', "null"])
def test_a_cost_that_cannot_be_is_still_an_event_that_can_be_read(play: Play, said: str) -> None:
    play.say(INIT, b'{"type":"result","subtype":"success","total_cost_usd":%s}' % said.encode())
    [event] = play.events("result")
    assert isinstance(event["cost_usd"], float)
    assert 0 <= event["cost_usd"] <= 1e9


@pytest.mark.parametrize(
    "said", [b"", b',"total_cost_usd":null', b',"total_cost_usd":"NaN"', b',"total_cost_usd":-1']
)
def test_a_total_that_cannot_be_read_is_no_new_beginning(play: Play, said: bytes) -> None:
    play.say(INIT, result("one", "0.25"))
    play.say(b'{"type":"result","subtype":"success","uuid":"two"%s}' % said)
    play.say(result("three", "0.5"))
    told = [fact.total_usd for fact in play.facts("cost") if not fact.baseline]
    assert told == ["0.25", "0.25", "0.5"]
    assert [event["cost_usd"] for event in play.events("result")] == [0.25, 0, 0.25]


def test_errors_of_any_depth_are_text(play: Play) -> None:
    """`str` of a list nested just as deeply as the decoder takes it was a RecursionError, in a journal that
    would have been read again at every start.
    """
    for depth in range(900, 1001):
        nested = b"[" * depth + b"]" * depth
        play.say(b'{"type":"result","is_error":true,"errors":["first",' + nested + b"]}")
    said = [event["message"] for event in play.events("error")]
    assert said
    assert all(text.startswith("first; [[[") for text in said)


@pytest.mark.parametrize(
    "frame",
    [
        *(
            {**INIT, field: LONG}
            for field in ("model", "permissionMode", "session_id", "claude_code_version")
        ),
        {"type": "system", "subtype": "status", "permissionMode": LONG},
        {"type": "conversation_reset", "new_conversation_id": LONG},
        *(asks(tool_use_id="t", **{field: LONG}) for field in ("tool_name", "agent_id", "description")),
        asks(tool_use_id=LONG),
        {"type": "assistant", "parent_tool_use_id": LONG, "message": {"content": "x"}},
        {"type": "assistant", "message": {"content": [{"type": LONG, "text": "x"}]}},
        {"type": "assistant", "message": {"content": [{"type": "text", "text": "x" * 60_000}] * 100}},
        {
            "type": "control_request",
            "request_id": "h",
            "request": {
                "subtype": "hook_callback",
                "input": {"hook_event_name": "PreToolUse", "tool_name": "Bash", "tool_use_id": LONG},
            },
        },
        {
            "type": "stream_event",
            "api_message_id": LONG,
            "event": {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "x"}},
        },
    ],
    ids=lambda frame: json.dumps(frame)[:60],
)
def test_nothing_that_an_agent_makes_long_is_too_long_for_readers(play: Play, frame: dict[str, Any]) -> None:
    play.say(frame)
    play.act(play.core.flush(play.now))
    assert largest(play) <= MAX_PAYLOAD_BYTES


def test_open_questions_and_tools_have_a_bound(play: Play) -> None:
    play.say(INIT, *(can_use(f"r{n}", tool_use_id=f"t{n}") for n in range(questions.MAX_OPEN + 5)))
    assert len(play.facts("question")) == questions.MAX_OPEN
    assert len(play.record.questions) == questions.MAX_OPEN
    assert play.core.malformed == 5
    blocks = [{"type": "tool_use", "id": f"b{n}", "name": "Read"} for n in range(questions.MAX_OPEN + 5)]
    play.say({"type": "assistant", "message": {"content": blocks}})
    assert len(play.record.tools) == questions.MAX_OPEN
    play.say(result("one"))  # and then it goes on as ever
    assert not play.record.questions
    play.say(can_use("after"))
    assert play.state().status == "waiting_approval"


def test_hooks_of_an_agent_that_reads_no_answers_have_a_bound(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "MAX_LINES", 20)
    hook = {"subtype": "hook_callback", "input": {"hook_event_name": "Notification"}}
    for n in range(40):
        play.say({"type": "control_request", "request_id": f"h{n}", "request": hook})
    assert len(play.core.named("one", None).lines) == 20


def test_messages_that_are_told_apart_have_a_bound(play: Play) -> None:
    start = {"type": "message_start", "message": {"id": "m"}}
    frames = (
        {"type": "stream_event", "parent_tool_use_id": f"p{n}", "event": start} for n in range(MAX_KNOWN + 5)
    )
    play.say(*frames)
    long = "p" * (MAX_ID_CHARS + 1)
    play.say({"type": "stream_event", "parent_tool_use_id": long, "event": start})
    known = play.core.named("one", None).messages
    assert len(known) <= MAX_KNOWN
    assert long not in known


def test_history_takes_no_number_that_the_store_does_not(play: Play) -> None:
    with pytest.raises(PeerError):
        codec.decode(t.SESSION_HISTORY, b'{"id":"h","after_seq":9223372036854775808}', m.History)
    last = codec.decode(t.SESSION_HISTORY, b'{"id":"h","after_seq":9223372036854775807}', m.History)
    assert play.store.history(play.record.uid, last.after_seq, last.limit) == []
