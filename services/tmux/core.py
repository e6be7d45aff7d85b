"""What the tmux controller decides: no clock, disk, process or bus. `model` has the theory of operation."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime, timedelta

import msgspec

from bus import messages as m
from bus import topics as t
from bus.effects import Effect, Publish, ReplyTo
from bus.errors import RefusedError
from services.tmux import agents
from services.tmux.judging import Judging
from services.tmux.model import (
    GONE,
    AgentIs,
    Check,
    Clear,
    CloseWindow,
    EndOrphan,
    Forget,
    Found,
    Record,
    Save,
    Seen,
    Signal,
    State,
    Wake,
)
from services.tmux.steps import Watch, post, started

STEP_S = 5.0  # contract of `end`: how long asking, SIGINT and SIGTERM each get
NO_AGENT_S = 5.0  # a bridge starts its agent at once; after this there will be none
ORPHAN_S = 3.0
NOT_STARTED_CODES = frozenset({126, 127})

_SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")
_STEPS = (None, "INT", "TERM", "KILL")  # None: ingest is asked


class Core(Judging):
    """All sessions of this node that have a record."""

    @property
    def busy(self) -> bool:
        """Whether something is under way that a person waits for."""
        return any(
            record.state is not State.RUNNING
            or record.creator is not None
            or record.stop == record.process
            or self._watching(uid).over_since
            for uid, record in self.records.items()
            if not (record.state is State.RUNNING and record.told == record.process)
        )

    # ── commands ─────────────────────────────────────────────────────────────────────────────────────────

    def create(
        self, asked: m.CreateSession, uid: str, token: str, prompt_id: str, now: datetime
    ) -> list[Effect]:
        """``uid``, ``token`` and ``prompt_id`` are fresh. Raises `RefusedError`."""
        self._check_request(asked)
        record = Record(
            uid=uid,
            asked=msgspec.structs.replace(asked, id=None),
            state=State.CHECKING,
            since=now,
            created_at=now,
            token=token,
            prompt_id=prompt_id,
            creator=asked.id,
            resume=asked.resume,
        )
        self.records[uid] = record
        return [Save(record), Check(uid)]

    def _check_request(self, asked: m.CreateSession) -> None:
        name = asked.session
        if not _SLUG.match(name):
            raise RefusedError(
                "bad_name",
                f"{name[:80]!r} is not a session name: lower-case letters, digits and hyphens, beginning "
                "with a letter or digit, at most 63",
            )
        if asked.agent != "claude":
            raise RefusedError(
                "unavailable", f"this version runs the agent `claude` alone, not {asked.agent!r}"
            )
        if asked.kind == "external":
            raise RefusedError(
                "bad_request",
                "external sessions are those that you start elsewhere: see `pointsman hooks install`",
            )
        agents.check_word("model", asked.model)
        agents.check_word("resume", asked.resume)
        agents.check_mode(asked.permission_mode, self.max_permission_mode)
        if not asked.cwd.startswith("/") or "\0" in asked.cwd:
            raise RefusedError("bad_cwd", f"cwd = {asked.cwd!r}: must be an absolute path")
        taken = self.living(name)
        if taken is not None:
            raise RefusedError(
                "name_taken",
                f"a session {name!r} is {taken.state} already: choose another name, or end it first",
                {"uid": taken.uid},
            )

    def checked(self, uid: str, found: Found, now: datetime) -> list[Effect]:
        """The world was looked at for a session that is to be opened."""
        record = self.records.get(uid)
        if record is None or record.state is not State.CHECKING:
            return []
        try:
            if record.end_asked:
                raise RefusedError("unavailable", "it was ended while it was being opened")
            if found.cwd_problem:
                raise RefusedError("bad_cwd", found.cwd_problem)
            if found.tmux_problem:
                raise RefusedError("unavailable", found.tmux_problem)
            if found.agent_problem:
                raise RefusedError("agent_missing", found.agent_problem)
            if found.breaker_open:
                raise RefusedError("breaker_open", found.breaker_open, {"retry_at": found.retry_at})
            agents.check_version(record.asked.kind, found.version)
        except RefusedError as error:
            return self._fail(record, error, now)
        version = agents.parse_version(found.version)
        assert version is not None  # noqa: S101  # check_version has seen to it
        record, effects = self._to(
            record, State.CREATING, now, program=found.program, version=agents.version_text(version)
        )
        return [*effects, self._created(record, now)]

    def resume(self, refused: Mapping[str, m.Refused], now: datetime) -> list[Effect]:
        """After a start: take up what was under way. ``refused``: facts that ingest has set aside, by id."""
        effects: list[Effect] = []
        for record in list(self.records.values()):
            if record.state is State.CHECKING:
                effects.append(Check(record.uid))
            elif record.state is State.CREATING:
                told = refused.get(f"created-{record.uid}")
                effects += self.fact_refused(told, now) if told else [self._created(record, now)]
        return [*effects, Wake()]

    def fact_kept(self, fact_id: str, now: datetime) -> list[Effect]:
        """Ingest has kept a fact of ours. Only the creation is waited for."""
        record = self.records.get(fact_id.removeprefix("created-"))
        if record is None or record.state is not State.CREATING:
            return []
        if record.end_asked:
            return self._end_before_start(record, now)
        record, effects = self._to(record, State.RUNNING, now)
        return [*effects, started(record, now), Wake()]

    def fact_refused(self, refused: m.Refused, now: datetime) -> list[Effect]:
        record = self.records.get(refused.id.removeprefix("created-"))
        if record is None or record.state is not State.CREATING:
            return []
        return self._fail(record, RefusedError(refused.code, refused.message), now)

    def opened(self, uid: str, process: int, now: datetime) -> list[Effect]:
        """The window is there: whoever asked for the session may know."""
        record = self.records.get(uid)
        if record is None or record.state is not State.RUNNING or record.process != process:
            return []
        watch = self._watching(uid)
        watch.opened_at, watch.down = now, False
        return self._answer_creator(record)

    def open_failed(self, uid: str, process: int, message: str, now: datetime) -> list[Effect]:
        """The window could not be opened. A session that never ran is rolled back, another is tried again."""
        record = self.records.get(uid)
        if record is None or record.state is not State.RUNNING or record.process != process:
            return []
        watch = self._watching(uid)
        watch.opened_at, watch.down = now, False  # and found down at the next look, so tried ever more slowly
        if record.creator is None or process != 1:
            return []
        told = self._exited(record, None, message, now, final=True, failed=True)
        return [told, *self._fail(record, RefusedError("unavailable", message), now)]

    def end(self, command: m.SessionCommand, session: str, now: datetime) -> list[Effect]:
        """Raises `RefusedError` (``unknown_session``)."""
        record = self.living(session)
        if record is None or command.uid not in {None, record.uid}:
            raise RefusedError("unknown_session", f"no living session {session!r}" + (
                "" if record is None else f" with the uid {command.uid}: the living one's is {record.uid}"
            ))  # fmt: skip
        record = msgspec.structs.replace(
            record,
            end_asked=True,
            end_reason=record.end_reason or command.reason,
            ended_by=record.ended_by or command.by,
            enders=(*record.enders, *([command.id] if command.id else [])),
        )
        self.records[record.uid] = record
        if record.state is not State.RUNNING:  # what is under way there comes round to it
            return [Save(record), Wake()]
        record, effects = self._to(record, State.ENDING, now)
        self._watch[record.uid] = Watch()
        if record.creator is not None:
            effects += self._answer_creator(record)
        return [*effects, Wake()]

    def spawn(self, command: m.SpawnAgent, now: datetime) -> list[Effect]:
        """Ingest wants the next agent process. Raises `RefusedError`."""
        record = self.records.get(command.uid or "")
        if record is None or record.state in GONE:
            raise RefusedError("unknown_session", f"no living session with the uid {command.uid}")
        agents.check_word("resume", command.resume)
        if record.state is not State.RUNNING:
            raise RefusedError("busy", f"session {record.session!r} is {record.state}")
        reply = ReplyTo(command.id, {"process": max(command.process, record.process)})
        if command.process <= record.process:
            return [reply]  # that one was started before
        record = msgspec.structs.replace(record, process=command.process, resume=command.resume)
        self.records[record.uid] = record
        self._watch[record.uid] = Watch()
        return [Save(record), started(record, now), reply, Wake()]

    def typing(self, command: m.TypeText) -> Record:
        """Whose screen is meant. Raises `RefusedError`."""
        record = self.records.get(command.uid or "")
        if record is None or record.state is not State.RUNNING or record.process != command.process:
            raise RefusedError("unknown_session", f"no running agent {command.process} of {command.uid}")
        if record.asked.kind != "interactive":
            raise RefusedError("bad_request", f"{record.session} has no screen to type into")
        return record

    def screen_shows(self, record: Record, message: str, now: datetime) -> list[Effect]:
        """A dialog keeps the agent from starting: ingest says so, once, in the session's state."""
        watch = self._watching(record.uid)
        if watch.dialog == message:
            return []
        watch.dialog = message
        data = m.ScreenShows(process=record.process, message=message)
        name = f"screen-{record.uid}-{record.process}-{hashlib.sha256(message.encode()).hexdigest()[:8]}"
        return [post(name, "screen", record.uid, now, data)]

    def stop(self, command: m.StopAgent, now: datetime) -> list[Effect]:
        """Ingest wants the agent process ended and the session kept. Raises `RefusedError`."""
        record = self.records.get(command.uid or "")
        if record is None or record.state in GONE:
            raise RefusedError("unknown_session", f"no living session with the uid {command.uid}")
        if record.state is not State.RUNNING:
            raise RefusedError("busy", f"session {record.session!r} is {record.state}")
        reply = ReplyTo(command.id, {"process": record.process})
        if command.process != record.process or record.told >= record.process:
            return [reply]  # that one is gone
        force = command.force or (record.stop == record.process and record.force)
        record = msgspec.structs.replace(record, stop=record.process, force=force)
        self.records[record.uid] = record
        self._watch[record.uid] = Watch()
        return [Save(record), reply, Wake()]

    # ── looking at the world ─────────────────────────────────────────────────────────────────────────────

    def look(self, seen: Mapping[str, Seen], now: datetime, *, ingest_online: bool) -> list[Effect]:
        """What must be done now. ``seen``: every session of which there is a record, window or directory."""
        effects: list[Effect] = []
        for record in list(self.records.values()):
            view = seen.get(record.uid)
            if view is None or (view.process != record.process and record.state not in GONE):
                continue  # looked at before this record changed: the next look will do
            if record.state is State.RUNNING:
                effects += self._look_running(record, view, now, ingest_online=ingest_online)
            elif record.state is State.ENDING:
                effects += self._look_ending(record, view, now, ingest_online=ingest_online)
            elif record.state in GONE:
                effects += self._look_gone(record, view)
        return [*effects, *self._look_orphans(seen, now)]

    def _look_running(
        self, record: Record, seen: Seen, now: datetime, *, ingest_online: bool
    ) -> list[Effect]:
        stopping = record.stop == record.process
        if not self._over(record, seen, now):
            if stopping:
                return self._press(record, seen, now, ingest_online=ingest_online)
            return [] if seen.agent is AgentIs.GONE else self._reopen(record, seen, now)
        if record.told >= record.process:
            return []  # ingest knows, and decides
        if not self._drained(record, seen, now, ingest_online=ingest_online):
            return self._reopen(record, seen, now)
        code = seen.exit.code if seen.exit else None
        # Nobody but ingest can make the agent end with 0, or a person by a signal: either way it is wanted.
        if code == 0 and not stopping:
            return self._finish(record, State.ENDED, code, "the agent ended the session", now)
        if code in NOT_STARTED_CODES and record.process == 1 and not stopping:
            return self._finish(record, State.FAILED, code, "the agent could not be started", now)
        record = msgspec.structs.replace(record, told=record.process)
        self.records[record.uid] = record
        reason = "put to sleep" if stopping else "the agent ended by itself"
        told = self._exited(record, code, reason, now, final=False)
        return [Save(record), told, *self._answer_creator(record)]

    def _look_ending(self, record: Record, seen: Seen, now: datetime, *, ingest_online: bool) -> list[Effect]:
        if self._over(record, seen, now):
            if not self._drained(record, seen, now, ingest_online=ingest_online):
                return self._reopen(record, seen, now)
            code = seen.exit.code if seen.exit else None
            return self._finish(record, State.ENDED, code, record.end_reason or "ended by command", now)
        return self._press(record, seen, now, ingest_online=ingest_online)

    def _press(self, record: Record, seen: Seen, now: datetime, *, ingest_online: bool) -> list[Effect]:
        """The agent is to end: it is asked, then signalled, then killed."""
        watch = self._watching(record.uid)
        if watch.step_since is None:
            watch.step_since = now
            # A screen has nobody to be asked: SIGTERM is what it ends in good order by (SessionEnd, cost).
            if (record.force and record.stop == record.process) or record.asked.kind == "interactive":
                watch.step = _STEPS.index("TERM")
        passed = now - watch.step_since >= timedelta(seconds=STEP_S)
        if watch.step < len(_STEPS) - 1 and (passed or (watch.step == 0 and not ingest_online)):
            watch.step += 1
            watch.step_since = now
        if seen.agent is AgentIs.NOT_STARTED:
            return self._end_without_agent(record, seen, watch, now)
        step = _STEPS[watch.step]
        effects = self._reopen(record, seen, now) if step is None else []
        if step is None:
            effects.append(Publish(t.END_AGENT, _end_agent(record)))
        elif watch.sent < watch.step or step == "KILL":
            effects.append(Signal(record.uid, record.process, step))
        watch.sent = watch.step
        return effects

    def _end_without_agent(self, record: Record, seen: Seen, watch: Watch, now: datetime) -> list[Effect]:
        """Ending before an agent has shown itself: it gets a moment to appear, then its window is closed."""
        if watch.none_since is None:
            watch.none_since = now
        if seen.pane is not None and now - watch.none_since >= timedelta(seconds=NO_AGENT_S):
            return [CloseWindow(record.uid, seen.pane.window_session)]
        return []

    def _look_gone(self, record: Record, seen: Seen) -> list[Effect]:
        if seen.pane is not None or seen.directory:
            return [Clear(record.uid, seen.pane.window_session if seen.pane else None)]
        del self.records[record.uid]
        self._watch.pop(record.uid, None)
        result = {"session": record.session, "uid": record.uid, "status": record.state.value}
        return [Forget(record.uid), *(ReplyTo(ender, result) for ender in record.enders)]

    def _look_orphans(self, seen: Mapping[str, Seen], now: datetime) -> list[Effect]:
        """What carries our mark and has no record. It gets a moment: a look is always a little old."""
        found = {uid: view for uid, view in seen.items() if uid not in self.records}
        self._orphans = {uid: self._orphans.get(uid, now) for uid in found}
        return [
            EndOrphan(uid, view.pane.window_session if view.pane else None)
            for uid, view in found.items()
            if now - self._orphans[uid] >= timedelta(seconds=ORPHAN_S)
        ]


def _end_agent(record: Record) -> m.EndAgent:
    if record.state is State.ENDING:
        return m.EndAgent(id=f"end-agent-{record.uid}", uid=record.uid, reason=record.end_reason)
    name = f"stop-agent-{record.uid}-{record.process}"
    return m.EndAgent(id=name, uid=record.uid, process=record.process)
