"""Where the bus is, and what is said when that cannot be known."""

from __future__ import annotations

from pathlib import Path

import pytest

from bus.errors import BusDownError
from services._process import connect
from services._process.config import load_config
from services._process.connect import ConnectionLog, bus_address
from services._process.errors import ConfigError, WorldError
from services._process.home import Home
from services._process.logs import captured_log

OWN = {"HOME": "/nowhere"}
EXTERNAL = {**OWN, "POINTSMAN_BUS_BROKER": "external", "POINTSMAN_BUS_HOST": "broker.example"}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def test_our_own_broker_is_looked_up_at_every_attempt(home: Home) -> None:
    address = bus_address(load_config(OWN), home, "operator")
    with pytest.raises(BusDownError, match="no password for the bus user 'operator'"):
        address()
    home.write_secret("bus/operator", "hunter2\n")
    with pytest.raises(BusDownError, match="is not started: do `make run`"):
        address()
    for port in (1884, 1885):
        home.update_endpoints("bus", {"host": "127.0.0.1", "port": port})
        found = address()
        assert (found.host, found.port, found.username, found.password) == (
            "127.0.0.1",
            port,
            "operator",
            "hunter2",
        )
        assert found.password_hint == str(home.path / "secrets/bus/operator")
        assert found.own, "the password is told to a program of ours alone"


def test_at_an_external_broker_all_come_as_one_user(home: Home, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("hunter2\n")
    environ = {
        **EXTERNAL,
        "POINTSMAN_BUS_USERNAME": "me",
        "POINTSMAN_BUS_PASSWORD_FILE": str(tmp_path / "password"),
    }
    address = bus_address(load_config(environ), home, "service-ledger")
    home.update_endpoints("bus", {"claim": "held"})
    found = address()
    assert (found.host, found.port, found.username, found.password) == (
        "broker.example",
        1883,
        "me",
        "hunter2",
    )
    (tmp_path / "password").unlink()
    with pytest.raises(BusDownError, match=r"bus\.password_file = .* cannot be read"):
        address()


def test_services_wait_for_the_claim_of_their_node_and_end_without_it(home: Home) -> None:
    config = load_config(EXTERNAL)
    service = bus_address(config, home, "service-ledger")
    with pytest.raises(BusDownError, match="not claimed this node yet"):
        service()
    assert bus_address(config, home, "service-broker")().host == "broker.example"  # it is who claims
    assert bus_address(config, home, "operator")().host == "broker.example"
    home.update_endpoints("bus", {"claim": "refused"})
    with pytest.raises(ConfigError, match=r"node\.name = .* belongs to another home"):
        service()


def test_a_certificate_that_cannot_be_used(home: Home, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    for path in (tmp_path / "ca.pem", tmp_path / "missing.pem"):
        config = load_config({**EXTERNAL, "POINTSMAN_BUS_TLS_CA": str(path)})
        with pytest.raises(WorldError, match=r"bus\.tls_ca = .* cannot be used"):
            bus_address(config, home, "operator")


def test_the_terminal_is_quiet_while_a_stack_starts_and_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    log, lines = captured_log()
    starting = ConnectionLog(log)
    starting.warning("bus down")
    monkeypatch.setattr(connect, "GRACE_S", -1.0)
    running = ConnectionLog(log)
    running.warning("bus down")
    running.stopping = True
    running.warning("bus down")
    running.info("bus connected")
    assert [line["level"] for line in lines] == ["info", "warning", "info", "info"]
