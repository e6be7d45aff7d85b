"""MQTT 3.1.1's PUBLISH and PUBACK as bytes, and a stream cut into packets. Pure.

Everything else of the protocol is paho's. These two are all that a standing connection carries, and paho
spends a dozen objects on each: with them here a message costs a quarter, and an approval passes eight.
"""

from __future__ import annotations

from typing import NamedTuple

PUBLISH, PUBACK = 0x30, 0x40
_QOS_1, _RETAIN = 0x02, 0x01


class PacketError(Exception):
    """The stream is no MQTT: nothing after this can be read."""


class Published(NamedTuple):
    """``number`` is the packet identifier, 0 at QoS 0. ``topic`` is None where it is not UTF-8."""

    topic: str | None
    payload: bytes
    retained: bool
    number: int


def publish(topic: str, payload: bytes, *, qos: int, retain: bool, number: int) -> bytes:
    """``number`` (1 to 65535) counts at QoS 1 alone."""
    name = topic.encode()
    body = b"%b%b%b" % (len(name).to_bytes(2, "big"), name, number.to_bytes(2, "big") if qos else b"")
    first = PUBLISH | (_QOS_1 if qos else 0) | (_RETAIN if retain else 0)
    return b"%c%b%b%b" % (first, _length(len(body) + len(payload)), body, payload)


def puback(number: int) -> bytes:
    return b"\x40\x02%b" % number.to_bytes(2, "big")


def _length(size: int) -> bytes:
    if size < 0x80:
        return bytes((size,))
    digits = bytearray()
    while size >= 0x80:
        digits.append(size & 0x7F | 0x80)
        size >>= 7
    digits.append(size)
    return bytes(digits)


class Packets:
    """Takes the stream in any pieces and gives whole packets."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._at = 0

    def feed(self, data: bytes) -> None:
        if self._at:
            del self._data[: self._at]
            self._at = 0
        self._data += data

    def take(self) -> tuple[int, bytes] | None:
        """Where the body begins, and the packet; None while none is whole. Raises `PacketError`."""
        data, at = self._data, self._at
        size, shift, body = 0, 0, at + 1
        while True:
            if body >= len(data):
                return None
            digit = data[body]
            body += 1
            size |= (digit & 0x7F) << shift
            if digit < 0x80:
                break
            shift += 7
            if shift > 21:
                raise PacketError("a packet's length has more than four bytes")
        end = body + size
        if end > len(data):
            return None
        self._at = end
        return body - at, bytes(memoryview(data)[at:end])


def published(body: int, packet: bytes) -> Published | None:
    """A PUBLISH of QoS 0 or 1, as `Packets.take` gave it, or None if it is another packet. Raises
    `PacketError`.
    """
    first = packet[0]
    if first & 0xF4 != PUBLISH:  # another packet, or QoS 2
        return None
    after = body + 2 + int.from_bytes(packet[body : body + 2], "big")
    start = after + 2 if first & _QOS_1 else after
    if start > len(packet) or body + 2 > len(packet):
        raise PacketError("a PUBLISH shorter than its topic")
    try:
        topic: str | None = packet[body + 2 : after].decode()
    except UnicodeDecodeError:
        topic = None
    number = int.from_bytes(packet[after:start], "big")
    return Published(topic, packet[start:], bool(first & _RETAIN), number)


def acknowledged(packet: bytes) -> int | None:
    """The number in a PUBACK, or None if it is another packet."""
    return int.from_bytes(packet[2:], "big") if packet[0] == PUBACK and len(packet) == 4 else None
