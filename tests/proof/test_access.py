"""Attacks from outside and from below, on a whole stack: nobody gets further than their role.

A viewer, a device and another device: `test_devices.py`. What frames alone can do: `test_hostile.py`.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support import hostile_agent
from tests.support.scripted import ScriptedStack
from tests.support.stack import ROOT, Stack, eventually

pytestmark = pytest.mark.real
CALL = hostile_agent.TOOL
STRANGER = 65534  # nobody, on every Linux


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedStack]:
    folder = tmp_path_factory.mktemp("access")
    stack = ScriptedStack(folder / "s", POINTSMAN_BUS_BROKER="mosquitto", POINTSMAN_APPROVALS_TIMEOUT_S="0")
    with stack:
        stack.open("victim")
        stack.pointsman("send", "victim", "BASH echo yes > yes.txt")
        eventually(lambda: stack.pointsman("approvals"), "an approval")
        yield stack


def endpoints(stack: Stack) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((stack.home / "endpoints.json").read_text())
    return found


def secrets(stack: Stack) -> list[str]:
    """Every secret of the home, and every session's bearer token."""
    found = [p.read_text().strip() for p in (stack.home / "secrets").rglob("*") if p.is_file()]
    for launch in (stack.home / "sessions").glob("*/launch.json"):
        found.append(json.loads(launch.read_text())["token"])
    return [secret for secret in found if len(secret) >= 20]


def test_no_secret_stands_on_a_command_line_or_in_a_log(stack: ScriptedStack) -> None:
    known = secrets(stack)
    assert len(known) > 5
    for process in stack.processes():
        line = " ".join(process.cmdline())
        assert not [secret for secret in known if secret in line], process
    for path in (stack.home / "logs").iterdir():
        text = path.read_text(errors="replace")
        assert not [secret for secret in known if secret in text], path


def test_no_service_s_secret_is_in_an_agent_s_environment(stack: ScriptedStack) -> None:
    agents = [p for p in stack.processes() if "--output-format" in p.cmdline()]
    assert agents
    for agent in agents:
        values = "\n".join(agent.environ().values())
        assert not [secret for secret in secrets(stack) if secret in values]


