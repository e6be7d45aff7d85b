"""What Claude Code's hooks say, from bytes to a typed `Hook`, and how they are answered. No I/O.

Recorded from 2.1.329 (tests/recordings); 2.1.119 says the same. Only what we rely upon is typed.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
from msgspec import Raw, Struct

from bus import surrogates
from services.ingest import cut
from services.ingest.step import short_hash
from services.ingest.wire import MAX_ID_CHARS, WireError

NOTHING = "{}"  # no opinion: Claude Code goes on as if there were no hook
_IDS = ("session_id", "hook_event_name", "tool_name", "tool_use_id", "agent_id", "prompt_id",
        "permission_mode", "model", "source", "trigger", "notification_type")  # fmt: skip


class Hook(Struct, frozen=True):
    """The body of one hook. ``duration_ms`` is the tool's own time, without the wait for a permission."""

    session_id: str
    hook_event_name: str
    cwd: str = ""
    transcript_path: str | None = None
    permission_mode: str | None = None
    prompt_id: str | None = None
    prompt: str = ""
    tool_name: str = ""
    tool_use_id: str | None = None
    tool_input: Raw = Raw(b"{}")
    tool_response: Raw = Raw(b'""')
    duration_ms: float | None = None
    permission_suggestions: list[Any] = []
    agent_id: str | None = None
    source: str = ""
    model: str | None = None
    reason: str = ""
    message: str = ""
    notification_type: str = ""
    trigger: str | None = None
    error: str = ""
    last_assistant_message: str | None = None


_decoder = msgspec.json.Decoder(Hook)


def decode(event: str, body: bytes) -> Hook:
    """The hook of a request for ``event``. Raises `WireError` for what is none."""
    try:
        body.decode("utf-8")  # what is passed on unread must be text, too
        hook = _decoder.decode(surrogates.whole(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"not a hook: {error}") from None
    if hook.hook_event_name != event:
        raise WireError(f"a hook {hook.hook_event_name[:64]!r} on the address of {event!r}")
    if not hook.session_id:
        raise WireError("a hook without a session_id")
    for name in _IDS:
        if len(getattr(hook, name) or "") > MAX_ID_CHARS:
            raise WireError(f"{name} of more than {MAX_ID_CHARS} characters")
    return hook


def same_input(raw: bytes | str) -> str:
    """What is equal for two JSON texts of the same value: by it a permission is matched to its tool call."""
    try:
        value = msgspec.json.decode(raw)
        return short_hash(json.dumps(value, sort_keys=True, separators=(",", ":")))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return short_hash(raw)


def response_text(raw: bytes) -> str:
    """A tool's result as text: a command's output, a text, else the JSON."""
    value = cut.decoded(raw)
    if isinstance(value, str):
        return cut.text(value)
    if isinstance(value, dict) and isinstance(value.get("stdout"), str):
        parts = [value["stdout"], value.get("stderr")]
        return cut.text("\n".join(part for part in parts if isinstance(part, str) and part))
    return cut.text(raw.decode("utf-8", "replace"))


# ── answers to PreToolUse and PermissionRequest ────────────────────────────────────────────────────────────


def before(decision: str, reason: str) -> str:
    """``deny`` or ``ask``; the reason of a denial becomes the tool's result."""
    said = {"permissionDecision": decision, "permissionDecisionReason": reason}
    return json.dumps({"hookSpecificOutput": {"hookEventName": "PreToolUse", **said}})


def unread(event: str) -> str:
    """The answer to a hook that could not be read. A tool call is for a person then: to have no opinion would
    let it past every rule.
    """
    reason = "Pointsman could not read this call, so no rule of yours was held against it."
    return before("ask", reason) if event == "PreToolUse" else NOTHING


def allow(input_json: str) -> str:
    """``input_json`` goes in as it is, byte for byte: what was approved is what runs."""
    return _decision(f'{{"behavior":"allow","updatedInput":{input_json}}}')


def deny(message: str, *, interrupt: bool = False) -> str:
    """``message`` becomes the tool's result: the model reads it."""
    more: dict[str, Any] = {"interrupt": True} if interrupt else {}
    return _decision(json.dumps({"behavior": "deny", "message": message or "Denied.", **more}))


def _decision(decision: str) -> str:
    name = "PermissionRequest"
    return f'{{"hookSpecificOutput":{{"hookEventName":"{name}","decision":{decision}}}}}'
