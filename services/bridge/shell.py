"""The bridge's shell: files, FIFO, WebSocket and time for `core.step`. It decides nothing about the
streams."""

from __future__ import annotations

import errno
import os
import random
import signal
import sys
import traceback
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import trio

from bus import bridge_wire as wire
from services.bridge import core, keeper, link, model
from services.bridge.figures import Tally
from services.bridge.files import STDERR_STEP, Kept, LaunchError, SessionDir, punch
from services.bridge.pipe import AgentPipe, TooLongError
from services.bridge.watch import Watch
from services.bridge.window import Window

LOCK_WAIT_S = 2.0  # the bridge before us may still be on its way out
START_WAIT_S = 10.0
EXIT_FILE_WAIT_S = 5.0  # from the agent's end to the keeper's word about it
READ_PAUSE_FIRST_S = 0.001  # how soon to look whether the agent has read its stdin; doubled
READ_PAUSE_LAST_S = 0.05


class WorldError(Exception):
    """The machine's fault; the text says what and where."""


class Shell:
    """One run of the bridge. ``run`` returns the exit code."""

    def __init__(self, session: SessionDir, window: Window, *, poll: bool = False) -> None:
        self._dir = session
        self._window = window
        self._poll = poll
        self._state = model.State(process=session.launch.process, agent_pid=None)
        self._events: deque[model.Event] = deque()
        self._stepping = False
        self._outbox: deque[bytes] = deque()
        self._outbox_filled = trio.Event()
        self._connect_in: trio.Event = trio.Event()
        self._connect_after_s = 0.0
        self._to_write: model.Write | None = None
        self._write_asked = trio.Event()
        self._poured = trio.Event()
        self._journal = -1
        self._pipe: AgentPipe | None = None
        self._exit_code = 70
        self._scope = trio.CancelScope()
        self._hole_refused = False
        self._stderr_punched = 0
        self._tally = Tally()

    async def run(self) -> int:
        """Serve the agent process of launch.json until it is over. Raises `WorldError`."""
        again = await self._start_agent()
        kept = self._dir.load()
        self._state = model.State(
            process=kept.process,
            agent_pid=self._dir.agent_pid(),
            written=kept.written,
            kept=kept.kept,
            unwritable=tuple(kept.unwritable),
        )
        self._journal = os.open(self._dir.journal, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        agent = self._dir.open_agent()
        try:
            self._pipe = AgentPipe(self._dir.stdin)
        except OSError as error:
            if error.errno not in (errno.ENXIO, errno.ENOENT):
                raise WorldError(f"{self._dir.stdin}: {error.strerror}") from None
        self._window.start(self._journal, kept.kept, again=again)
        try:
            with Watch((self._dir.journal, self._dir.stderr), poll=self._poll) as watch, self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._stop_on_signals)
                    nursery.start_soon(self._connections)
                    nursery.start_soon(self._writer)
                    nursery.start_soon(self._taken)
                    nursery.start_soon(self._follow, watch)
                    nursery.start_soon(self._await_exit, agent)
                    nursery.start_soon(self._window.run)
                    nursery.start_soon(self._measure)
                    unread = self._pipe.unread() if self._pipe else 0
                    self._state, effects = core.start(self._state, unread, _now())
                    self._poured.set()
                    self._carry_out(effects)
                    self._grew()
        finally:
            self._window.close()
            os.close(self._journal)
            if agent is not None:
                os.close(agent)
            if self._pipe is not None:
                self._pipe.close()
        return self._exit_code

    # ── the core's hands ─────────────────────────────────────────────────────────────────────────────────

    def _happened(self, event: model.Event) -> None:
        """Tell the core, and do what it says. Events that effects cause wait until those are carried out."""
        self._events.append(event)
        if self._stepping:
            return
        self._stepping = True
        try:
            while self._events:
                event = self._events.popleft()
                self._tally.count(event)
                self._state, effects = core.step(self._state, event, _now())
                self._carry_out(effects)
        finally:
            self._stepping = False

    def _carry_out(self, effects: list[model.Effect]) -> None:
        for effect in effects:
            match effect:
                case model.Send():
                    self._outbox.append(effect.message)
                    self._outbox_filled.set()
                case model.Read():
                    data = os.pread(self._journal, effect.limit, effect.offset)
                    if data:
                        self._events.append(model.Chunk(effect.offset, data))
                case model.Write():
                    self._to_write = effect
                    self._write_asked.set()
                case model.Save():
                    self._save(effect)
                case model.Punch():
                    self._punch(effect.end)
                case model.Kill():
                    self._kill(effect.name)
                case model.Connect():
                    self._connect_after_s = effect.after_s
                    self._connect_in.set()
                case model.Tell():
                    self._window.note(effect.text)
                case model.Stop():
                    self._window.note(effect.reason)
                    self._exit_code = effect.code
                    self._scope.cancel()

    def _save(self, save: model.Save) -> None:
        kept = Kept(
            process=self._state.process,
            written=save.written,
            kept=save.kept,
            unwritable=list(save.unwritable),
        )
        try:
            self._dir.save(kept)
        except OSError as error:
            raise WorldError(f"{self._dir.path}/written: {error.strerror}") from None

    def _punch(self, end: int) -> None:
        if not punch(self._journal, end) and not self._hole_refused:
            self._hole_refused = True
            self._window.note(
                f"{self._dir.path}: this file system cannot free parts of a file; the journal grows"
            )

    def _kill(self, name: str) -> None:
        pid = self._state.agent_pid
        if pid is None:
            return
        try:
            os.killpg(pid, signal.Signals[f"SIG{name}"])
        except (ProcessLookupError, PermissionError) as error:
            self._window.note(f"SIG{name} could not be sent: {error.strerror}")

    # ── the agent ────────────────────────────────────────────────────────────────────────────────────────

    async def _start_agent(self) -> bool:
        """Have a keeper start the agent, unless one did. Returns whether one did before."""
        launch = self._dir.launch
        again = self._begun()
        if again:
            return True
        mark = {"POINTSMAN_SESSION_UID": launch.uid}  # by which the watchdog knows whose memory it is
        spec = keeper.pack_spec(launch.argv, launch.cwd, launch.env)
        command = [sys.executable, "-I", "-S", keeper.__file__, str(self._dir.path), str(launch.process)]
        with trio.move_on_after(START_WAIT_S):
            while not self._begun():
                done = await trio.run_process(
                    command, stdin=spec, capture_stderr=True, check=False, start_new_session=True, env=mark
                )
                if done.returncode != keeper.ALREADY:
                    raise WorldError(f"the keeper could not start the agent: {done.stderr.decode().strip()}")
                await trio.sleep(0 if self._begun() else READ_PAUSE_LAST_S)  # another keeper is at it
        if not self._begun():
            raise WorldError(f"the agent was not started within {START_WAIT_S:.0f} s")
        return False

    def _begun(self) -> bool:
        return self._dir.pid_file.exists() or self._dir.exit_file.exists()

    async def _await_exit(self, agent: int | None) -> None:
        """Report the agent's end, whoever knows of it."""
        if agent is not None:
            await trio.lowlevel.wait_readable(agent)
        known, code = self._dir.exit_code()
        pause = READ_PAUSE_FIRST_S
        deadline = trio.current_time() + EXIT_FILE_WAIT_S
        while not known and self._dir.keeper_lives() and trio.current_time() < deadline:
            await trio.sleep(pause)  # the keeper writes it now
            pause = min(READ_PAUSE_LAST_S, pause * 2)
            known, code = self._dir.exit_code()
        known, code = self._dir.exit_code()
        error = self._dir.stderr_tail() if code != 0 else None
        self._window.ended(code)
        self._happened(model.Exited(code, os.fstat(self._journal).st_size, error))

    async def _follow(self, watch: Watch) -> None:
        """See the journal and stderr grow."""
        while True:
            await watch.changed()
            self._grew()
            self._bound_stderr()
            self._window.wake()

    def _grew(self) -> None:
        size = os.fstat(self._journal).st_size
        if size > self._state.size:
            self._happened(model.Grew(size))

    def _bound_stderr(self) -> None:
        try:
            size = self._dir.stderr.stat().st_size
        except FileNotFoundError:
            return
        if size - self._stderr_punched > 2 * STDERR_STEP:
            self._stderr_punched = size - STDERR_STEP
            fd = os.open(self._dir.stderr, os.O_RDWR | os.O_CLOEXEC)
            try:
                if not punch(fd, self._stderr_punched):
                    os.ftruncate(fd, 0)
                    self._stderr_punched = 0
            finally:
                os.close(fd)

    async def _writer(self) -> None:
        """Write lines into the agent's stdin, one at a time, whole."""
        while True:
            await self._write_asked.wait()
            self._write_asked = trio.Event()
            asked, self._to_write = self._to_write, None
            if asked is None or self._pipe is None:
                continue
            refused = wire.check_input_line(asked.data)
            line = asked.data.encode("utf-8", "replace") + b"\n"
            place = self._window.place()  # a quick agent's answer stands in the journal before we go on
            try:
                await self._until_written(self._pipe, line if refused is None else b"")
            except TooLongError as error:
                refused = str(error)
            except OSError as error:
                self._window.note(f"the agent's stdin is closed: {error.strerror}")
                continue  # it is gone; its exit will be reported
            if refused is not None:
                self._window.note(f"a line for the agent was left out: {refused}")
                self._happened(model.NotWritten(asked.n, refused))
                continue
            self._happened(model.Wrote(asked.n, len(line)))
            self._window.written(line, place)
            self._poured.set()

    async def _until_written(self, pipe: AgentPipe, line: bytes) -> None:
        pause = READ_PAUSE_FIRST_S
        while line and not pipe.write(line):
            await trio.sleep(pause)
            pause = min(READ_PAUSE_LAST_S, pause * 2)

    async def _taken(self) -> None:
        """After each write, look until the agent has read everything."""
        while True:
            await self._poured.wait()
            self._poured = trio.Event()
            pause = READ_PAUSE_FIRST_S
            while self._pipe is not None and self._state.untaken:
                unread = self._pipe.unread()
                self._happened(model.Unread(unread))
                if unread == 0:
                    self._pipe.shrink()
                    break
                await trio.sleep(pause)
                pause = min(READ_PAUSE_LAST_S, pause * 2)

    # ── ingest ───────────────────────────────────────────────────────────────────────────────────────────

    async def _connections(self) -> None:
        while True:
            await self._connect_in.wait()
            self._connect_in = trio.Event()
            await trio.sleep(self._connect_after_s)
            reason = await self._connection()
            self._outbox.clear()
            self._happened(model.Lost(reason, random.random()))  # noqa: S311 - spreads attempts

    async def _connection(self) -> str:
        """One connection from its attempt to its end. Returns why it ended."""
        try:
            url = self._dir.ingest_url()
        except LookupError as error:
            return str(error)
        return await link.converse(url, self._dir.launch.token, self._connected, self._received, self._send)

    def _connected(self) -> None:
        self._happened(model.Connected())

    def _received(self, message: wire.FromIngest) -> None:
        self._happened(model.Received(message))
        if isinstance(message, wire.IngestHello):
            self._measured()

    async def _measure(self) -> None:
        while True:
            await trio.sleep(wire.FIGURES_S)
            self._measured()

    def _measured(self) -> None:
        if self._state.figures:
            self._happened(model.Measured(self._tally.figures(self._state, self._dir, self._journal)))

    async def _send(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        while True:
            await self._outbox_filled.wait()
            self._outbox_filled = trio.Event()
            while self._outbox:
                await send(self._outbox.popleft())
                self._happened(model.Sent())

    async def _stop_on_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP, signal.SIGINT) as received:
            async for number in received:
                if number == signal.SIGINT:
                    self._window.key()  # Ctrl-C at the window is not for the agent either
                    continue
                self._exit_code = 0
                self._scope.cancel()


