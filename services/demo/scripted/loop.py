"""The loop: one thread that waits for lines, signals, commands and deadlines, and runs the turns."""

from __future__ import annotations

import json
import os
import select
import signal
import time

from . import controls
from .session import Interrupted
from .turn import run_turn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .child import Child
    from .session import Session
    from .wire import Frame, Steps, Wait

BASH_TIMEOUT_S = 120.0


class Loop:
    """`turn` is the running turn, `wait` what it waits for, `wake_at` until when (monotonic seconds).
    `broken`: the host has sent what is no JSON object.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.turn: Steps | None = None
        self.wait: Wait | None = None
        self.wake_at: float | None = None
        self.exit_code: int | None = None
        self.broken = False

    def run(self) -> int:
        """Serve stdin until the end. Returns the exit code."""
        wakeup, signalled = os.pipe()
        os.set_blocking(wakeup, False)
        os.set_blocking(signalled, False)
        signal.set_wakeup_fd(signalled)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        buffer = b""
        while not self._finished():
            poll = select.poll()
            poll.register(wakeup, select.POLLIN)
            if not self.session.host.eof:
                poll.register(0, select.POLLIN)
            child = self._child()
            if child is not None and child.fd is not None:
                poll.register(child.fd, select.POLLIN)
            for fd, _ in poll.poll(self._timeout_ms()):
                if fd == wakeup:
                    self._signals(os.read(wakeup, 64))
                elif fd == 0:
                    data = os.read(0, 262_144)
                    if not data:
                        self.session.host.end()
                    *lines, buffer = (buffer + data).split(b"\n")
                    for line in lines:
                        if self.exit_code is None:
                            self._line(line)
                else:
                    child = self._child()
                    if child is not None:  # not killed by what came before in this round
                        child.read()
        return self.exit_code or 0

    def _finished(self) -> bool:
        """Go on as far as it goes; true when there is nothing more to wait for."""
        self._advance()
        session = self.session
        return self.exit_code is not None or (session.host.eof and self.turn is None and not session.queue)

    def _timeout_ms(self) -> float | None:
        if self.wake_at is None:
            return None
        return max(0.0, (self.wake_at - time.monotonic()) * 1000)

    def _child(self) -> Child | None:
        """The command that the turn waits for."""
        return self.wait[1] if self.wait and self.wait[0] == "child" else None

    # --- the turn's steps -------------------------------------------------------------------------

    def _advance(self) -> None:
        """Start the next turn if none runs, and go on with the turn as far as it goes without waiting."""
        while self.exit_code is None:
            if self.turn is None:
                if not self.session.queue:
                    return
                self.turn = run_turn(self.session)
                self.wait = ()
            done, value = self._ready()
            if not done:
                return
            self._step(value)

    def _step(self, value: Any, error: Exception | None = None) -> None:
        assert self.turn is not None
        try:
            self.wait = (
                self.turn.throw(error) if error is not None else self.turn.send(value if self.wait else None)
            )
        except StopIteration:
            self.turn = self.wait = self.wake_at = None
            return
        kind = self.wait[0]
        self.wake_at = None
        if kind == "sleep":
            self.wake_at = time.monotonic() + self.wait[1]
        elif kind == "answer" and self.wait[2] is not None:
            self.wake_at = time.monotonic() + self.wait[2]
        elif kind == "child":
            self.wake_at = time.monotonic() + BASH_TIMEOUT_S

    def _ready(self) -> tuple[bool, Any]:
        """Whether what the turn waits for is there, and its value."""
        if not self.wait:
            return True, None
        late = self.wake_at is not None and time.monotonic() >= self.wake_at
        if self.wait[0] == "answer":
            answer = self.session.host.answers.pop(self.wait[1], None)
            return answer is not None or late, answer
        child = self._child()
        if child is not None:
            ended = child.ended()
            if ended is None and late:
                child.kill()
                self.wake_at = None
            return ended is not None, ended
        return late, None

    def _stop_turn(self) -> bool:
        """Interrupt the turn. Returns whether there was one."""
        if self.turn is None:
            return False
        self.session.host.withdraw()
        child = self._child()
        if child is not None:
            child.abandon()
        self._step(None, Interrupted())
        return True

    # --- what comes in ----------------------------------------------------------------------------

    def _signals(self, numbers: bytes) -> None:
        if signal.SIGTERM in numbers:
            self._leave(143)
        elif signal.SIGINT in numbers:
            self._stop_turn()
            self._leave(0)

    def _leave(self, code: int) -> None:
        """End the process with this code, once the loop comes round."""
        child = self._child()
        if child is not None:
            child.kill()
        if self.exit_code is None:
            self.exit_code = code

    def _line(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            frame = json.loads(line)
            if not isinstance(frame, dict):
                raise ValueError("not an object")  # noqa: TRY004 - one kind of bad line
        except ValueError as error:
            os.write(2, b"Error parsing streaming input line: %s: %s\n" % (line[:200], str(error).encode()))
            self.broken = True
            self._leave(1)
            return
        kind = frame.get("type")
        if kind == "user":
            self._take_prompt(frame)
        elif kind == "control_request":
            self._control(str(frame.get("request_id")), frame.get("request") or {})
        elif kind == "control_response":
            self.session.host.take_answer(frame.get("response") or {})

    def _take_prompt(self, frame: Frame) -> None:
        session = self.session
        content = frame["message"]["content"]
        text = (
            content
            if isinstance(content, str)
            else "\n".join(str(block.get("text", "")) for block in content)
        )
        uuid = frame.get("uuid")
        if uuid and uuid in session.conversation.seen:
            session.record("prompt", text=text, uuid=uuid, duplicate=True)
            session.host.lifecycle(uuid, "completed")
            return
        if uuid:
            session.conversation.seen.add(uuid)
            session.host.lifecycle(uuid, "queued")
        session.record("prompt", text=text, uuid=uuid, duplicate=False)
        session.conversation.keep_queued("enqueue", content=text)
        session.queue.append((text, uuid))

    def _control(self, request_id: str, request: Frame) -> None:
        """Answer a control request of the host, then do what follows from it."""
        answer = controls.answer(self.session, request, running=self.turn is not None)
        self.session.host.respond(request_id, answer)
        if answer["subtype"] != "success":
            return
        subtype = request.get("subtype")
        if subtype == "interrupt":
            self._stop_turn()
        elif subtype == "end_session":
            self._leave(1 if self._stop_turn() else 0)
        elif subtype == "set_permission_mode":
            self.session.say_mode()
