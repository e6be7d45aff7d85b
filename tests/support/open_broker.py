"""A broker without users and rules, and all that is said on it: for services that run by themselves."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from services._process.home import Home
from tests.support.stack import eventually

DEADLINE_S = 60.0  # for what takes a second on an idle machine


class Broker:
    """A mosquitto of the test's own, and a client that remembers the latest payload of every topic."""

    def __init__(self, directory: Path) -> None:
        self.program = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
        if self.program is None:
            pytest.fail("mosquitto is not installed: `make setup-dev` installs it, or says what to type")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.file = directory / "mosquitto.conf"
        self.file.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\n")
        self.process = self.start()
        self.latest: dict[str, str] = {}
        self.seen: list[tuple[str, str]] = []
        self.changed = threading.Condition()
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self.client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self.client.on_message = self._on_message
        self.client.reconnect_delay_set(min_delay=1, max_delay=1)
        eventually(self._connect, "the broker answers")
        self.client.loop_start()

    def start(self) -> subprocess.Popen[bytes]:
        assert self.program is not None
        return subprocess.Popen(
            [self.program, "-c", str(self.file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def _connect(self) -> bool:
        try:
            return self.client.connect("127.0.0.1", self.port) == mqtt.MQTT_ERR_SUCCESS
        except OSError:
            return False

    def _on_message(self, _client: object, _data: object, message: mqtt.MQTTMessage) -> None:
        with self.changed:
            topic = message.topic.removeprefix("pointsman/toys/")
            self.latest[topic] = message.payload.decode()
            self.seen.append((topic, message.payload.decode()))
            self.changed.notify_all()

    def wait(self, topic: str, payload: str) -> None:
        with self.changed:
            found = self.changed.wait_for(lambda: self.latest.get(topic) == payload, DEADLINE_S)
        assert found, f"{topic} is {self.latest.get(topic)!r}, not {payload!r}"

    def __enter__(self) -> Broker:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()
        self.process.kill()
        self.process.wait()


def join(environ: dict[str, str], broker: Broker) -> None:
    """Use this broker, in a home that holds its node there: the broker service, which sees to that, is not
    started here.
    """
    environ["POINTSMAN_BUS_PORT"] = str(broker.port)
    Home(Path(environ["POINTSMAN_HOME"])).update_endpoints("bus", {"claim": "held"})
