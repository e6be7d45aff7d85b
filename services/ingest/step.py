"""One step of one session: collects what is decided while something is dealt with.

Every entry of the core makes a `Step`, changes the record through it, and returns `Step.close()`: there the
status is read off the record, and the record, the state snapshot and the effects leave in one piece.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import datetime
from typing import Any

import msgspec

from bus import messages as m
from bus import topics as t
from bus.codec import encode_data
from bus.effects import Effect, Post, Publish
from services.ingest.hook_model import HOOKED
from services.ingest.model import (
    DropLines,
    KeepEvent,
    KeepLine,
    KeepPrompt,
    KeepSession,
    Line,
    Prompt,
    SendLine,
    Session,
)
from services.ingest.states import Status, change

_encode = msgspec.json.Encoder().encode


def short_hash(*parts: object) -> str:
    """26 characters that stand for the parts; lower case, fits an id."""
    digest = hashlib.sha256("|".join(map(str, parts)).encode("utf-8", "surrogatepass")).digest()
    return base64.b32encode(digest).decode().lower()[:26]


def derive(session: Session) -> Status:
    """What a record's facts amount to."""
    r = session.record
    if r.end is not None:
        return Status(r.end)
    if r.rest is not None:
        return r.rest
    if not (r.alive and r.initialized):
        started = r.status is Status.STARTING and not r.deaths and r.process <= 1
        return Status.STARTING if started else Status.DISCONNECTED
    if r.lost:
        return Status.DISCONNECTED
    if any(q.answered is None for q in r.questions.values()):
        return Status.WAITING_APPROVAL
    if r.compacting:
        return Status.COMPACTING
    if r.turn:
        return Status.WORKING
    return Status.READY if r.fresh else Status.WAITING_INPUT


def connected(session: Session) -> bool:
    """Whether its agent is within reach: by its connection, or because its hooks spoke."""
    r = session.record
    if r.kind in HOOKED:
        return r.living and r.alive and r.initialized
    return session.link is not None and session.link.greeted


def state(session: Session, node: str) -> m.SessionState:
    r = session.record
    return m.SessionState(
        session=r.session,
        uid=r.uid,
        node=node,
        kind=r.kind,
        title=r.title,
        status=r.status,
        status_since=r.status_since,
        agent=m.AgentInfo(name=r.agent, version=r.version, session_id=r.conversation),
        model=r.model,
        permission_mode=r.permission_mode,
        cwd=r.cwd,
        started_at=r.started_at,
        last_activity_at=r.last_activity_at,
        turns=r.turns,
        queued_prompts=sum(not p.delivered for p in session.prompts.values()),
        pending_approvals=[q.approval for q in r.questions.values() if q.answered is None and not q.left],
        current_tool=r.current_tool,
        last_message=r.last_message,
        connected=connected(session),
        pinned=r.pinned,
        parent=r.parent,
        blocked=r.blocked,
        error=r.error,
        enforcement=r.enforcement,
    )


class Step:
    """``durable``: the record changed and must be kept. ``visible``: the state snapshot changed."""

    def __init__(
        self, session: Session, node: str, now: datetime, *, shown: bool = True, resume: bool = False
    ) -> None:
        self.session = session
        self.r = session.record
        self.node = node
        self.now = now
        self.effects: list[Effect] = []
        self.durable = False
        self.visible = False
        self.reason = ""
        self.moved = False  # the status changed: the index, too
        self.resume = resume  # prompts that failed on a usage limit wait for its reset
        self._shown = shown  # False: the name belongs to a newer session, its snapshot is not ours

    def changed(self, reason: str = "") -> None:
        self.durable = self.visible = True
        self.reason = reason or self.reason

    def event(self, kind: type[m.Event], **fields: Any) -> None:
        """Say and keep an event."""
        r = self.r
        r.seq += 1
        event = kind(session=r.session, uid=r.uid, seq=r.seq, at=self.now, **fields)
        data = _encode(event)
        self.effects.append(KeepEvent(r.uid, r.seq, data))
        self.effects.append(Publish(t.SESSION_EVENT, data, {"session": r.session, "type": event.type}))
        self.durable = True

    def post(self, owner: str, kind: str, fact_id: str, data: m.Payload) -> None:
        fact = m.Fact(id=fact_id, type=kind, uid=self.r.uid, at=self.now, data=encode_data(data))
        self.effects.append(Post(owner, fact))

    def line(self, kind: str, about: str, data: str) -> int:
        """Keep a line to the agent and send it if it can be reached. Returns its number."""
        r = self.r
        r.line += 1
        line = Line(r.line, kind, about, data)
        self.session.lines[line.n] = line
        self.effects.append(KeepLine(r.uid, line.n, _encode(line)))
        link = self.session.link
        if link is not None and link.greeted:
            self.effects.append(SendLine(link.number, line.n, data))
        self.durable = True
        return line.n

    def request(self, kind: str, build: Any, *args: Any) -> None:
        """A control request of ours: ``build(request_id, *args)`` makes its line."""
        request_id = f"pointsman-{self.r.process}-{self.r.line + 1}"
        self.r.requests[request_id] = kind
        self.line("control", request_id, build(request_id, *args))

    def drop(self, numbers: list[int]) -> None:
        """These lines need not be sent again."""
        known = [n for n in numbers if self.session.lines.pop(n, None) is not None]
        if known:
            self.effects.append(DropLines(self.r.uid, tuple(known)))

    def proved(self, about: str) -> None:
        """The agent has read the line about this."""
        self.drop([line.n for line in self.session.lines.values() if line.about == about])

    def keep_prompt(self, prompt: Prompt) -> None:
        self.effects.append(KeepPrompt(self.r.uid, prompt.uuid, _encode(prompt)))
        self.changed()

    def drop_prompt(self, prompt: Prompt) -> None:
        self.session.prompts.pop(prompt.uuid, None)
        self.effects.append(KeepPrompt(self.r.uid, prompt.uuid, None))
        self.changed()

    def settle(self) -> None:
        """Read the status off the record; after each frame, so that no move within a message is skipped."""
        r = self.r
        new = derive(self.session)
        if change(r.status, new):
            old, r.status, r.status_since = r.status, new, self.now
            self.moved = self.visible = True
            self.event(m.StatusEvent, from_=old, to=new, reason=self.reason)
        self.reason = ""

    def close(self) -> list[Effect]:
        """Everything decided, with the record and the snapshot as they are now."""
        self.settle()
        r = self.r
        if self.durable:
            self.effects.append(KeepSession(r.uid, _encode(r)))
            link = self.session.link
            if link is not None and link.bridge:
                link.kept = r.offset
        if self.visible and self._shown:
            self.effects.append(
                Publish(t.SESSION_STATE, state(self.session, self.node), {"session": r.session})
            )
        return self.effects
