"""One answer of the "model": streamed, said, booked and kept."""

from __future__ import annotations

import json
import time

from . import script
from .bill import add
from .session import FIXED_TOKENS
from .wire import new_id, now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .session import Session
    from .wire import Frame, Steps


def model_answer(session: Session) -> Steps:
    """One answer of the model. Returns (HTTP status if the API failed, the tool_use blocks)."""
    if session.partial_messages:
        session.host.say({"type": "system", "subtype": "status", "status": "requesting"})
    messages = session.conversation.messages
    actions = script.reply(messages)
    usage = script.usage_of(messages, FIXED_TOKENS, script.output_tokens_of(actions))
    for kind, value in actions:
        if kind == "error":
            return value, []
        if kind == "limit" and _reach_limit(session, value):
            return 429, []
    session.turn.api_calls += 1
    answer = _Answer(session, usage)
    answer.begin()
    for kind, value in [action for action in actions if action[0] != "limit"] or [("text", "…")]:
        if kind == "wait":
            yield ("sleep", value / 1000)
        else:
            yield from answer.block(kind, value)
    answer.end()
    return None, answer.tools


class _Answer:
    """An answer in the making. `content` holds its finished blocks, `tools` those that are tool uses."""

    def __init__(self, session: Session, usage: Frame) -> None:
        self.session = session
        self.usage = usage
        self.head: Frame = {
            "id": "msg_" + new_id().replace("-", "")[:22],
            "type": "message",
            "role": "assistant",
            "model": session.model,
        }
        self.request_id = "req_" + new_id().replace("-", "")[:20]
        self.content: list[Frame] = []
        self.tools: list[Frame] = []

    def begin(self) -> None:
        self._event({"type": "message_start", "message": self._unfinished([])})

    def block(self, kind: str, value: Any) -> Steps:
        """Stream one block of the content, then say it whole."""
        start, delta_kind, field, deltas, between_s = _parts(kind, value)
        index = len(self.content)
        self._event({"type": "content_block_start", "index": index, "content_block": start})
        done = dict(start)
        for delta in deltas:
            if between_s:
                yield ("sleep", between_s)
            self._event(
                {
                    "type": "content_block_delta",
                    "index": index,
                    "delta": {"type": delta_kind, field: delta},
                }
            )
            if field in done:
                done[field] += delta
        if kind == "tool":
            done["input"] = value[1]
            self.tools.append(done)
        elif kind != "thinking":
            self.session.turn.text = done["text"]
        self.content.append(done)
        self.session.host.say(
            {
                "type": "assistant",
                "message": self._unfinished([done]),
                "parent_tool_use_id": None,
                "timestamp": now(),
                "request_id": self.request_id,
            }
        )
        self._event({"type": "content_block_stop", "index": index})

    def end(self) -> None:
        """The answer is whole: its price is booked, and it becomes part of the conversation."""
        stop_reason = self.session.turn.stop_reason = "tool_use" if self.tools else "end_turn"
        self._event(
            {
                "type": "message_delta",
                "delta": {"stop_reason": stop_reason, "stop_sequence": None},
                "usage": {"output_tokens": self.usage["output_tokens"]},
            }
        )
        self._event({"type": "message_stop"})
        self._book()
        conversation = self.session.conversation
        conversation.messages.append({"role": "assistant", "content": self.content})
        for index, block in enumerate(self.content):
            message = self._message([block], stop_reason, self.usage)
            conversation.keep(
                {
                    "type": "assistant",
                    "message": message,
                    "apiBlockIndex": index,
                    "requestId": self.request_id,
                }
            )

    def _book(self) -> None:
        session = self.session
        cost = session.bill.book(session.model, self.usage)
        session.turn.usage = add(session.turn.usage, self.usage)
        session.record(
            "bill",
            message_id=self.head["id"],
            request_id=self.request_id,
            model=session.model,
            usage=self.usage,
            cost_picodollars=cost,
        )

    def _event(self, event: Frame) -> None:
        if self.session.partial_messages:
            self.session.host.say(
                {
                    "type": "stream_event",
                    "event": event,
                    "parent_tool_use_id": None,
                    "api_message_id": self.head["id"],
                }
            )

    def _unfinished(self, content: list[Frame]) -> Frame:
        """The message while it is streamed: as the API does, with one output token."""
        return self._message(content, None, {**self.usage, "output_tokens": 1})

    def _message(self, content: list[Frame], stop_reason: str | None, usage: Frame) -> Frame:
        return {
            **self.head,
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": None,
            "usage": usage,
        }


def _parts(kind: str, value: Any) -> tuple[Frame, str, str, list[str], float]:
    """How a block streams: its start, the deltas' type and field, the deltas, the seconds before each."""
    if kind == "tool":
        start = {
            "type": "tool_use",
            "id": "toolu_" + new_id().replace("-", "")[:22],
            "name": value[0],
            "input": {},
        }
        return start, "input_json_delta", "partial_json", [json.dumps(value[1])], 0.0
    if kind == "thinking":
        start = {"type": "thinking", "thinking": "", "signature": "c2NyaXB0ZWQ="}
        return start, "thinking_delta", "thinking", [value], 0.0
    start = {"type": "text", "text": ""}
    if kind == "stream":
        words = [f"w{number} " for number in range(value[0])]
        return start, "text_delta", "text", words, value[1] / 1000
    half = len(value) // 2
    return start, "text_delta", "text", [part for part in (value[:half], value[half:]) if part], 0.0


def _reach_limit(session: Session, seconds: float) -> bool:
    """A usage limit is reached: once, afterwards there is none."""
    if session.limited:
        return False
    session.limited = True
    info = {
        "status": "rejected",
        "resetsAt": int(time.time() + seconds),
        "rateLimitType": "five_hour",
        "utilization": 1.0,
        "isUsingOverage": False,
    }
    session.host.say({"type": "rate_limit_event", "rate_limit_info": info})
    return True
