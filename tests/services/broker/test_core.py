"""Which broker, with which configuration (services/broker/core.py)."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from bus.acl import Role
from services.broker import core
from services.broker.core import ChoiceError, Claim, Kind, Listener, Settings

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
LISTENERS = (Listener("127.0.0.1", 1883), Listener("127.0.0.1", 9001, websockets=True))


@pytest.mark.parametrize(
    ("wanted", "program", "listen", "kind"),
    [
        ("auto", "/usr/sbin/mosquitto", False, Kind.MOSQUITTO),
        ("auto", None, False, Kind.AMQTT),
        ("auto", "/usr/sbin/mosquitto", True, Kind.MOSQUITTO),
        ("mosquitto", "/usr/sbin/mosquitto", False, Kind.MOSQUITTO),
        ("amqtt", "/usr/sbin/mosquitto", False, Kind.AMQTT),
        ("external", None, False, Kind.EXTERNAL),
    ],
)
def test_the_choice(wanted: str, program: str | None, listen: bool, kind: Kind) -> None:
    assert core.choose(wanted, program, listen=listen) is kind


@pytest.mark.parametrize(("wanted", "listen"), [("mosquitto", False), ("auto", True)])
def test_what_cannot_be_had_says_what_to_do(wanted: str, listen: bool) -> None:
    with pytest.raises(ChoiceError, match="apt-get install mosquitto"):
        core.choose(wanted, None, listen=listen)


def test_the_users_are_the_operator_and_one_of_each_service() -> None:
    users = {user.username: user.role for user in core.users(["ingest", "ledger"])}
    assert users == {
        "operator": Role.OPERATOR,
        "service-ingest": Role.SERVICE,
        "service-ledger": Role.SERVICE,
    }


@pytest.mark.parametrize("as_root", [False, True])
def test_mosquitto_lets_in_nobody_unknown_and_keeps_nothing(as_root: bool) -> None:
    text = core.mosquitto_conf(Settings(LISTENERS, "/h/passwords", "/h/acl", as_root))
    lines = text.splitlines()
    for line in (
        "allow_anonymous false",
        "password_file /h/passwords",
        "acl_file /h/acl",
        "persistence false",
        "set_tcp_nodelay true",
        "listener 1883 127.0.0.1",
        "listener 9001 127.0.0.1",
    ):
        assert line in lines
    assert lines[lines.index("listener 9001 127.0.0.1") + 1 :] == [
        "protocol websockets",
        "socket_domain ipv4",
    ]
    assert ("user root" in lines) == as_root


def test_a_listener_on_the_network_has_its_certificate() -> None:
    extra = Listener("0.0.0.0", 8883, certificate="/c.pem", key="/k.pem")
    text = core.mosquitto_conf(Settings((*LISTENERS, extra), "/h/p", "/h/a", False))
    assert "listener 8883 0.0.0.0\ncertfile /c.pem\nkeyfile /k.pem\n" in text


def test_amqtt_has_the_same_listeners() -> None:
    found = json.loads(core.amqtt_conf(Settings((*LISTENERS, Listener("::1", 1884)), "/h/p", "/h/a", False)))
    assert found["password_file"] == "/h/p"
    assert found["listeners"] == {
        "default": {"type": "tcp", "bind": "127.0.0.1:1883"},
        "listener-1": {"type": "ws", "bind": "127.0.0.1:9001"},
        "listener-2": {"type": "tcp", "bind": "[::1]:1884"},
    }


def test_a_broker_that_keeps_dying_is_started_ever_more_slowly() -> None:
    failures, pauses = 0, []
    for _ in range(8):
        pause, failures = core.pause_s(failures, lived_s=0.1)
        pauses.append(pause)
    assert pauses == [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 5.0, 5.0]
    assert core.pause_s(failures, lived_s=core.STEADY_S) == (0.1, 1)


@pytest.mark.parametrize(
    ("ours_held", "other_home", "other_held", "retained", "beaten"),
    [
        (False, "b", True, False, True),  # a living holder says so
        (False, "b", True, True, False),  # it may be dead: it has two seconds to answer
        (False, "a", False, False, True),  # two newcomers: the smaller id goes on
        (False, "z", False, False, False),
        (False, "m", True, False, False),  # our own
        (True, "b", True, False, False),  # what we hold is put right by owning it
    ],
)
def test_claims(ours_held: bool, other_home: str, other_held: bool, retained: bool, beaten: bool) -> None:
    ours = Claim("m", "here", NOW, ours_held)
    other = Claim(other_home, "there", NOW, other_held).payload()
    assert ours.beaten_by(other, retained=retained) is beaten
