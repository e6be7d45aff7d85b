"""The reader and the frames: whole, byte by byte, with trailing data, and fuzzed."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.bridge_wire import MAX_LINE_BYTES, check_input_line
from services.ingest import say, wire
from services.ingest.wire import LineReader, WireError, decode
from tests.services.ingest.support import RECORDINGS, can_use, recorded

FILES = sorted(path.name for path in RECORDINGS.glob("claude-*.ndjson"))


def lines_of(name: str) -> list[bytes]:
    return [json.dumps(f, separators=(",", ":")).encode() for f in recorded(name)]


def test_the_cap_is_the_bridge_s() -> None:
    assert wire.MAX_LINE_BYTES == MAX_LINE_BYTES


@pytest.mark.parametrize("name", FILES)
def test_recorded_lines_in_any_split(name: str) -> None:
    lines = lines_of(name)
    whole = b"\n".join(lines) + b"\n"
    assert LineReader().feed(whole) == lines
    reader = LineReader()
    short = whole[:20_000]
    got = [line for i in range(len(short)) for line in reader.feed(short[i : i + 1])]
    assert got == short.split(b"\n")[:-1]
    assert reader.pending == len(short) - short.rfind(b"\n") - 1
    reader = LineReader()
    assert reader.feed(whole + b'{"type":"trail') == lines
    assert reader.pending == 14
    assert reader.feed(b'ing"}\r\n\n  \n') == [b'{"type":"trailing"}\r']


@pytest.mark.parametrize("name", FILES)
def test_recorded_frames_are_known(name: str) -> None:
    for line in lines_of(name):
        decode(line)


def test_one_frame_a_message_needs_no_newline() -> None:
    reader = LineReader()
    assert reader.feed(b'{"a":{}}') == [b'{"a":{}}']
    assert reader.feed(b'{"a":{}') == []
    assert reader.feed(b"}") == []  # goes on a line: only its newline ends it
    assert reader.feed(b"\n") == [b'{"a":{}}']


@given(st.lists(st.binary(max_size=30).filter(lambda b: b"\n" not in b and b.strip())), st.data())
def test_any_split_gives_the_same_lines(lines: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(b"x" + line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    reader, got = LineReader(), []
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        got += reader.feed(whole[start:end])
    assert got == [b"x" + line for line in lines]


@pytest.mark.parametrize("data", [b"x" * 101, b"x" * 101 + b"\n", b"a\n" + b"x" * 101])
def test_a_line_over_the_cap(data: bytes) -> None:
    with pytest.raises(WireError) as caught:
        LineReader(100).feed(data)
    assert caught.value.too_large
    assert LineReader(101).feed(data[-101:].strip() + b"\n") != []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
TYPES = st.sampled_from([*wire._TYPES, "other"])
FIELDS = st.sampled_from(
    ["message", "event", "uuid", "request_id", "request", "response", "subtype", "content", "rate_limit_info",
     "total_cost_usd", "modelUsage", "usage", "state", "command_uuid", "user_message_uuids"]
)  # fmt: skip


def read_all(line: bytes) -> None:
    """Everything that may be asked of a frame."""
    frame = decode(line)
    if isinstance(frame, wire.ControlRequest):
        frame.read()
    elif isinstance(frame, wire.ControlResponse):
        for request in frame.pending() or []:
            request.read()
        frame.text()
    elif isinstance(frame, wire.Result):
        frame.cache_creation()
        wire.number_text(frame.total_cost_usd)


@given(st.binary(max_size=200))
def test_bytes_are_accepted_or_our_own_error(line: bytes) -> None:
    with contextlib.suppress(WireError):
        read_all(line)


@given(TYPES, st.dictionaries(FIELDS, JSON, max_size=6))
def test_json_is_accepted_or_our_own_error(kind: str, fields: dict[str, Any]) -> None:
    with contextlib.suppress(WireError):
        read_all(json.dumps({"type": kind, **fields}).encode("utf-8", "surrogatepass"))


@given(st.data())
def test_damaged_recordings_are_accepted_or_our_own_error(data: st.DataObject) -> None:
    line = bytearray(data.draw(st.sampled_from(lines_of("claude-2.1.329-stdio-allow.ndjson")))[:2000])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(line) - 1))
        line[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(WireError):
        read_all(bytes(line))


def test_deep_nesting_is_our_own_error() -> None:
    for line in (
        b"[" * 100_000,
        b'{"type":"system","x":' + b"[" * 100_000,
        b'{"type":"assistant","message":' * 5000,
    ):
        with pytest.raises(WireError):
            decode(line)


def test_long_ids_are_refused() -> None:
    with pytest.raises(WireError):
        decode(can_use("r" * 300))


def test_the_input_is_the_agents_bytes() -> None:
    given_ = '{"b": 1e2,  "a":"\\u00e9\\ud83d\\ude00 é", "c":[1.10]}'
    frame = decode(can_use("r", given=given_))
    assert isinstance(frame, wire.ControlRequest)
    asked = frame.read()
    assert isinstance(asked, wire.CanUseTool)
    assert bytes(asked.input).decode() == given_
    assert f'"updatedInput":{given_}}}' in say.allow("r", given_)


@pytest.mark.parametrize(
    ("raw", "text"),
    [("0.014339999999999999", "0.014339999999999999"), ("5e-7", "5e-7"),
     ("0", "0"), ("-1", "0"), ('"1"', "0"),
     ("null", "0"), ("1" * 400, "0")],
)  # fmt: skip
def test_numbers_keep_their_text(raw: str, text: str) -> None:
    assert wire.number_text(msgspec.Raw(raw.encode())) == text


@given(st.text(), st.text(max_size=40))
def test_what_we_say_is_one_line_of_json(text: str, request_id: str) -> None:
    for line in (
        say.prompt(text, "u"), say.deny(request_id, text, interrupt=True), say.allow(request_id, '{"a":1}'),
        say.hook(request_id), say.set_model(request_id, text), say.initialize(request_id, hooks=True),
        say.set_permission_mode(request_id, "manual"), say.interrupt(request_id), say.end_session(request_id),
        say.get_session_cost(request_id),
    ):  # fmt: skip
        assert check_input_line(line) is None
    assert json.loads(say.prompt(text, "u"))["message"]["content"] == text


@pytest.mark.parametrize("half", ["\ud83d", "\ude00 x", "\\\ud83d"])
def test_half_a_sign_hides_no_frame(half: str) -> None:
    """JavaScript cuts emojis in two; a question, a tool call or a result must not be lost for it."""
    asked = {"subtype": "can_use_tool", "tool_name": "Bash", "input": {"command": half}}
    frame = wire.decode(json.dumps({"type": "control_request", "request_id": "r", "request": asked}).encode())
    assert isinstance(frame, wire.ControlRequest)
    read = frame.read()
    assert isinstance(read, wire.CanUseTool)
    assert json.loads(bytes(read.input)) == {"command": re.sub("[\ud800-\udfff]", "\ufffd", half)}
    assert isinstance(wire.decode(json.dumps({"type": "result", "result": half}).encode()), wire.Result)
    event = {"type": "stream_event", "event": {"type": "x", "delta": {"text": half}}}
    assert isinstance(wire.decode(json.dumps(event, separators=(",", ":")).encode()), wire.StreamEvent)
    assert LineReader().feed(json.dumps({"type": half}).encode()), "one frame a message, without a newline"
