"""Decides at once: what a button on the wall would do, without the wall.

``--ours``: approves whatever gets a token for this user; otherwise passes bare/request/<s> on as
bare/decision/<s>. Prints one JSON line when subscribed.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import msgspec
import paho.mqtt.client as mqtt
import trio

from benchmarks.bare import BarePaho, password


async def run(args: argparse.Namespace) -> None:
    bus = BarePaho(args.broker_port, args.username, password(args))

    def on_message(_client: Any, _user: Any, message: mqtt.MQTTMessage) -> None:
        if not message.payload:
            return
        if args.ours:
            token = msgspec.json.decode(message.payload)
            topic = message.topic.replace(f"/tokens/{args.username}", "/decision")
            bus.publish(topic, msgspec.json.encode({"decision": "approve", "token": token["token"]}), 1)
        else:
            bus.publish(message.topic.replace("/request/", "/decision/"), message.payload, 1)

    bus.client.on_message = on_message
    bus.client.on_subscribe = lambda *_: print(json.dumps({"ready": True}), flush=True)
    topic = f"{args.ours}/approvals/+/tokens/{args.username}" if args.ours else "bare/request/+"
    await bus.run([(topic, 1)])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--broker-port", type=int, required=True)
    parser.add_argument("--username", default="")
    parser.add_argument("--password-file", default="")
    parser.add_argument("--ours", default="", help="<root>/<node> of the stack under test")
    args = parser.parse_args()
    trio.run(run, args)


if __name__ == "__main__":
    main()
