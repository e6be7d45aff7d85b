"""The window's view of recorded conversations (tests/recordings; their README says where they come from), and
of noise."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.bridge.text import Wrapper, harmless, one_line, width_of, wrapped
from services.bridge.view import View, cut

RECORDINGS = Path(__file__).parents[2] / "recordings"
COLOUR = re.compile(r"\x1b\[[0-9]{1,2}m")


def shown(recording: str, width: int = 80) -> str:
    """The window after a whole recording, with its colours."""
    view = View("01JUID", 1, width)
    out = ""
    for text in (RECORDINGS / f"claude-2.1.329-stdio-{recording}.ndjson").read_text().splitlines():
        record = json.loads(text)
        line = json.dumps(record["msg"]).encode()
        if record["dir"] == "cli->srv":
            out += view.frame(line)
        elif record["dir"] == "srv->cli":
            out += view.line(line)
    return out


def plain(text: str) -> str:
    return COLOUR.sub("", text)


def test_a_streamed_answer() -> None:
    assert plain(shown("hello")).startswith("""
❯ SAY Hello there, this is streamed in deltas
· model claude-opus-5-5, permission mode default, conversation\x20
  fdd36360-252d-46fb-b8d5-9d2c22101560
● Hello there, this is streamed in deltas
■ 1 step · 0.2 s · $0.0069 so far

❯ THINK about it
● thought about it
■ 1 step · 0.1 s · $0.0140 so far
""")


def test_a_tool_that_is_approved() -> None:
    assert plain(shown("allow")).startswith("""
❯ BASH touch made-by-bash && echo made ;; SAY done
· model claude-opus-5-5, permission mode default, conversation\x20
  85b420cf-b60b-4030-992c-fab4a6f99179
● I will call a tool.
▸ Bash touch made-by-bash && echo made
⏸ waiting for approval: Bash touch made-by-bash && echo made
    pointsman approve amjf4kogmoybgjo3hk3nek7jmkh
  ✓ approved: Bash
  ⎿ made
● done
■ 2 steps · 0.6 s · $0.0143 so far
""")


def test_questions_with_their_options() -> None:
    assert """
⏸ waiting for approval: AskUserQuestion
    Which colour?  Red | Blue
    Which fruits?  Apple | Pear
    pointsman answer ape3d45erzbq2txvtxhsx73hgp5
  ✓ approved: AskUserQuestion
