"""The host's control requests: what each does, and its answer."""

from __future__ import annotations

import os

from .session import FIXED_TOKENS, MODEL, MODES
from .wire import VERSION, compact, now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .session import Session
    from .wire import Frame


def answer(session: Session, request: Frame, *, running: bool) -> Frame:
    """Do what is asked, as far as it concerns the session alone. Returns the answer's body; `running`: a turn
    runs. Stopping a turn is the loop's, after the answer.
    """
    try:
        if request.get("subtype") == "initialize":
            return {
                "subtype": "success",
                "response": _initialize(session, request, running=running),
                "pending_permission_requests": session.host.open_permissions(),
            }
        response = _do(session, str(request.get("subtype")), request)
    except ValueError as error:
        return {"subtype": "error", "error": str(error), "error_code": "invalid_request"}
    return {"subtype": "success"} if response is None else {"subtype": "success", "response": response}


def _do(session: Session, subtype: str, request: Frame) -> Frame | None:
    """The answer's `response`, if it has one. Errors are `ValueError`."""
    if subtype == "interrupt":
        return {"still_queued": [uuid for _, uuid in session.queue if uuid]}
    if subtype in ("end_session", "set_max_thinking_tokens"):
        return None
    if subtype == "set_model":
        return _set_model(session, str(request.get("model") or MODEL))
    if subtype == "set_permission_mode":
        return _set_mode(session, str(request.get("mode")))
    if subtype == "get_session_cost":
        return {"text": session.bill.text()}
    if subtype == "mcp_status":
        return {"mcpServers": []}
    if subtype == "get_settings":
        return {"effective": {}, "sources": [], "applied": {"model": session.model}}
    if subtype == "get_context_usage":
        used = FIXED_TOKENS + len(compact(session.conversation.messages)) // 4
        return {"categories": [], "totalTokens": used, "maxTokens": 1_000_000, "model": session.model}
    raise ValueError(f"Unsupported control request subtype: {subtype}")


def _initialize(session: Session, request: Frame, *, running: bool) -> Frame:
    response: Frame = {
        "commands": [],
        "agents": [],
        "output_style": "default",
        "available_output_styles": ["default"],
        "models": [
            {
                "value": "default",
                "resolvedModel": MODEL,
                "displayName": "Scripted",
                "description": "no account",
            }
        ],
        "account": {"tokenSource": "none", "apiKeySource": "none", "apiProvider": "scripted"},
        "pid": os.getpid(),
        "claude_code_version": VERSION,
        "current_permission_mode": session.mode,
        "hook_on_failure_supported": False,
        "session_state": "running" if running else "idle",
        "capabilities": [],
    }
    if request.get("hooks"):
        response["hooks_applied"] = True
        session.hooks = {event: list(matchers) for event, matchers in request["hooks"].items()}
        session.host.withdraw_hooks()
    return response


def _set_model(session: Session, model: str) -> Frame:
    session.model = model
    text = f"<local-command-stdout>Set model to `{model}`</local-command-stdout>"
    session.host.say(
        {
            "type": "user",
            "message": {"role": "user", "content": text},
            "parent_tool_use_id": None,
            "timestamp": now(),
            "isReplay": True,
        }
    )
    return {"model": model}


def _set_mode(session: Session, mode: str) -> Frame:
    """Change the mode; the status frame that says so follows the answer."""
    mode = "default" if mode == "manual" else mode
    if mode not in MODES:
        raise ValueError("Cannot set permission mode: must be one of " + ", ".join(MODES))
    if mode == "bypassPermissions" and not session.may_bypass:
        raise ValueError(
            "Cannot set permission mode to bypassPermissions because the session was not launched "
            "with --dangerously-skip-permissions"
        )
    session.mode = mode
    return {"mode": mode}
