"""Lines to the agent: one JSON object each, without the newline. No I/O.

Every builder is the whole form of one message, so that this file is where to look what we say.
"""

from __future__ import annotations

import json
from typing import Any

# Hooks that we register, so that every tool call is seen, also those that the agent never asks about.
HOOKS = ("PreToolUse", "PostToolUse", "PostToolUseFailure", "PreCompact", "Notification")
# A callback that nobody answers stops the tool for this long. Over a bridge it cannot be lost, so the agent
# may wait until Pointsman is there again; an sdk-url agent never repeats one that was lost with its link,
# and goes on to the normal permission flow afterwards.
HOOK_TIMEOUT_S = 86_400
HOOK_TIMEOUT_UNSAFE_S = 30


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))  # ASCII: no U+2028, no lone surrogate


def _control(request_id: str, **request: Any) -> str:
    return _line({"type": "control_request", "request_id": request_id, "request": request})


def prompt(text: str, uuid: str) -> str:
    """What the user says. The agent drops a uuid that its conversation already has."""
    message = {"role": "user", "content": text}
    return _line(
        {"type": "user", "message": message, "parent_tool_use_id": None, "session_id": "", "uuid": uuid}
    )


def initialize(request_id: str, *, hooks: bool, timeout_s: int = HOOK_TIMEOUT_S) -> str:
    """``hooks`` only for a new agent process: given again they cancel callbacks that are open (2.1.329)."""
    table = {
        name: [{"matcher": None, "hookCallbackIds": [f"pointsman-{name}"], "timeout": timeout_s}]
        for name in HOOKS
    }
    return _control(request_id, subtype="initialize", hooks=table if hooks else None)


def interrupt(request_id: str) -> str:
    return _control(request_id, subtype="interrupt")


def stop_task(request_id: str, task_id: str) -> str:
    return _control(request_id, subtype="stop_task", task_id=task_id)


def set_model(request_id: str, model: str) -> str:
    return _control(request_id, subtype="set_model", model=model)


def set_permission_mode(request_id: str, mode: str) -> str:
    """``manual`` is what newer screens call ``default``; every version knows the latter."""
    return _control(request_id, subtype="set_permission_mode", mode="default" if mode == "manual" else mode)


def get_session_cost(request_id: str) -> str:
    return _control(request_id, subtype="get_session_cost")


def end_session(request_id: str) -> str:
    return _control(request_id, subtype="end_session")


def _success(request_id: str, response_json: str) -> str:
    return (
        '{"type":"control_response","response":{"subtype":"success","request_id":'
        f'{json.dumps(request_id)},"response":{response_json}}}}}'
    )


def allow(request_id: str, input_json: str) -> str:
    """``updatedInput`` is always sent: without it agents up to 2.1.119 deny. ``input_json`` goes in as it is,
    byte for byte; ``{}`` means unchanged.
    """
    return _success(request_id, f'{{"behavior":"allow","updatedInput":{input_json}}}')


def deny(request_id: str, message: str, *, interrupt: bool = False) -> str:
    """``message`` becomes the tool's result: the model reads it."""
    more: dict[str, Any] = {"interrupt": True} if interrupt else {}
    return _success(request_id, _line({"behavior": "deny", "message": message or "Denied.", **more}))


def hook(request_id: str, response_json: str = "{}") -> str:
    """The hook's JSON; ``{}`` is no opinion."""
    return _success(request_id, response_json)


def hook_deny(request_id: str, reason: str) -> str:
    """``reason`` becomes the tool's result: the model reads it."""
    return _hook_decision(request_id, "deny", reason or "Denied.")


def hook_ask(request_id: str, reason: str) -> str:
    """The agent asks, whatever its mode: a `can_use_tool` with this reason follows (2.1.119 and later)."""
    return _hook_decision(request_id, "ask", reason)


def hook_allow(request_id: str, input_json: str | None) -> str:
    """The agent runs the tool without asking. ``input_json`` None: unchanged."""
    fields = '"hookEventName":"PreToolUse","permissionDecision":"allow"'
    more = "" if input_json is None else f',"updatedInput":{input_json}'
    return _success(request_id, f'{{"hookSpecificOutput":{{{fields}{more}}}}}')


def _hook_decision(request_id: str, decision: str, reason: str) -> str:
    fields = {
        "hookEventName": "PreToolUse",
        "permissionDecision": decision,
        "permissionDecisionReason": reason,
    }
    return _success(request_id, _line({"hookSpecificOutput": fields}))
