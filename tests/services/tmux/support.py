"""A tmux controller on a memory bus: real tmux server and bridges, stand-ins for ingest and agent.

The ingest here keeps facts and speaks with bridges just as far as the controller can see: it takes what they
bring, hands over an ``end_session`` when asked to let an agent end, and lets bridges go.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
import psutil
import trio
from prometheus_client import CollectorRegistry, Counter
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from bus import bridge_wire as wire
from bus import messages as m
from bus import topics as t
from bus.api import Received
from bus.codec import decode, decode_data
from bus.memory import MemoryBroker
from bus.requests import Requester
from services._process.config import load_config
from services._process.context import Context
from services._process.home import Home
from services._process.logs import captured_log
from services._process.store import open_store
from services.tmux.shell import MIGRATIONS, Controller

DEADLINE_S = 60.0
T = TypeVar("T")

AGENT = """
import json, os, signal, sys, time
if "--version" in sys.argv:
    print(os.environ.get("FAKE_VERSION", "2.1.329") + " (Claude Code)"); sys.exit(0)
with open("agent.json", "a") as file:
    file.write(json.dumps({"argv": sys.argv[1:], "env": dict(os.environ), "pid": os.getpid(),
                           "cwd": os.getcwd()}) + "\\n")
if os.environ.get("FAKE_STUBBORN"):
    signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGINT, lambda *_: os._exit(0))
if os.environ.get("FAKE_EXIT"):
    sys.exit(int(os.environ["FAKE_EXIT"]))
print(json.dumps({"type": "system", "subtype": "hello"}), flush=True)
for line in sys.stdin:
    frame = json.loads(line)
    if frame.get("request", {}).get("subtype") == "end_session" and not os.environ.get("FAKE_STUBBORN"):
        sys.exit(0)
while True:
    time.sleep(60)
