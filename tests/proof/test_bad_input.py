"""Bad input over the real bus and the real WebSocket: each is answered as the contract says (sections 2 and
9), or not at all where it says so; afterwards everything is online and an approval still works.

The agent is the scripted one; mosquitto, supervisord, tmux and every service are real.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, RejectConnection, Request

from bus import bridge_wire as bw
from services.demo.stack import scripted_claude
from tests.support.real_cli import clean_env
from tests.support.stack import Recorder, Stack, eventually

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

TOO_LARGE = "x" * (4 * 1024 * 1024 + 1)
DEEP = '{"a":' * 5000
SHORT_S = 15.0


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    claude = scripted_claude(tmp_path)
    (tmp_path / "user").mkdir()
    (tmp_path / "work").mkdir()
    environment = clean_env(tmp_path / "user", "http://127.0.0.1:9")
    settings = {"POINTSMAN_BUS_BROKER": "mosquitto", "POINTSMAN_AGENT_CLAUDE": str(claude)}
    with Stack(tmp_path / "home", environment, **settings) as stack:
        yield stack


class Attack:
    """Sends, and knows what came back. A reply to a probe proves that what was sent before it was read."""

    def __init__(self, stack: Stack, recorder: Recorder) -> None:
        self.stack, self.recorder = stack, recorder
        self.number = 0

    def publish(self, topic: str, payload: Any, *, retain: bool = False) -> None:
        data = payload if isinstance(payload, str | bytes) else json.dumps(payload)
        self.recorder.client.publish(self.recorder.prefix + topic, data, qos=1, retain=retain)

    def reply(self, request_id: str) -> dict[str, Any]:
        return eventually(
            lambda: self.recorder.last(f"replies/{request_id}"), f"a reply to {request_id}", SHORT_S
        )

    def refused(self, topic: str, payload: dict[str, Any] | str) -> str:
        """The code of the error that answers a command. Gives it an id unless it has one."""
        self.number += 1
        request_id = f"attack-{self.number}"
        body = payload if isinstance(payload, str) else {"id": request_id, **payload}
        self.publish(topic, body if isinstance(body, dict) else body.replace("ID", request_id))
        answer = self.reply(request_id)
        assert not answer["ok"], (topic, payload, answer)
        return str(answer["error"]["code"])

    def reported(self, topic: str, payload: str | bytes) -> str:
        """The code of the message on ``errors`` that answers what has no readable id."""
        before = len(self.errors(topic))
        self.publish(topic, payload)
        found = eventually(lambda: self.errors(topic)[before:], f"an error about {topic}", SHORT_S)
        return str(found[0]["code"])

    def errors(self, topic: str) -> list[dict[str, Any]]:
        return [error for error in self.recorder.all("errors") if error["topic"].endswith(topic)]

    def silent(self, topic: str, payload: Any, *, retain: bool = False, probe: str) -> None:
        """Nothing comes of it: the answer to a command of the same owner, sent after it, is the next word."""
        before = len(self.recorder.all("replies/+")) + len(self.recorder.all("errors"))
        self.publish(topic, payload, retain=retain)
        assert self.refused(probe, {}) in {"unknown_session", "unknown_approval"}
        assert len(self.recorder.all("replies/+")) + len(self.recorder.all("errors")) == before + 1

    def pending(self, name: str) -> dict[str, Any]:
        """The approval of a session and the operator's token for it."""
        request = eventually(
            lambda: next((r for r in self.recorder.all("approvals/+/request") if r["session"] == name), None),
            f"{name} asks",
        )
        token = eventually(
            lambda: self.recorder.last(f"approvals/{request['id']}/tokens/operator"), "a token for it"
        )
        return {**request, "token": token["token"]}


def test_bad_input_is_answered_and_stops_nothing(stack: Stack, tmp_path: Path) -> None:
    pids = {name: stack.service_pid(name) for name in ("ingest", "approvals", "ledger", "tmux", "watchdog")}
    with stack.recorder() as recorder:
        attack = Attack(stack, recorder)
        for name in ("one", "two"):
            prompt = f"BASH echo yes > {name}.txt ;; SAY done"
            stack.pointsman("new", name, "--cwd", str(tmp_path / "work"), "--prompt", prompt)
        one, two = attack.pending("one"), attack.pending("two")

        _malformed(attack)
        _wrong(attack)
        _nobody_listens(attack)
        _decisions(attack, one, two)
        _strangers(stack, one)
        _frames(stack, tmp_path)

        assert not (tmp_path / "work/one.txt").exists()
        for approval in (one, two):  # a normal approval still works, and once
            decision = {"id": f"yes-{approval['id']}", "decision": "approve", "token": approval["token"]}
            attack.publish(f"approvals/{approval['id']}/decision", decision)
            assert attack.reply(decision["id"])["ok"]
            applied = {"id": approval["id"], "applied": True}
            eventually(
                partial(_has, recorder, f"approvals/{approval['id']}/outcome", applied), "it was applied"
            )
            written = tmp_path / "work" / f"{approval['session']}.txt"
            eventually(written.exists, "the command ran")
        assert attack.refused(
            f"approvals/{one['id']}/decision", {"decision": "deny", "token": one["token"]}
        ) == ("already_decided")
        health = stack.wait_online()
        assert {s["status"] for s in health["services"].values()} == {"online"}
    assert {name: stack.service_pid(name) for name in pids} == pids  # none was started again


