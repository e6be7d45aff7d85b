"""Sessions that are followed by the hooks of their agent: interactive ones (ours, in tmux) and external ones.

What hooks tell becomes the same state and events as the frames of a managed agent, as far as they go: no
pieces of texts, the last text of a turn alone, no costs (`result` says ``null``; the ledger books them from
the transcript). Interruptions at the screen make no hook: the next one shows that the turn is over, or the
notice of an idle screen.

An external session appears with the first hook of its conversation and ends with its SessionEnd, or when its
process is gone. It is named after its directory, numbered where the name is taken; the same conversation,
resumed, gets its name again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import PurePath
from typing import Any

from bus import messages as m
from bus.effects import Effect
from services.ingest import (
    cut,
    delivery,
    evidence,
    hook_questions,
    hook_rules,
    hook_wire,
    life,
    questions,
    rest,
    screen,
)
from services.ingest.hook_model import HOOKED, AnswerHook
from services.ingest.hook_wire import Hook
from services.ingest.model import Record, Session
from services.ingest.registry import Registry
from services.ingest.states import Status
from services.ingest.step import Step
from services.ingest.turns import asks_back
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
        _learn(step, hook)
        waits: str | None = None  # the id of what the request waits for
        try:
            if hook.hook_event_name == "PermissionRequest":
                _turn(step, hook)
                waits = hook_questions.ask(step, hook, number)
            else:
                HANDLERS.get(hook.hook_event_name, _other)(step, hook)
                if hook.hook_event_name == "PreToolUse":
                    waits = hook_rules.before(step, hook, number)
        except WireError:
            self.malformed += 1
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
                _over(step, "interrupted at the screen")
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
        """The controller sees a dialog that keeps a session from starting (or that it is gone)."""
        session = self._of(fact.uid)
        step = self._step(session, now)
        r = step.r
        if r.living and data.process == r.process and not r.initialized:
            r.error = data.message or None
            step.changed(data.message)
            if data.message:
                step.event(m.ErrorEvent, code="unavailable", message=cut.text(data.message, 2000))
        return self._close(step)

    def typed(self, uid: str, request_id: str, ok: bool, now: datetime) -> list[Effect]:
        session = self._by_uid.get(uid)
        if session is None:
            return []
        step = self._step(session, now)
        again = screen.typed(step, request_id, ok)
        if again:
            self._set(step.r, "type", now + timedelta(seconds=screen.AGAIN_S))
        return self._close(step)

    def pressed(self, uid: str, process: int, ok: bool, now: datetime) -> list[Effect]:
        """A key was pressed: Escape ends the turn, and no hook says so."""
        session = self._by_uid.get(uid)
        if session is None or not ok or session.record.process != process:
            return []
        step = self._step(session, now)
        _over(step, "interrupted")
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
        _end(step, "its process is gone")
        return self._close(step)

    def begin_hooks(self, now: datetime) -> list[Effect]:
        """After a start: nobody holds the requests that waited; what was being typed is asked for again."""
        effects: list[Effect] = []
        for session in self._by_uid.values():
            if session.record.kind in HOOKED and session.record.living:
                step = self._step(session, now)
                hook_questions.let_go(step, "Pointsman was restarted; the dialog on the screen stands")
                hook_rules.give_up(step)
                screen.ask(step)
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


# ── what each hook means ─────────────────────────────────────────────────────────────────────────────────


def _learn(step: Step, hook: Hook) -> None:
    """What every hook says. The first of an interactive session shows that it has begun."""
    r = step.r
    if not r.initialized:
        r.initialized, r.error = True, None
        step.changed("the agent is there")
        rest.awake(step)
    if r.conversation != hook.session_id:
        r.conversation = hook.session_id
        step.changed()
    evidence.follow(step, hook.session_id, hook.transcript_path, booked=True)
    if hook.permission_mode and hook.permission_mode != r.permission_mode:
        r.permission_mode = hook.permission_mode
        step.changed()
    if hook.model and hook.model != r.model:
        r.model = hook.model
        step.changed()


def _turn(step: Step, hook: Hook) -> None:
    """The agent works: a turn of its own runs, whether we saw its beginning or not."""
    r = step.r
    if r.fresh or (hook.agent_id is None and not r.turn):
        r.turn, r.fresh = hook.agent_id is None, False
        step.changed("a turn began")


def _over(step: Step, reason: str) -> None:
    """The turn is over, however it ended. Background agents and their questions go on."""
    r = step.r
    hook_questions.settle(step, None)
    questions.clear_tools(step, all_of_them=False)
    delivery.covered(step, None)
    if r.turn or r.compacting:
        r.turn = r.compacting = False
        step.changed(reason)


def _start(step: Step, hook: Hook) -> None:
    if hook.source in ("startup", "resume", "clear"):
        _over(step, f"a conversation began: {hook.source}")
    _say(step, hook, source=hook.source)


def _prompt(step: Step, hook: Hook) -> None:
    _over(step, "the next prompt came")
    _turn(step, hook)
    prompt = screen.submitted(step, hook.prompt)
    more: dict[str, Any] = {} if prompt is None else {"prompt_ids": [prompt.prompt_id]}
    message_id, text = hook.prompt_id or "", cut.text(hook.prompt)
    step.event(m.MessageEvent, role="user", message_id=message_id, text=text, blocks=[], **more)


def _tool(step: Step, hook: Hook) -> None:
    _turn(step, hook)
    hook_questions.denied_was_taken(step, hook.agent_id)
    if hook.tool_use_id and hook.tool_name:
        raw = bytes(hook.tool_input)
        questions.tool_started(step, hook.tool_name, hook.tool_use_id, raw, hook.agent_id)
        step.r.tools[hook.tool_use_id].input = hook_wire.same_input(raw)


def _ran(step: Step, hook: Hook) -> None:
    _turn(step, hook)
    hook_questions.ran(step, hook)
    if hook.tool_use_id:
        failed = hook.hook_event_name == "PostToolUseFailure"
        output = cut.text(hook.error) if failed else hook_wire.response_text(bytes(hook.tool_response))
        questions.tool_finished(step, hook.tool_use_id, failed, output)


def _stop(step: Step, hook: Hook) -> None:
    r = step.r
    failed = hook.hook_event_name == "StopFailure"
    text = hook.last_assistant_message or ""
    prompts = [p for p in step.session.prompts.values() if p.running and p.process == r.process]
    if text and not failed:
        blocks = cut.blocks([("text", text)])
        message_id = hook.prompt_id or ""
        step.event(
            m.MessageEvent, role="assistant", message_id=message_id, text=cut.text(text), blocks=blocks
        )
        r.last_message = cut.text(text.strip(), cut.LAST_MESSAGE)
    _over(step, "the turn has ended")
    r.results += 1
    r.turns += 1
    step.event(
        m.ResultEvent, prompt_ids=[prompt.prompt_id for prompt in prompts], model=r.model, num_turns=1,
        cost_usd=None, total_cost_usd=None, usage={}, duration_ms=0, is_error=failed,
        subtype="error" if failed else "success",
    )  # fmt: skip
    question = asks_back(text)
    if failed:
        step.event(m.ErrorEvent, code=cut.text(hook.error or "error", 100), message=cut.text(text, 2000))
    elif question is not None:
        step.event(m.QuestionEvent, text=question, options=[])
    step.changed()


def _notice(step: Step, hook: Hook) -> None:
    if hook.notification_type == "idle_prompt":
        _over(step, "the screen waits for input")
    _other(step, hook)


def _compact(step: Step, hook: Hook) -> None:
    compacting = hook.hook_event_name == "PreCompact"
    if step.r.compacting is not compacting:
        step.r.compacting = compacting
        step.changed("compacting" if compacting else "compacted")
    _other(step, hook)


def _ended(step: Step, hook: Hook) -> None:
    """Ours is over when its process is; after ``/clear`` and ``/resume`` it goes on with another one."""
    _say(step, hook, reason=hook.reason)
    if step.r.kind == "external":
        _end(step, f"the conversation ended: {hook.reason}" if hook.reason else "the conversation ended")
    else:
        _over(step, "the conversation ended")


def _end(step: Step, reason: str) -> None:
    step.r.turn = False
    hook_rules.give_up(step)
    for request_id in list(step.r.questions):
        hook_questions.forget(step, request_id, "the session has ended")
    questions.clear_tools(step, all_of_them=True)
    life.end(step, "ended", None, cut.text(reason, 500))


def _other(step: Step, hook: Hook) -> None:
    _say(step, hook, message=hook.message, trigger=hook.trigger, kind=hook.notification_type)


def _say(step: Step, hook: Hook, **data: str | None) -> None:
    """The hook itself, for who follows the session."""
    data["agent_id"] = hook.agent_id
    fields: dict[str, Any] = {"event": hook.hook_event_name}
    if hook.tool_name:
        fields["tool"] = hook.tool_name
    if hook.tool_use_id:
        fields["tool_use_id"] = hook.tool_use_id
    fields["data"] = {key: cut.text(value, 2000) for key, value in data.items() if value}
    step.event(m.HookEvent, **fields)


HANDLERS: dict[str, Callable[[Step, Hook], None]] = {
    "SessionStart": _start,
    "UserPromptSubmit": _prompt,
    "PreToolUse": _tool,
    "PostToolUse": _ran,
    "PostToolUseFailure": _ran,
    "Notification": _notice,
    "Stop": _stop,
    "StopFailure": _stop,
    "PreCompact": _compact,
    "PostCompact": _compact,
    "SessionEnd": _ended,
}
