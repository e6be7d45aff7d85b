"""A home with one session, bridges as real processes, and an ingest that commits all it takes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import trio
import trio_websocket

from bus import bridge_wire as wire

ROOT = Path(__file__).parents[3]
AGENTS = Path(__file__).with_name("agents.py")
DEADLINE_S = 60.0
TOKEN = "token-that-nobody-may-see"


def wait(condition: Callable[[], object], what: str) -> None:
    """Wait until it is true. Fails with ``what`` after the deadline."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.002)


async def until(condition: Callable[[], object], what: str) -> None:
    """The same inside trio."""
    with trio.move_on_after(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - other processes' doings
            await trio.sleep(0.002)
        return
    raise AssertionError(f"never: {what}")


class Session:
    """A session directory as the tmux service makes it, and the processes around it, which end with the
    block that it is for.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.path = home / "sessions" / "01JUID"
        self.path.mkdir(parents=True, mode=0o700)
        self.bridges: list[subprocess.Popen[bytes]] = []
        self.process = 0
        self.screen_file = home / "screen"

    def launch(self, *agent: str, argv: list[str] | None = None, **changes: Any) -> None:
        self.process += 1
        launch = {
            "session": "work",
            "uid": "01JUID",
            "process": self.process,
            "argv": argv if argv is not None else [sys.executable, "-I", "-S", str(AGENTS), *agent],
            "cwd": str(self.home),
            "env": {"PATH": os.environ["PATH"], "SECRET": "also-not-to-be-seen"},
            "token": TOKEN,
            "resume": None,
        } | changes
        file = self.path / "launch.json"
        file.touch(0o600)
        file.write_text(json.dumps(launch))

    def endpoint(self, port: int) -> None:
        new = self.home / "endpoints.new"
        new.write_text(json.dumps({"ingest": {"host": "127.0.0.1", "port": port}}))
        new.rename(self.home / "endpoints.json")

    def bridge(self) -> subprocess.Popen[bytes]:
        with self.screen_file.open("ab") as screen:
            bridge = subprocess.Popen(
                [sys.executable, "-m", "services.bridge", str(self.path)],
                cwd=ROOT,
                env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=screen,
                stderr=screen,
            )
        self.bridges.append(bridge)
        return bridge

    def file(self, name: str) -> Path:
        return self.path / f"{name}.{self.process}"

    def screen(self) -> str:
        return self.screen_file.read_text("utf-8", "replace")

    def journal(self) -> bytes:
        return self.file("out").read_bytes()

    def pid(self) -> int:
        return int(self.file("pid").read_text())

    def keeper(self) -> int:
        """The keeper's process id: the parent of the agent."""
        return int(Path(f"/proc/{self.pid()}/stat").read_text().rpartition(")")[2].split()[1])

    def exit(self) -> int | None:
        file = self.file("exit")
        wait(file.exists, "exit file")
        code: int = json.loads(file.read_bytes())["code"]
        return code

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        """End every process that this session has started, by its id."""
        for bridge in self.bridges:
            bridge.kill()
            bridge.wait()
        for file in self.path.glob("pid.*"):
            number = file.suffix
            if not (self.path / f"exit{number}").exists():
                with contextlib.suppress(ProcessLookupError, ValueError):
                    os.killpg(int(file.read_text()), signal.SIGKILL)
                wait(lambda: not alive(int(file.read_text())), "agent's end")  # noqa: B023


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Ingest:
    """What the bridge talks to. Its members outlive its server: that is its database."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.data = b""
        self.offset = 0
        self.lines: list[str] = []
        self.taken = 0
        self.unwritable: dict[int, str] = {}
        self.exit: wire.Exit | None = None
        self.hellos: list[wire.BridgeHello] = []
        self.headers: list[tuple[bytes, bytes]] = []
        self.acknowledges = True
        self.says_bye = True
        self.refuses: str | None = None
        self.wants_figures = True
        self.figures: list[wire.Figures] = []
        self._sockets: list[trio_websocket.WebSocketConnection] = []

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Listen on a new port, which stands in endpoints.json. On leaving: gone like a killed process."""
        async with trio.open_nursery() as nursery:
            server = await nursery.start(
                lambda task_status: trio_websocket.serve_websocket(
                    self._serve,
                    "127.0.0.1",
                    0,
                    None,
                    max_message_size=wire.MAX_MESSAGE_BYTES,
                    task_status=task_status,
                )
            )
            self.session.endpoint(server.port)
            yield
            nursery.cancel_scope.cancel()

    async def _serve(self, request: trio_websocket.WebSocketRequest) -> None:
        self.headers = list(request.headers)
        assert request.path == "/ws/sessions/work"
        assert wire.SUBPROTOCOL in request.proposed_subprotocols
        socket = await request.accept(subprotocol=wire.SUBPROTOCOL)
        with contextlib.suppress(trio_websocket.ConnectionClosed):
            while True:
                data = await socket.get_message()
                assert isinstance(data, bytes)
                message = wire.decode_from_bridge(data)
                await self._take(socket, message)

    async def _take(self, socket: trio_websocket.WebSocketConnection, message: wire.FromBridge) -> None:
        match message:
            case wire.BridgeHello():
                self.hellos.append(message)
                if self.refuses:
                    await socket.send_message(wire.encode(wire.Refused(reason=self.refuses)))
                    return
                hello = wire.IngestHello(
                    process=self.session.process, offset=self.offset, figures=self.wants_figures
                )
                await socket.send_message(wire.encode(hello))
                for n in range(message.written + 1, len(self.lines) + 1):
                    await socket.send_message(wire.encode(wire.Line(n=n, data=self.lines[n - 1])))
                self._sockets = [socket]
            case wire.Data():
                assert message.offset == self.offset, (message.offset, self.offset)
                self.data += message.raw
                self.offset = message.end
                if self.acknowledges:
                    await socket.send_message(wire.encode(wire.Ack(offset=self.offset)))
            case wire.Taken():
                self.taken = message.n
            case wire.Unwritable():
                self.unwritable[message.n] = message.reason
            case wire.Figures():
                assert self.wants_figures
                self.figures.append(message)
            case wire.Exit():
                self.exit = message
                if self.says_bye:
                    await socket.send_message(wire.encode(wire.Bye()))

    async def say(self, message: wire.FromIngest) -> None:
        for socket in self._sockets:
            with contextlib.suppress(trio_websocket.ConnectionClosed):
                await socket.send_message(wire.encode(message))

    async def ask(self, **frame: Any) -> int:
        """Give the agent a line. Returns its number."""
        return await self.ask_raw(json.dumps(frame))

    async def ask_raw(self, data: str) -> int:
        self.lines.append(data)
        n = len(self.lines)
        await self.say(wire.Line(n=n, data=data))
        return n

    def frames(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(line) for line in self.data.splitlines()]

    def last(self) -> dict[str, Any]:
        """The newest frame; empty when there is none."""
        line = self.data[self.data.rfind(b"\n", 0, -1) + 1 :]
        frame: dict[str, Any] = msgspec.json.decode(line) if line else {}
        return frame

    def kinds(self) -> list[str]:
        return [frame["type"] for frame in self.frames()]

    def next_process(self) -> None:
        self.offset, self.lines, self.taken, self.exit = 0, [], 0, None