""" in plain(shown("ask"))


def test_errors_stand_out() -> None:
    text = shown("errors")
    assert "\x1b[31m■ API Error: 400 fake error 400\x1b[0m" in text
    assert "  API error, trying again (attempt 1)" in plain(text)


def test_a_subagents_work_is_indented() -> None:
    assert "    ▸ Bash touch by-sub" in plain(shown("subagent"))


@pytest.mark.parametrize(
    "recording", ["hello", "allow", "ask", "errors", "subagent", "plan", "interrupt", "queue"]
)
@pytest.mark.parametrize("width", [40, 100])
def test_texts_keep_to_the_width(recording: str, width: int) -> None:
    ours = re.compile(r"^(·|■|▸|    ▸|⏸| +pointsman|  [✓✗]|  API)")
    lines = [line for line in plain(shown(recording, width)).split("\n") if not ours.match(line)]
    assert max(map(width_of, lines)) <= width


def test_a_text_that_was_streamed_is_not_shown_twice() -> None:
    text = plain(shown("hello"))
    assert text.count("● Hello there, this is streamed in deltas") == 1


def frame(view: View, **fields: Any) -> str:
    return view.frame(msgspec.json.encode(fields))


def test_denials_withdrawals_limits_and_notices() -> None:
    view = View("u", 1)
    ask = {
        "type": "control_request",
        "request": {"subtype": "can_use_tool", "tool_name": "Bash", "input": {"command": "ls"}},
    }
    assert "waiting for approval: Bash" in frame(view, request_id="r1", **ask)
    assert frame(view, request_id="r1", **ask) == "", "sent again"
    response = {"request_id": "r1", "response": {"behavior": "deny", "message": "no"}}
    assert "✗ denied: Bash: no" in view.line(
        msgspec.json.encode({"type": "control_response", "response": response})
    )
    frame(view, request_id="r2", **ask)
    assert "no longer asked: Bash" in frame(view, type="control_cancel_request", request_id="r2")
    assert frame(view, type="control_cancel_request", request_id="r2") == ""
    assert "rate limit: rejected" in frame(
        view, type="rate_limit_event", rate_limit_info={"status": "rejected"}
    )
    assert frame(view, type="rate_limit_event", rate_limit_info={"status": "allowed"}) == ""
    assert "20000000 bytes is too long" in frame(view, type="pointsman_oversized", bytes=20_000_000)
    assert "not json" in view.frame(b"not json")
    assert "keys do not reach" in view.hint("work")


def test_the_header_and_the_dim_line_of_a_restart() -> None:
    view = View("u", 1)
    first = plain(view.header("work", "/home/user/work", ["/usr/bin/claude", "-p"], again=False))
    assert "work  claude in /home/user/work" in first
    assert "pointsman send work TEXT" in first
    assert "Ctrl-b, then d" in " ".join(first.split())
    assert all(width_of(line) <= 80 for line in first.splitlines())
    again = view.header("work", "/home/user/work", ["claude"], again=True)
    assert again.startswith("\x1b[2m· the bridge was started again")
    assert again.count("\n") == 1


def test_nothing_of_the_agent_drives_the_terminal() -> None:
    evil = "\x1b]0;title\x07\x1b[2J\x9b31m\rline\u202eexe.txt\x00"
    view = View("u", 1)
    out = frame(view, type="assistant", message={"content": [{"type": "text", "text": evil}]})
    out += frame(
        view,
        type="assistant",
        message={"content": [{"type": "tool_use", "name": evil, "input": {"command": evil}}]},
    )
    out += frame(view, type="result", subtype="success", is_error=True, result=evil)
    out += view.stderr(evil) + view.note(evil) + view.header(evil, evil, [evil], again=False)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", COLOUR.sub("", out))
    assert "␛]0;title␇" in out


def test_long_results_are_cut() -> None:
    assert cut("a\nb\nc\nd\ne\nf") == "a\nb\nc\nd\n… 2 more lines"
    assert cut("") == "(nothing)"
    assert len(cut("x" * 10_000)) == 601


_text = st.text(max_size=120)


@given(_text)
def test_harmless_leaves_only_newlines_to_act(text: str) -> None:
    safe = harmless(text)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", safe)
    safe.encode()
    assert "\n" not in one_line(text, 40)
    assert width_of(one_line(text, 40)) <= 40


@given(_text, st.lists(st.integers(0, 120), max_size=6), st.integers(20, 60))
def test_wrapping_does_not_depend_on_the_pieces(text: str, cuts: list[int], width: int) -> None:
    safe = harmless(text)
    whole = Wrapper(width, "  ")
    expected = whole.feed(safe) + whole.finish()
    pieces = Wrapper(width, "  ")
    edges = [0, *sorted(cuts), len(safe)]
    out = "".join(pieces.feed(safe[a:b]) for a, b in itertools.pairwise(edges))
    assert out + pieces.finish() == expected
    assert re.sub(r"\s", "", expected) == re.sub(r"\s", "", safe), "no character is lost"
    assert all(width_of(line) <= width for line in wrapped(text, width, "  ").split("\n"))


_KEYS = [
    "type",
    "subtype",
    "message",
    "content",
    "id",
    "name",
    "input",
    "request",
    "event",
    "delta",
    "text",
    "response",
    "request_id",
    "tool_name",
    "questions",
    "options",
    "errors",
    "result",
    "num_turns",
    "total_cost_usd",
    "bytes",
    "rate_limit_info",
]
_TYPES = [
    "system",
    "stream_event",
    "assistant",
    "user",
    "control_request",
    "control_cancel_request",
    "control_response",
    "result",
    "rate_limit_event",
    "pointsman_oversized",
]
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _text,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_KEYS) | _text, inner, max_size=5)
    ),
    max_leaves=12,
)
_frames = st.builds(
    lambda kind, rest: json.dumps({**rest, "type": kind}).encode("utf-8", "replace"),
    st.sampled_from(_TYPES),
    st.dictionaries(st.sampled_from(_KEYS), _json),
)


@given(st.lists(st.binary(max_size=40) | _frames, max_size=6))
def test_no_frame_breaks_the_view(lines: list[bytes]) -> None:
    view = View("u", 1, 40)
    for line in lines:
        out = view.frame(line) + view.line(line)
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", COLOUR.sub("", out))


def test_a_frame_nested_as_deeply_as_the_decoder_takes_it_is_not_shown() -> None:
    """It ended the bridge, whose successor read the same line again, for ever."""
    for depth in range(700, 1001):
        nested = "[" * depth + "]" * depth
        for frame in (
            '{"type":"control_request","request_id":"r","request":{"subtype":"can_use_tool","tool_name":"Bash",'
            f'"input":{{"a":{nested}}}}}}}',
            f'{{"type":"result","is_error":true,"errors":[{nested}]}}',
            f'{{"type":{nested}}}',
        ):
            View("01JUID", 1).frame(frame.encode())


def test_questions_that_nobody_answers_are_forgotten() -> None:
    view = View("01JUID", 1)
    for n in range(1100):
        request = {"subtype": "can_use_tool", "tool_name": "Bash", "input": {}}
        frame = {"type": "control_request", "request_id": f"r{n}", "request": request}
        view.frame(json.dumps(frame).encode())
    assert len(view._open) <= 1001
