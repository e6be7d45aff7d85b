"""Which sessions there are, by name and uid; their timers, index and steps. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from bus import bridge_wire as bw
from bus import messages as m
from bus import topics as t
from bus.effects import Effect, Publish
from bus.errors import RefusedError
from services.ingest import callbacks, delivery, holds, rest, running, screen
from services.ingest.deltas import Deltas
from services.ingest.hook_model import HOOKED
from services.ingest.model import AskController, Forget, Line, Prompt, Record, Session, Settings
from services.ingest.states import Status
from services.ingest.step import Step, state

GRACE_S = 5.0  # a bridge is back after about 1 s; shorter losses do not make a session "disconnected"
# Measured: 1 to 2 ms, also a refusal (2.1.42). To begin at zero where the agent began at an old total would
# count that twice: only one that is connected and says nothing for so long is taken not to answer.
BASELINE_S = 30.0


def _not_ours(name: str, kind: str) -> str:
    if kind == "interactive":
        return (
            f"{name} is interactive: its model and permission mode are chosen on its screen "
            f"(`pointsman attach {name}`), or when it is opened"
        )
    return f"{name} is external: it is followed, not controlled; do it on its own screen"


class Registry:
    """The table of sessions and what its parts share. ``_timers``: (uid, what) → when it is due."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._by_uid: dict[str, Session] = {}
        self._by_name: dict[str, Session] = {}  # the living one, else the last
        self._links: dict[int, Session] = {}
        self._deltas: dict[int, Deltas] = {}
        self._timers: dict[tuple[str, str], datetime] = {}
        self._numbers: dict[
            int, tuple[str, str]
        ] = {}  # HTTP requests of hooks → uid, request id of a question
        self._behind: dict[int, Session] = {}  # links whose journal was read further than is kept or acked
        self._figures: dict[int, bw.Figures] = {}  # what the bridge of a link told last
        self._index_at: datetime | None = None
        self.unknown: dict[str, int] = {}  # frame types that we do not know → how often
        self.malformed = 0

    def load(
        self,
        records: Iterable[Record],
        prompts: Iterable[tuple[str, Prompt]],
        lines: Iterable[tuple[str, Line]],
    ) -> None:
        for record in sorted(records, key=lambda r: (r.living, r.started_at)):
            session = Session(record)
            self._by_uid[record.uid] = session
            self._by_name[record.session] = session
        for uid, prompt in sorted(prompts, key=lambda entry: entry[1].order):
            self._by_uid[uid].prompts[prompt.uuid] = prompt
        for uid, line in lines:
            self._by_uid[uid].lines[line.n] = line

    def begin(self, now: datetime) -> list[Effect]:
        """Say what was kept, and take up what was waited for."""
        effects: list[Effect] = []
        for session in self._by_uid.values():
            r = session.record
            if r.ended_at is not None:
                self._set(r, "forget", r.ended_at + timedelta(seconds=self._settings.keep_ended_s))
            elif r.kind not in HOOKED:
                self._set(r, "grace", now + timedelta(seconds=GRACE_S))
            if r.ask is not None:
                effects.append(AskController(r.uid, r.session, r.ask))
            if r.exit is not None:
                self._set(r, "exit", r.exit.until)
            if holds.works(r):
                self._set(r, "cost", now + timedelta(seconds=running.ASK_S))
            if r.waits is not None and r.waits.until is not None:
                self._set(r, "limit", r.waits.until)
            if r.rest is Status.HIBERNATED:  # the breaker may have closed meanwhile
                self._set(r, "wake", now)
            if r.callbacks:
                self._set(r, "hooks", now)
            if session.prompts:
                self._set(r, "silent", now + timedelta(seconds=delivery.SILENT_S))
            if self._shown(session):
                effects.append(
                    Publish(t.SESSION_STATE, state(session, self._settings.node), {"session": r.session})
                )
        return [*effects, self._index(now)]

    def statuses(self) -> dict[str, int]:
        """For metrics."""
        found = dict.fromkeys(map(str, Status), 0)
        for session in list(self._by_name.values()):  # at once: metrics are read in a thread of their own
            found[session.record.status] += 1
        return found

    def living(self) -> list[Session]:
        """For metrics."""
        return [session for session in list(self._by_name.values()) if session.record.living]

    def bridges(self) -> dict[str, bw.Figures | None]:
        """For metrics: by name of the living session, what its connected bridge told last."""
        links = [(session.record.session, session.link) for session in self.living()]
        return {name: self._figures.get(link.number) for name, link in links if link and link.bridge}

    def named(self, name: str, uid: str | None) -> Session:
        """The session of this name (or, of that name, the one with the uid). Raises ``unknown_session``."""
        session = self._by_uid.get(uid) if uid is not None else self._by_name.get(name)
        if session is None or session.record.session != name:
            raise RefusedError(
                "unknown_session", f"no session {name!r}" + (f" with uid {uid}" if uid else "")
            )
        return session

    def _set(self, r: Record, what: str, at: datetime) -> None:
        self._timers[r.uid, what] = at

    def _timed(self, r: Record, what: str) -> bool:
        return (r.uid, what) in self._timers

    def _set_once(self, r: Record, what: str, at: datetime) -> None:
        """Unless it is set, however late."""
        self._timers.setdefault((r.uid, what), at)

    def _step(self, session: Session, now: datetime) -> Step:
        s = self._settings
        return Step(session, s.node, now, shown=self._shown(session), resume=s.resume_when_reset)

    def _shown(self, session: Session) -> bool:
        return self._by_name.get(session.record.session) is session

    def _close(self, step: Step) -> list[Effect]:
        """What was decided, and what follows from it."""
        self._go_on(step)
        effects = step.close()
        self._set_timers(step)
        if step.moved:
            self._index_at = self._index_at or step.now
        link = step.session.link
        if link is not None and link.bridge and link.acked != step.r.offset:
            self._behind[link.number] = step.session
        return effects

    def _go_on(self, step: Step) -> None:
        """Prompts on their way, what its budget stops, an agent that is wanted again."""
        r = step.r
        if r.kind == "interactive" and not self._timed(r, "type"):
            screen.pump(step)
        if r.initialized and r.baseline:
            self._timers.pop((r.uid, "baseline"), None)
            delivery.pump(step)
        elif r.initialized:
            self._set_once(r, "baseline", step.now + timedelta(seconds=BASELINE_S))
        holds.enforce(step)
        rest.wake_if_wanted(step)

    def _set_timers(self, step: Step) -> None:
        """When the session is to be looked at again, whatever happens (`Sessions._due`)."""
        r, now = step.r, step.now
        if rest.blocked(r) and r.blocked is not None and r.blocked.until is not None:
            self._set(r, "wake", r.blocked.until)
        if r.exit is not None:
            self._set(r, "exit", r.exit.until)
        if holds.works(r):
            self._set_once(r, "cost", now + timedelta(seconds=running.ASK_S))
        if r.waits is not None and r.waits.until is not None:
            self._set_once(r, "limit", r.waits.until)
        if step.session.prompts:
            self._set_once(r, "silent", now + timedelta(seconds=delivery.SILENT_S))
        if callbacks.waiting(step):
            self._set_once(r, "hooks", now + timedelta(seconds=callbacks.AGAIN_S))
        if r.ended_at is not None:
            self._set_once(r, "forget", r.ended_at + timedelta(seconds=self._settings.keep_ended_s))

    def _index(self, now: datetime) -> Effect:
        self._index_at = None
        entries = [
            m.IndexEntry(session=name, uid=s.record.uid, kind=s.record.kind, status=s.record.status)
            for name, s in sorted(self._by_name.items())
        ]
        return Publish(t.SESSIONS_INDEX, m.SessionIndex(sessions=entries, at=now))

    def _forget(self, session: Session, now: datetime) -> list[Effect]:
        r = session.record
        del self._by_uid[r.uid]
        effects: list[Effect] = [Forget(r.uid)]
        if self._shown(session):
            del self._by_name[r.session]
            effects.append(Publish(t.SESSION_STATE, None, {"session": r.session}))
            self._index_at = self._index_at or now
        for key in [key for key in self._timers if key[0] == r.uid]:
            del self._timers[key]
        return effects

    def _of(self, uid: str | None) -> Session:
        session = self._by_uid.get(uid or "")
        if session is None:
            raise RefusedError("unknown_session", f"no session with uid {uid}")
        return session

    def _living(self, name: str, uid: str | None) -> Session:
        session = self.named(name, uid)
        if not session.record.living:
            raise RefusedError("unknown_session", f"{name} has {session.record.status}")
        return session

    def _controllable(self, name: str, uid: str | None, *also: str) -> Session:
        """``also``: further kinds that can do what is asked."""
        session = self._living(name, uid)
        if session.record.kind not in ("managed", "sdk-url", *also):
            raise RefusedError("unavailable", _not_ours(name, session.record.kind))
        if not session.record.alive:
            raise RefusedError("unavailable", f"{name} has no agent at the moment ({session.record.status})")
        return session
