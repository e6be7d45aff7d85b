"""Calls that passed the gate: judged before they ran, and no rule was about them. Kept for `policy replay`.

They are many, and nobody waits for them: the shell keeps them together, a second later, and the store keeps
the newest `MAX_CALLS`. A kill in between loses a second of them, and a replay has less to look at. Pure.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from services.approvals import reading

MAX_CALLS = 20_000  # as many as a replay looks at: some 20 MB
MAX_INPUT = 8 * 1024  # characters of an input as it is kept
MAX_FIELD = 500  # of a field of a longer one, but of a command: half a command is another one


class Passed(msgspec.Struct, frozen=True, kw_only=True):
    """One call. The agent went on by its own mode and settings; ``id`` is the hook's approval id."""

    id: str
    session: str
    uid: str
    kind: str
    tool: str
    tool_use_id: str | None
    input_json: str
    cwd: str
    auto_approve: list[str]
    at: datetime


def bounded(call: Passed) -> Passed | None:
    """As it is kept; None where that would be another call."""
    if len(call.input_json) <= MAX_INPUT:
        return call
    parsed = reading.parse(call.input_json)
    if parsed.doubt is not None:
        return None
    fields: dict[str, Any] = {
        key: item[:MAX_FIELD] if isinstance(item, str) and key != "command" else item
        for key, item in parsed.value.items()
    }
    try:
        text = msgspec.json.encode(fields).decode()
    except (UnicodeEncodeError, RecursionError):
        return None
    return msgspec.structs.replace(call, input_json=text) if len(text) <= MAX_INPUT else None
