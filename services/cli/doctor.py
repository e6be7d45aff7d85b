"""The verb doctor: what is missing on this machine, and how to mend it."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import sysconfig
from argparse import Namespace
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from bus import messages as m
from bus import topics as t
from bus.errors import BusDownError
from services._process.config import load_config
from services._process.damage import unreplaced
from services._process.errors import ConfigError
from services.cli import view
from services.cli.line import World, connected
from services.cli.out import say, say_json
from services.cli.system import all_services, judge
from services.cli.text import one_line

MIN_PYTHON = (3, 11)
RUN_TIMEOUT_S = 30.0
HOOKED_FROM = (2, 1, 119)  # from here on the user's settings cannot keep our hooks from deciding (measured)
# As services.tmux.agents has them; a test compares.
MANAGED_FROM, SDK_URL_UP_TO, INTERACTIVE_FROM = (2, 1, 42), (2, 1, 120), (2, 1, 119)


@dataclass(frozen=True)
class Check:
    """``status``: ok, warn (works, but…) or missing (something will not work); ``mend`` says what to do."""

    name: str
    status: str
    found: str
    mend: str = ""


async def doctor(world: World, _args: Namespace) -> int:
    services, states, down = await _ask(world)
    seen = as_started(world, services)
    checks = [
        *_programs(seen or world, started=seen is not None),
        *_configuration(world, seen or world),
        *_home(world),
        *_ports(world),
        *([down] if down else []),
        *_services(services),
        *_policy(states),
    ]
    ok = all(check.status != "missing" for check in checks)
    if world.json:
        say_json({"ok": ok, "checks": [asdict(check) for check in checks]})
    else:
        say(view.checks((check.name, check.status, check.found, check.mend) for check in checks))
        warned = any(check.status == "warn" for check in checks)
        well = "Nothing is missing; see what is marked `warn`." if warned else "All is well."
        say(f"\n{well if ok else 'What is marked `missing` must be mended first.'}")
    return 0 if ok else 1


def as_started(world: World, services: Mapping[str, Mapping[str, Any]]) -> World | None:
    """The world as the tmux controller, which starts the agents, sees it: another terminal has another PATH.

    None while it does not run, or where its process cannot be looked at.
    """
    controller = services.get("tmux", {})
    if controller.get("status") != "online":
        return None
    try:
        process = psutil.Process(controller["pid"])
        if "services.tmux" not in process.cmdline():
            return None  # a bus on another machine: its numbers mean nothing here
        environ = process.environ()
        return replace(world, environ=environ, config=load_config(environ))
    except (psutil.Error, ConfigError):
        return None


def _programs(world: World, *, started: bool) -> Iterator[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] >= MIN_PYTHON:
        yield Check("python", "ok", version)
    else:
        yield Check("python", "missing", version, "Pointsman needs Python 3.11 or later")
    path = world.environ.get("PATH")
    if tmux := shutil.which("tmux", path=path):
        yield Check("tmux", "ok", f"{_first_line([tmux, '-V'])} ({tmux})")
    else:
        yield Check("tmux", "missing", "not installed", "sudo apt install tmux (macOS: brew install tmux)")
    yield shfmt(path)
    yield _broker(world)
    yield claude(world, started=started)


def shfmt(path: str | None) -> Check:
    """As `services.approvals.world` looks for it; a test compares."""
    own = Path(sysconfig.get_path("scripts")) / "shfmt"
    found = str(own) if os.access(own, os.X_OK) else shutil.which("shfmt", path=path)
    if found is None:
        return Check(
            "shfmt", "warn", "not installed: every shell command counts as dangerous (high)", "make setup"
        )
    return Check("shfmt", "ok", f"{_first_line([found, '--version'])} ({found})")


def _broker(world: World) -> Check:
    wanted = world.config.bus.broker
    if wanted == "external":
        return Check("broker", "ok", f"external, at {world.config.bus.host}:{world.config.bus.port}")
    path = f"{world.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin"  # where Debian keeps it
    mosquitto = shutil.which("mosquitto", path=path)
    install = "sudo apt install mosquitto (macOS: brew install mosquitto)"
    if mosquitto and wanted != "amqtt":
        return Check("broker", "ok", f"mosquitto ({mosquitto})")
    if wanted == "mosquitto":
        return Check("broker", "missing", "bus.broker = mosquitto, which is not installed", install)
    if mosquitto:
        return Check("broker", "ok", "amqtt, as configured (bus.broker)")
    return Check(
        "broker",
        "warn",
        "amqtt, because mosquitto is not installed: slower, and without access rules",
        install,
    )


def claude(world: World, *, started: bool) -> Check:
    """``started``: the world is the one in which Pointsman was started."""
    wanted = world.config.agent.claude
    found = shutil.which(wanted, path=world.environ.get("PATH", os.defpath))
    if found is None:
        where = "the PATH with which Pointsman was started" if started else "your PATH"
        return Check(
            "claude",
            "missing",
            f"{wanted} is not on {where}",
            "install Claude Code (https://claude.com/claude-code), or set agent.claude to its path, and "
            "start Pointsman anew; `make demo` needs none",
        )
    said = _first_line([found, "--version"])
    numbers = said.split(" ")[0].split(".")
    if len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
        return Check("claude", "missing", f"{found} says {said!r}", "is it Claude Code? Set agent.claude")
    version = (int(numbers[0]), int(numbers[1]), int(numbers[2]))
    kinds = [
        *(["managed"] if version >= MANAGED_FROM else []),
        *(["sdk-url"] if version <= SDK_URL_UP_TO else []),
        *(["interactive"] if version >= INTERACTIVE_FROM else []),
    ]
    if "managed" not in kinds:
        return Check("claude", "missing", f"{said}: too old for managed sessions", "claude update")
    text = f"{said} ({found}); kinds of session: {', '.join(kinds)}"
    if version < HOOKED_FROM:
        mend = (
            "claude update: with `disableAllHooks` in its settings, rules reach only what this version asks"
        )
        return Check("claude", "warn", text, mend)
    return Check("claude", "ok", text)


def _first_line(argv: list[str]) -> str:
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"(does not run: {error})"
    lines = (done.stdout or done.stderr).strip().splitlines()
    return one_line(lines[0], 200) if lines else f"(no answer, exit code {done.returncode})"


def _configuration(world: World, seen: World) -> Iterator[Check]:
    """The file as it is now, and the variables of those who read them: ``seen``."""
    config = world.config
    if config.mistakes:
        mend = "mend it: no service starts with it, and `pointsman policy reload` refuses it"
        yield Check("configuration", "missing", "; ".join(config.mistakes), mend)
    else:
        yield Check("configuration", "ok", str(config.file or "no file: every key has its default"))
    for sentence in seen.config.unread:
        mend = "set the other one and start Pointsman anew, or leave it, if it is somebody else's"
        yield Check("environment", "warn", f"not read: {sentence}", mend)


def _home(world: World) -> Iterator[Check]:
    home = world.config.node.home
    if not home.exists():
        yield Check("home", "warn", f"{home} is not there yet", "it is made at the first start: `make run`")
        return
    others = stat.S_IMODE(home.stat().st_mode) & 0o077
    if others:
        yield Check("home", "warn", f"{home} can be read by others", f"chmod 700 {home}")
    else:
        yield Check("home", "ok", str(home))
    readable = [file for file in _secrets(home) if stat.S_IMODE(file.stat().st_mode) & 0o077]
    if readable:
        yield Check(
            "secrets", "missing", f"{readable[0]} can be read by others", f"chmod -R go= {home}/secrets"
        )
    for path, aside in unreplaced(home):
        yield Check(
            path.stem,
            "missing",
            f"{path.name} was found damaged and lies as {aside}; the service does not begin an empty one",
            "put a backup in its place, or take that file away: docs/operations.md, A damaged database",
        )
    free = shutil.disk_usage(home).free
    if free < 500 * 1024 * 1024:
        yield Check(
            "disk", "warn", f"{free // 2**20} MiB free at {home}", "make room: journals and databases grow"
        )


def _secrets(home: Path) -> Iterator[Path]:
    folder = home / "secrets"
    if folder.exists():
        yield from (path for path in folder.rglob("*") if path.is_file())


def _ports(world: World) -> Iterator[Check]:
    """Whether something listens where the endpoints say."""
    endpoints = world.home.endpoints()
    for section, key in (("bus", "port"), ("bus", "ws_port"), ("ingest", "port")):
        port = endpoints.get(section, {}).get(key)
        if not isinstance(port, int):
            continue
        host = str(endpoints[section].get("host", "127.0.0.1"))
        name = f"{section}.{key}"
        try:
            socket.create_connection((host, port), timeout=2.0).close()
        except OSError as error:
            yield Check(name, "missing", f"nothing answers at {host}:{port} ({error.strerror})", "make run")
        else:
            yield Check(name, "ok", f"{host}:{port}")


async def _ask(world: World) -> tuple[dict[str, dict[str, Any]], list[m.SessionState], Check | None]:
    """The services as `judge` has them, and the sessions; or why nobody could be asked."""
    try:
        async with connected(world) as line:
            found = await line.read(t.SERVICE_HEALTH, complete=all_services, sentinel=False)
            states = (await line.read(t.SESSION_STATE)).all(t.SESSION_STATE, m.SessionState)
    except BusDownError as error:
        return {}, [], _down(error)
    except BaseExceptionGroup as group:
        down, _ = group.split(BusDownError)
        if down is None:
            raise
        return {}, [], _down(down.exceptions[0])
    return judge(found, world.now()), states, None


def _down(error: Exception) -> Check:
    return Check("services", "missing", f"the bus cannot be reached: {error}", "make run")


def _services(found: Mapping[str, Mapping[str, Any]]) -> Iterator[Check]:
    for name, service in found.items():
        if service["status"] == "online":
            yield Check(f"services.{name}", "ok", "online")
        else:
            yield Check(f"services.{name}", "missing", str(service["status"]), f"pointsman logs {name}")


def _policy(states: list[m.SessionState]) -> Iterator[Check]:
    """Sessions in which the policy's rules do not reach every tool call."""
    living = [state for state in states if state.status not in view.GONE]
    short = [f"{one_line(s.session)} ({one_line(s.enforcement)})" for s in living if s.enforcement != "full"]
    if short:
        mend = "docs/policy.md says what that means; `managed` sessions are reached in full"
        yield Check("policy", "warn", f"rules do not reach every tool call of {', '.join(short)}", mend)
    elif living:
        yield Check("policy", "ok", "rules reach every tool call")
