"""Whatever comes in fits its row or is the peer's error; what we send comes back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec
import msgspec.inspect
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus import codec
from bus import messages as m
from bus import topics as t
from bus.errors import MisuseError, PeerError
from bus.topics import TABLE, Form, Topic

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
TYPED = [row for row in TABLE if row.payload is not None]
FACTS = list(m.FACT_TYPES.items())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


def like(row: Topic) -> st.SearchStrategy[bytes]:
    """Bytes that are nearly right: the row's own field names with any values, cut or not."""
    assert row.payload is not None
    names = [field.encode_name for field in msgspec.structs.fields(row.payload)]
    near = st.dictionaries(st.sampled_from(names), JSON).map(lambda value: msgspec.json.encode(value))
    cut = st.tuples(near, st.integers(0, 200)).map(lambda pair: pair[0][: pair[1]])
    return near | cut | st.binary(max_size=200) | JSON.map(_encode)


def _encode(value: object) -> bytes:
    try:
        return msgspec.json.encode(value)
    except (OverflowError, UnicodeEncodeError):
        return b"{"


@given(st.data())
def test_accepted_or_the_peers_error_and_nothing_else(data: st.DataObject) -> None:
    row = data.draw(st.sampled_from(TYPED))
    assert row.payload is not None
    payload = data.draw(like(row))
    try:
        value = codec.decode(row, payload, row.payload)
    except PeerError as error:
        assert error.code in {"bad_request", "too_large"}  # noqa: PT017  # either way is right
    else:
        assert codec.decode(row, codec.encode(row, value), row.payload) == value


@given(st.sampled_from(FACTS), st.binary(max_size=60) | JSON.map(_encode))
def test_a_facts_data_fit_or_are_the_peers_error(kind: tuple[str, type[m.Payload]], data: bytes) -> None:
    fact = m.Fact(id="f", type=kind[0], at=NOW, data=msgspec.Raw(data))
    try:
        assert isinstance(codec.decode_data(fact), kind[1])
    except PeerError as error:
        assert error.request_id == "f"  # noqa: PT017  # either way is right


def test_an_unknown_fact_is_the_peers_error() -> None:
    with pytest.raises(PeerError, match="unknown fact type"):
        codec.decode_data(m.Fact(id="f", type="nonsense", at=NOW))


def test_unknown_fields_are_ignored_and_unknown_values_are_kept() -> None:
    outcome = codec.decode(t.HEALTH, b'{"status":"sleepy","reasons":[],"services":{},"sessions":{},'
                           b'"memory_used_ratio":0.5,"disk_free_bytes":1,"uptime_s":1,'
                           b'"at":"2026-11-21T09:00:00Z","new":{"a":[1]}}', m.NodeHealth)  # fmt: skip
    assert outcome.status == "sleepy"


@pytest.mark.parametrize(
    ("payload", "request_id"),
    [
        (b'{"id":"abc","decision":"perhaps"}', "abc"),
        (b'{"id":"a/b","decision":"perhaps"}', None),
        (b'{"id":7}', None),
        (b'{"id":"abc\\n","decision":"deny"}', None),
        (b"[]", None),
        (b"\xff", None),
        (b"[" * 100_000, None),
    ],
)
def test_a_bad_request_is_answered_where_its_id_can_be_read(payload: bytes, request_id: str | None) -> None:
    with pytest.raises(PeerError) as caught:
        codec.decode(t.APPROVAL_DECISION, payload, m.Decision)
    assert (caught.value.code, caught.value.request_id) == ("bad_request", request_id)


@given(st.text(min_size=1))
def test_plain_text_is_a_prompt(text: str) -> None:
    raw = text.encode("utf-8", "surrogatepass")
    if raw.lstrip()[:1] == b"{":
        return
    try:
        assert codec.decode(t.SESSION_PROMPT, raw, m.Prompt).text == text
    except PeerError:
        assert "\\ud" in ascii(text)  # not UTF-8


def test_too_much_is_not_read() -> None:
    with pytest.raises(PeerError) as caught:
        codec.decode(t.SESSION_PROMPT, b"x" * (codec.MAX_PAYLOAD_BYTES + 1), m.Prompt)
    assert caught.value.code == "too_large"


def test_what_a_row_does_not_carry_is_our_own_mistake() -> None:
    health = m.SessionIndex(sessions=[], at=NOW)
    with pytest.raises(MisuseError):
        codec.encode(t.HEALTH, health)
    with pytest.raises(MisuseError):
        codec.encode(t.HEALTH, "text")
    with pytest.raises(MisuseError):
        codec.encode(t.SESSION_EVENT, None)
    assert codec.encode(t.SERVICE_STATUS, "online") == b"online"
    assert t.SERVICE_STATUS.form is Form.PLAIN


def test_times_are_rfc_3339_in_utc() -> None:
    raw = codec.encode(t.SESSIONS_INDEX, m.SessionIndex(sessions=[], at=NOW))
    assert raw == b'{"sessions":[],"at":"2026-11-21T09:00:00Z"}'


def parts(of: msgspec.inspect.Type) -> Iterator[msgspec.inspect.Type]:
    """A type and those that it is made of."""
    yield of
    match of:
        case msgspec.inspect.StructType(fields=fields):
            inner = [field.type for field in fields]
        case msgspec.inspect.UnionType(types=types) | msgspec.inspect.TupleType(item_types=types):
            inner = list(types)
        case msgspec.inspect.ListType(item_type=item):
            inner = [item]
        case msgspec.inspect.DictType(value_type=value):
            inner = [value]
        case _:
            inner = []
    for part in inner:
        yield from parts(part)


def test_no_time_is_read_without_its_zone() -> None:
    carried = {row.payload for row in TYPED if row.payload is not None}
    every = carried | set(m.FACT_TYPES.values()) | set(m.EVENT_TYPES.values())
    times = [
        (payload.__name__, part)
        for payload in every
        for part in parts(msgspec.inspect.type_info(payload))
        if isinstance(part, msgspec.inspect.DateTimeType)
    ]
    assert len(times) > 30
    assert [name for name, part in times if part.tz is not True] == []
    with pytest.raises(PeerError, match="timezone"):
        codec.decode(t.SESSIONS_INDEX, b'{"sessions":[],"at":"2026-11-21T12:00:00"}', m.SessionIndex)