def _now() -> datetime:
    return datetime.now(UTC)


async def _locked(session: SessionDir) -> bool:
    with trio.move_on_after(LOCK_WAIT_S):
        while not session.lock():  # noqa: ASYNC110 - another process's lock
            await trio.sleep(READ_PAUSE_LAST_S)
        return True
    return False


async def serve(folder: Path) -> int:
    """Bridge the agent process of a session directory. Returns the exit code (the package's docstring)."""
    try:
        session = SessionDir(folder)
        if not await _locked(session):
            print(f"pointsman bridge: another bridge serves {folder}", file=sys.stderr)
            return 3
        return await Shell(session, Window(session.launch, session.stderr)).run()
    except LaunchError as error:
        print(f"pointsman bridge: {error}", file=sys.stderr)
        return 2
    except (WorldError, BaseExceptionGroup) as error:
        first = link.first_of(error)
        if not isinstance(first, WorldError):
            raise
        print(f"pointsman bridge: {first}", file=sys.stderr)
        return 4


def main(arguments: list[str]) -> int:
    """`python -m services.bridge <session dir>`."""
    if len(arguments) != 1:
        print("usage: python -m services.bridge <session dir>", file=sys.stderr)
        return 2
    try:
        return trio.run(serve, Path(arguments[0]).resolve())
    except Exception:  # noqa: BLE001 - a bug of ours: said in full, and told apart by its code
        traceback.print_exc()
        return 70
