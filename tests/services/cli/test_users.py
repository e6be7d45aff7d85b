"""user, device, audit, keys: what is asked, what is shown, and how they end."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bus import topics as t
from tests.services.cli.support import Stage, play

ADDED = {"user": "wall", "role": "device", "username": "wall", "password_file": "/h/wall", "max_level": "low"}
HEAD = f"2:{'0' * 64}"


@pytest.fixture
def listening(stage: Stage) -> Stage:
    stage.home.update_endpoints("bus", {"host": "127.0.0.1", "port": 1884})
    return stage


def test_device_add(listening: Stage) -> None:
    async def body(stage: Stage) -> None:
        stage.on(t.USER_ADD, ADDED)
        result = await stage.pointsman("device", "add", "wall", "--max-level", "low")
        assert result.code == 0, result.err
        [(topic, sent)] = stage.asked
        assert (topic, sent["user"], sent["role"], sent["max_level"]) == (
            "users/add",
            "wall",
            "device",
            "low",
        )
        for shown in ("127.0.0.1", "1884", "/h/wall", "pointsman/node/devices/wall/approve", "bus.listen"):
            assert shown in result.out
        result = await stage.pointsman("device", "add", "wall", "--max-level", "low", "--json")
        assert {key: result.json[key] for key in ADDED} == ADDED
        assert (result.json["port"], result.json["tls"]) == (1884, False)
        assert (await stage.pointsman("device", "add", "wall")).code == 2  # a level must be said

    play(listening, body)


def test_user_add_says_how_to_come_from_the_network(listening: Stage) -> None:
    listening.environ |= {
        "POINTSMAN_BUS_LISTEN": "0.0.0.0:8883", "POINTSMAN_BUS_TLS_CERT": "/tls/cert.pem",
        "POINTSMAN_BUS_TLS_KEY": "/tls/key.pem", "POINTSMAN_BUS_TLS_CA": "/tls/ca.pem",
    }  # fmt: skip

    async def body(stage: Stage) -> None:
        stage.on(t.USER_ADD, {**ADDED, "role": "viewer", "max_level": None})
        result = await stage.pointsman("user", "add", "wall", "--role", "viewer", "--json")
        assert "max_level" not in stage.asked[0][1] or stage.asked[0][1]["max_level"] is None
        assert (result.json["port"], result.json["tls"], result.json["tls_ca"]) == (8883, True, "/tls/ca.pem")
        assert result.json["host"] != "0.0.0.0"
        result = await stage.pointsman("user", "add", "wall", "--role", "viewer")
        assert "8883, with TLS" in result.out
        assert "/tls/ca.pem" in result.out
        del stage.environ["POINTSMAN_BUS_TLS_CA"]
        result = await stage.pointsman("user", "add", "wall", "--role", "viewer", "--json")
        assert result.json["tls_ca"] == "/tls/cert.pem"

    play(listening, body)


def test_user_add_on_somebody_elses_broker_says_what_to_allow_there(listening: Stage) -> None:
    async def body(stage: Stage) -> None:
        rights = {"write": ["pointsman/node/devices/wall/approve"], "read": []}
        stage.on(t.USER_ADD, {**ADDED, "rights": rights})
        result = await stage.pointsman("device", "add", "wall", "--max-level", "low")
        assert "write pointsman/node/devices/wall/approve" in result.out

    play(listening, body)


def test_a_refusal_is_told(listening: Stage) -> None:
    async def body(stage: Stage) -> None:
        stage.refuse(t.USER_ADD, "not_allowed", "amqtt enforces no access rules: install mosquitto")
        result = await stage.pointsman("device", "add", "wall", "--max-level", "low")
        assert result.code == 1
        assert "install mosquitto [not_allowed]" in result.err

    play(listening, body)


def test_user_list_and_remove(stage: Stage) -> None:
    async def body(stage: Stage) -> None:
        users = [
            {"user": "operator", "role": "operator", "max_level": "critical", "since": ""},
            {"user": "vic", "role": "viewer", "max_level": None, "since": "s"},
        ]
        stage.on(t.USER_LIST, {"users": users, "refused": None})
        result = await stage.pointsman("user", "list")
        assert [line.split()[:2] for line in result.out.splitlines()[1:]] == [
            ["operator", "operator"],
            ["vic", "viewer"],
        ]
        assert (await stage.pointsman("user", "list", "--json")).json == users
        stage.on(t.USER_LIST, {"users": users, "refused": "no rules here"})
        assert "no rules here" in (await stage.pointsman("user", "list")).out
        stage.on(t.USER_REMOVE, users[1])
        result = await stage.pointsman("user", "remove", "vic")
        assert "cut off" in result.out
        assert stage.asked[-1][1]["user"] == "vic"

    play(stage, body)


def test_bus_says_the_role_of_a_user(listening: Stage) -> None:
    async def body(stage: Stage) -> None:
        stage.home.write_secret("bus/wall", "x")
        stage.on(t.USER_LIST, {"users": [{"user": "wall", "role": "device", "max_level": "low"}]})
        assert (await stage.pointsman("bus", "--user", "wall", "--json")).json["role"] == "device"
        assert "devices/wall/approve -m '{}'" in (await stage.pointsman("bus", "--user", "wall")).out

    play(listening, body)


@pytest.mark.parametrize("ok", [True, False])
def test_audit_verify(stage: Stage, ok: bool) -> None:
    async def body(stage: Stage) -> None:
        broken = None if ok else {"n": 2, "reason": "row 2 was changed"}
        stage.on(t.AUDIT_VERIFY, {"ok": ok, "rows": 2, "head": HEAD, "broken": broken})
        result = await stage.pointsman("audit", "verify", "--head", HEAD)
        assert result.code == (0 if ok else 1)
        assert (HEAD if ok else "row 2 was changed") in result.out
        assert stage.asked[0][1]["head"] == HEAD
        result = await stage.pointsman("audit", "verify", "--json")
        assert (result.code, result.json["ok"]) == (0 if ok else 1, ok)
        assert (await stage.pointsman("audit", "verify", "--head", "x")).code == 2

    play(stage, body)


def test_audit_export_reads_page_by_page(stage: Stage) -> None:
    rows = [
        {"n": n, "at": "t", "action": "request", "approval": f"a{n}", "data": {"x": "\x1b"}, "hash": "00"}
        for n in range(1, 8)
    ]

    def page(command: dict[str, Any], _values: dict[str, str]) -> Any:
        after = command.get("after", 0)
        return {"rows": rows[after : after + 3], "last": 7}

    async def body(stage: Stage) -> None:
        stage.on(t.AUDIT_EXPORT, page)
        for more in ((), ("--json",)):
            result = await stage.pointsman("audit", "export", *more)
            assert [json.loads(line) for line in result.out.splitlines()] == rows
        result = await stage.pointsman("audit", "export", "--after", "6")
        assert [json.loads(line)["n"] for line in result.out.splitlines()] == [7]
        stage.on(t.AUDIT_EXPORT, {"rows": [], "last": 0})
        assert (await stage.pointsman("audit", "export")).out == ""

    play(stage, body)


def test_keys_rotate(stage: Stage) -> None:
    async def body(stage: Stage) -> None:
        stage.on(t.KEYS_ROTATE, {"waiting": 2})
        result = await stage.pointsman("keys", "rotate")
        assert "until the 2 that wait" in result.out
        await stage.pointsman("keys", "rotate", "--now", "--json")
        assert [sent.get("now") for _, sent in stage.asked] == [False, True]

    play(stage, body)


def test_a_family_without_its_verb_is_wrong_usage(stage: Stage) -> None:
    async def body(stage: Stage) -> None:
        for name in ("user", "device", "audit", "keys"):
            result = await stage.pointsman(name)
            assert result.code == 2
            assert f"pointsman {name}" in result.err

    play(stage, body)
