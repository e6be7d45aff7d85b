"""The hooks' half of ingest's shell: tokens, requests that wait, and the tmux controller's fingers."""

from __future__ import annotations

import hashlib
import os  # noqa: TID251  # a piece of the shell: it looks at processes
from collections.abc import Callable

import msgspec
import trio  # noqa: TID251  # as above
from ulid import ULID

from bus import messages as m
from bus import topics as t
from bus.base import BusBase
from bus.effects import Do, Effect
from bus.errors import BusDownError, RefusedError
from bus.requests import Requester
from services._process import hook_settings
from services._process.config import user_home
from services._process.config_keys import is_loopback
from services._process.context import Context
from services._process.ports import port_for
from services.ingest import hook_wire, presence
from services.ingest.core import Sessions
from services.ingest.hook_model import AnswerHook, PressKey, TypeIn
from services.ingest.hooks_server import HooksServer, Request
from services.ingest.server import same
from services.ingest.wire import WireError

LOOK_S = 5.0  # at the processes of external sessions
PRESENCE_S = 1.0  # at what working agents note of themselves: 0.1 ms for each
TYPE_S = 60.0  # for the controller's answer; what it may have typed unheard, the agent's hook tells


class HooksShell:
    """Carries hooks to the core, and what the core says of them into the world."""

    def __init__(self, context: Context, sessions: Sessions, act: Callable[[list[Effect]], None]) -> None:
        self._context = context
        self._sessions = sessions
        self._act = act
        self._waiting: dict[int, Request] = {}
        self._nursery: trio.Nursery | None = None
        self._token = ""
        self.server = HooksServer(self)
        self.port = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        context = self._context
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            host = context.config.ingest.host
            host = host if is_loopback(host) else "127.0.0.1"
            self._token = context.home.read_or_make_secret("hooks-token")
            context.log.secret(self._token)
            port = port_for(context.config, context.home, "ingest", "hooks_port")
            self.port = await nursery.start(self.server.run, host, port)
            where = {"url": hook_settings.url(self.port), "token": self._token}
            context.home.write_secret(hook_settings.TOKEN_FILE, msgspec.json.encode(where).decode())
            self._act(self._sessions.begin_hooks(context.now()))
            nursery.start_soon(self._look_at_processes)
            nursery.start_soon(self._look_at_presence)
            task_status.started()
            await trio.sleep_forever()

    # what the listener tells

    def knows(self, token: str) -> bool:
        return same(token, self._token) or self._uid(token) is not None

    def _uid(self, token: str) -> str | None:
        return self._sessions.by_token(hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest())

    def asked(self, request: Request) -> None:
        uid = None
        if same(request.token, self._token):
            if request.inside:  # a session of ours, which we follow anyway
                request.answer(hook_wire.NOTHING)
                return
        else:
            uid = self._uid(request.token)
            if uid is None:
                request.answer(hook_wire.NOTHING, 401)
                return
        try:
            hook = hook_wire.decode(request.event, request.body)
        except WireError as error:
            self._sessions.malformed += 1
            self._context.errors.labels(code="bad_request").inc()
            self._context.log.warning("hook not understood", reason=str(error)[:500])
            self.unread(request, 400)
            return
        now = self._context.now()
        self._waiting[request.number] = request
        fresh = str(ULID.from_datetime(now))
        self._act(self._sessions.hook(request.number, uid, hook, fresh, now, pid=request.pid))

    def unread(self, request: Request, status: int) -> None:
        body = hook_wire.unread(request.event)
        request.answer(body, status if body == hook_wire.NOTHING else 200)  # with 200 alone it counts

    def lost(self, request: Request) -> None:
        self._waiting.pop(request.number, None)
        self._act(self._sessions.hook_lost(request.number, self._context.now()))

    def done(self, request: Request) -> None:
        self._waiting.pop(request.number, None)
        effects = self._sessions.hook_done(request.number, self._context.now())
        if effects:
            self._act(effects)

    # what the core asks for

    def do(self, effect: Do) -> bool:
        """Carry out an effect of hooks; False for any other."""
        if isinstance(effect, AnswerHook):
            request = self._waiting.get(effect.number)
            if request is not None:
                request.answer(effect.body)
        elif isinstance(effect, TypeIn | PressKey):
            if self._nursery is not None:
                self._nursery.start_soon(self._type, effect)
        else:
            return False
        return True

    async def _type(self, effect: TypeIn | PressKey) -> None:
        """Ask the tmux controller until it answers."""
        bus = self._context.bus
        if not isinstance(bus, BusBase):
            raise TypeError(f"{type(bus)} cannot ask")
        requester = Requester(bus, by="service-ingest", via="bus")
        where = {"uid": effect.uid, "process": effect.process}
        if isinstance(effect, TypeIn):
            command = m.TypeText(id=effect.id, text=effect.text, **where)  # type: ignore[arg-type]  # two kinds
        else:
            command = m.TypeText(key="Escape", **where)  # type: ignore[arg-type]  # as above
        problem = ""
        try:
            await requester.ask(t.TYPE_TEXT, command, timeout_s=TYPE_S)
        except (BusDownError, RefusedError) as error:
            problem = str(error) or "the tmux controller does not answer"
        now = self._context.now()
        if isinstance(effect, TypeIn):
            self._act(self._sessions.typed(effect.uid, effect.id, problem, now))
        else:
            self._act(self._sessions.pressed(effect.uid, effect.process, not problem, now))

    # time

    async def _look_at_processes(self) -> None:
        """End external sessions whose process is gone without a word."""
        while True:
            for uid, pid in self._sessions.processes():
                if not _lives(pid):
                    self._act(self._sessions.process_gone(uid, self._context.now()))
            await trio.sleep(LOOK_S)

    async def _look_at_presence(self) -> None:
        """See what happens at screens without a hook."""
        environ = os.environ
        folder = presence.folder(environ, user_home(environ))
        while True:
            await trio.sleep(PRESENCE_S)
            for uid, pid, conversation in self._sessions.busy():
                says = presence.read(folder, pid, conversation)
                effects = [] if says is None else self._sessions.presence(uid, says, self._context.now())
                if effects:
                    self._act(effects)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