def _has(recorder: Recorder, topic: str, fields: dict[str, Any]) -> bool:
    """Whether a payload with these fields was seen."""
    return any(all(payload.get(k) == v for k, v in fields.items()) for payload in recorder.all(topic))


def _malformed(attack: Attack) -> None:
    """What has no readable id is reported on ``errors``; what has one is answered."""
    for topic in ("sessions/one/interrupt", "sessions/one/end", "approvals/x/decision", "ledger/query"):
        for payload in ("{", "[]", b"\xff\xfe\x00", DEEP, '{"id": 5}', '{"id": "a/+"}'):
            assert attack.reported(topic, payload) == "bad_request"
        assert attack.reported(topic, TOO_LARGE) == "too_large"
    assert attack.reported("sessions/one/prompt", b"\xff not text") == "bad_request"
    assert attack.refused("sessions/one/prompt", {"text": 5}) == "bad_request"
    assert attack.refused("approvals/x/decision", {"decision": "perhaps"}) == "bad_request"
    assert attack.refused("sessions/one/history", {"after_seq": 2**63}) == "bad_request"
    assert attack.refused("sessions/one/history", {"limit": -1}) == "bad_request"
    assert attack.refused("ledger/sessions/one/budget", {"budget_usd": -1}) == "bad_request"
    assert attack.reported("ledger/sessions/one/budget", '{"id": "x", "budget_usd": NaN}') == "bad_request"


def _wrong(attack: Attack) -> None:
    """Well formed, and still not to be had."""
    assert (
        attack.refused("sessions/one/interrupt", {"uid": "01JD0000000000000000000000"}) == "unknown_session"
    )
    assert attack.refused("sessions/nobody/end", {}) == "unknown_session"
    assert attack.refused("sessions/create", {"session": "one", "cwd": "/tmp"}) == "name_taken"
    for name in ("+", "#", "../one", "a/b", "One", "", "n\n"):
        assert attack.refused("sessions/create", {"session": name, "cwd": "/tmp"}) == "bad_name"
    assert attack.refused("sessions/create", {"session": "new", "cwd": "/no/such\0"}) == "bad_cwd"
    option = {"session": "new", "cwd": "/tmp", "model": "--dangerously-skip-permissions"}
    assert attack.refused("sessions/create", option) == "bad_request"
    bypass = {"session": "new", "cwd": "/tmp", "permission_mode": "bypassPermissions"}
    assert attack.refused("sessions/create", bypass) == "not_allowed"
    attack.publish("sessions/nobody/interrupt", {"id": "same"})
    assert attack.reply("same")["error"]["code"] == "unknown_session"
    assert attack.refused("sessions/nobody/interrupt", '{"id": "ID", "reason": "x"}') == "unknown_session"
    before = len(attack.recorder.all("replies/same"))
    attack.publish("sessions/one/interrupt", {"id": "same"})  # the id of another command
    again = eventually(lambda: attack.recorder.all("replies/same")[before:], "a second reply", SHORT_S)
    assert again[0]["error"]["code"] == "bad_request"


def _nobody_listens(attack: Attack) -> None:
    """Unknown topics, retained commands and what the access rules forbid: not a word."""
    ingest, gate = "sessions/nobody/interrupt", "approvals/nobody/show"
    for topic in ("sessions/one/explode", "sessions/One/interrupt", "sessions//interrupt", "x"):
        attack.silent(topic, {"id": "unknown"}, probe=ingest)
    attack.silent("sessions/one/interrupt", "", retain=True, probe=ingest)  # clears a retained command
    for topic in ("sessions/one/state", "replies/forged", "services/ingest/status", "acks/approvals/ingest"):
        attack.silent(topic, {"id": "forged"}, retain=True, probe=ingest)
    fact = {"id": "f", "type": "question", "uid": "u", "at": "2026-01-01T00:00:00Z", "data": {}}
    attack.silent("facts/ingest/approvals", fact, probe=gate)
    assert not [path for path, _, _ in attack.recorder.messages if path.startswith("facts/")]


