"""Users on a real mosquitto, without a restart; and the listener for devices, with TLS."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from bus import messages as m
from bus import topics as t
from bus.client import MqttBus
from bus.errors import RefusedError
from bus.requests import Requester
from services._process.config import load_config
from services._process.connect import bus_address
from services._process.home import Home
from tests.services.broker.test_process import Service, service, wait
from tests.support.brokers import NODE, ROOT, accepts, free_port, mosquitto_broker
from tests.support.connections import connected
from tests.support.tls import make_certificates
from tests.support.waiting import eventually

pytestmark = pytest.mark.real
__all__ = ["service"]

Make = Callable[..., Service]


def ask(it: Service, row: t.Topic, command: m.Command) -> Any:
    """As the operator, over the bus."""

    async def main() -> Any:
        async with connected(MqttBus(it.address(), root=ROOT, node=NODE), 30.0) as bus:
            return await Requester(bus).ask(row, command, timeout_s=60)

    return trio.run(main)


def publish(it: Service, username: str, *more: str) -> subprocess.CompletedProcess[bytes]:
    word = (it.home / "secrets/bus" / username).read_text()
    return subprocess.run(
        ["mosquitto_pub", "-p", str(it.endpoints()["port"]), "-u", username, "-P", word, "-q", "1",
         "-t", f"{ROOT}/{NODE}/replies/x", "-m", "x", *more],
        capture_output=True, check=False, timeout=60,
    )  # fmt: skip


def test_a_user_is_let_in_at_once_and_cut_off_at_once_and_nobody_else_notices(service: Make) -> None:
    it = service(bus_broker="mosquitto")
    it.up()
    child = it.child()
    assert child is not None

    async def main() -> None:
        async with connected(MqttBus(it.address(), root=ROOT, node=NODE), 30.0) as operator:
            asker = Requester(operator)
            added = await asker.ask(t.USER_ADD, m.AddUser(user="ada", role="viewer"), timeout_s=60)
            assert added == {
                "user": "ada", "role": "viewer", "username": "ada", "max_level": None,
                "password_file": str(it.home / "secrets/bus/ada"),
            }  # fmt: skip
            assert (it.home / "secrets/bus/ada").stat().st_mode & 0o777 == 0o600
            async with connected(MqttBus(it.address("ada"), root=ROOT, node=NODE), 30.0) as ada:
                await asker.ask(t.USER_ADD, m.AddUser(user="bob", role="viewer"), timeout_s=60)
                assert ada.connected  # another's coming does not disturb
                assert ada.counters.connections == 1
                word = (it.home / "secrets/bus/ada").read_text()
                await asker.ask(t.USER_REMOVE, m.RemoveUser(user="ada"), timeout_s=60)
                await eventually(lambda: not ada.connected)
                (it.home / "secrets/bus/ada").write_text(word)  # as one who has noted it would come
                await eventually(lambda: "is wrong" in str(ada.trouble))
            assert operator.counters.connections == 1

    trio.run(main)
    now = it.child()
    assert now is not None
    assert now.pid == child.pid
    it.end()
    it.up()
    listed = ask(it, t.USER_LIST, m.ListUsers())
    assert [user["user"] for user in listed["users"]] == ["operator", "bob"]
    assert publish(it, "bob").returncode == 0
    assert publish(it, "ada").returncode != 0


def test_amqtt_refuses_users_and_says_why(service: Make) -> None:
    it = service(bus_broker="amqtt")
    it.up()
    with pytest.raises(RefusedError, match="install mosquitto") as error:
        ask(it, t.USER_ADD, m.AddUser(user="wall", role="device"))
    assert error.value.code == "not_allowed"
    assert not (it.home / "secrets/bus/wall").exists()


# ── The listener for devices ─────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("tls"))


def test_devices_on_the_network_come_with_tls_and_nothing_else(
    service: Make, pem: Path, tmp_path: Path
) -> None:
    port = free_port()
    it = service(
        bus_broker="mosquitto", bus_listen=f"127.0.0.1:{port}",
        bus_tls_cert=str(pem / "server.pem"), bus_tls_key=str(pem / "server.key"),
    )  # fmt: skip
    it.up()
    wait(lambda: accepts(port), it.log)
    ask(it, t.USER_ADD, m.AddUser(user="wall", role="device"))
    secure = ("-h", "localhost", "-p", str(port), "--cafile", str(pem / "ca.pem"))
    assert publish(it, "wall", *secure).returncode == 0
    assert publish(it, "wall", "-h", "127.0.0.1", "-p", str(port)).returncode != 0  # no TLS
    word = (it.home / "secrets/bus/wall").read_text()
    (it.home / "secrets/bus/wall").write_text("wrong")
    assert publish(it, "wall", *secure).returncode != 0
    (it.home / "secrets/bus/wall").write_text(word)

    (tmp_path / "password").write_text(word)
    for ca, trusted in (("ca.pem", True), ("strange.pem", False)):
        config = load_config(
            {"HOME": str(tmp_path), "POINTSMAN_BUS_BROKER": "external", "POINTSMAN_BUS_HOST": "localhost",
             "POINTSMAN_BUS_PORT": str(port), "POINTSMAN_BUS_USERNAME": "wall",
             "POINTSMAN_BUS_PASSWORD_FILE": str(tmp_path / "password"), "POINTSMAN_BUS_TLS_CA": str(pem / ca)}
        )  # fmt: skip
        bus = MqttBus(bus_address(config, Home(tmp_path / "none"), "operator"), root=ROOT, node=NODE)
        said = trio.run(trouble, bus)
        assert ("" if trusted else "bus.tls_ca must be") in said
        assert trusted == (not said)


async def trouble(bus: MqttBus) -> str:
    """What is wrong with the certificate, if anything is."""
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(bus.run)
            await eventually(lambda: bus.connected or bus.trouble)
            said = str(bus.trouble or "")
            nursery.cancel_scope.cancel()
    return said


@pytest.mark.parametrize("acl", ["true", "false"])
def test_somebody_elses_broker_gets_users_only_if_it_is_said_to_enforce_rules(
    service: Make, tmp_path: Path, acl: str
) -> None:
    with mosquitto_broker(tmp_path / "external") as broker:
        (tmp_path / "password").write_text(broker.passwords["service-broker"])
        it = service(
            bus_broker="external", bus_host="127.0.0.1", bus_port=str(broker.port), bus_acl=acl,
            bus_username="service-broker", bus_password_file=str(tmp_path / "password"),
        )  # fmt: skip
        it.start()
        wait(lambda: "node claimed" in it.log(), it.log)

        async def main() -> Any:
            async with connected(MqttBus(broker.address("operator"), root=ROOT, node=NODE), 30.0) as bus:
                command = m.AddUser(user="wall", role="device")
                return await Requester(bus).ask(t.USER_ADD, command, timeout_s=60)

        if acl == "false":
            with pytest.raises(RefusedError, match=r"set bus\.acl = true"):
                trio.run(main)
            return
        added = trio.run(main)
        assert added["rights"]["read"] == [f"{ROOT}/{NODE}/devices/wall/{x}" for x in ("pending", "reply")]
        assert Path(added["password_file"]).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"bus_tls_cert": "server.pem"}, "needs TLS: set bus.tls_key as well"),
        ({}, "needs TLS: set bus.tls_cert and bus.tls_key as well"),
        ({"bus_tls_cert": "server.pem", "bus_tls_key": "none.key"}, "bus.tls_key = "),
        ({"bus_tls_cert": "server.pem", "bus_tls_key": "other.key"}, "are not a certificate and its key"),
    ],
)
def test_without_its_certificate_it_does_not_start_and_says_which_key_is_meant(
    service: Make, pem: Path, settings: dict[str, str], says: str
) -> None:
    paths = {key: str(pem / name) for key, name in settings.items()}
    it = service(bus_broker="mosquitto", bus_listen=f"127.0.0.1:{free_port()}", **paths)
    it.start()
    assert it.process is not None
    _, error = it.process.communicate(timeout=60)
    assert it.process.returncode == 2, it.log()
    assert says in error.decode()
