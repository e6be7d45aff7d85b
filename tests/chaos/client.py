"""A user on the bus who keeps to the contract: what is not answered is sent again, with the same id."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

AGAIN_S = 1.5  # between two sendings of an unanswered command

Reply = dict[str, Any]


class Client:
    """One connection of its own, with a thread of paho's. ``listen`` before `start`."""

    def __init__(self, bus: Mapping[str, Any], name: str) -> None:
        self.name = name
        self.prefix = f"{bus['root']}/{bus['node']}/"
        self._host, self._port = str(bus["host"]), int(bus["port"])
        self._filters = ["replies/+"]
        self._handlers: list[tuple[str, Callable[[str, bytes], None]]] = []
        self._replies: dict[str, Reply] = {}
        self._changed = threading.Condition()
        self._listens = False  # the broker has acknowledged the subscriptions of this connection
        self._count = 0
        self._mqtt = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._mqtt.username_pw_set(bus["username"], Path(bus["password_file"]).read_text())
        self._mqtt.reconnect_delay_set(min_delay=1, max_delay=1)
        self._mqtt.on_connect = self._on_connect
        self._mqtt.on_subscribe = self._on_subscribe
        self._mqtt.on_message = self._on_message

    def listen(self, pattern: str, handler: Callable[[str, bytes], None]) -> None:
        """``handler`` gets the topic below the node, and the payload; it is called in paho's thread."""
        self._filters.append(pattern)
        self._handlers.append((pattern, handler))

    def start(self) -> None:
        self._mqtt.connect_async(self._host, self._port)
        self._mqtt.loop_start()

    def close(self) -> None:
        self._mqtt.disconnect()
        self._mqtt.loop_stop()

    def _on_connect(self, client: mqtt.Client, *_: Any) -> None:
        self._listens = False
        client.subscribe([(self.prefix + pattern, 1) for pattern in self._filters])

    def _on_subscribe(self, *_: Any) -> None:
        self._listens = True

    def _on_message(self, _client: Any, _user: Any, message: mqtt.MQTTMessage) -> None:
        topic = message.topic.removeprefix(self.prefix)
        if topic.startswith("replies/"):
            with self._changed:
                self._replies[topic.removeprefix("replies/")] = json.loads(message.payload)
                self._changed.notify_all()
        for pattern, handler in self._handlers:
            if mqtt.topic_matches_sub(pattern, topic):
                handler(topic, bytes(message.payload))

    def ask(
        self, topic: str, payload: Mapping[str, Any], deadline_s: float, calm: threading.Event
    ) -> Reply | None:
        """Publish until the reply is there. None: there was none in so many seconds of ``calm``."""
        with self._changed:
            self._count += 1
            command_id = f"{self.name}-{self._count}"
        body = json.dumps({"id": command_id, **payload})
        while deadline_s > 0:
            began = time.monotonic()
            if self._mqtt.is_connected() and self._listens:
                self._mqtt.publish(self.prefix + topic, body, qos=1)
            with self._changed:
                if self._changed.wait_for(lambda: command_id in self._replies, AGAIN_S):
                    return self._replies.pop(command_id)
            if calm.is_set():
                deadline_s -= time.monotonic() - began
        return None
