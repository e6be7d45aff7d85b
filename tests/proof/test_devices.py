"""A button on the wall, with a real mosquitto, the real gate and the clients that people use.

The test plays the agents' side alone (`ingest`). What must not happen is read from the audit in the end:
every decision that reached the gate stands there, and those that the broker dropped do not.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from services.broker.child import find_mosquitto
from tests.services.approvals.support import fact, question
from tests.support.brokers import accepts, free_port
from tests.support.stack import eventually

ROOT = Path(__file__).parents[2]
TOPIC = "pointsman/node/"
LOW = {"tool": "Read", "input_json": '{"file_path":"/work/app/a.py"}'}
CRITICAL = {"tool": "Bash", "input_json": '{"command":"rm -rf /"}'}
EVERYTHING = ["approvals/#", "devices/#", "sessions/#", "replies/#", "users/#", "facts/#", "services/#"]

pytestmark = pytest.mark.real


class House:
    """A home with the broker and the gate, and the things in it."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.home = folder / "home"
        config = folder / "config.toml"
        config.write_text("[approvals]\nauto_approve = []\ntimeout_s = 0\n")
        self.environ = {
            "PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT),
            "POINTSMAN_HOME": str(self.home), "POINTSMAN_CONFIG": str(config), "POINTSMAN_NODE_NAME": "node",
            "POINTSMAN_BUS_BROKER": "mosquitto", **settings,
        }  # fmt: skip
        self.processes = {name: self.service(name) for name in ("broker", "approvals")}
        self.clients: list[mqtt.Client] = []

    def service(self, name: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", f"services.{name}"], env=self.environ, cwd=ROOT)

    def close(self) -> None:
        for client in self.clients:
            client.disconnect()
            client.loop_stop()
        for process in self.processes.values():
            process.kill()
            process.wait()

    @property
    def port(self) -> int:
        with contextlib.suppress(OSError, KeyError, ValueError):
            return int(json.loads((self.home / "endpoints.json").read_text())["bus"]["port"])
        return 0

    def password(self, user: str) -> str:
        return (self.home / "secrets/bus" / user).read_text()

    def pointsman(self, *argv: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "services.cli", *argv, "--json"], env=self.environ, cwd=ROOT,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return json.loads(done.stdout) if done.stdout else done.stderr

    def pub(self, user: str, topic: str, *how: str, password: str | None = None) -> int:
        """mosquitto_pub; returns its exit code."""
        word = self.password(user) if password is None else password
        argv = ["mosquitto_pub", "-p", str(self.port), "-u", user, "-P", word, "-q", "1", "-t", TOPIC + topic]
        return subprocess.run([*argv, *how], capture_output=True, timeout=60, check=False).returncode

    def client(self, user: str, *filters: str) -> Ears:
        ears = Ears(self, user, filters)
        self.clients.append(ears.client)
        return ears


class Ears:
    """A connected client that notes what it hears."""

    def __init__(self, house: House, user: str, filters: tuple[str, ...]) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.ended = False
        self.granted: list[int] = []
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, reconnect_on_failure=False)
        self.client.username_pw_set(user, house.password(user))
        self.client.on_message = lambda _c, _u, message: self.heard.append(
            (message.topic.removeprefix(TOPIC), bytes(message.payload))
        )
        self.client.on_subscribe = lambda _c, _u, _m, codes, _p: self.granted.extend(c.value for c in codes)
        self.client.on_disconnect = lambda *_: setattr(self, "ended", True)
        self.client.connect("127.0.0.1", house.port)
        self.client.loop_start()
        eventually(self.client.is_connected, f"{user} connected")
        self.client.subscribe([(TOPIC + name, 1) for name in filters])
        eventually(lambda: len(self.granted) == len(filters), "subscribed")

    def ask(self, approval: str, **what: str) -> None:
        """As ingest."""
        payload = msgspec.json.encode(fact(f"question-{approval}", "question", question(approval, **what)))
        self.client.publish(f"{TOPIC}facts/ingest/approvals", payload, qos=1)

    def last(self, topic: str) -> Any:
        found = [payload for name, payload in list(self.heard) if name == topic]
        return json.loads(found[-1]) if found and found[-1] else None

    def shown(self, device: str) -> list[Any]:
        """What its display lists."""
        found = self.last(f"devices/{device}/pending")
        return list(found["items"]) if found else []

    def all(self, topic: str) -> list[Any]:
        return [json.loads(payload) for name, payload in list(self.heard) if name == topic and payload]


