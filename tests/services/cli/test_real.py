"""The command and a real broker: whole sets of retained messages, answers, and a broker that is gone."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from bus import codec
from bus import messages as m
from bus import topics as t
from services._process.home import Home
from services.approvals.world import find_shfmt
from services.cli import doctor
from services.tmux import agents
from tests.services.cli.support import NOW, request, state
from tests.support.stack import eventually

ROOT = Path(__file__).resolve().parents[3]
MANY = 400  # sessions: more than a broker has in flight at once

MOSQUITTO = shutil.which("mosquitto", path="/usr/bin:/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Broker:
    """mosquitto with no rules, a home that points to it, and a client that plays the owners."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.home = Home(folder / "home")
        self.home.update_endpoints("bus", {"host": "127.0.0.1", "port": self.port, "ws_port": 1})
        self.home.write_secret("bus/operator", "x")
        config = folder / "mosquitto.conf"
        # as root it would become another user, and be told nothing (bus.listener); else the line is ignored
        config.write_text(
            f"user root\nlistener {self.port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 10000\n"
        )
        assert MOSQUITTO, "mosquitto is not installed: `make setup-dev` installs it, or says what to type"
        self.process = subprocess.Popen([MOSQUITTO, "-c", str(config)], stderr=subprocess.DEVNULL)
        self.environ = {
            "PATH": "/usr/bin:/bin", "HOME": str(folder), "POINTSMAN_HOME": str(self.home.path),
            "POINTSMAN_NODE_NAME": "node", "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self.client.on_message = self._on_message
        eventually(self._reached, "the broker listens")
        self.client.loop_start()
        eventually(self.client.is_connected, "the owners' client is connected")

    def _reached(self) -> bool:
        try:
            self.client.connect("127.0.0.1", self.port)
        except ConnectionRefusedError:
            return False
        return True

    def say(self, path: str, payload: bytes | str) -> None:
        said = self.client.publish(f"pointsman/node/{path}", payload, qos=1, retain=True)
        said.wait_for_publish(60)
        assert said.is_published()

    def _on_message(self, client: mqtt.Client, _user: Any, message: mqtt.MQTTMessage) -> None:
        command = json.loads(message.payload)
        reply = {
            "id": command["id"],
            "ok": True,
            "result": {"topic": message.topic, "token": command.get("token")},
        }
        client.publish(f"pointsman/node/replies/{command['id']}", json.dumps(reply), qos=1)

    def pointsman(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "services.cli", *argv], env=self.environ, capture_output=True, text=True,
            timeout=60, check=False, cwd="/", stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def close(self) -> None:
        self.client.loop_stop()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    it = Broker(tmp_path)
    yield it
    it.close()


@pytest.mark.real
def test_a_real_broker(broker: Broker) -> None:
    """No session is missing, the answer comes, and a dead broker is said to be dead."""
    assert json.loads(broker.pointsman("ls", "--json").stdout) == []
    states = [state(f"s{number}") for number in range(MANY)]
    for one in states:
        broker.say(f"sessions/{one.session}/state", codec.encode(t.SESSION_STATE, one))
    index = [m.IndexEntry(session=s.session, uid=s.uid, kind=s.kind, status=s.status) for s in states]
    broker.say("sessions/index", codec.encode(t.SESSIONS_INDEX, m.SessionIndex(sessions=index, at=NOW)))
    broker.say("services/ingest/status", "online")
    listed = json.loads(broker.pointsman("ls", "--json").stdout)
    assert {one["session"] for one in listed} == {one.session for one in states}

    asked = request("aaaa1111")
    item = m.PendingItem(
        id=asked.id, session="s1", tool="Bash", kind="tool", summary="x", level="low", expires_at=None
    )
    pending = m.PendingApprovals(count=1, oldest_id=asked.id, oldest_at=NOW, items=[item])
    broker.say("approvals/pending", codec.encode(t.APPROVALS_PENDING, pending))
    broker.say(f"approvals/{asked.id}/request", codec.encode(t.APPROVAL_REQUEST, asked))
    token = m.ApprovalToken(id=asked.id, token="secret")
    broker.say(f"approvals/{asked.id}/tokens/operator", codec.encode(t.APPROVAL_TOKEN, token))
    broker.client.subscribe("pointsman/node/approvals/+/decision", qos=1)
    done = broker.pointsman("approve", "aaaa", "--json")
    assert json.loads(done.stdout) == {
        "topic": "pointsman/node/approvals/aaaa1111/decision",
        "token": "secret",
    }, done.stderr

    assert broker.pointsman("health").returncode == 1
    broker.process.kill()
    broker.process.wait()
    done = broker.pointsman("ls")
    assert done.returncode == 3
    assert "make run" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.real
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("background", [False, True])
def test_watch_ends_in_order(broker: Broker, how: signal.Signals, background: bool) -> None:
    """Also as a script's background job, which ignores SIGINT; nothing is said of how it ended."""
    argv = [sys.executable, "-m", "services.cli", "watch"]
    if background:
        argv = ["/bin/sh", "-c", 'trap "" INT; exec "$0" "$@"', *argv]
    else:
        argv = ["env", "--default-signal=INT", *argv]  # these tests may be a background job themselves
    with subprocess.Popen(
        argv, env=broker.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/"
    ) as watch:
        try:
            assert watch.stdout is not None
            assert watch.stdout.readline() == "Watching; Ctrl-C ends.\n"
            watch.send_signal(how)
            if background and how is signal.SIGINT:
                with pytest.raises(subprocess.TimeoutExpired):
                    watch.wait(0.5)
                watch.terminate()
            said = watch.communicate(timeout=60)
        finally:
            watch.kill()
    assert said == ("", "")
    assert watch.returncode == 0


def test_a_home_where_nothing_was_started(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-m", "services.cli", "ls"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 3
    assert "has not been started" in done.stderr
    assert not (tmp_path / ".local").exists()


def test_doctor_and_the_controller_agree() -> None:
    """They may not import each other, so the versions stand twice."""
    assert (doctor.MANAGED_FROM, doctor.SDK_URL_UP_TO) == (agents.MANAGED_FROM, agents.SDK_URL_UP_TO)
    assert doctor.INTERACTIVE_FROM == agents.INTERACTIVE_FROM


def test_doctor_looks_for_the_parser_where_the_gate_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find_shfmt()
    check = doctor.shfmt(None)
    assert (check.status, str(found) in check.found) == ("ok", True)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_shfmt() is None
    check = doctor.shfmt(str(tmp_path))
    assert (check.status, check.mend) == ("warn", "make setup")
    assert "every shell command counts as dangerous" in check.found


def plainly(*argv: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """The command in a world where nothing was started."""
    environ = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", **more.pop("environ", {})}
    command = [sys.executable, "-m", "services.cli", *argv]
    given = {"stdout": subprocess.PIPE, **more}
    return subprocess.run(command, env=environ, stderr=subprocess.PIPE, text=True, check=False, **given)


def test_a_terminal_that_has_not_all_signs() -> None:
    done = plainly(environ={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u2026" in done.stdout


def test_an_output_that_takes_no_more() -> None:
    with Path("/dev/full").open("w") as full:
        done = plainly(stdout=full)
    assert (done.returncode, done.stderr) == (
        1, "pointsman: the output cannot be written: No space left on device\n",
    )  # fmt: skip
