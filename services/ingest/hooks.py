"""Sessions that are followed by the hooks of their agent: interactive ones (ours, in tmux) and external ones.

What hooks tell becomes the same state and events as the frames of a managed agent, as far as they go: no
pieces of texts, the last text of a turn alone, no costs (`result` says ``null``; the ledger books them from
the transcript). What a person does at the screen makes no hook (an interruption, an answered dialog):
`presence` has it from Claude Code's own note.

An external session appears with the first hook of its conversation and ends with its SessionEnd, or when its
process is gone. It is named after its directory, numbered where the name is taken; the same conversation,
resumed, gets its name again.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from pathlib import PurePath

from bus import messages as m
from bus.effects import Effect
from services.ingest import cut, hook_questions, hook_rules, hook_turns, hook_wire, screen
from services.ingest.hook_model import HOOKED, SETTLED, AnswerHook, Presence
from services.ingest.hook_wire import Hook
from services.ingest.model import Record, Session
from services.ingest.registry import Registry
from services.ingest.states import Status
from services.ingest.wire import WireError

MAX_NAME = 56  # characters of a directory's name in a session's: room for a number


class Hooks(Registry):
    """What comes from the hooks' listener, and from the tmux controller about screens."""

    def by_token(self, token_sha256: str) -> str | None:
        """The uid of the living interactive session whose token this is."""
        for session in self._by_uid.values():
            r = session.record
            if r.kind == "interactive" and r.living and r.token_sha256 == token_sha256:
                return r.uid
        return None

    def hook(
        self, number: int, uid: str | None, hook: Hook, fresh_uid: str, now: datetime, *, pid: int = 0
    ) -> list[Effect]:
        """One hook, as the HTTP request ``number``. ``uid``: an interactive session; None: an external one,
        which gets ``fresh_uid`` if it is new. Every request is answered, at once or later.
        """
        nothing: list[Effect] = [AnswerHook(number, hook_wire.NOTHING)]
        effects: list[Effect] = []
        session = self._by_uid.get(uid) if uid is not None else self._external(hook.session_id)
        if uid is None and session is None:
            if hook.hook_event_name == "SessionEnd" or self._followed(hook.session_id):
                return nothing
            session = self._appeared(hook, fresh_uid, now)
            effects = self._opened(session, now)
        if session is None or not session.record.living or not session.record.alive:
            return [*effects, *nothing]
        step = self._step(session, now)
        r = step.r
        r.last_activity_at = now
        r.pid = pid or r.pid
        hook_turns.learn(step, hook)
        waits: str | None = None  # the id of what the request waits for
        try:
            if hook.hook_event_name == "PermissionRequest":
                hook_turns.turn(step, hook)
                waits = hook_questions.ask(step, hook, number)
            else:
                hook_turns.HANDLERS.get(hook.hook_event_name, hook_turns.other)(step, hook)
                if hook.hook_event_name == "PreToolUse":
                    waits = hook_rules.before(step, hook, number)
        except WireError:
            self.malformed += 1
            nothing = [AnswerHook(number, hook_wire.unread(hook.hook_event_name))]
        if waits is not None:
            self._numbers[number] = (r.uid, waits)
            nothing = []
        return [*effects, *self._close(step), *nothing]

    def hook_lost(self, number: int, now: datetime) -> list[Effect]:
        """The client hung up before it had its answer."""
        uid, request_id = self._numbers.pop(number, ("", ""))
        session = self._by_uid.get(uid)
        if session is None:
            return []
        step = self._step(session, now)
        question = step.r.questions.get(request_id)
        hook_rules.over(step, request_id, answered=False)
        if question is not None:
            hook_questions.lost(step, request_id)
            if question.agent_id is None:
                hook_turns.over(step, "interrupted at the screen")
        return self._close(step)

    def hook_done(self, number: int, now: datetime) -> list[Effect]:
        """The answer is written."""
        uid, request_id = self._numbers.pop(number, ("", ""))
        session = self._by_uid.get(uid)
        if session is None or request_id not in session.record.callbacks:
            return []
        step = self._step(session, now)
        hook_rules.over(step, request_id, answered=True)
        return self._close(step)

    # screens

    def screen_shows(self, fact: m.Fact, data: m.ScreenShows, now: datetime) -> list[Effect]:
        """The controller sees a dialog that keeps a session from starting."""
        session = self._of(fact.uid)
        step = self._step(session, now)
        r = step.r
        if r.living and data.process == r.process and not r.initialized:
            r.error = data.message
            step.changed(data.message)
            step.event(m.ErrorEvent, code="unavailable", message=cut.text(data.message, 2000))
        return self._close(step)

    def typed(self, uid: str, request_id: str, problem: str, now: datetime) -> list[Effect]:
        """The controller has typed a prompt, or has not, because of ``problem``."""
        session = self._by_uid.get(uid)
        if session is None:
            return []
        step = self._step(session, now)
        again = screen.typed(step, request_id, problem)
        if again:
            self._set(step.r, "type", now + timedelta(seconds=screen.AGAIN_S))
        return self._close(step)

    def pressed(self, uid: str, process: int, ok: bool, now: datetime) -> list[Effect]:
        """A key was pressed: Escape ends the turn, and no hook says so."""
        session = self._by_uid.get(uid)
        if session is None or not ok or session.record.process != process:
            return []
        step = self._step(session, now)
        hook_turns.over(step, "interrupted")
        return self._close(step)

    def busy(self) -> list[tuple[str, int, str]]:
        """(uid, pid, conversation) of sessions whose turn or dialog may end without a hook."""
        records = (s.record for s in self._by_uid.values() if s.record.kind in HOOKED and s.record.living)
        return [
            (r.uid, r.pid, r.conversation)
            for r in records
            if r.pid and r.conversation and (r.turn or r.compacting or r.questions)
        ]

    def presence(self, uid: str, says: Presence, now: datetime) -> list[Effect]:
        """What Claude Code notes of itself; see `services.ingest.presence`."""
        session = self._by_uid.get(uid)
        if session is None or not session.record.living:
            return []
        if says.status == "waiting":
            session.screen.dialog = says.since
            return []
        if now - says.since < SETTLED:
            return []
        step = self._step(session, now)
        if session.screen.dialog is not None and says.since > session.screen.dialog:
            session.screen.dialog = None
            hook_questions.closed(step, says.since)
        if says.status == "idle" and says.since > step.r.status_since:
            hook_turns.over(step, "interrupted at the screen")
        return self._close(step)

    def processes(self) -> list[tuple[str, int]]:
        """(uid, pid) of living external sessions that said theirs."""
        records = (session.record for session in self._by_uid.values())
        return [(r.uid, r.pid) for r in records if r.kind == "external" and r.living and r.pid]

    def process_gone(self, uid: str, now: datetime) -> list[Effect]:
        session = self._by_uid.get(uid)
        if session is None or not session.record.living:
            return []
        step = self._step(session, now)
        hook_turns.end(step, "its process is gone")
        return self._close(step)

    def begin_hooks(self, now: datetime) -> list[Effect]:
        """After a start: nobody holds the requests that waited; what was being typed is asked for again."""
        effects: list[Effect] = []
        for session in self._by_uid.values():
            if session.record.kind in HOOKED and session.record.living:
                step = self._step(session, now)
                hook_questions.let_go(step, "Pointsman was restarted; the dialog on the screen stands")
                hook_rules.give_up(step)
                screen.ask_again(step)
                effects += self._close(step)
        return effects

    # external sessions

    def _external(self, conversation: str) -> Session | None:
        for session in self._by_uid.values():
            r = session.record
            if r.kind == "external" and r.living and r.conversation == conversation:
                return session
        return None

    def _followed(self, conversation: str) -> bool:
        """Whether a living session that we started has this conversation."""
        return any(s.record.living and s.record.conversation == conversation for s in self._by_uid.values())

    def _appeared(self, hook: Hook, uid: str, now: datetime) -> Session:
        name = self._name(hook.cwd, hook.session_id)
        cwd = hook.cwd if hook.cwd.startswith("/") else "/"
        session = Session(
            Record(
                uid=uid, session=name, kind="external", cwd=cwd[:4096], model=hook.model, pinned=False,
                title=PurePath(cwd).name[:200] or name, parent=None,
                permission_mode=hook.permission_mode or "default",
                agent="claude", version="", token_sha256="", auto_approve=[], started_at=now,
                last_activity_at=now, status=Status.STARTING, status_since=now, conversation=hook.session_id,
                process=1, alive=True, initialized=True,
            )
        )  # fmt: skip
        self._by_uid[uid] = self._by_name[name] = session
        return session

    def _name(self, cwd: str, conversation: str) -> str:
        for session in reversed(self._by_uid.values()):
            r = session.record
            if r.kind == "external" and r.conversation == conversation and self._free(r.session):
                return r.session
        base = re.sub(r"[^a-z0-9]+", "-", PurePath(cwd).name.lower()).strip("-")[:MAX_NAME].strip("-")
        base = base or "session"
        number = 1
        while not self._free(base if number == 1 else f"{base}-{number}"):
            number += 1
        return base if number == 1 else f"{base}-{number}"

    def _free(self, name: str) -> bool:
        session = self._by_name.get(name)
        return session is None or not session.record.living

    def _opened(self, session: Session, now: datetime) -> list[Effect]:
        r = session.record
        step = self._step(session, now)
        step.post(
            "ledger", "opened", f"opened-{r.uid}", m.SessionOpened(session=r.session, cwd=r.cwd, kind=r.kind)
        )
        step.changed("its first hook came")
        step.moved = True
        return self._close(step)