@contextlib.contextmanager
def running(folder: Path, **settings: str) -> Iterator[House]:
    it = House(folder, **settings)
    try:
        eventually(lambda: isinstance(it.pointsman("user", "list"), list), "the broker answers")
        eventually(lambda: "rows" in it.pointsman("audit", "verify"), "the gate answers")
        yield it
    finally:
        it.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with running(tmp_path) as it:
        yield it


def test_a_button_on_the_wall(house: House) -> None:
    wall = house.pointsman("device", "add", "wall", "--max-level", "low")
    assert (wall["role"], wall["max_level"], wall["port"]) == ("device", "low", house.port)
    house.pointsman("device", "add", "tall", "--max-level", "critical")
    house.pointsman("user", "add", "vic", "--role", "viewer")
    house.pointsman("user", "add", "ada", "--role", "approver", "--max-level", "medium")

    ingest = house.client("service-ingest", "facts/approvals/ingest", "acks/approvals/ingest")
    operator = house.client("operator", "approvals/#", "replies/+")
    ada = house.client("ada", "approvals/+/tokens/+", "replies/+")
    at_wall = house.client("wall", "devices/wall/pending", "devices/wall/reply", *EVERYTHING)
    at_tall = house.client("tall", *EVERYTHING)

    def ask(approval: str, **what: str) -> dict[str, Any]:
        ingest.ask(approval, **what)
        return eventually(lambda: operator.last(f"approvals/{approval}/request"), f"{approval} is asked")

    def replied(count: int) -> list[str]:
        """The wall's replies once there are so many: ok, or the error's code."""
        eventually(lambda: len(at_wall.all("devices/wall/reply")) >= count, f"{count} replies")
        replies = at_wall.all("devices/wall/reply")
        return ["ok" if reply["ok"] else reply["error"]["code"] for reply in replies]

    eventually(lambda: at_wall.last("devices/wall/pending"), "the gate knows the device")
    ask("a1", **LOW)
    ask("grave", **CRITICAL)
    assert [item["id"] for item in eventually(lambda: at_wall.shown("wall"), "its display")] == ["a1"]
    eventually(lambda: len(at_tall.shown("tall")) == 2, "the other's display")

    # Who may not decide cannot, whatever they know. The broker drops it, or the gate refuses it.
    token = eventually(lambda: operator.last("approvals/a1/tokens/operator"), "a token")["token"]
    decision = json.dumps({"id": "stolen", "decision": "approve", "token": token})
    for user in ("vic", "wall", "tall"):
        assert house.pub(user, "approvals/a1/decision", "-m", decision) == 0  # and yet nothing comes of it
    for user in ("vic", "tall", "ada", "operator"):
        assert house.pub(user, "devices/wall/approve", "-m", "a1") == 0
    for user in ("stranger", "wall"):
        assert house.pub(user, "devices/wall/approve", "-m", "a1", password="guessed") != 0
    assert house.pub("wall", "devices/wall/approve", "-m", "grave") == 0
    assert replied(1) == ["level_too_high"]
    mine = eventually(lambda: ada.last("approvals/grave/tokens/ada"), "ada's token")["token"]
    above = json.dumps({"id": "above", "decision": "approve", "token": mine})
    assert house.pub("ada", "approvals/grave/decision", "-m", above) == 0
    refused = eventually(lambda: ada.last("replies/above"), "ada is told")
    assert refused["error"]["code"] == "level_too_high"

    # Retained presses, and what clears them.
    asked = datetime.fromisoformat(operator.last("approvals/a1/request")["created_at"])
    eventually(lambda: (datetime.now(UTC) - asked).total_seconds() > 1, "a1 has waited long enough")
    assert house.pub("wall", "devices/wall/approve", "-r", "-m", "gone") == 0
    assert replied(2)[1:] == ["unknown_approval"]
    assert house.pub("wall", "devices/wall/approve", "-r", "-n") == 0
    assert replied(3)[2:] == ["bad_request"]

    # A press counts, and its second arrival does not.
    def press() -> str:
        before = len(at_wall.all("devices/wall/reply"))
        assert house.pub("wall", "devices/wall/approve", "-n") == 0
        return replied(before + 1)[before]

    # For two seconds it may still be what clears a retained one.
    eventually(lambda: (said := press()) == "ok" or (said != "bad_request" and pytest.fail(said)), "a press")
    assert press() in {"busy", "unknown_approval"}
    answer = eventually(lambda: ingest.all("facts/approvals/ingest"), "the agent's answer")[0]
    assert (answer["data"]["approval"], answer["data"]["decision"]) == ("a1", "approved")
    outcome = eventually(lambda: operator.last("approvals/a1/outcome"), "the outcome")
    assert (outcome["by"], outcome["via"]) == ("wall", "device")

    # Nobody heard what is not theirs.
    for ears, name in ((at_wall, "wall"), (at_tall, "tall")):
        assert {topic for topic, _ in ears.heard} <= {f"devices/{name}/pending", f"devices/{name}/reply"}
    assert {topic.rsplit("/", 1)[1] for topic, _ in ada.heard if "/tokens/" in topic} == {"ada"}

    # Removed is removed, connected or not; and the audit knows it all.
    word = house.password("wall")
    house.pointsman("user", "remove", "wall")
    eventually(lambda: at_wall.ended, "the device is cut off")
    assert house.pub("wall", "devices/wall/approve", "-m", "grave", password=word) != 0
    assert house.pointsman("audit", "verify")["ok"]
    exported = subprocess.run(
        [sys.executable, "-m", "services.cli", "audit", "export"], env=house.environ, cwd=ROOT,
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    rows = [json.loads(line) for line in exported.stdout.splitlines()]
    decisions = [row["data"] for row in rows if row["action"] == "decision"]
    assert {d["user"] for d in decisions} == {"wall", "ada"}
    assert [d["user"] for d in decisions if d["error"] is None] == ["wall"]


def page(after: str) -> str:
    """The first code block of docs/devices.md that follows these words."""
    text = (ROOT / "docs/devices.md").read_text()
    return text.split(after, 1)[1].split("```", 2)[1].split("\n", 1)[1]


def start(stack: contextlib.ExitStack, *argv: str) -> None:
    """A program with its children, until the end of the test."""
    process = subprocess.Popen(argv, start_new_session=True, stderr=subprocess.DEVNULL)

    def end() -> None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    stack.callback(end)


def test_a_house_comes_as_one_device_as_the_page_says(tmp_path: Path) -> None:
    """The certificate, the bridge of the house's broker and the loop for Zigbee2MQTT, as they stand there."""
    port, at_home = free_port(), free_port()
    make = (
        page("One way to a certificate")
        .replace("desk.local", "localhost")
        .replace("192.168.1.20", "127.0.0.1")
    )
    subprocess.run(["sh", "-c", make], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    with contextlib.ExitStack() as stack:
        desk = stack.enter_context(
            running(
                tmp_path,
                POINTSMAN_BUS_LISTEN=f"127.0.0.1:{port}",
                POINTSMAN_BUS_TLS_CERT=str(tmp_path / "cert.pem"),
                POINTSMAN_BUS_TLS_KEY=str(tmp_path / "key.pem"),
            )
        )
        told = desk.pointsman("device", "add", "house", "--max-level", "low")
        assert (told["port"], told["tls"], told["tls_ca"]) == (port, True, str(tmp_path / "cert.pem"))
        bridge = page("For mosquitto:")
        for there, here in (
            ("desk.local:8883", f"localhost:{port}"),
            ("/etc/mosquitto/pointsman.pem", told["tls_ca"]),
            ("PASSWORD", Path(told["password_file"]).read_text()),
            ("pointsman/desk/", TOPIC),
        ):
            assert there in bridge
            bridge = bridge.replace(there, here)
        own = "user root\n" if os.geteuid() == 0 else ""  # else it may not read what we made
        (tmp_path / "house.conf").write_text(
            f"{own}listener {at_home} 127.0.0.1\nallow_anonymous true\n{bridge}"
        )
        mosquitto = find_mosquitto()
        assert mosquitto is not None
        start(stack, mosquitto, "-c", str(tmp_path / "house.conf"))
        eventually(lambda: accepts(at_home), "the house's broker listens")
        start(stack, "sh", "-c", page("On any machine of the house").replace("-p 1883", f"-p {at_home}"))
        ingest = desk.client("service-ingest", "facts/approvals/ingest")
        ingest.ask("a1", **LOW)

        def pressed() -> Any:
            """The button, until it counts."""
            subprocess.run(
                ["mosquitto_pub", "-p", str(at_home), "-t", "zigbee2mqtt/wall_button",
                 "-m", '{"action":"single","battery":97,"linkquality":120}'],
                check=True, timeout=60,
            )  # fmt: skip
            return ingest.all("facts/approvals/ingest")

        (answer, *_) = eventually(pressed, "the press counts")
        assert (answer["data"]["approval"], answer["data"]["decision"]) == ("a1", "approved")
        shown = subprocess.run(
            ["mosquitto_sub", "-p", str(at_home), "-t", "pointsman/pending", "-C", "1", "-W", "30"],
            capture_output=True, check=True, timeout=60,
        )  # fmt: skip
        assert "items" in json.loads(shown.stdout)
