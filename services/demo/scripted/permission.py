"""Whether a tool may run: hooks, mode and rules, then the host."""

from __future__ import annotations

import os
import re

from .hooks import call_hooks
from .session import MODES, TOOLS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .session import Session
    from .wire import Frame, Steps

READS_ONLY = ("cat", "date", "echo", "head", "ls", "pwd", "tail", "true", "uname", "wc", "whoami")
EDITS = ("cp", "mkdir", "mv", "rm", "rmdir", "sed", "touch")
INTERACTIVE = ("AskUserQuestion", "ExitPlanMode")
BAD_RESULT = (
    "The canUseTool callback returned an invalid permission result. Expected {behavior: 'allow', "
    "updatedInput?: object} or {behavior: 'deny', message: string}."
)


def permission(session: Session, name: str, tool_use_id: str, value: Frame) -> Steps:
    """Whether the tool may run: `(True, input)` or `(False, why not)`."""
    if name not in TOOLS:
        return False, f"<tool_use_error>Error: No such tool available: {name}</tool_use_error>"
    body = {"tool_name": name, "tool_input": value, "tool_use_id": tool_use_id}
    verdict, value, reason = yield from call_hooks(session, "PreToolUse", name, body, value)
    if verdict == "deny":
        return False, reason
    interactive = name in INTERACTIVE
    if (
        not interactive
        and verdict != "ask"
        and (verdict == "allow" or _needs_no_question(session, name, value))
    ):
        return True, value
    if not session.host_decides or (session.mode == "dontAsk" and not interactive):
        session.host.say(
            {
                "type": "system",
                "subtype": "permission_denied",
                "tool_name": name,
                "tool_use_id": tool_use_id,
            }
        )
        return False, f"Claude requested permissions to use {name}, but you haven't granted it yet."
    request: Frame = {"subtype": "can_use_tool", "tool_name": name, "display_name": name, "input": value}
    if not interactive:
        request["description"] = value.get("description") or os.path.basename(
            str(value.get("file_path", name))
        )
    if verdict == "ask":
        request |= {
            "decision_reason": reason,
            "decision_reason_type": "hook",
            "decision_reason_hook_event": "PreToolUse",
        }
    elif not interactive:
        request["permission_suggestions"] = _suggestions(name, value)
    request["tool_use_id"] = tool_use_id
    if interactive:
        request["requires_user_interaction"] = True
    answer = yield from session.host.ask(request)
    if answer["subtype"] != "success":
        return False, f"Tool permission request failed: {answer.get('error', answer['subtype'])}"
    decision = answer.get("response") or {}
    if decision.get("behavior") == "allow":
        _learn(session, decision.get("updatedPermissions") or [])
        return True, decision.get("updatedInput") or value
    if decision.get("behavior") == "deny" and isinstance(decision.get("message"), str):
        session.turn.stopped = bool(decision.get("interrupt"))
        return False, decision["message"]
    return False, BAD_RESULT


def _needs_no_question(session: Session, name: str, value: Frame) -> bool:
    """Whether mode and rules let the tool run without asking."""
    if session.mode == "bypassPermissions":
        return True
    command = str(value.get("command", ""))
    plain = not re.search(r"[;&|<>$`\\\n(){}*?~]", command)
    word = command.split(" ", 1)[0]
    for tool, content in session.rules:
        if tool == name and (
            content is None
            or content == command
            or (content.endswith(" *") and plain and (command + " ").startswith(content[:-1]))
        ):
            return True
    if name == "Bash":
        return plain and (word in READS_ONLY or (session.mode == "acceptEdits" and word in EDITS))
    cwd = session.conversation.cwd
    path = os.path.realpath(os.path.join(cwd, str(value.get("file_path") or value.get("path") or "")))
    inside = path == os.path.realpath(cwd) or path.startswith(os.path.realpath(cwd) + os.sep)
    if name in ("Read", "Glob", "Grep"):
        return inside
    return inside and name in ("Write", "Edit") and session.mode == "acceptEdits"


def _suggestions(name: str, value: Frame) -> list[Frame]:
    mode = {"type": "setMode", "mode": "acceptEdits", "destination": "session"}
    if name != "Bash":
        return [mode] if name in ("Write", "Edit") else []
    rule = {"toolName": "Bash", "ruleContent": value.get("command", "")}
    return [
        {"type": "addRules", "rules": [rule], "behavior": "allow", "destination": "localSettings"},
        mode,
    ]


def _learn(session: Session, updates: list[Frame]) -> None:
    """Take the `updatedPermissions` of an answer, for this session whatever their destination."""
    for update in updates:
        if update.get("type") == "setMode" and update.get("mode") in MODES:
            session.enter_mode(update["mode"])
        elif update.get("type") == "addRules" and update.get("behavior") == "allow":
            session.rules += [(rule["toolName"], rule.get("ruleContent")) for rule in update.get("rules", [])]
