"""The steps of a session from one state to the next, and what is said to ingest and to the asker at each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import msgspec

from bus import codec
from bus import messages as m
from bus.effects import Effect, Post, ReplyTo
from bus.errors import RefusedError
from services.tmux import agents
from services.tmux.model import GONE, TRANSITIONS, Record, Save, State, Wake

OWNER = "ingest"


@dataclass(slots=True)
class Watch:
    """What is remembered of a session between two looks, and may be forgotten in a crash."""

    step: int = 0
    step_since: datetime | None = None
    sent: int = -1  # the last step that was carried out
    gone_since: datetime | None = None
    over_since: datetime | None = None
    none_since: datetime | None = None
    opened_at: datetime | None = None
    down: bool = False  # it was seen not to run since then
    quick: int = 0  # how often in a row the program ended soon after it was opened
    dialog: str = ""  # what was told of one that stands on this process's screen


class Steps:
    """The records, and the legal steps between their states with what is said at each."""

    def __init__(self, node: str, max_permission_mode: str, records: Iterable[Record] = ()) -> None:
        self.node = node
        self.max_permission_mode = max_permission_mode
        self.records: dict[str, Record] = {record.uid: record for record in records}
        self._watch: dict[str, Watch] = {}
        self._orphans: dict[str, datetime] = {}

    def living(self, session: str) -> Record | None:
        """The one session that bears the name now."""
        for record in self.records.values():
            if record.session == session and record.state not in GONE:
                return record
        return None

    def _created(self, record: Record, now: datetime) -> Post:
        asked = record.asked
        return post(
            f"created-{record.uid}",
            "created",
            record.uid,
            now,
            m.SessionCreated(
                session=asked.session,
                kind=asked.kind,
                cwd=asked.cwd,
                title=asked.title or asked.session,
                model=asked.model,
                permission_mode=agents.mode(record),
                pinned=asked.pinned,
                parent=asked.parent,
                agent=asked.agent,
                agent_version=record.version,
                token_sha256=agents.token_sha256(record.token),
                prompt=asked.prompt or None,
                prompt_id=record.prompt_id if asked.prompt else None,
                by=asked.by,
                resume=asked.resume,
                auto_approve=asked.auto_approve or [],
                budget_usd=asked.budget_usd,
            ),
        )

    def _to(
        self, record: Record, state: State, now: datetime, **changes: object
    ) -> tuple[Record, list[Effect]]:
        assert state in TRANSITIONS[record.state], (record.state, state)  # noqa: S101  # a bug of ours
        record = msgspec.structs.replace(record, state=state, since=now, **changes)
        self.records[record.uid] = record
        return record, [Save(record)]

    def _fail(self, record: Record, error: RefusedError, now: datetime) -> list[Effect]:
        """Roll back a session that never came to be, and say so to who asked for it."""
        creator = record.creator
        record, effects = self._to(record, State.FAILED, now, creator=None, token="")
        return [*effects, *([ReplyTo(creator, error=error)] if creator else []), Wake()]

    def _end_before_start(self, record: Record, now: datetime) -> list[Effect]:
        creator = record.creator
        error = RefusedError("unavailable", "it was ended while it was being opened")
        record, effects = self._to(record, State.ENDED, now, creator=None, token="")
        told = self._exited(record, None, record.end_reason or "ended by command", now, final=True)
        return [*effects, told, *([ReplyTo(creator, error=error)] if creator else []), Wake()]

    def _finish(
        self, record: Record, state: State, code: int | None, reason: str, now: datetime
    ) -> list[Effect]:
        effects: list[Effect] = self._answer_creator(record)
        record, saved = self._to(record, state, now, creator=None, token="")
        told = self._exited(record, code, reason, now, final=True, failed=state is State.FAILED)
        return [*effects, *saved, told, Wake()]

    def _answer_creator(self, record: Record) -> list[Effect]:
        record = self.records[record.uid]
        if record.creator is None:
            return []
        reply = ReplyTo(record.creator, self.state(record))
        self.records[record.uid] = msgspec.structs.replace(record, creator=None)
        return [Save(self.records[record.uid]), reply]

    def state(self, record: Record) -> m.SessionState:
        """The session as it is when it has just been opened: the reply to its creation."""
        asked = record.asked
        return m.SessionState(
            session=asked.session,
            uid=record.uid,
            node=self.node,
            kind=asked.kind,
            title=asked.title or asked.session,
            status="starting",
            status_since=record.created_at,
            agent=m.AgentInfo(name=asked.agent, version=record.version, session_id=asked.resume),
            model=asked.model,
            permission_mode=agents.mode(record),
            cwd=asked.cwd,
            started_at=record.created_at,
            last_activity_at=record.created_at,
            queued_prompts=1 if asked.prompt else 0,
            pinned=asked.pinned,
            parent=asked.parent,
        )

    @staticmethod
    def _exited(
        record: Record, code: int | None, reason: str, now: datetime, *, final: bool, failed: bool = False
    ) -> Post:
        data = m.AgentExited(
            process=record.process, exit_code=code, reason=reason, final=final, failed=failed
        )
        name = f"ended-{record.uid}" if final else f"exited-{record.uid}-{record.process}"
        return post(name, "exited", record.uid, now, data)


def started(record: Record, now: datetime) -> Post:
    data = m.AgentStarted(process=record.process, resume=record.resume)
    return post(f"started-{record.uid}-{record.process}", "started", record.uid, now, data)


def post(name: str, kind: str, uid: str, now: datetime, data: m.Payload) -> Post:
    return Post(OWNER, m.Fact(id=name, type=kind, uid=uid, at=now, data=codec.encode_data(data)))
