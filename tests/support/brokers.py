"""Real brokers on free ports, started as the broker service starts them.

`mosquitto_broker` and `amqtt_broker` are context managers for tests with or without trio:

    with mosquitto_broker(tmp_path) as broker:
        bus = MqttBus(broker.address("operator"), root="pointsman", node="node")

`kill` and `restart` play the world's part; the port stays the same.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import trio

from bus.acl import Role, User
from bus.client import BusAddress, MqttBus
from services import SERVICES
from services.broker import core
from services.broker.child import Child, find_mosquitto, prepare
from services.broker.core import Kind, Listener

ROOT, NODE = "pointsman", "node"
START_S = 60.0


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RunningBroker:
    """A broker process with the services' users, and those of the test."""

    def __init__(self, directory: Path, kind: Kind, users: Sequence[User]) -> None:
        self.kind = kind
        self.host, self.port, self.ws_port = "127.0.0.1", free_port(), free_port()
        self.users = [*core.users(SERVICES), *users]
        self.passwords = {user.username: secrets.token_urlsafe(16) for user in self.users}
        self.listeners = (Listener(self.host, self.port), Listener(self.host, self.ws_port, websockets=True))
        self._directory = directory
        self._argv = prepare(
            directory, kind, self.listeners, self.passwords, self.users, root=ROOT, node=NODE
        )
        self._child: Child | None = None

    def start(self) -> None:
        """Start it and wait until it listens."""
        self._child = Child.start(self._argv, self._directory / "output")
        deadline = time.monotonic() + START_S
        for listener in self.listeners:
            while not accepts(listener.port):
                assert self._child.alive, f"{self.kind} ended: {self._child.output()}"
                assert time.monotonic() < deadline, f"{self.kind} does not listen: {self._child.output()}"
                time.sleep(0.02)

    def kill(self) -> None:
        """kill -9."""
        if self._child is not None:
            self._child.kill()

    def restart(self) -> None:
        """kill -9 and a new, empty one on the same port."""
        self.kill()
        self.start()

    async def restart_beside(self) -> None:
        """`restart` while other trio tasks go on."""
        self.kill()
        await trio.to_thread.run_sync(self._wait_closed)
        self._child = Child.start(self._argv, self._directory / "output")
        assert await self._child.listening(self.listeners), self._child.output()

    def _wait_closed(self) -> None:
        deadline = time.monotonic() + START_S
        while accepts(self.port) and time.monotonic() < deadline:
            time.sleep(0.01)

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def address(self, username: str = "operator", password: str | None = None) -> Callable[[], BusAddress]:
        """For `MqttBus`."""
        word = self.passwords.get(username, "") if password is None else password
        return lambda: BusAddress(self.host, self.port, username, word)

    def bus(
        self, service: str | None = None, *, username: str | None = None, all_nodes: bool = False
    ) -> MqttBus:
        """A connection, not yet running: as a service, or as a person."""
        user = username or (f"service-{service}" if service else "operator")
        return MqttBus(self.address(user), root=ROOT, node=NODE, service=service, all_nodes=all_nodes)


@contextlib.contextmanager
def _running(directory: Path, kind: Kind, users: Sequence[User]) -> Iterator[RunningBroker]:
    broker = RunningBroker(directory, kind, users)
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()


def mosquitto_broker(
    directory: Path, users: Sequence[User] = ()
) -> contextlib.AbstractContextManager[RunningBroker]:
    """mosquitto with our access rules; ``users`` beside the operator and the services."""
    assert find_mosquitto(), "these tests need mosquitto: `apt-get install mosquitto`"
    return _running(directory, Kind.MOSQUITTO, users)


def amqtt_broker(
    directory: Path, users: Sequence[User] = ()
) -> contextlib.AbstractContextManager[RunningBroker]:
    """amqtt with our passwords; it enforces no access rules."""
    return _running(directory, Kind.AMQTT, users)


EVERYBODY = (
    User("viewer", Role.VIEWER),
    User("approver", Role.APPROVER),
    User("button", Role.DEVICE),
)
"""One more user of each role that people and devices have."""


def accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.5):
            return True
    except OSError:
        return False
