"""The broker service as supervisord runs it: started, killed, stopped, and with another's broker."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import trio

from bus import topics as t
from bus.acl import Role, User
from bus.api import Received
from bus.client import BusAddress, MqttBus
from tests.support.brokers import EVERYBODY, NODE, ROOT, accepts, free_port, mosquitto_broker
from tests.support.connections import connected

REPOSITORY = Path(__file__).resolve().parents[3]
START_S = 60.0

pytestmark = pytest.mark.real


class Service:
    """``python -m services.broker`` with a home of its own."""

    def __init__(self, home: Path, **settings: str) -> None:
        self.home = home
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(home.parent),
            "PYTHONPATH": str(REPOSITORY),
            "POINTSMAN_HOME": str(home),
            "POINTSMAN_NODE_NAME": NODE,
            **{f"POINTSMAN_{key.upper()}": value for key, value in settings.items()},
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "services.broker"], env=self.environ, stderr=subprocess.PIPE
        )

    def up(self) -> dict[str, Any]:
        """Start it and wait until it listens. Returns its endpoints."""
        self.start()
        wait(self.listens, self.log)
        return self.endpoints()

    def listens(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        bus = self.endpoints()
        return "port" in bus and accepts(bus["port"])

    def endpoints(self) -> dict[str, Any]:
        with contextlib.suppress(OSError):
            found: dict[str, Any] = json.loads((self.home / "endpoints.json").read_text()).get("bus", {})
            return found
        return {}

    def log(self) -> str:
        with contextlib.suppress(OSError):
            return (self.home / "logs/broker.log").read_text()
        return ""

    def child(self) -> psutil.Process | None:
        """The broker itself."""
        assert self.process is not None
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(self.process.pid).children()
            return children[0] if children else None
        return None

    def address(self, username: str = "operator") -> Callable[[], BusAddress]:
        def found() -> BusAddress:
            word = (self.home / "secrets/bus" / username).read_text()
            bus = self.endpoints()
            return BusAddress(bus["host"], bus["port"], username, word)

        return found

    def end(self) -> int:
        """SIGTERM. Returns the exit code."""
        assert self.process is not None
        self.process.terminate()
        self.process.communicate(timeout=60)
        return self.process.returncode


def listening(process: psutil.Process) -> set[tuple[str, int]]:
    """Where it waits for connections."""
    return {
        (each.laddr.ip, each.laddr.port)
        for each in process.net_connections("tcp")
        if each.status == psutil.CONN_LISTEN
    }


def wait(condition: Callable[[], object], why: Callable[[], str]) -> None:
    deadline = time.monotonic() + START_S
    while not condition():
        assert time.monotonic() < deadline, why()
        time.sleep(0.02)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    started: list[Service] = []

    def make(name: str = "home", **settings: str) -> Service:
        settings = {"bus_port": str(free_port()), "bus_ws_port": str(free_port()), **settings}
        made = Service(tmp_path / name, metrics_base_port=str(free_port() % 60000), **settings)
        started.append(made)
        return made

    yield make
    for each in started:
        if each.process is not None:
            each.process.kill()
            each.process.communicate()


KINDS = pytest.mark.parametrize("kind", ["mosquitto", "amqtt"])


async def talk(address: Callable[[], BusAddress]) -> str:
    """The operator finds the broker service online."""
    with trio.fail_after(START_S):
        async with connected(MqttBus(address, root=ROOT, node=NODE)) as bus:
            bus.subscribe(t.SERVICE_STATUS, self="broker")
            while True:
                message = await bus.receive()
                if isinstance(message, Received) and message.payload == b"online":
                    return "online"


@pytest.mark.parametrize(
    ("kind", "host"), [("mosquitto", "127.0.0.1"), ("mosquitto", "localhost"), ("amqtt", "127.0.0.1")]
)
def test_it_carries_the_bus_on_this_machine_alone_and_ends_in_order(
    service: Callable[..., Service], kind: str, host: str
) -> None:
    it = service(bus_broker=kind, bus_host=host)
    endpoints = it.up()
    assert endpoints["broker"] == kind
    assert trio.run(talk, it.address()) == "online"
    wait(lambda: accepts(endpoints["ws_port"]), it.log)
    child = it.child()
    assert child is not None
    assert {ip for ip, _ in listening(child)} <= {"127.0.0.1", "::1"}
    assert {port for _, port in listening(child)} == {endpoints["port"], endpoints["ws_port"]}
    assert it.end() == 0
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    for path in [*it.home.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


@KINDS
def test_a_killed_broker_is_started_again_at_the_same_port(
    service: Callable[..., Service], kind: str
) -> None:
    it = service(bus_broker=kind)
    before = it.up()
    child = it.child()
    assert child is not None
    child.send_signal(signal.SIGKILL)
    wait(lambda: (new := it.child()) is not None and new.pid != child.pid, it.log)
    wait(it.listens, it.log)
    assert it.endpoints() == before
    assert trio.run(talk, it.address()) == "online"


@KINDS
def test_the_broker_does_not_outlive_its_service(service: Callable[..., Service], kind: str) -> None:
    it = service(bus_broker=kind)
    it.up()
    child = it.child()
    assert child is not None
    assert it.process is not None
    it.process.kill()
    it.process.wait()
    wait(lambda: not child.is_running(), it.log)


def test_passwords_stay_over_a_restart(service: Callable[..., Service]) -> None:
    it = service(bus_broker="mosquitto")
    it.up()
    words = {path.name: path.read_text() for path in (it.home / "secrets/bus").iterdir()}
    assert {"operator", "service-ingest", "service-broker"} <= words.keys()
    assert all(len(word) >= 40 and "\n" not in word for word in words.values())
    it.end()
    it.up()
    assert {path.name: path.read_text() for path in (it.home / "secrets/bus").iterdir()} == words
    for word in words.values():
        assert word not in it.log()


def test_a_configured_port_that_is_taken_is_an_error_that_says_by_whom(
    service: Callable[..., Service],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        it = service(bus_port=str(taken.getsockname()[1]))
        it.start()
        assert it.process is not None
        _, error = it.process.communicate(timeout=60)
        assert it.process.returncode == 4
        assert "bus.port" in error.decode()
        assert "is taken by" in error.decode()


# ── Another's broker ─────────────────────────────────────────────────────────────────────────────────────

OURS = User("service-broker", Role.SERVICE)


def external(service: Callable[..., Service], name: str, port: int, password: Path) -> Service:
    return service(
        name, bus_broker="external", bus_host="127.0.0.1", bus_port=str(port),
        bus_username="service-broker", bus_password_file=str(password),
    )  # fmt: skip


def test_an_external_broker_is_used_and_a_second_home_of_the_same_node_exits_2(
    service: Callable[..., Service], tmp_path: Path
) -> None:
    with mosquitto_broker(tmp_path / "external", EVERYBODY) as broker:
        password = tmp_path / "password"
        password.write_text(broker.passwords["service-broker"])
        first = external(service, "first", broker.port, password)
        first.start()
        wait(lambda: "node claimed" in first.log(), first.log)
        assert first.child() is None
        assert trio.run(talk, broker.address("operator")) == "online"

        second = external(service, "second", broker.port, password)
        second.start()
        assert second.process is not None
        _, error = second.process.communicate(timeout=60)
        assert second.process.returncode == 2, second.log()
        assert "is already on this bus" in error.decode()

        assert first.end() == 0  # its claim stands, but nobody answers for it
        third = external(service, "third", broker.port, password)
        third.start()
        wait(lambda: "node claimed" in third.log(), third.log)


def test_an_external_broker_that_refuses_us_is_an_error_that_says_so(
    service: Callable[..., Service], tmp_path: Path
) -> None:
    with mosquitto_broker(tmp_path / "external") as broker:
        password = tmp_path / "password"
        password.write_text("wrong")
        it = external(service, "home", broker.port, password)
        it.start()
        assert it.process is not None
        _, error = it.process.communicate(timeout=60)
        assert it.process.returncode == 4
        assert "its password is wrong" in error.decode()
        assert str(password) in error.decode()
        assert "wrong\n" not in it.log()
