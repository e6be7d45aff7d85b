"""A question as it comes: checked, read, assessed, judged. Pure."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from bus import messages as m
from bus import topics as t
from bus.errors import RefusedError
from services.approvals import reading
from services.approvals.danger import assess
from services.approvals.danger.sight import BLIND, Sight
from services.approvals.model import Approval
from services.approvals.rules import Rules, Verdict

# What stands in topics and fact ids: "answer-<id>" has to fit 64 characters.
_ID = re.compile(r"^[A-Za-z0-9_-]{1,57}$")
MAX_NAME = 256  # characters of a tool's name; MCP's longest are below 128
MAX_CWD = 4096  # Linux's PATH_MAX


def check(fact: m.Fact, q: m.Question) -> None:
    """What is not bounded here would stand in topics and in snapshots that every reader takes."""
    if fact.uid is None or not _ID.match(q.approval) or not t.PARAMETERS["session"].match(q.session):
        raise RefusedError("bad_request", f"{fact.id} lacks a uid, a session's name or a usable approval id")
    for name, text in (("tool", q.tool), ("kind", q.kind), ("mode", q.permission_mode), ("cwd", q.cwd)):
        if len(text) > (MAX_CWD if name == "cwd" else MAX_NAME):
            raise RefusedError("too_large", f"{fact.id}: {name} has {len(text)} characters")


def opened(
    fact: m.Fact, q: m.Question, rules: Rules, home: str, now: datetime, sight: Sight = BLIND
) -> tuple[Approval, Verdict, reading.View]:
    """The approval that a checked question opens, what the rules say to it, and how it is shown."""
    parsed = reading.parse(q.input_json)
    danger = assess(q.tool, parsed, q.cwd, home, sight)
    verdict = rules.judge(q.kind, q.tool, danger, q.auto_approve)
    view = reading.view(q.input_json, parsed)
    waits_s = rules.timeout_for(q.kind, danger.level) if verdict.answer == "ask" else None
    approval = Approval(
        id=q.approval,
        session=q.session,
        uid=fact.uid or "",
        process=q.process,
        request_id=q.request_id,
        kind=q.kind,
        tool=q.tool,
        tool_use_id=q.tool_use_id,
        agent_id=q.agent_id,
        input_json=q.input_json,
        input_sha256=reading.sha256(q.input_json),
        input_partial=view.partial,
        summary=reading.summary(q.kind, q.tool, parsed),
        description=q.description,
        cwd=q.cwd,
        permission_mode=q.permission_mode,
        suggestions=q.suggestions,
        auto_approve=q.auto_approve,
        danger=danger,
        required=verdict.required,
        created_at=now,
        expires_at=None if waits_s is None else now + timedelta(seconds=waits_s),
    )
    return approval, verdict, view
