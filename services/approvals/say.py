"""An approval as the bus sees it: its request, its item among the pending, its answer to the agent."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime

from bus import codec
from bus import messages as m
from bus import topics as t
from bus.effects import Effect, Post, Publish
from bus.topics import Topic
from services.approvals import reading
from services.approvals.model import Approval, State
from services.approvals.rules import Verdict

# Of the pending snapshot, oldest first: 4 MiB is the most that a reader takes; ``count`` is right.
MAX_ITEMS = 1000

_WAITING = (t.APPROVALS_PENDING, t.DEVICE_PENDING)


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


def pending(approvals: Collection[Approval], items: Iterable[m.PendingItem]) -> Publish:
    """``approvals`` and ``items`` oldest first."""
    return Publish(t.APPROVALS_PENDING, waiting(approvals, items))


def waiting(approvals: Collection[Approval], items: Iterable[m.PendingItem]) -> m.PendingApprovals:
    """As `pending`, for whoever it is for."""
    oldest = next(iter(approvals), None)
    listed = [entry for entry, _ in zip(items, range(MAX_ITEMS), strict=False)]
    return m.PendingApprovals(
        count=len(approvals),
        oldest_id=oldest.id if oldest else None,
        oldest_at=oldest.created_at if oldest else None,
        items=listed,
    )


def joined(effects: Sequence[Effect]) -> list[Effect]:
    """What waits, said once: of several such snapshots in one step only the last tells anything."""
    last: dict[tuple[Topic, str], Effect] = {}
    for effect in effects:
        if isinstance(effect, Publish) and effect.row in _WAITING:
            last[effect.row, effect.values.get("device", "")] = effect
    kept = {id(effect) for effect in last.values()}
    return [
        effect
        for effect in effects
        if not (isinstance(effect, Publish) and effect.row in _WAITING) or id(effect) in kept
    ]


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
