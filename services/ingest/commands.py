"""What users and other services ask of a session. What is refused raises before anything changed."""

from __future__ import annotations

from datetime import datetime

from bus import bridge_wire as bw
from bus import messages as m
from bus.effects import Effect, ReplyTo
from bus.errors import RefusedError
from services.ingest import delivery, holds, rest, say, screen
from services.ingest.hook_model import HOOKED
from services.ingest.model import Record
from services.ingest.registry import Registry
from services.ingest.states import Status

MAX_PROMPT = 400_000  # characters; a line to the agent has at most `bridge_wire.MAX_INPUT_LINE_BYTES`
RANK = m.PERMISSION_MODE_RANK


def method(record: Record) -> str:
    return "bridge" if record.kind == "managed" else "websocket" if record.kind == "sdk-url" else "tmux"


class Commands(Registry):
    """The commands of `sessions/<s>/…` and `internal/ingest/end`."""

    def prompt(self, command: m.Prompt, name: str, now: datetime) -> list[Effect]:
        session = self._living(name, command.uid)
        r = session.record
        if len(command.text) > MAX_PROMPT:
            raise RefusedError(
                "too_large", f"a prompt has at most {MAX_PROMPT} characters: put it into a file"
            )
        if r.kind == "external":
            raise RefusedError(
                "unavailable",
                f"{name} is external: it is followed, not controlled; type it on its own screen",
            )
        if r.ending:
            raise RefusedError("unavailable", "the session is ending")
        refused = holds.refusal(r)
        if refused is not None:
            raise refused
        prompt = delivery.made(r, command.id, command.text, command.by)
        problem = bw.check_input_line(say.prompt(prompt.text, prompt.uuid))
        if problem is not None:
            r.order -= 1
            raise RefusedError("too_large", problem)
        step = self._step(session, now)
        delivery.queue(step, prompt)
        waiting = sum(not p.delivered for p in session.prompts.values())
        result = m.PromptResult(queued_prompts=waiting, method=method(r))
        return [*self._close(step), ReplyTo(command.id, result)]

    def interrupt(self, command: m.SessionCommand, name: str, now: datetime) -> list[Effect]:
        session = self._controllable(name, command.uid, "interactive")
        step = self._step(session, now)
        if session.record.kind == "interactive":
            if session.record.turn:  # else Escape might undo what somebody types
                screen.interrupt(step)
        else:
            step.request("interrupt", say.interrupt)
        return [*self._close(step), ReplyTo(command.id)]

    def change(self, command: m.SetSession, name: str, now: datetime) -> list[Effect]:
        session = self._living(name, command.uid)
        r = session.record
        mode = command.permission_mode
        if mode is not None and RANK[mode] > RANK[self._settings.max_permission_mode]:
            limit = self._settings.max_permission_mode
            raise RefusedError("not_allowed", f"at most {limit} (approvals.max_permission_mode), not {mode}")
        asleep = r.rest is not None  # then it is told when it wakes
        if (command.model is not None or mode is not None) and not asleep:
            self._controllable(name, command.uid)
        step = self._step(session, now)
        if command.model is not None:
            r.wanted_model = command.model
            if not asleep:
                step.request(f"model:{command.model}", say.set_model, command.model)
        if mode is not None:
            r.wanted_mode = mode
            if not asleep:
                step.request(f"mode:{mode}", say.set_permission_mode, mode)
        r.title = command.title if command.title is not None else r.title
        r.pinned = command.pinned if command.pinned is not None else r.pinned
        step.changed()
        return [*self._close(step), ReplyTo(command.id)]

    def hibernate(self, command: m.SessionCommand, name: str, now: datetime) -> list[Effect]:
        session = self._living(name, command.uid)
        rest.check_idle(session)
        step = self._step(session, now)
        if session.record.rest is None:
            rest.hibernate(step, command.reason or "put to sleep")
        return [*self._close(step), ReplyTo(command.id, {"status": session.record.status})]

    def wake(self, command: m.SessionCommand, name: str, now: datetime) -> list[Effect]:
        """Answered when the watchdog has admitted it and an agent is being started; awake ones at once."""
        session = self._living(name, command.uid)
        step = self._step(session, now)
        if session.record.rest is None:
            return [ReplyTo(command.id, {"status": session.record.status})]
        rest.want_awake(step, command.id)
        return self._close(step)

    def evict(self, command: m.EvictAgent, now: datetime) -> list[Effect]:
        """The watchdog needs the memory of this one's agent, whatever it does."""
        session = self._of(command.uid)
        if not session.record.living or not session.record.alive or session.record.kind == "external":
            raise RefusedError("unavailable", "it has no agent of ours")
        step = self._step(session, now)
        rest.hibernate(step, command.reason, force=True)
        return [*self._close(step), ReplyTo(command.id)]

    def remove(self, command: m.SessionCommand, name: str, now: datetime) -> list[Effect]:
        session = self.named(name, command.uid)
        if session.record.living:
            raise RefusedError("busy", f"{name} is {session.record.status}: end it first")
        return [*self._forget(session, now), ReplyTo(command.id)]

    def end_agent(self, command: m.EndAgent, now: datetime) -> list[Effect]:
        """The controller wants the agent to end in good order; if it does not, that is the controller's."""
        session = self._of(command.uid)
        r = session.record
        step = self._step(session, now)
        reachable = r.living and r.alive and session.link is not None
        if command.process:  # it is to sleep, or was when this was asked
            wanted = r.rest is Status.HIBERNATING and command.process == r.process
        else:
            wanted = r.ending = True
        if wanted and r.living and r.alive and r.kind not in HOOKED:
            if r.turn:
                step.request("interrupt", say.interrupt)
            step.request("end", say.end_session)
        step.changed()
        return [*self._close(step), ReplyTo(command.id, {"asked": reachable})]
