"""A turn: the prompts that were waiting, the model's answers, their tools, up to the `result` frame."""

from __future__ import annotations

import time

from .answer import model_answer
from .bill import NO_USAGE
from .conversation import mid_turn
from .hooks import call_hooks
from .permission import permission
from .session import TOOLS, Interrupted, Turn
from .tools import run_tool
from .wire import VERSION, new_id, now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .session import Session
    from .wire import Frame, Steps

REJECTED = (
    "The user doesn't want to proceed with this tool use. The tool use was rejected (eg. if it was a file "
    "edit, the new_string was NOT written to the file). STOP what you are doing and wait for the user to "
    "tell you how to proceed."
)


def run_turn(session: Session) -> Steps:
    """One turn of the prompts in the queue, which are merged."""
    prompts, session.queue = session.queue, []
    turn = session.turn = Turn([uuid for _, uuid in prompts if uuid])
    for uuid in turn.uuids:
        session.host.lifecycle(uuid, "started")
    _say_init(session)
    for prompt, prompt_uuid in prompts:
        session.record("begun", uuid=prompt_uuid)
        session.conversation.keep_queued("dequeue")
        session.conversation.keep(
            {
                "type": "user",
                "message": {"role": "user", "content": prompt},
                "promptId": turn.prompt_id,
                "permissionMode": session.mode,
            },
            prompt_uuid,
        )
    text = "\n".join(text for text, _ in prompts)
    session.conversation.messages.append({"role": "user", "content": text})
    failed: int | None = None
    try:
        while failed is None and not turn.stopped:
            failed, tools = yield from model_answer(session)
            for tool in tools:
                yield from _use_tool(session, tool)
            if not tools:
                break
            _take_mid_turn(session)
    except Interrupted:
        suffix = " for tool use" if turn.in_tool else ""
        _say_user(session, [{"type": "text", "text": f"[Request interrupted by user{suffix}]"}])
        _say_result(session, "aborted_tools" if turn.in_tool else "aborted_streaming")
    else:
        reason = "api_error" if failed else "hook_stopped" if turn.stopped else "completed"
        _say_result(session, reason, failed)
    for uuid in turn.uuids:
        session.host.lifecycle(uuid, "completed")


def _take_mid_turn(session: Session) -> None:
    """Prompts that arrived while the tools ran become part of this turn."""
    prompts, session.queue = session.queue, []
    for text, uuid in prompts:
        session.record("begun", uuid=uuid)
        session.conversation.messages.append(mid_turn(text))
        session.conversation.keep(
            {
                "type": "attachment",
                "attachment": {"type": "queued_command", "prompt": text, "source_uuid": uuid},
            }
        )
        if uuid:
            session.turn.uuids.append(uuid)
            session.host.lifecycle(uuid, "started")


def _use_tool(session: Session, tool: Frame) -> Steps:
    """Ask for one tool, run it, and put its result into the conversation."""
    turn = session.turn
    turn.in_tool = True
    name, tool_use_id = tool["name"], tool["id"]
    try:
        allowed, value = yield from permission(session, name, tool_use_id, tool["input"])
        began = time.monotonic()
        if not allowed:
            turn.denials.append({"tool_name": name, "tool_use_id": tool_use_id, "tool_input": tool["input"]})
            session.record("tool", tool=name, tool_use_id=tool_use_id, ran=False)
            _say_tool_result(session, tool_use_id, value, is_error=True, raw=f"Error: {value}")
            return
        session.record("tool", tool=name, tool_use_id=tool_use_id, ran=True, input=value)
        text, is_error, raw = yield from run_tool(session, name, value)
    except Interrupted:
        _say_tool_result(session, tool_use_id, REJECTED, is_error=True, raw="User rejected tool use")
        raise
    if not is_error:
        body = {
            "tool_name": name,
            "tool_input": value,
            "tool_response": raw,
            "tool_use_id": tool_use_id,
            "duration_ms": int((time.monotonic() - began) * 1000),
        }
        yield from call_hooks(session, "PostToolUse", name, body)
    _say_tool_result(session, tool_use_id, text, is_error=is_error, raw=raw)
    turn.in_tool = False


def _say_init(session: Session) -> None:
    session.host.say(
        {
            "type": "system",
            "subtype": "init",
            "cwd": session.conversation.cwd,
            "tools": list(TOOLS),
            "mcp_servers": [],
            "model": session.model,
            "permissionMode": session.mode,
            "slash_commands": [],
            "apiKeySource": "none",
            "claude_code_version": VERSION,
            "output_style": "default",
            "agents": [],
            "skills": [],
            "plugins": [],
            "scripted": True,
        }
    )


def _say_tool_result(session: Session, tool_use_id: str, text: str, *, is_error: bool, raw: Any) -> None:
    block = {"type": "tool_result", "content": text, "is_error": is_error, "tool_use_id": tool_use_id}
    _say_user(session, [block], tool_use_result=raw)


def _say_user(session: Session, content: list[Frame], **more: Any) -> None:
    """What stands on the user's side of the conversation without being a prompt."""
    message = {"role": "user", "content": content}
    session.turn.results += 1
    session.conversation.messages.append(message)
    session.host.say(
        {"type": "user", "message": message, "parent_tool_use_id": None, "timestamp": now(), **more}
    )
    kept: Frame = {"type": "user", "message": message, "promptId": session.turn.prompt_id}
    session.conversation.keep({**kept, "toolUseResult": more["tool_use_result"]} if more else kept)


def _say_result(session: Session, reason: str, failed: int | None = None) -> None:
    """The frame that ends the turn; `failed` is the API's HTTP status when that was the end."""
    turn = session.turn
    duration_ms = int((time.monotonic() - turn.started) * 1000)
    frame: Frame = {
        "type": "result",
        "duration_ms": duration_ms,
        "duration_api_ms": duration_ms,
        "stop_reason": turn.stop_reason,
        "total_cost_usd": session.bill.total() / 1e12,
        "usage": turn.usage or NO_USAGE,
        "modelUsage": session.bill.model_usage(),
        "permission_denials": turn.denials,
        "terminal_reason": reason,
        "num_turns": turn.api_calls or 1,
        "result_index": session.result_index,
        "api_error_status": failed,
    }
    session.result_index += 1
    if turn.uuids:
        frame["user_message_uuids"] = turn.uuids
    if reason.startswith("aborted"):
        diagnostic = f"[ede_diagnostic] result_type=user stop_reason={turn.stop_reason}"
        frame |= {
            "subtype": "error_during_execution",
            "is_error": True,
            "num_turns": 1 + turn.results,
            "errors": [diagnostic],
        }
    elif failed:
        text = _say_api_error(session, failed)
        frame |= {"subtype": "success", "is_error": True, "result": text, "stop_reason": "stop_sequence"}
    else:
        frame |= {"subtype": "success", "is_error": False, "result": "" if turn.stopped else turn.text}
    session.host.say(frame)


def _say_api_error(session: Session, status: int) -> str:
    """The message that Claude Code makes up where the API gave none. Returns its text."""
    text = f"API Error: {status} scripted error {status}"
    if status == 429 and session.limited:
        text = "You've hit your limit · resets soon"
    message = {
        "id": new_id(),
        "type": "message",
        "role": "assistant",
        "model": "<synthetic>",
        "stop_reason": "stop_sequence",
        "content": [{"type": "text", "text": text}],
        "usage": NO_USAGE,
    }
    session.host.say(
        {
            "type": "assistant",
            "message": message,
            "parent_tool_use_id": None,
            "timestamp": now(),
            "error": "server_error",
            "is_api_error_message": True,
            "api_error_status": status,
        }
    )
    return text
