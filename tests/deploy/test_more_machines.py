"""Many machines, one view: the hub of deploy/mosquitto/hub.conf beside a node's own broker; EMQX's limits."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bus import codec
from services.broker import core
from tests.support.scripted import ScriptedStack
from tests.support.stack import ROOT, eventually

CONF = ROOT / "deploy" / "mosquitto" / "hub.conf"
SBIN = f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin"


class Hub:
    """The configuration as it is, but for addresses, names and passwords."""

    def __init__(self, folder: Path, node_port: int, password: str) -> None:
        folder.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        text = CONF.read_text().replace("pointsman/desk/", "pointsman/proof/")
        for pattern, value in (
            (r"^listener .*$", f"listener {self.port} 127.0.0.1"),
            (r"^allow_anonymous .*$", "allow_anonymous true"),
            (r"^password_file .*$", "user root"),
            (r"^address .*$", f"address 127.0.0.1:{node_port}"),
            (r"^bridge_cafile .*$", ""),
            (r"^remote_password .*$", f"remote_password {password}"),
        ):
            text, count = re.subn(pattern, value, text, flags=re.MULTILINE)
            assert count == 1, pattern
        (folder / "hub.conf").write_text(text)
        program = shutil.which("mosquitto", path=SBIN)
        assert program, "mosquitto is not installed: `make setup-dev` installs it, or says what to type"
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen([program, "-c", str(folder / "hub.conf")], stdout=log, stderr=log)

    def read(self, topic: str) -> str | None:
        """The next message, or None if there was none within two seconds."""
        done = subprocess.run(
            ["mosquitto_sub", "-p", str(self.port), "-t", topic, "-C", "1", "-W", "2"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return done.stdout or None

    def say(self, topic: str, payload: str) -> None:
        subprocess.run(
            ["mosquitto_pub", "-p", str(self.port), "-q", "1", "-t", topic, "-m", payload],
            check=True,
            timeout=30,
        )


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[ScriptedStack, Hub]]:
    stack = ScriptedStack(tmp_path / "s", POINTSMAN_BUS_BROKER="mosquitto")
    with stack:
        made = stack.pointsman("user", "add", "hub", "--role", "operator")
        hub = Hub(tmp_path / "hub", stack.bus()["port"], Path(made["password_file"]).read_text().strip())
        try:
            yield stack, hub
        finally:
            hub.process.terminate()
            hub.process.wait(20)


def test_emqx_is_told_to_take_as_much_as_our_own_broker() -> None:
    text = (ROOT / "deploy" / "emqx" / "base.hocon").read_text()
    said = dict(re.findall(r"^ *(max_\w+) = (\d+)(?:MB)?$", text, re.MULTILINE))
    assert {name: int(value) for name, value in said.items()} == {
        "max_packet_size": core.MAX_PACKET_BYTES >> 20,
        "max_mqueue_len": core.MAX_QUEUED,
        "max_inflight": core.MAX_INFLIGHT,
        "max_payload_size": codec.MAX_PAYLOAD_BYTES >> 20,
    }


def test_a_node_is_seen_and_commanded_through_the_hub(hub: tuple[ScriptedStack, Hub]) -> None:
    stack, board = hub

    def seen() -> bool:
        health = board.read("pointsman/+/health")
        return health is not None and json.loads(health)["services"]["ledger"] == "online"

    eventually(seen, "the node's health at the hub")
    stack.open("one")
    with stack.recorder() as recorder:
        board.say("pointsman/proof/sessions/one/prompt", json.dumps({"id": "hub-1", "text": "SAY hello hub"}))
        said = eventually(
            lambda: [m for m in recorder.all("sessions/one/events/message") if m["role"] == "assistant"],
            "the agent's answer",
        )
    assert said[0]["text"] == "hello hub"
    state = eventually(
        lambda: board.read("pointsman/proof/sessions/one/state"), "the session's state at the hub"
    )
    assert json.loads(state)["session"] == "one"
