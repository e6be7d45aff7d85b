"""``bus.broker = external``: the whole stack on a broker that somebody else (here: the test) runs."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.broker.child import find_mosquitto
from tests.support.brokers import accepts, free_port
from tests.support.stack import SERVICES, Stack, eventually

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


@contextlib.contextmanager
def somebodys_broker(directory: Path) -> Iterator[int]:
    """A mosquitto that knows nothing of us; its port."""
    port = free_port()
    directory.mkdir()
    (directory / "conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    broker = subprocess.Popen([str(find_mosquitto()), "-c", str(directory / "conf")])
    try:
        eventually(lambda: accepts(port), "the broker listens")
        yield port
    finally:
        broker.kill()
        broker.wait()


def test_the_whole_stack_on_an_external_broker_and_a_second_home_is_refused(tmp_path: Path) -> None:
    """Every service comes online; a second home that claims the node ends, all of it, with the reason."""
    path = os.environ["PATH"]
    with somebodys_broker(tmp_path / "theirs") as port:
        settings = {"POINTSMAN_BUS_BROKER": "external", "POINTSMAN_BUS_PORT": str(port)}
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        with Stack(tmp_path / "a" / "home", {"PATH": path, "HOME": str(tmp_path / "a")}, **settings) as first:
            assert first.bus()["port"] == port
            second = Stack(tmp_path / "b" / "home", {"PATH": path, "HOME": str(tmp_path / "b")}, **settings)
            second.start(wait=False)
            with contextlib.closing(second):
                ended = [f"exited: {name} (exit status 2; expected)" for name in SERVICES]
                eventually(
                    lambda: all(line in second.log.read_text() for line in ended),
                    "every service of the second home ended with exit code 2",
                )
                assert "choose another node.name" in second.log.read_text()
            assert first.wait_online()["ok"]
