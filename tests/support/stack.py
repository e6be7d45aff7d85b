"""The whole thing, as a user runs it: supervisord with every service in a home of its own.

Nothing here is simulated. `Stack` starts ``supervisord -c supervisord.conf`` of this very checkout, speaks to
it through the ``pointsman`` command and a plain MQTT client, and knows every process that belongs to it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import paho.mqtt.client as mqtt
import psutil
from paho.mqtt.enums import CallbackAPIVersion

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
START_S = 120.0  # the README promises 10, but a busy machine must not fail a test
ASK_S = 1.0  # the command costs a third of a second of the processor that a start needs
DEADLINE_S = 90.0  # for one step of a real session on a busy machine
SERVICES = ("broker", "ingest", "tmux", "approvals", "ledger", "watchdog")

T = TypeVar("T")


def eventually(
    probe: Callable[[], T | None], what: str, deadline_s: float = DEADLINE_S, *, every_s: float = 0.05
) -> T:
    """The first true value of ``probe``, asked again until the deadline."""
    end = time.monotonic() + deadline_s
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s} s: {what} (last: {value!r})")
        time.sleep(every_s)


class Recorder:
    """Everything the operator may see on the bus, in order, as (topic below the node, payload, retained)."""

    def __init__(self, bus: Mapping[str, Any], pattern: str = "#") -> None:
        self.prefix = f"{bus['root']}/{bus['node']}/"
        self.messages: list[tuple[str, bytes, bool]] = []
        self._lock = threading.Lock()
        self._subscribed = threading.Event()
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self.client.username_pw_set(bus["username"], Path(bus["password_file"]).read_text())
        self.client.reconnect_delay_set(min_delay=1, max_delay=1)
        self.client.on_connect = lambda c, *_: c.subscribe(self.prefix + pattern, qos=1)
        self.client.on_subscribe = lambda *_: self._subscribed.set()
        self.client.on_message = self._on_message
        self.client.connect(bus["host"], bus["port"])
        self.client.loop_start()
        assert self._subscribed.wait(10), "the broker did not acknowledge the recorder's subscription"

    def _on_message(self, _client: Any, _user: Any, message: mqtt.MQTTMessage) -> None:
        with self._lock:
            self.messages.append(
                (message.topic.removeprefix(self.prefix), bytes(message.payload), message.retain)
            )

    def all(self, topic: str) -> list[dict[str, Any]]:
        """The JSON payloads seen on a topic (``+`` stands for one level), cleared ones left out."""
        with self._lock:
            seen = list(self.messages)
        return [
            json.loads(payload)
            for path, payload, _ in seen
            if payload and mqtt.topic_matches_sub(topic, path)
        ]

    def topics(self) -> list[str]:
        """Every topic seen, below the node."""
        with self._lock:
            return list(dict.fromkeys(path for path, _, _ in self.messages))

    def last(self, topic: str) -> dict[str, Any] | None:
        found = self.all(topic)
        return found[-1] if found else None

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


class Stack:
    """One Pointsman, started as the README says. ``environment`` is supervisord's, and so the agents'."""

    def __init__(self, home: Path, environment: Mapping[str, str], **settings: str) -> None:
        self.home = home
        self.environment = dict(environment) | {
            "POINTSMAN_HOME": str(home),
            "POINTSMAN_CONFIG": str(home.parent / "config.toml"),
            "POINTSMAN_NODE_NAME": "proof",
            **settings,
        }
        Path(self.environment["POINTSMAN_CONFIG"]).touch()
        self.supervisord: subprocess.Popen[bytes] | None = None
        self.log = home.parent / "supervisord.out"

    def __enter__(self) -> Stack:
        try:
            self.start()
        except BaseException:  # whatever it was, nothing is left running
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if kind is not None:
            sys.stderr.write(self.report())

    def close(self) -> None:
        """End it all, whatever state it is in."""
        with contextlib.suppress(Exception):  # clearing up after a failed test must not hide why it failed
            if self.supervisord and self.supervisord.poll() is None:
                self.pointsman("end", "--all", check=False)
                self.stop()
        if self.supervisord is not None and self.supervisord.poll() is None:
            self.supervisord.kill()  # first: it would start again what is killed below
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self.supervisord is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.supervisord.wait(10)  # else its Popen complains wherever it is collected

    def report(self) -> str:
        """What a person needs when a proof failed: the terminal and the end of each log."""
        parts = [
            f"\n== terminal ==\n{self.log.read_text(errors='replace')[-4000:]}" if self.log.exists() else ""
        ]
        for path in sorted((self.home / "logs").glob("*.log")):
            parts.append(f"\n== {path.name} ==\n{path.read_text(errors='replace')[-3000:]}")
        return "".join(parts)

    def start(self, *, wait: bool = True) -> None:
        with self.log.open("ab") as out:
            self.supervisord = subprocess.Popen(
                [str(BIN / "supervisord"), "-c", "supervisord.conf"],
                cwd=ROOT,
                env=self.environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        if wait:
            self.wait_online(START_S)

    def wait_online(self, deadline_s: float = START_S) -> dict[str, Any]:
        return eventually(self._online, "every service online", deadline_s, every_s=ASK_S)

    def _online(self) -> dict[str, Any] | None:
        result = self.run("health", "--json")
        return json.loads(result.stdout) if result.returncode == 0 else None

    def stop(self) -> float:
        """Ctrl-C. Returns how long it took in seconds."""
        assert self.supervisord is not None
        start = time.monotonic()
        self.supervisord.send_signal(signal.SIGINT)
        self.supervisord.wait(60)
        return time.monotonic() - start

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The ``pointsman`` command, as it is."""
        return subprocess.run(
            [str(BIN / "pointsman"), *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def pointsman(self, *arguments: str, check: bool = True) -> Any:
        """The ``pointsman`` command with ``--json``; its document."""
        result = self.run(*arguments, "--json")
        if check:
            assert result.returncode == 0, (
                f"{arguments}: {result.returncode}\n{result.stdout}\n{result.stderr}"
            )
        return json.loads(result.stdout) if result.stdout.strip() else None

    def bus(self) -> dict[str, Any]:
        found: dict[str, Any] = self.pointsman("bus")
        return found

    @contextlib.contextmanager
    def recorder(self, pattern: str = "#") -> Iterator[Recorder]:
        recorder = Recorder(self.bus(), pattern)
        try:
            yield recorder
        finally:
            recorder.close()

    def publish(self, topic: str, payload: Mapping[str, Any] | str) -> None:
        """``mosquitto_pub``, from outside, as a stranger's script would with the operator's password."""
        bus = self.bus()
        text = payload if isinstance(payload, str) else json.dumps(payload)
        subprocess.run(
            [
                "mosquitto_pub", "-h", bus["host"], "-p", str(bus["port"]), "-u", bus["username"],
                "-P", Path(bus["password_file"]).read_text(), "-q", "1",
                "-t", f"{bus['root']}/{bus['node']}/{topic}", "-m", text,
            ],
            check=True,
            timeout=20,
        )  # fmt: skip

    def service_pid(self, name: str) -> int:
        """The process of a service, by what it wrote into its lock."""
        return int((self.home / "run" / f"{name}.lock").read_text().split()[0])

    def kill(self, name: str) -> None:
        os.kill(self.service_pid(name), signal.SIGKILL)

    def processes(self) -> list[psutil.Process]:
        """Every living process of this stack: by its environment or by an open path in its command line."""
        found = []
        mark = f"POINTSMAN_HOME={self.home}"
        for process in psutil.process_iter():
            try:
                if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                environment = process.environ()
                if (
                    environment.get("POINTSMAN_HOME") == str(self.home)
                    or mark in process.cmdline()
                    or any(str(self.home) in part for part in process.cmdline())
                    or environment.get("HOME") == self.environment.get("HOME")
                ):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def sockets(self) -> list[Path]:
        return [path for path in self.home.rglob("*") if path.is_socket()]