def test_another_user_reads_nothing_and_reaches_no_socket(stack: ScriptedStack) -> None:
    """By the modes, whoever asks; and by trying it as another user, where the test may become one."""
    top = stack.home.stat()
    assert stat.S_IMODE(top.st_mode) == 0o700, "nobody else gets in, whatever lies below"
    for path in (stack.home / "secrets").rglob("*"):
        if path.is_file():
            assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
    for path in stack.home.glob("*.sqlite*"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
    files = [str(p) for p in stack.home.rglob("*") if p.is_file()]
    sockets = [str(p) for p in stack.sockets()]
    assert sockets
    agent = next(p for p in stack.processes() if "--output-format" in p.cmdline())
    program = (
        "import json, os, socket, sys\n"
        "files, sockets, pid = json.loads(sys.argv[1])\n"
        "got = []\n"
        "for path in files + [f'/proc/{pid}/environ', f'/proc/{pid}/fd/0']:\n"
        "    try:\n"
        "        os.close(os.open(path, os.O_RDONLY)); got.append(path)\n"
        "    except OSError: pass\n"
        "for path in sockets:\n"
        "    try:\n"
        "        socket.socket(socket.AF_UNIX).connect(path); got.append(path)\n"
        "    except OSError: pass\n"
        "print(json.dumps(got))\n"
    )
    if os.geteuid() == 0:  # everybody else has only the modes to go by, and they are as above
        python = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
        done = subprocess.run(
            [python, "-c", program, json.dumps([files, sockets, agent.pid])],
            user=STRANGER, group=STRANGER, extra_groups=[], cwd="/", capture_output=True, text=True,
            check=True, timeout=60,
        )  # fmt: skip
        assert json.loads(done.stdout) == []


def test_a_stranger_on_loopback_gets_nowhere(stack: ScriptedStack) -> None:
    """Every port that we listen on, with nothing, with nonsense, and with a guess."""
    found = endpoints(stack)
    for port in (found["bus"]["port"], found["bus"]["ws_port"], found["ingest"]["port"]):
        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            connection.sendall(os.urandom(2000))
    denied = subprocess.run(
        [
            "mosquitto_sub", "-p", str(found["bus"]["port"]), "-u", "operator", "-P", "guess", "-t", "#",
            "-C", "1", "-W", "5",
        ],
        capture_output=True,
        check=False,
        timeout=30,
    )  # fmt: skip
    assert denied.returncode not in (0, 27), "27 is a timeout: then it was let in"
    assert denied.stdout == b""
    assert stack.wait_online()["ok"]


@pytest.mark.parametrize("header", ["Origin: https://evil.example", "Origin: null", "Host: evil.example"])
def test_a_web_page_in_the_user_s_browser_gets_nowhere(stack: ScriptedStack, header: str) -> None:
    """Cross-site WebSocket and HTTP, with the session's very token, as a page could after a leak."""
    found = endpoints(stack)
    launch = next((stack.home / "sessions").glob("*/launch.json"))
    token = json.loads(launch.read_text())["token"]
    host = [] if header.startswith("Host") else [f"Host: 127.0.0.1:{found['ingest']['port']}"]
    lines = [
        "GET /ws/sessions/victim HTTP/1.1", *host, header, f"Authorization: Bearer {token}",
        "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
    ]  # fmt: skip
    assert status(found["ingest"]["port"], lines) == 403
    if "hooks_port" in found["ingest"]:
        port = found["ingest"]["hooks_port"]
        host = [] if header.startswith("Host") else [f"Host: 127.0.0.1:{port}"]
        lines = ["POST /hook/Stop HTTP/1.1", *host, header, "Content-Length: 2", "", "{}"]
        assert status(port, lines) in (401, 403)


def status(port: int, lines: list[str]) -> int:
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        return int(connection.recv(100).split()[1])


def lines_of(path: Path) -> list[dict[str, Any]]:
    """JSON Lines, as far as they are whole."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.rpartition("\n")[0].splitlines()]


def test_an_agent_that_means_harm(stack: ScriptedStack, tmp_path: Path) -> None:
    """It answers its own question, speaks for others, floods, and writes what a terminal acts on."""
    found = endpoints(stack)
    ports = {
        "mqtt": found["bus"]["port"],
        "ingest": found["ingest"]["port"],
        "hooks": found["ingest"].get("hooks_port", found["ingest"]["port"]),
    }
    report = tmp_path / "report.json"
    program = Path(stack.environment["POINTSMAN_AGENT_CLAUDE"])
    script = ROOT / "tests" / "support" / "hostile_agent.py"
    good = program.read_text()
    settings = {"HOSTILE_REPORT": str(report), "HOSTILE_PORTS": json.dumps(ports)}
    exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in settings.items())
    run = f"{shlex.quote(sys.executable)} -I -S {shlex.quote(str(script))}"
    program.write_text(f'#!/bin/sh\nexport {exports}\nexec {run} "$@"\n')
    try:
        with stack.recorder() as recorder:
            before = eventually(partial(recorder.last, "sessions/victim/state"), "the victim's state")
            stack.open("hostile")
            stack.pointsman("send", "hostile", "go")
            asked = eventually(
                lambda: [r for r in recorder.all("approvals/+/request") if r["input"] == CALL], "its question"
            )[0]
            seen = eventually(lambda: lines_of(report), "its report")[0]
            # from outside
            known = secrets(stack)
            values = "\n".join(seen["environment"].values())
            assert not [secret for secret in known if secret in values]
            for refused in (seen["mqtt_stranger"], seen["mqtt_guess"]):
                assert refused == "" or (refused.startswith("2002") and refused[6:8] != "00"), "it was let in"
            for refused in (seen["other_session"], seen["guessed_token"], seen["hook"]):
                assert refused.split()[1] in ("401", "403"), refused
            # its own answers are none
            assert not recorder.all(f"approvals/{asked['id']}/outcome")
            stack.pointsman("deny", asked["id"])
            answers = report.with_suffix(".answers")
            told = eventually(lambda: lines_of(answers), "the answer")
            assert [answer["behavior"] for answer in told] == ["deny"]
            assert not (stack.work / "hostile" / "owned.txt").exists()
            # nobody else is touched
            after = recorder.last("sessions/victim/state")
            assert after is not None
            assert (before["status"], before["turns"]) == (after["status"], after["turns"])
            assert {topic.split("/")[1] for topic in recorder.topics() if topic.startswith("sessions/")} == {
                "victim", "hostile", "index"
            }  # fmt: skip
            # what a person sees
            for words in (("ls",), ("approvals",), ("history", "hostile")):
                shown = stack.run(*words).stdout
                assert not [c for c in shown if (ord(c) < 32 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0]
                assert "\u202e" not in shown
        assert stack.wait_online()["ok"]
    finally:
        program.write_text(good)
        stack.pointsman("end", "hostile")


def test_everything_still_answers(stack: ScriptedStack) -> None:
    waiting = [a for a in stack.pointsman("approvals") if a["session"] == "victim"]
    stack.pointsman("approve", waiting[0]["id"])
    eventually(lambda: (stack.work / "victim" / "yes.txt").exists(), "the approved command has run")
    assert psutil.pid_exists(stack.service_pid("approvals"))
