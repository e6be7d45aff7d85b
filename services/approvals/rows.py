"""What the rows of the audit say. A token never stands in one. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from bus import messages as m
from services.approvals import reading
from services.approvals.model import Approval, State
from services.approvals.remember import Remembered

REASON_CHARS = 4000  # of a text that someone gives with a decision: a person wrote it, and an agent reads it


def request(a: Approval) -> dict[str, Any]:
    """The input itself is kept beside the approval and never changed; its hash binds it to the chain."""
    return {
        "session": a.session,
        "uid": a.uid,
        "process": a.process,
        "request_id": a.request_id,
        "kind": a.kind,
        "tool": a.tool,
        "tool_use_id": a.tool_use_id,
        "input_sha256": a.input_sha256,
        "level": a.danger.level,
        "required": a.required,
        "expires_at": a.expires_at,
    }


def decision(d: m.Decision, user: str | None, error: str | None) -> dict[str, Any]:
    """``user`` is proven by the token, ``stated_*`` are not."""
    changed = (
        None if d.updated_input is None else reading.sha256(msgspec.json.encode(d.updated_input).decode())
    )
    return {
        "decision": d.decision,
        "user": user,
        "stated_by": short(d.by),
        "stated_via": short(d.via),
        "reason": short(d.reason),
        "updated_input_sha256": changed,
        "answered": d.answers is not None,
        "remember": d.remember,
        "interrupt": d.interrupt,
        "command": d.id,
        "error": error,
    }


def users(them: Iterable[m.BusUser]) -> dict[str, Any]:
    """Who may decide, beside the first operator."""
    return {"users": [msgspec.structs.asdict(user) for user in them]}


def remembered(rule: Remembered) -> dict[str, Any]:
    return {"rule": msgspec.to_builtins(rule)}


def outcome(a: Approval) -> dict[str, Any]:
    final = a.input_sha256 if a.final_json is None else reading.sha256(a.final_json)
    return {"outcome": a.outcome, "final_sha256": final if a.state is State.APPROVED else None}


def short(text: str | None) -> str | None:
    """A free text, cut where nobody would read on."""
    return text if text is None or len(text) <= REASON_CHARS else text[: REASON_CHARS - 1] + "…"
