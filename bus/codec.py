"""Bytes to payloads and back. What comes in either fits its row or raises `PeerError`; nothing else.

Unknown fields are ignored, so that a newer peer can talk to us (contract, section 2).
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, TypeVar, cast

import msgspec

from bus import messages as m
from bus.errors import MisuseError, PeerError
from bus.topics import Form, Kind, Topic

# Larger than any payload of ours: an approval's input is cut at 64 KiB.
MAX_PAYLOAD_BYTES = 4 * 1024 * 1024
# A question, and a tool call to be judged, carry the agent's input byte for byte: a line of an agent has at
# most 16 MiB, and as text in JSON each byte may need two.
MAX_FACT_BYTES = 40 * 1024 * 1024

P = TypeVar("P", bound=m.Payload)

_ID = re.compile(r"^[A-Za-z0-9_-]{1,64}\Z")


@cache
def _decoder(payload: type[P]) -> msgspec.json.Decoder[P]:
    return msgspec.json.Decoder(payload)


_encoder = msgspec.json.Encoder()


def max_bytes(row: Topic) -> int:
    """The longest payload of a row that readers take."""
    internal = row.kind is Kind.FACT or row.pattern.startswith("internal/")
    return MAX_FACT_BYTES if internal else MAX_PAYLOAD_BYTES


def encode(row: Topic, payload: m.Payload | str | bytes | None) -> bytes:
    """The bytes of a payload for its row.

    Raises `MisuseError` when the row does not carry such a payload: that is a bug of ours.
    """
    if payload is None:
        if not row.retain:
            raise MisuseError(f"{row.pattern} is not retained: there is nothing to clear")
        return b""
    if isinstance(payload, bytes):
        return payload
    if isinstance(payload, str):
        if row.form is Form.JSON:
            raise MisuseError(f"{row.pattern} carries JSON, not text")
        return payload.encode()
    if row.payload is None or not isinstance(payload, row.payload):
        raise MisuseError(f"{row.pattern} does not carry {type(payload).__name__}")
    return _encoder.encode(payload)


def request_id(payload: bytes) -> str | None:
    """The id of a command that may otherwise not fit, so that even a bad request gets its answer."""
    try:
        raw = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    value = raw.get("id") if isinstance(raw, dict) else None
    return value if isinstance(value, str) and _ID.match(value) else None


def decode(row: Topic, payload: bytes, as_type: type[P]) -> P:
    """The payload of a row as ``as_type`` (normally ``row.payload``).

    On a row that takes either form, bare text becomes ``as_type(text=…)``; what starts with ``{`` is JSON.
    Raises `PeerError` (``too_large``, ``bad_request``) with the sender's request id where it can be read.
    """
    if len(payload) > max_bytes(row):
        raise PeerError("too_large", f"payload of {len(payload)} bytes; at most {max_bytes(row)} are read")
    if row.form is Form.EITHER and payload.lstrip()[:1] != b"{":
        try:
            text = payload.decode("utf-8")
        except UnicodeDecodeError as error:
            raise PeerError("bad_request", f"neither JSON nor UTF-8 text: {error}") from None
        return _convert({"text": text}, as_type, None)
    try:
        return cast(P, _decoder(as_type).decode(payload))
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PeerError("bad_request", str(error), request_id(payload)) from None


def decode_text(payload: bytes) -> str:
    """A plain payload. Raises `PeerError` when it is not UTF-8."""
    try:
        return payload.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PeerError("bad_request", f"not UTF-8 text: {error}") from None


def encode_data(data: m.Payload) -> msgspec.Raw:
    """A fact's ``data``."""
    return msgspec.Raw(_encoder.encode(data))


def decode_data(fact: m.Fact) -> m.Payload:
    """A fact's ``data`` by its ``type``. Raises `PeerError` for an unknown type or data that do not fit."""
    payload = m.FACT_TYPES.get(fact.type)
    if payload is None:
        raise PeerError("bad_request", f"unknown fact type {fact.type!r}", fact.id)
    try:
        return cast(m.Payload, _decoder(payload).decode(fact.data))
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PeerError("bad_request", f"{fact.type}: {error}", fact.id) from None


def _convert(raw: Any, as_type: type[P], request: str | None) -> P:
    try:
        return msgspec.convert(raw, as_type)
    except msgspec.ValidationError as error:
        raise PeerError("bad_request", str(error), request) from None
