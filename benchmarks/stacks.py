"""The two things that are measured against each other, started as real processes on loopback."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import msgspec
import paho.mqtt.client as mqtt
import psutil
from paho.mqtt.enums import CallbackAPIVersion

from benchmarks.wire import new_token
from bus import codec
from bus import messages as m
from bus import topics as t
from services.supervision.conf import environment_of

ROOT = Path(__file__).parents[1]
START_S = 30.0


class Program:
    """A child of ours that prints JSON lines."""

    def __init__(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def line(self) -> dict[str, Any]:
        out: IO[str] | None = self.process.stdout
        assert out is not None
        text = out.readline()
        if not text:
            raise RuntimeError(f"{self.process.args!r} ended with {self.process.wait()}")
        found: dict[str, Any] = json.loads(text)
        return found

    def go(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write("go\n")
            self.process.stdin.flush()

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def until(probe: Callable[[], Any], what: str, deadline_s: float = START_S) -> Any:
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        with contextlib.suppress(OSError, ValueError, KeyError):
            if value := probe():
                return value
        time.sleep(0.05)
    raise TimeoutError(what)


@contextlib.contextmanager
def bare(join_ms: float, through: Ours | None = None) -> Iterator[dict[str, Any]]:
    """The bare pipeline, ``{"broker_port", "port", "pid", "user"}``: on its own mosquitto, or ``through``
    the broker of our stack, with its passwords and access rules.
    """
    with contextlib.nullcontext(through.let_in_bare()) if through else _mosquitto() as (port, user):
        arguments = ["--broker-port", str(port), *user]
        ingest = Program("benchmarks.bare", "ingest", *arguments, "--join-ms", str(join_ms))
        relay = Program("benchmarks.bare", "relay", *arguments)
        try:
            ws_port = ingest.line()["port"]
            relay.line()
            yield {"broker_port": port, "port": ws_port, "pid": ingest.process.pid, "user": user}
        finally:
            ingest.stop()
            relay.stop()


@contextlib.contextmanager
def _mosquitto() -> Iterator[tuple[int, list[str]]]:
    """The barest broker: its port, and arguments that say who one is (nobody)."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "mosquitto.conf"
        config.write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\n"
            "max_queued_messages 1000000\nmax_inflight_messages 0\nlog_type none\n"
        )
        program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        broker = subprocess.Popen([program, "-c", str(config)])
        try:
            until(lambda: socket.create_connection(("127.0.0.1", port), 1), "mosquitto")
            yield port, []
        finally:
            broker.terminate()
            broker.wait()


def as_configured(service: str) -> dict[str, str]:
    """The environment that supervisord.conf gives this service."""
    found = environment_of(service)
    del found["PYTHONSAFEPATH"]  # the benchmark's own modules are found by the current directory
    return found


