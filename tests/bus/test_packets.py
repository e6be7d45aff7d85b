"""PUBLISH and PUBACK: what we write we read, and any piece of a stream is enough to go on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.packets import PacketError, Packets, Published, acknowledged, puback, publish, published

TOPICS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60)
NUMBERS = st.integers(1, 65535)
PAYLOADS = st.binary(max_size=300) | st.sampled_from(
    [b"x" * n for n in (121, 122, 16_377, 16_378, 2_097_150)]
)
PINGRESP, CONNACK = b"\xd0\x00", b"\x20\x02\x00\x00"


@given(topic=TOPICS, payload=PAYLOADS, qos=st.sampled_from([0, 1]), retain=st.booleans(), number=NUMBERS)
def test_what_is_written_is_read_again(
    topic: str, payload: bytes, qos: int, retain: bool, number: int
) -> None:
    stream = Packets()
    stream.feed(publish(topic, payload, qos=qos, retain=retain, number=number))
    found = stream.take()
    assert found is not None
    assert published(*found) == Published(topic, payload, retain, number if qos else 0)
    assert acknowledged(found[1]) is None
    assert stream.take() is None


@given(
    packets=st.lists(
        st.sampled_from(
            [PINGRESP, CONNACK, puback(7), publish("a/b", b"c" * 200, qos=1, retain=False, number=9)]
        )
    ),
    data=st.data(),
)
def test_any_pieces_give_the_same_packets(packets: list[bytes], data: st.DataObject) -> None:
    stream, rest, found = Packets(), b"".join(packets), []
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        stream.feed(rest[:size])
        rest = rest[size:]
        while (packet := stream.take()) is not None:
            found.append(packet[1])
    assert found == packets


@given(number=NUMBERS)
def test_an_acknowledgement_names_its_message(number: int) -> None:
    assert acknowledged(puback(number)) == number


@pytest.mark.parametrize("packet", [PINGRESP, CONNACK, b"\x34\x05\x00\x01a\x00\x01"])
def test_other_packets_are_left_to_paho(packet: bytes) -> None:
    assert published(2, packet) is None
    assert acknowledged(packet) is None


def test_a_topic_that_is_no_text_is_told() -> None:
    assert published(2, b"\x30\x04\x00\x01\xffx") == Published(None, b"x", False, 0)


@pytest.mark.parametrize("packet", [b"\x30\x00", b"\x30\x02\x00\x09", b"\x32\x03\x00\x01a"])
def test_a_message_shorter_than_it_says_is_an_error(packet: bytes) -> None:
    with pytest.raises(PacketError):
        published(2, packet)


def test_a_length_without_end_is_an_error() -> None:
    stream = Packets()
    stream.feed(b"\x30\xff\xff\xff\xff\x01")
    with pytest.raises(PacketError):
        stream.take()


@given(junk=st.binary(max_size=200))
def test_junk_ends_in_packets_or_an_error(junk: bytes) -> None:
    stream = Packets()
    stream.feed(junk)
    size = 0
    try:
        while (found := stream.take()) is not None:
            size += len(found[1])
            published(*found)
    except PacketError:
        return
    assert size <= len(junk)
