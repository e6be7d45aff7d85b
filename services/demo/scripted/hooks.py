"""The host's hooks before and after a tool."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .session import Session
    from .wire import Frame, Steps

HOOK_TIMEOUT_S = 600.0


def call_hooks(session: Session, event: str, name: str, body: Frame, value: Frame | None = None) -> Steps:
    """Call the host's hooks for the tool. Returns (allow|ask|deny|None, the input, the reason)."""
    verdict: str | None = None
    reason = ""
    value = value if value is not None else {}
    common = {
        "session_id": session.id,
        "transcript_path": session.conversation.transcript,
        "cwd": session.conversation.cwd,
        "prompt_id": session.turn.prompt_id,
        "permission_mode": session.mode,
        "hook_event_name": event,
    }
    for matcher in session.hooks.get(event, []):
        if matcher.get("matcher") not in (None, "", "*") and not re.fullmatch(matcher["matcher"], name):
            continue
        for callback_id in matcher.get("hookCallbackIds", []):
            request = {
                "subtype": "hook_callback",
                "callback_id": callback_id,
                "input": {**common, **body},
                "tool_use_id": body["tool_use_id"],
            }
            answer = yield from session.host.ask(request, float(matcher.get("timeout") or HOOK_TIMEOUT_S))
            if answer["subtype"] in ("timeout", "cancelled"):
                return "deny", value, f"{event}:{name} hook {answer['subtype']}"
            given = answer.get("response") or {}
            own = given.get("hookSpecificOutput") or {}
            value = own.get("updatedInput") or value
            said = own.get("permissionDecision") or {"block": "deny", "approve": "allow"}.get(
                str(given.get("decision"))
            )
            if said in ("allow", "ask", "deny") and verdict != "deny":
                verdict = said
                reason = own.get("permissionDecisionReason") or given.get("reason") or ""
                if said == "deny":
                    reason = f"{event}:{name} hook error: {reason}"
            if given.get("continue") is False:
                session.turn.stopped = True
    return verdict, value, reason
