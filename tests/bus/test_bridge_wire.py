"""The protocol of bridge and ingest: one table for both directions of the codec, and noise."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus import bridge_wire as wire
from bus.errors import MisuseError, PeerError
from bus.ids import approval_id

USED = wire.Used(rss_bytes=4096, cpu_s=0.5, open_fds=9, started_s=1.5)
FIGURES = wire.Figures(
    version="1", bridge=USED, keeper=None, journal_bytes=1, unacknowledged_bytes=2, waiting_lines=3,
    lines_out=4, bytes_out=5, lines_in=6, bytes_in=7, unwritable=8, connections=9, failed_connections=10,
)  # fmt: skip

FROM_BRIDGE = [
    (
        wire.BridgeHello(process=2, written=7, agent_pid=4711, size=90),
        b'{"t":"hello","v":1,"process":2,"written":7,"agent_pid":4711,"size":90,"kept":0}\n',
    ),
    (wire.Taken(n=12), b'{"t":"taken","n":12}\n'),
    (wire.Unwritable(n=3, reason="not JSON"), b'{"t":"unwritable","n":3,"reason":"not JSON"}\n'),
    (
        wire.Exit(process=1, code=None, size=5),
        b'{"t":"exit","process":1,"code":null,"size":5,"error":null}\n',
    ),
    (
        FIGURES,
        b'{"t":"figures","version":"1","bridge":{"rss_bytes":4096,"cpu_s":0.5,"open_fds":9,"started_s":1.5},'
        b'"keeper":null,"journal_bytes":1,"unacknowledged_bytes":2,"waiting_lines":3,"lines_out":4,'
        b'"bytes_out":5,"lines_in":6,"bytes_in":7,"unwritable":8,"connections":9,"failed_connections":10}\n',
    ),
]
FROM_INGEST = [
    (wire.IngestHello(process=1, offset=0), b'{"t":"hello","process":1,"offset":0,"figures":false}\n'),
    (wire.Line(n=1, data='{"a":"ü"}'), '{"t":"line","n":1,"data":"{\\"a\\":\\"ü\\"}"}\n'.encode()),
    (wire.Ack(offset=2**40), b'{"t":"ack","offset":1099511627776}\n'),
    (wire.Signal(name="INT"), b'{"t":"signal","name":"INT"}\n'),
    (wire.Refused(reason="no"), b'{"t":"refused","reason":"no"}\n'),
    (wire.Bye(), b'{"t":"bye"}\n'),
]


@pytest.mark.parametrize(("message", "raw"), FROM_BRIDGE)
def test_from_bridge(message: wire.BridgeHello, raw: bytes) -> None:
    assert wire.encode(message) == raw
    assert wire.decode_from_bridge(raw) == message
    assert wire.decode_from_bridge(raw.rstrip()) == message


@pytest.mark.parametrize(("message", "raw"), FROM_INGEST)
def test_from_ingest(message: wire.FromIngest, raw: bytes) -> None:
    assert wire.encode(message) == raw
    assert wire.decode_from_ingest(raw) == message


def test_data_carry_their_offsets() -> None:
    assert wire.decode_from_bridge(wire.encode_data(5, b"{}\n[]\n")) == wire.Data(
        offset=5, end=11, raw=b"{}\n[]\n"
    )
    told = wire.notice("oversized", 1000)
    assert msgspec.json.decode(told) == {"type": "pointsman_oversized", "bytes": 1000}
    assert wire.decode_from_bridge(wire.encode_data(5, told, 1005)) == wire.Data(offset=5, end=1005, raw=told)
    with pytest.raises(MisuseError):
        wire.encode_data(0, b"half a line")


def test_unknown_fields_are_ignored() -> None:
    assert wire.decode_from_ingest(b'{"t":"ack","offset":1,"new":[1]}') == wire.Ack(offset=1)


def test_an_older_ingest_asks_for_no_figures() -> None:
    said = wire.decode_from_ingest(b'{"t":"hello","process":1,"offset":0}\n')
    assert said == wire.IngestHello(process=1, offset=0, figures=False)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\n",
        b"{}",
        b"[]",
        b'{"t":"data","offset":0}',
        b'{"t":"data","offset":0}\n',
        b'{"t":"data","offset":0}\nno newline',
        b'{"t":"data","offset":-1}\n{}\n',
        b'{"t":"data","offset":9,"end":9}\n{}\n',
        b'{"t":"data","offset":9223372036854775807}\n{}\n',
        b'{"t":"taken","n":0}\n',
        b'{"t":"taken","n":1}\nmore',
        b'{"t":"exit","process":1,"code":"0","size":0}\n',
        b'{"t":"hello"}\n',
        b'{"t":"figures","version":"1"}\n',
        wire.encode(FIGURES).replace(b'"version":"1"', b'"version":"%b"' % (b"1" * 65)),
        b"\xff\xfe\n",
        b"[" * 100_000,
    ],
)
def test_bad_messages_are_the_peers_fault(raw: bytes) -> None:
    with pytest.raises(PeerError) as caught:
        wire.decode_from_bridge(raw)
    assert caught.value.code == "bad_request"


def test_a_message_over_the_limit_is_not_looked_at() -> None:
    with pytest.raises(PeerError) as caught:
        wire.decode_from_bridge(b"x" * (wire.MAX_MESSAGE_BYTES + 1))
    assert caught.value.code == "too_large"


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
_near = st.builds(
    lambda tag, fields, rest: msgspec.json.encode({"t": tag, **fields}) + rest,
    st.sampled_from(
        ["hello", "data", "taken", "unwritable", "exit", "figures", "line", "ack", "signal", "refused", "bye"]
    ),
    st.dictionaries(
        st.sampled_from(
            [
                "v",
                "process",
                "written",
                "agent_pid",
                "size",
                "kept",
                "offset",
                "end",
                "n",
                "reason",
                "code",
                "data",
            ]
        ),
        st.integers(-2, 2**63) | st.text(max_size=5) | st.none() | st.floats(allow_nan=False),
    ),
    st.sampled_from([b"", b"\n", b"\n{}\n", b"\nx"]),
)


@given(st.binary(max_size=200) | _near)
def test_noise_is_accepted_or_our_own_error(raw: bytes) -> None:
    for decode in (wire.decode_from_bridge, wire.decode_from_ingest):
        try:
            message = decode(raw)
        except PeerError:
            continue
        if isinstance(message, wire.Data):
            assert decode(wire.encode_data(message.offset, message.raw, message.end)) == message
        else:
            assert decode(wire.encode(message)) == message


@given(st.text() | _json.map(lambda value: msgspec.json.encode(value).decode()))
def test_only_whole_json_objects_pass_as_input(text: str) -> None:
    if wire.check_input_line(text) is None:
        assert isinstance(msgspec.json.decode(text), dict)
        assert "\n" not in text


def test_input_lines() -> None:
    assert wire.check_input_line('{"type":"user"}') is None
    assert wire.check_input_line('{"type":\n"user"}') == "more than one line"
    assert wire.check_input_line("[]") == "not a JSON object"
    assert wire.check_input_line('{"type":') is not None
    assert wire.check_input_line('{"a":"\ud800"}') is not None
    room = wire.MAX_INPUT_LINE_BYTES - len('{"a":""}\n')
    assert wire.check_input_line('{"a":"' + "x" * room + '"}') is None
    assert "921601 bytes" in (wire.check_input_line('{"a":"' + "x" * (room + 1) + '"}') or "")


def test_approval_ids_are_stable_and_fit_a_topic() -> None:
    made = approval_id("01J", 1, "5d5705f3")
    assert made == approval_id("01J", 1, "5d5705f3")
    assert made != approval_id("01J", 2, "5d5705f3")
    assert len(made) == 27
    assert made.isalnum()
    assert made.islower()
    approval_id("x", 1, "\ud800")
