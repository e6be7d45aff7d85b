"""All sessions: which is meant, what happened to it, and what follows. No I/O, no clock.

`Sessions` finds the session, checks what was asked, and hands the work to a `Step`: `life` (processes),
`turns` (frames), `questions`, `delivery` (prompts and lines), `deltas`. It is put together from `registry`
(the table of sessions), `commands`, `links` (connections) and `hooks`; here stand facts and time. Every entry
returns effects; a caller that cannot carry them out must not go on (the process ends, and its successor
starts from what was kept).
"""

from __future__ import annotations

from datetime import datetime, timedelta

from bus import messages as m
from bus import topics as t
from bus.effects import Effect
from bus.errors import RefusedError
from services.ingest import (
    callbacks,
    delivery,
    holds,
    hook_questions,
    hook_rules,
    life,
    limits,
    questions,
    rest,
    running,
    turns,
)
from services.ingest.allowances import Allowances
from services.ingest.commands import Commands
from services.ingest.hook_model import HOOKED
from services.ingest.hooks import Hooks
from services.ingest.links import Links
from services.ingest.model import Record, Session, Settings
from services.ingest.states import Status
from services.ingest.step import connected as within_reach

INDEX_S = 0.25  # the index is published at most this often


class Sessions(Commands, Links, Hooks):
    """The owner of `sessions/#`. Load what was kept first, then `begin`."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.allowances = Allowances()

    # ── facts ────────────────────────────────────────────────────────────────────────────────────────────

    def created(self, fact: m.Fact, data: m.SessionCreated, now: datetime) -> list[Effect]:
        uid = fact.uid
        if not uid or uid in self._by_uid:
            raise RefusedError("bad_request", "a session is created once, with a uid")
        if not t.PARAMETERS["session"].match(data.session):
            raise RefusedError("bad_name", f"{data.session!r} is no session name")
        other = self._by_name.get(data.session)
        if other is not None and other.record.living:
            raise RefusedError("name_taken", f"{data.session} is alive (uid {other.record.uid})")
        session = Session(
            Record(
                uid=uid, session=data.session, kind=data.kind, cwd=data.cwd, title=data.title,
                model=data.model, permission_mode=data.permission_mode, pinned=data.pinned,
                parent=data.parent, agent=data.agent,
                version=data.agent_version, token_sha256=data.token_sha256, auto_approve=data.auto_approve,
                started_at=now, last_activity_at=now, status=Status.STARTING, status_since=now,
                conversation=data.resume,
            )
        )  # fmt: skip
        self._by_uid[uid] = self._by_name[data.session] = session
        step = self._step(session, now)
        opened = m.SessionOpened(
            session=data.session, cwd=data.cwd, kind=data.kind, budget_usd=data.budget_usd
        )
        step.post("ledger", "opened", f"opened-{uid}", opened)
        if data.prompt:
            delivery.queue(step, delivery.made(session.record, data.prompt_id, data.prompt, data.by))
        step.changed()
        step.moved = True
        return self._close(step)

    def started(self, fact: m.Fact, data: m.AgentStarted, now: datetime) -> list[Effect]:
        session = self._of(fact.uid)
        step = self._step(session, now)
        life.started(step, data.process, data.resume)
        link = session.link
        if link is not None and not link.greeted and self._fits(session, link):
            self._greet(step)
        return self._close(step)

    def exited(self, fact: m.Fact, data: m.AgentExited, now: datetime) -> list[Effect]:
        step = self._step(self._of(fact.uid), now)
        life.exited(step, data)
        return self._close(step)

    def answered(self, fact: m.Fact, data: m.Answer, now: datetime) -> list[Effect]:
        step = self._step(self._of(fact.uid), now)
        if step.r.kind in HOOKED:
            if not hook_rules.denied(step, data):
                hook_questions.answer(step, data)
        elif not callbacks.denied(step, data):
            questions.answer(step, data)
        return self._close(step)

    def judged(self, command: m.ToolVerdict, now: datetime) -> list[Effect]:
        """The gate's word on a hook callback. One of a session that is gone comes too late."""
        session = self._by_uid.get(command.uid or "")
        if session is None:
            return []
        step = self._step(session, now)
        (hook_rules if step.r.kind in HOOKED else callbacks).verdict(step, command)
        return self._close(step)

    def held(self, fact: m.Fact, data: m.BudgetHold, now: datetime) -> list[Effect]:
        session = self._by_uid.get(fact.uid or "")
        if session is None or not session.record.living or session.record.kind == "external":
            return []  # there is nothing to stop
        step = self._step(session, now)
        holds.hold(step, data)
        return self._close(step)

    def ledger_said(self, word: m.LedgerAllowances, now: datetime, *, retained: bool) -> list[Effect]:
        """What it leaves to spend. A sign of life releases whom its silence held."""
        records = [session.record for session in self._by_uid.values() if session.record.living]
        self.allowances.heard(word, records, retained=retained)
        if retained:
            return []
        return [effect for r in records if r.unled is not None for effect in self._unled(r, None, now)]

    def ledger_silent(self, seconds: float, now: datetime) -> list[Effect]:
        """So much time has passed since this was last said: who has nothing left to spend is held."""
        allowances = self.allowances
        allowances.passed(seconds)
        if not allowances.silent:
            return []
        records = [session.record for session in self._by_uid.values() if session.record.living]
        spent = allowances.spent_since(records)
        effects: list[Effect] = []
        for r in records:
            why = allowances.refused(r, spent) if r.unled is None and r.held is None else None
            effects += self._unled(r, why, now) if why is not None else []
        return effects

    def _unled(self, r: Record, message: str | None, now: datetime) -> list[Effect]:
        step = self._step(self._by_uid[r.uid], now)
        holds.hold_unled(step, message)
        return self._close(step)

    def controller_answered(
        self, uid: str, ask_id: str, error: RefusedError | None, now: datetime
    ) -> list[Effect]:
        session = self._by_uid.get(uid)
        if session is None:
            return []
        step = self._step(session, now)
        life.answered(step, ask_id, error)
        return self._close(step)

    # ── time ─────────────────────────────────────────────────────────────────────────────────────────────

    def tick(self, now: datetime) -> list[Effect]:
        """To be called every `INDEX_S`: offsets, the index, and whatever is due."""
        effects: list[Effect] = []
        for session in list(self._behind.values()):
            link = session.link
            if link is not None and link.acked != session.record.offset:
                effects += self._commit(session, link)
        self._behind.clear()
        due = [key for key, at in self._timers.items() if at <= now]
        for key in due:
            if self._timers.pop(key, None) is None:
                continue
            session_ = self._by_uid.get(key[0])
            if session_ is not None:
                effects += self._due(session_, key[1], now)
        if self._index_at is not None:
            effects.append(self._index(now))
        return effects

    def _due(self, session: Session, what: str, now: datetime) -> list[Effect]:
        r = session.record
        if what == "forget":
            return [] if r.living else self._forget(session, now)
        step = self._step(session, now)
        if what == "grace" and r.living and r.alive and (session.link is None or not session.link.greeted):
            r.lost = True
            step.changed("out of reach")
        elif what == "init" and r.living and r.alive and not r.initialized and session.link is not None:
            step.event(m.ErrorEvent, code="internal", message="the agent did not answer initialize")
            r.hooked = False
            delivery.initialized(step)
        elif what == "cost":
            running.tick(step)
            holds.enforce(step, again=True)
        elif what == "limit" and r.waits is not None and r.waits.until is not None and r.waits.until <= now:
            limits.reset(step)
        elif what == "baseline" and r.initialized and not r.baseline and within_reach(session):
            turns.set_baseline(step)
        elif what == "hooks" and r.callbacks:
            hook_rules.give_up(step) if r.kind in HOOKED else callbacks.remind(step)
        elif what == "exit" and r.exit is not None:
            life.gone(step)
        elif what == "wake":
            rest.try_again(step)
        elif what == "silent" and session.prompts and delivery.drop_silent(step):
            self._set(r, "silent", now + timedelta(seconds=delivery.SILENT_S))
        return self._close(step)
