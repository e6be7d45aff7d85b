"""Verbs about the installation: health, bus, completion."""

from __future__ import annotations

import contextlib
import shlex
from argparse import Namespace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from argcomplete.shell_integration import shellcode
from rich.text import Text

from bus import messages as m
from bus import topics as t
from bus.codec import decode_text
from bus.errors import BusDownError, PeerError, RefusedError
from services import SERVICES
from services.cli import view
from services.cli.line import USER, Snapshots, World, connected
from services.cli.out import say, say_json
from services.cli.text import one_line

ROLE_S = 3.0
STALE_S = 30.0  # three heartbeats of ten seconds


async def health(world: World, _args: Namespace) -> int:
    """Ages the heartbeats itself: a dead watchdog must not make everything look well."""
    async with connected(world) as line:
        found = await line.read(t.SERVICE_HEALTH, t.HEALTH, complete=all_services, sentinel=False)
    services = judge(found, world.now())
    ok = all(service["status"] == "online" for service in services.values())
    node = found.one(t.HEALTH, m.NodeHealth)
    document = {
        "ok": ok,
        "node": world.config.node.name,
        "services": services,
        "status": node.status if node else None,
        "reasons": node.reasons if node else [],
    }
    if world.json:
        say_json(document)
    else:
        say(view.services(services))
        for name, service in services.items():
            if service["status"] == "online" and service.get("doing"):
                say(f"{name}: {one_line(str(service['doing']), 300)}")
        for reason in node.reasons if node else []:
            say(Text(f"! {one_line(reason)}", style="yellow"))
        if not ok:
            bad = [name for name, service in services.items() if service["status"] != "online"]
            say(f"\nNot well: {', '.join(bad)}. See `pointsman logs {bad[0]}` and `pointsman doctor`.")
    return 0 if ok else 1


def all_services(found: Snapshots) -> bool | None:
    online = {
        message.values["self"] for message in found.rows(t.SERVICE_STATUS) if message.payload == b"online"
    }
    beating = {message.values["self"] for message in found.rows(t.SERVICE_HEALTH)}
    return True if SERVICES.keys() <= (online & beating) else None


def judge(found: Snapshots, now: datetime) -> dict[str, dict[str, Any]]:
    """Each service's status (online, offline, stale) and its health; those never seen are offline."""
    statuses: dict[str, str] = {}
    for message in found.rows(t.SERVICE_STATUS):
        try:
            statuses[message.values["self"]] = decode_text(message.payload).strip()
        except PeerError:
            continue
    beats: dict[str, dict[str, Any]] = {}
    at: dict[str, datetime] = {}
    for message in found.rows(t.SERVICE_HEALTH):
        try:
            beat = msgspec.json.decode(message.payload, type=m.ServiceHealth)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        beats[message.values["self"]] = msgspec.to_builtins(beat)
        at[message.values["self"]] = beat.at
    judged: dict[str, dict[str, Any]] = {}
    for name in [*SERVICES, *sorted(statuses.keys() - SERVICES.keys())]:
        status = "online" if statuses.get(name) == "online" else "offline"
        if status == "online" and (name not in at or now - at[name] > timedelta(seconds=STALE_S)):
            status = "stale"
        judged[name] = {"status": status, **beats.get(name, {})}
    return judged


async def bus(world: World, args: Namespace) -> int:
    """How to connect; read from the home and the configuration, without connecting."""
    config = world.config
    host: Any
    port: Any
    ws_port: Any
    role: str | None
    user: str | None
    file: Path | None
    if config.bus.broker == "external":
        if args.user not in {None, config.bus.username, USER}:
            raise RefusedError(
                "not_allowed", "an external broker has its own users: Pointsman knows bus.username"
            )
        host, port, ws_port = config.bus.host, config.bus.port, None  # bus.ws_port is for a broker of ours
        user, role = config.bus.username, "operator"
        file = config.bus.password_file
    else:
        found = world.home.endpoints().get("bus", {})
        if "port" not in found:
            raise BusDownError(f"the broker of {world.home.path} was never started: do `make run`")
        host, port, ws_port = found.get("host"), found.get("port"), found.get("ws_port")
        name: str = args.user or USER
        file = world.home.bus_password_file(name)
        if not t.PARAMETERS["user"].match(name) or not file.exists():
            raise RefusedError("bad_request", f"there is no user {one_line(name)!r} of the bus")
        user, role = name, await _role(world, name)
    document = {
        "host": host,
        "port": port,
        "ws_port": ws_port,
        "root": config.bus.root,
        "node": config.node.name,
        "username": user,
        "role": role,
        "password_file": str(file) if file else None,
    }
    if world.json:
        say_json(document)
        return 0
    for key, value in document.items():
        say(f"{key:14} {one_line(str(value)) if value is not None else '–'}")
    secret = f' -u {user} -P "$(cat {shlex.quote(str(file))})"' if file else ""
    here, there = f"-h {host} -p {port}{secret}", f"{config.bus.root}/{config.node.name}"
    if role == "device":
        say(f"\nFor example, a press:\n  mosquitto_pub {here} -t {there}/devices/{user}/approve -m '{{}}'")
        return 0
    say(
        f"\nFor example, everything that happens here:\n  mosquitto_sub {here} "
        f"-v -t '{there}/sessions/+/events/+'"
    )
    return 0


async def _role(world: World, name: str) -> str | None:
    """Known without asking for those who are there from the start; None where nobody can be asked."""
    if name == USER or name.startswith("service-"):
        return "operator" if name == USER else "service"
    with contextlib.suppress(BusDownError, RefusedError):
        async with connected(world) as line:
            found = await line.ask(t.USER_LIST, m.ListUsers(), timeout_s=ROLE_S)
        return next((user["role"] for user in found["users"] if user["user"] == name), None)
    return None


async def completion(world: World, args: Namespace) -> int:
    """The script that makes the tab key know our verbs and names."""
    script = shellcode(["pointsman"], shell=args.shell)
    if world.json:
        say_json({"shell": args.shell, "script": script})
    else:
        print(script)
    return 0