class Ours:
    """Broker, ingest and gate of this checkout, with sessions made by facts, as the tmux controller would."""

    def __init__(self, broker: str, join_ms: float) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pointsman-bench-"))
        self.home = self.folder / "home"
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "POINTSMAN_HOME": str(self.home),
            "POINTSMAN_NODE_NAME": "bench",
            "POINTSMAN_BUS_BROKER": broker,
            "POINTSMAN_APPROVALS_TIMEOUT_S": "0",
        }
        self.programs = [
            Program("services.broker", environment=self.environment | as_configured("broker")),
            Program(
                "benchmarks.ingest", str(join_ms), environment=self.environment | as_configured("ingest")
            ),
            Program("services.approvals", environment=self.environment | as_configured("approvals")),
        ]
        endpoints = until(lambda: self._endpoints(), "endpoints of ingest")
        self.broker_port: int = endpoints["bus"]["port"]
        self.port: int = endpoints["ingest"]["port"]
        self.password_file = self.home / "secrets" / "bus" / "operator"
        self.pid = self.programs[1].process.pid
        self._tmux = self._connect("service-tmux")
        self._wait_for("services/ingest/status", b"online")

    def _endpoints(self) -> dict[str, Any] | None:
        found: dict[str, Any] = json.loads((self.home / "endpoints.json").read_text())
        return found if "port" in found["ingest"] and "port" in found["bus"] else None

    def _connect(self, username: str) -> mqtt.Client:
        client = mqtt.Client(CallbackAPIVersion.VERSION2)
        password = until(lambda: (self.home / "secrets" / "bus" / username).read_text(), username)
        client.username_pw_set(username, password)
        until(lambda: client.connect("127.0.0.1", self.broker_port) == 0, "the broker")
        client.loop_start()
        until(client.is_connected, "a connection")
        return client

    def _wait_for(self, topic: str, payload: bytes) -> None:
        seen = threading.Event()

        def on_message(_client: Any, _user: Any, message: mqtt.MQTTMessage) -> None:
            if message.payload == payload:
                seen.set()

        self._tmux.on_message = on_message
        self._tmux.subscribe(f"pointsman/bench/{topic}", 1)
        if not seen.wait(START_S):
            raise TimeoutError(f"{topic} is not {payload!r}")

    def sessions(self, count: int) -> list[tuple[str, str]]:
        """Make ``count`` sessions; (name, token) of each, once ingest has kept them all."""
        kept: set[str] = set()

        def on_message(_client: Any, _user: Any, message: mqtt.MQTTMessage) -> None:
            ack = msgspec.json.decode(message.payload, type=m.Ack)
            kept.update(ack.ids)
            if ack.refused:
                raise RuntimeError(str(ack.refused))

        self._tmux.on_message = on_message
        self._tmux.subscribe("pointsman/bench/acks/ingest/tmux", 1)
        made: list[tuple[str, str]] = []
        stamp = time.time_ns()
        for number in range(count):
            name, token, uid = f"s{stamp}-{number}", new_token(), f"{stamp}{number:06d}".rjust(26, "0")[-26:]
            created = m.SessionCreated(
                session=name, kind="sdk-url", cwd="/tmp", title=name, model=None,  # noqa: S108  # a name only
                permission_mode="default", pinned=False, parent=None, agent="claude", agent_version="2.1.119",
                token_sha256=hashlib.sha256(token.encode()).hexdigest(), prompt=None, prompt_id=None, by=None,
                resume=None, auto_approve=[],
            )  # fmt: skip
            for kind, data in (("created", created), ("started", m.AgentStarted(process=1, resume=None))):
                fact = m.Fact(
                    id=f"{kind}-{uid}", type=kind, uid=uid, at=datetime.now(UTC), data=codec.encode_data(data)
                )
                topic = "pointsman/bench/" + t.FACTS.path(producer="tmux", owner="ingest")
                self._tmux.publish(topic, msgspec.json.encode(fact), 1)
            made.append((name, token))
        until(lambda: len(kept) >= 2 * count, f"{count} sessions (kept {len(kept)})", 60)
        return made

    def let_in_bare(self) -> tuple[int, list[str]]:
        """Give one user of our broker the bare pipeline's topics as well; its port and who that is."""
        user = "service-tmux"
        with (self.home / "run/broker/mosquitto.acl").open("a") as rules:
            rules.write(f"\nuser {user}\ntopic readwrite bare/#\n")
        (mosquitto,) = psutil.Process(self.programs[0].process.pid).children()
        mosquitto.send_signal(signal.SIGHUP)
        secret = self.home / "secrets" / "bus" / user
        return self.broker_port, ["--username", user, "--password-file", str(secret)]

    def stop(self) -> None:
        self._tmux.disconnect()
        self._tmux.loop_stop()
        for program in reversed(self.programs):
            program.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def ours(broker: str, join_ms: float) -> Iterator[Ours]:
    stack = Ours(broker, join_ms)
    try:
        yield stack
    finally:
        stack.stop()


def write_sessions(folder: Path, sessions: Sequence[tuple[str, str]]) -> Path:
    path = folder / "sessions.json"
    path.write_text(json.dumps(sessions))
    return path
