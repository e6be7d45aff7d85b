"""An approval as the bus sees it: its request, its item among the pending, its answer to the agent."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime

from bus import codec
from bus import messages as m
from bus import topics as t
from bus.effects import Post, Publish
from services.approvals import reading
from services.approvals.model import Approval, State
from services.approvals.rules import Verdict

# Of the pending snapshot, oldest first: 4 MiB is the most that a reader takes; ``count`` is right.
MAX_ITEMS = 1000


def request(node: str, a: Approval, view: reading.View) -> m.ApprovalRequest:
    return m.ApprovalRequest(
        id=a.id,
        session=a.session,
        uid=a.uid,
        node=node,
        kind=a.kind,
        tool=a.tool,
        tool_use_id=a.tool_use_id,
        agent_id=a.agent_id,
        input=view.value,
        input_sha256=a.input_sha256,
        input_partial=view.partial,
        summary=a.summary,
        description=reading.mask(a.description),
        cwd=a.cwd,
        permission_mode=a.permission_mode,
        danger=a.danger,
        permission_suggestions=reading.mask_list(a.suggestions),
        required=a.required,
        created_at=a.created_at,
        expires_at=a.expires_at,
        rule=a.asked_by,
    )


def item(a: Approval) -> m.PendingItem:
    return m.PendingItem(
        id=a.id,
        session=a.session,
        tool=a.tool,
        kind=a.kind,
        summary=a.summary,
        level=a.danger.level,
        expires_at=a.expires_at,
    )


def waiting(approvals: Collection[Approval], items: Iterable[m.PendingItem]) -> m.PendingApprovals:
    """What waits, for whoever it is for. ``approvals`` and ``items`` oldest first."""
    oldest = next(iter(approvals), None)
    listed = [entry for entry, _ in zip(items, range(MAX_ITEMS), strict=False)]
    return m.PendingApprovals(
        count=len(approvals),
        oldest_id=oldest.id if oldest else None,
        oldest_at=oldest.created_at if oldest else None,
        items=listed,
    )


def outcome(a: Approval) -> Publish:
    return Publish(t.APPROVAL_OUTCOME, a.outcome, {"id": a.id})


def answer(a: Approval, at: datetime) -> Post:
    """The same approval always has the same answer, under the same fact id."""
    approved = a.state is State.APPROVED
    data = m.Answer(
        approval=a.id,
        process=a.process,
        request_id=a.request_id,
        decision=a.state,
        message=a.message,
        input_json=(a.input_json if a.final_json is None else a.final_json) if approved else "",
        interrupt=a.interrupt,
        rule=a.outcome.rule if a.outcome else None,
    )
    return Post(
        "ingest", m.Fact(id=f"answer-{a.id}", type="answer", uid=a.uid, at=at, data=codec.encode_data(data))
    )


def forbidden(verdict: Verdict) -> str:
    """What the agent's model reads."""
    return (
        f"Denied by a rule of the user's policy ({verdict.rule}): {verdict.reason}. Do not try to reach the "
        "same by another way; go on without it, or say that it is needed."
    )
