"""Pieces of text on their way, joined over a short time. The hot path: no event numbers, nothing durable.

A delta is identified by its message, its content block and the kind of text; pieces of the same are put
together until `flush`. ``index`` numbers what is published per block, so that a reader sees a gap.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from bus import messages as m
from services.ingest.wire import MAX_ID_CHARS, StreamEvent

# A screen shows 50 updates a second as flowing text; it halves the cost per frame at 100 sessions.
JOIN_S = 0.020
MAX_KNOWN = 10_000  # messages and blocks that are told apart; a message has a few
MAX_JOINED = 256 * 1024  # characters; far below a bus payload, reached only by an agent that floods

_encode = msgspec.json.Encoder().encode
_Key = tuple[str, int, str]


class Deltas:
    """The running texts of one session."""

    __slots__ = ("_numbers", "_parts", "_size", "session", "uid")

    def __init__(self, session: str, uid: str) -> None:
        self.session = session
        self.uid = uid
        self._parts: dict[_Key, list[str]] = {}
        self._size = 0
        self._numbers: dict[tuple[str, int], int] = {}

    def add(self, frame: StreamEvent, messages: dict[str | None, str]) -> bool:
        """Take a frame. False: it carries no text."""
        event = frame.event
        delta = event.delta
        if delta is None:
            if event.type == "message_start" and event.message is not None:
                if len(messages) >= MAX_KNOWN:
                    messages.clear()
                parent, message = frame.parent_tool_use_id, event.message.id
                if len(parent or "") <= MAX_ID_CHARS:
                    messages[parent] = message[:MAX_ID_CHARS]
                self._numbers.clear()
            return False
        if delta.type == "text_delta":
            kind, text = "text", delta.text
        elif delta.type == "thinking_delta":
            kind, text = "thinking", delta.thinking
        else:
            return False
        key = (frame.api_message_id or messages.get(frame.parent_tool_use_id, ""), event.index, kind)
        parts = self._parts.get(key)
        if parts is None:
            self._parts[key] = [text]
        else:
            parts.append(text)
        self._size += len(text)
        return True

    @property
    def waiting(self) -> bool:
        return bool(self._parts)

    @property
    def full(self) -> bool:
        return self._size >= MAX_JOINED

    def flush(self, now: datetime) -> list[bytes]:
        """The payloads to publish, oldest first."""
        if not self._parts:
            return []
        numbers = self._numbers
        if len(numbers) >= MAX_KNOWN:
            numbers.clear()
        found = []
        for (message, block, kind), parts in self._parts.items():
            number = numbers.get((message, block), 0)
            numbers[message, block] = number + 1
            event = m.DeltaEvent(
                session=self.session, uid=self.uid, at=now, message_id=message[:MAX_ID_CHARS], block=block,
                index=number, kind=kind, text=parts[0] if len(parts) == 1 else "".join(parts),
            )  # fmt: skip
            found.append(_encode(event))
        self._parts.clear()
        self._size = 0
        return found
