"""Verbs about users and devices, the audit, and the keys: user, device, audit, keys."""

from __future__ import annotations

import socket
from argparse import Namespace
from typing import Any

from rich.text import Text

from bus import messages as m
from bus import topics as t
from services._process.config_keys import Config
from services.cli import view
from services.cli.line import World, connected
from services.cli.out import say, say_json
from services.cli.text import one_line, to_json

ANY_ADDRESS = {"0.0.0.0", "::"}  # what the user wrote, not what we listen on


async def add(world: World, args: Namespace) -> int:
    """Also of a device."""
    command = m.AddUser(user=args.name, role=args.role, max_level=args.max_level)
    async with connected(world) as line:
        added = await line.ask(t.USER_ADD, command)
    way = connection(world)
    if world.json:
        say_json({**added, **way})
        return 0
    name, role = one_line(added["user"]), one_line(added["role"])
    level = f", may approve up to {one_line(added['max_level'])}" if added.get("max_level") else ""
    say(Text(f"{name} is a user of the bus now ({role}{level}).", style="bold"))
    say(f"host           {way['host']}\nport           {way['port']}{', with TLS' if way['tls'] else ''}")
    if way["tls"]:
        say(f"CA certificate {one_line(way['tls_ca'])}")
    say(f"username       {name}\npassword       in {one_line(added['password_file'])}")
    if role == "device":
        topics = f"{world.config.bus.root}/{world.config.node.name}/devices/{name}"
        say(f"topics         {topics}/approve, …/deny; it may read …/pending and …/reply")
    if not way["tls"]:
        say("\nFrom this machine only: for the network set bus.listen, bus.tls_cert and bus.tls_key.")
    rights = added.get("rights")
    if rights:
        say("\nYour broker must have this user with this password, and allow it:")
        for verb in ("write", "read"):
            for topic in rights[verb]:
                say(f"  {verb:5} {one_line(topic, 300)}")
    return 0


def connection(world: World) -> dict[str, Any]:
    """How to reach the bus: from the network, where it is served, else from this machine."""
    config = world.config.bus
    address = config.listen_address
    if config.broker == "external":
        ca = str(config.tls_ca) if config.tls_ca else None
        return {"host": config.host, "port": config.port, "tls": ca is not None, "tls_ca": ca}
    if address is None:
        found = world.home.endpoints().get("bus", {})
        return {"host": found.get("host"), "port": found.get("port"), "tls": False, "tls_ca": None}
    host = socket.gethostname() if address[0] in ANY_ADDRESS else address[0]
    return {"host": host, "port": address[1], "tls": True, "tls_ca": _ca(world.config)}


def _ca(config: Config) -> str:
    """A certificate that was not signed by a CA of its own is its own CA."""
    return str(config.bus.tls_ca or config.bus.tls_cert)


async def remove(world: World, args: Namespace) -> int:
    async with connected(world) as line:
        removed = await line.ask(t.USER_REMOVE, m.RemoveUser(user=args.name))
    if world.json:
        say_json(removed)
    else:
        say(f"{one_line(args.name)} is cut off, and its tokens are void.")
    return 0


async def list_users(world: World, _args: Namespace) -> int:
    async with connected(world) as line:
        found = await line.ask(t.USER_LIST, m.ListUsers())
    if world.json:
        say_json(found["users"])
        return 0
    table = view.table("USER", "ROLE", "MAY APPROVE UP TO")
    for user in found["users"]:
        table.add_row(
            Text(one_line(user["user"]), style="bold"),
            one_line(user["role"]),
            view.styled(user["max_level"] or "–", view.LEVEL_STYLE),
        )
    say(table)
    if found["refused"]:
        say(f"\nOnly operator may come: {one_line(found['refused'], 500)}.")
    return 0


async def verify(world: World, args: Namespace) -> int:
    async with connected(world) as line:
        found = await line.ask_patiently(t.AUDIT_VERIFY, m.VerifyAudit(head=args.head))
    if world.json:
        say_json(found)
    elif found["ok"]:
        say(f"The audit holds: {found['rows']} rows, each bound to all before it.")
        say(f"Its head is {found['head']}\nNote it elsewhere, and give it to --head to know later.")
    else:
        say(Text(f"The audit is broken: {one_line(found['broken']['reason'], 500)}.", style="bold red"))
        say(f"It holds up to row {found['broken']['n'] - 1}.")
    return 0 if found["ok"] else 1


async def export(world: World, args: Namespace) -> int:
    """JSON Lines, as they come: a long audit fits any memory."""
    after = args.after
    async with connected(world) as line:
        while True:
            page = await line.ask(t.AUDIT_EXPORT, m.ExportAudit(after=after))
            for row in page["rows"]:
                print(to_json(row, indent=None))
                after = row["n"]
            if not page["rows"] or after >= page["last"]:
                return 0


async def rotate(world: World, args: Namespace) -> int:
    async with connected(world) as line:
        found = await line.ask(t.KEYS_ROTATE, m.RotateKeys(now=args.now))
    if world.json:
        say_json(found)
        return 0
    waiting = found["waiting"]
    say("A new key signs the tokens from now on; what waits has new ones already.")
    if waiting:
        say(f"Tokens that were read before stay good until the {waiting} that wait are decided.")
    return 0
