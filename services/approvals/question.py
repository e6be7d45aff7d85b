"""A question as it comes: checked, examined, judged. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from bus import messages as m
from bus import topics as t
from bus.errors import RefusedError
from services.approvals import reading
from services.approvals.calls import Call, commands_of, paths_of, words_of
from services.approvals.danger import assess
from services.approvals.model import Approval, Place
from services.approvals.passed import Passed
from services.approvals.rules import Rules, Verdict

# What stands in topics and fact ids: "answer-<id>" has to fit 64 characters.
_ID = re.compile(r"^[A-Za-z0-9_-]{1,57}$")
MAX_WORDS = 200  # of commands that are taken for paths and followed on the disk; with more the call is vague
MAX_NAME = 256  # characters of a tool's name; MCP's longest are below 128
MAX_CWD = 4096  # Linux's PATH_MAX


def check(uid: str | None, q: m.Question) -> str:
    """The uid. What is not bounded here would stand in topics and in snapshots that every reader takes."""
    if uid is None or not _ID.match(q.approval) or not t.PARAMETERS["session"].match(q.session):
        raise RefusedError(
            "bad_request", f"{q.approval} lacks a uid, a session's name or a usable approval id"
        )
    for name, text in (("tool", q.tool), ("kind", q.kind), ("mode", q.permission_mode), ("cwd", q.cwd)):
        if len(text) > (MAX_CWD if name == "cwd" else MAX_NAME):
            raise RefusedError("too_large", f"{q.approval}: {name} has {len(text)} characters")
    return uid


@dataclass(frozen=True, slots=True)
class Examined:
    """What a question's call is by itself: no rule, no person and no time in it."""

    call: Call
    view: reading.View
    summary: str
    input_sha256: str


def examine(uid: str, q: m.Question, place: Place) -> Examined:
    """Read and assess a checked question's call: one to three milliseconds, for a shell command."""
    parsed, call = assessed(q, uid, q.input_json, place)
    return Examined(
        call,
        reading.view(q.input_json, parsed),
        reading.summary(q.kind, q.tool, parsed),
        reading.sha256(q.input_json),
    )


def open_approval(
    uid: str, q: m.Question, examined: Examined, rules: Rules, now: datetime
) -> tuple[Approval, Verdict]:
    """The approval that a checked question opens, and what the rules say to it."""
    verdict = rules.judge(examined.call)
    danger = examined.call.danger
    waits_s = rules.timeout_for(q.kind, danger.level) if verdict.answer == "ask" else None
    approval = Approval(
        id=q.approval,
        session=q.session,
        uid=uid,
        process=q.process,
        request_id=q.request_id,
        kind=q.kind,
        tool=q.tool,
        tool_use_id=q.tool_use_id,
        agent_id=q.agent_id,
        input_json=q.input_json,
        input_sha256=examined.input_sha256,
        input_partial=examined.view.partial,
        summary=examined.summary,
        description=q.description,
        cwd=q.cwd,
        permission_mode=q.permission_mode,
        suggestions=q.suggestions,
        auto_approve=q.auto_approve,
        danger=danger,
        required=verdict.required,
        created_at=now,
        expires_at=None if waits_s is None else now + timedelta(seconds=waits_s),
        asked_by=(verdict.rule or None) if verdict.answer == "ask" else None,
    )
    return approval, verdict


def assessed(
    q: m.Question | Approval | Passed, uid: str, input_json: str, place: Place
) -> tuple[reading.Parsed, Call]:
    """The call, with its danger as it is now. ``input_json`` may be another input than the question's own."""
    place = replace(place, sight=place.sight.once())
    parsed = reading.parse(input_json)
    danger = assess(q.tool, parsed, q.cwd, place.home, place.sight)
    return parsed, call_of(q, uid, parsed, danger, place)


def call_of(
    q: m.Question | Approval | Passed, uid: str, parsed: reading.Parsed, danger: m.Danger, place: Place
) -> Call:
    """The call as rules see it. ``parsed`` may be another input than the question's own."""
    home = place.sight.user_home
    commands = commands_of(q.tool, parsed, place.sight, q.cwd)
    unknown = commands is not None and any(None in command.words for command in commands.found)
    words = words_of(commands, q.cwd, home, MAX_WORDS + 1)
    return Call(
        kind=q.kind,
        tool=q.tool,
        session=q.session,
        uid=uid,
        cwd=q.cwd,
        danger=danger,
        value=parsed.value,
        auto_approve=tuple(q.auto_approve),
        commands=commands,
        paths=place.led(paths_of(q.tool, parsed, q.cwd, home)),
        words=place.led(words[:MAX_WORDS]),
        vague=unknown or len(words) > MAX_WORDS or (commands is not None and not commands.complete),
        readable=parsed.doubt is None,
    )


def judge_again(
    a: Approval | Passed, rules: Rules, place: Place, final_json: str | None = None
) -> tuple[m.Danger, Verdict]:
    """What the rules say now to a question that was asked, or to another input for it."""
    _, call = assessed(a, a.uid, a.input_json if final_json is None else final_json, place)
    return call.danger, rules.judge(call)