def _decisions(attack: Attack, one: dict[str, Any], two: dict[str, Any]) -> None:
    """Only the approval's own token decides it."""
    topic = f"approvals/{one['id']}/decision"
    for token in ("", two["token"], one["token"][:-1], one["token"] + "=", "operator.x", "x" * 100_000):
        assert attack.refused(topic, {"decision": "approve", "token": token}) == "bad_token"
    wrong = {"decision": "approve", "token": one["token"], "uid": two["uid"]}
    assert attack.refused(topic, wrong) == "unknown_session"
    assert attack.refused("approvals/nobody/decision", {"decision": "deny", "token": one["token"]}) == (
        "unknown_approval"
    )
    tokens = {path for path, _, _ in attack.recorder.messages if "/tokens/" in path}
    assert {path.rpartition("/")[2] for path in tokens} == {"operator"}
    assert not attack.recorder.all("approvals/+/outcome")


# ── the WebSocket ────────────────────────────────────────────────────────────────────────────────────────


class Socket:
    """A WebSocket client on a plain socket."""

    def __init__(self, port: int, name: str, headers: dict[str, str], *, bridge: bool = True) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=SHORT_S)
        self.ws = WSConnection(ConnectionType.CLIENT)
        self.send(
            Request(
                host="127.0.0.1",
                target=f"/ws/sessions/{name}",
                extra_headers=[(key.encode(), value.encode()) for key, value in headers.items()],
                subprotocols=[bw.SUBPROTOCOL] if bridge else [],
            )
        )
        first = self.next()
        self.status = first.status_code if isinstance(first, RejectConnection) else 101
        assert isinstance(first, RejectConnection | AcceptConnection)

    def __enter__(self) -> Socket:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, event: Any) -> None:
        self.socket.sendall(self.ws.send(event))

    def next(self) -> Any:
        """The next event; None when the server has hung up."""
        while True:
            for event in self.ws.events():
                return event
            try:
                data = self.socket.recv(65536)
            except ConnectionError:
                return None
            if not data:
                return None
            self.ws.receive_data(data)

    def close_code(self) -> int:
        while True:
            event = self.next()
            if event is None:
                return 1006
            if isinstance(event, CloseConnection):
                return int(event.code)


def _launch(stack: Stack, uid: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((stack.home / "sessions" / uid / "launch.json").read_text())
    return found


def _strangers(stack: Stack, one: dict[str, Any]) -> None:
    """Who has no token learns nothing, and a token opens its own session alone."""
    port = json.loads((stack.home / "endpoints.json").read_text())["ingest"]["port"]
    token = _launch(stack, one["uid"])["token"]
    own = {"Authorization": f"Bearer {token}"}
    for name, headers, bridge, status in (
        ("one", {}, True, 401),
        ("nobody", {}, True, 401),
        ("one", {"Authorization": "Bearer x"}, True, 401),
        ("two", own, True, 401),  # a second agent under a taken name
        ("%2e%2e/one", own, True, 401),
        ("one", own, False, 403),  # its token, but not its protocol
        ("one", {**own, "Origin": "http://127.0.0.1"}, True, 403),  # a browser
    ):
        with Socket(port, name, headers, bridge=bridge) as stranger:
            assert stranger.status == status, (name, headers)
    with socket.create_connection(("127.0.0.1", port), timeout=SHORT_S) as noise:
        noise.sendall(b"\x16\x03\x01" + b"\0" * 50_000)
        while noise.recv(65536):
            pass


def _frames(stack: Stack, tmp_path: Path) -> None:
    """A bridge that has the token and no manners is hung up on; the real one takes over again."""
    state = stack.pointsman("new", "three", "--cwd", str(tmp_path / "work"), "--prompt", "SAY hello")
    launch = _launch(stack, state["uid"])
    port = json.loads((stack.home / "endpoints.json").read_text())["ingest"]["port"]
    own = {"Authorization": f"Bearer {launch['token']}"}
    for bad in (
        b"",
        b"nonsense\n",
        b'{"t":"hello"}\n',
        b"\xff\xfe\n",
        b"[" * 50_000 + b"\n",
        b'{"t":"data"}\n',
    ):
        with Socket(port, "three", own) as intruder:
            assert intruder.status == 101
            intruder.send(BytesMessage(bad))
            assert intruder.close_code() == 1002, bad
    with Socket(port, "three", own) as intruder:
        try:
            intruder.send(BytesMessage(b"x" * (bw.MAX_MESSAGE_BYTES + 1)))
            code = intruder.close_code()
        except ConnectionError:  # it hung up before we were through
            code = 1009
        assert code in (1006, 1009)
    eventually(lambda: all(s["connected"] for s in stack.pointsman("ls")), "all bridges are connected")