"""


async def eventually(probe: Callable[[], T | None], what: str, deadline_s: float = DEADLINE_S) -> T:
    """The first true value of ``probe``."""
    with trio.move_on_after(deadline_s):
        while True:
            value = probe()
            if value:
                return value
            await trio.sleep(0.02)
    raise AssertionError(f"not within {deadline_s} s: {what} (last: {probe()!r})")


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class Ingest:
    """Stands in for the ingest service on the bus and towards bridges."""

    def __init__(self, broker: MemoryBroker, home: Home) -> None:
        self.bus = broker.client(service="ingest")
        self.home = home
        self.facts: list[tuple[m.Fact, m.Payload]] = []
        self.refuse: dict[str, str] = {}  # fact type → code
        self.silent = False
        self.deaf = False  # does not pass on that an agent should end
        self.links: dict[str, WebSocketConnection] = {}
        self.tokens: list[str] = []
        self.bus.subscribe(t.FACTS, owner="ingest")
        self.bus.subscribe(t.END_AGENT)

    def said(self, kind: str) -> list[Any]:
        return [data for fact, data in self.facts if fact.type == kind]

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._serve)
            while True:
                message = await self.bus.receive()
                if isinstance(message, Received):
                    await self._receive(message)

    async def _receive(self, message: Received) -> None:
        if message.row is t.END_AGENT:
            command = decode(t.END_AGENT, message.payload, m.EndAgent)
            for link in [] if self.deaf else list(self.links.values()):
                frame = '{"type":"control_request","request_id":"e","request":{"subtype":"end_session"}}'
                await link.send_message(wire.encode(wire.Line(n=1, data=frame)))
            self.bus.publish(
                t.REPLIES, m.Reply(id=command.id or "", ok=True, result={}), id=command.id or "x"
            )
            return
        if self.silent:
            return
        fact = decode(t.FACTS, message.payload, m.Fact)
        code = self.refuse.get(fact.type)
        refused = [m.Refused(id=fact.id, code=code, message=f"no {fact.type}")] if code else []
        if not code and fact.id not in [known.id for known, _ in self.facts]:
            self.facts.append((fact, decode_data(fact)))
        ack = m.Ack(ids=[] if code else [fact.id], refused=refused)
        self.bus.publish(t.ACKS, ack, owner="ingest", producer=message.values["producer"])

    async def _serve(self, **more: Any) -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve_websocket, self._bridge, "127.0.0.1", 0, None)
            self.home.update_endpoints("ingest", {"host": "127.0.0.1", "port": server.port})

    async def _bridge(self, request: WebSocketRequest) -> None:
        self.tokens.append(dict(request.headers)[b"authorization"].decode())
        link = await request.accept(subprotocol=wire.SUBPROTOCOL)
        path = request.path
        try:
            while True:
                message = wire.decode_from_bridge(cast(bytes, await link.get_message()))
                if isinstance(message, wire.BridgeHello):
                    self.links[path] = link
                    await link.send_message(wire.encode(wire.IngestHello(process=message.process, offset=0)))
                elif isinstance(message, wire.Exit):
                    await link.send_message(wire.encode(wire.Bye()))
        except ConnectionClosed:
            if self.links.get(path) is link:
                del self.links[path]


class Rig:
    """A home with everything around a controller, which can be stopped and started again."""

    def __init__(self, folder: Path, **environ: str) -> None:
        self.folder = folder
        self.cwd = folder / "work"
        self.cwd.mkdir()
        claude = folder / "bin" / "claude"
        claude.parent.mkdir()
        claude.write_text(f"#!{sys.executable} -IS\n{textwrap.dedent(AGENT)}")
        claude.chmod(0o755)
        self.environ = {
            "PATH": f"{claude.parent}:{os.environ['PATH']}", "HOME": str(folder), "LANG": "C.UTF-8",
            "SUPERVISOR_ENABLED": "1", "ANTHROPIC_API_KEY": "sk-very-secret", **environ,
        }  # fmt: skip
        self.home = Home(folder / "home")
        self.broker = MemoryBroker()
        self.ingest = Ingest(self.broker, self.home)
        self.user = self.broker.client(name="user")
        self.ask = Requester(self.user, by="operator", via="cli").ask
        self.log: list[Any] = []
        self.controller: Controller | None = None
        self._connection: sqlite3.Connection | None = None
        self._scope = trio.CancelScope()

    @property
    def socket(self) -> Path:
        path = self.home.tmux_socket
        assert path is not None
        return path

    def context(self) -> Context:
        config = load_config(
            {"HOME": str(self.folder), "POINTSMAN_HOME": str(self.home.path), "POINTSMAN_NODE_NAME": "node"}
        )
        log, self.log = captured_log("tmux")
        registry = CollectorRegistry()
        return Context(
            service="tmux",
            config=config,
            home=self.home,
            bus=self.broker.client(service="tmux"),
            log=log,
            registry=registry,
            errors=Counter("errors", "errors", ["code"], registry=registry),
            now=lambda: datetime.now(UTC),
        )

    async def run_controller(self, *, task_status: trio.TaskStatus[None]) -> None:
        connection = open_store(self.home.store("tmux"), MIGRATIONS, durable=False)
        try:
            context = self.context()
            self.controller = Controller(context, connection, self.environ)
            with trio.CancelScope() as self._scope:
                task_status.started()
                await self.controller.run()
            self.broker.drop(context.bus)  # type: ignore[arg-type]  # ours are memory buses
        finally:
            connection.close()

    def kill_controller(self) -> None:
        """As kill -9: what is not in the store is gone."""
        self._scope.cancel()

    async def new(self, name: str = "demo", **more: Any) -> dict[str, Any]:
        command = m.CreateSession(session=name, cwd=str(self.cwd), **more)
        result = await self.ask(t.SESSION_CREATE, command)
        assert isinstance(result, dict)
        return result

    async def end(self, name: str = "demo") -> Any:
        return await self.ask(t.SESSION_END, m.SessionCommand(), session=name, timeout_s=40)

    def starts(self) -> list[dict[str, Any]]:
        """What each start of the stand-in agent saw."""
        path = self.cwd / "agent.json"
        if not path.exists():
            return []
        found = []
        for line in path.read_text().splitlines():
            try:
                found.append(msgspec.json.decode(line))
            except msgspec.DecodeError:
                continue  # being written
        return found

    async def agent(self, number: int = 1) -> dict[str, Any]:
        """The ``number``-th start of the agent."""
        return await eventually(
            lambda: self.starts()[number - 1] if len(self.starts()) >= number else None,
            f"agent start {number}",
        )

    async def linked(self) -> None:
        await eventually(lambda: self.ingest.links, "a bridge is connected")

    async def tmux(self, *words: str) -> tuple[int, str]:
        done = await trio.run_process(
            ["tmux", "-S", str(self.socket), *words], capture_stdout=True, capture_stderr=True, check=False
        )
        return done.returncode, done.stdout.decode()

    async def shows(self, wanted: str, *words: str) -> None:
        """Wait until tmux prints this, and nothing else."""
        output = ""
        with trio.move_on_after(DEADLINE_S):
            while output.strip() != wanted:
                _, output = await self.tmux(*words)
                await trio.sleep(0.02)
        assert output.strip() == wanted

    def processes(self) -> list[str]:
        """Command lines of everything that belongs to this home."""
        found = []
        for process in psutil.process_iter():
            try:
                words = process.cmdline()
                if process.status() != psutil.STATUS_ZOMBIE and any(
                    str(self.folder) in word for word in words
                ):
                    found.append(" ".join(words))
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    async def nothing_left(self) -> None:
        """No process, window, directory, socket or tmux server of a session."""
        await eventually(lambda: not self.processes() or None, f"no process is left: {self.processes()}")
        await eventually(lambda: not list(self.home.sessions.iterdir()), "no directory is left")
        await eventually(lambda: not self.socket.exists(), "no socket is left")


@contextmanager
def short_folder() -> Iterator[Path]:
    """A directory with a path short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="pm-") as name:
        yield Path(name)


@asynccontextmanager
async def rig(**environ: str) -> AsyncIterator[Rig]:
    """A rig that runs; afterwards nothing of it is left, whatever the test did."""
    with short_folder() as folder:
        it = Rig(folder, **environ)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(it.ingest.run)
                await eventually(lambda: it.home.endpoints().get("ingest"), "the stand-in for ingest listens")
                await nursery.start(it.run_controller)
                it.nursery = nursery  # type: ignore[attr-defined]  # for restarts
                yield it
                nursery.cancel_scope.cancel()
        finally:
            for process in psutil.process_iter():
                try:
                    if any(str(folder) in word for word in process.cmdline()) and process.pid != os.getpid():
                        process.kill()
                except (psutil.NoSuchProcess, psutil.AccessDenied):
                    continue


def run(test: Callable[[Rig], Awaitable[None]], **environ: str) -> None:
    """Run a test's body with a rig, within a deadline."""

    async def main() -> None:
        with trio.fail_after(60):
            async with rig(**environ) as it:
                await test(it)

    trio.run(main)
