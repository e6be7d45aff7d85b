"""Ports: kept, shared between stacks without a clash, and refused with the name of who has them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from services._process import ports
from services._process.config import load_config
from services._process.errors import PortTakenError, WorldError
from services._process.home import Home
from services._process.ports import claim_port, metrics_port_for, port_for

HOST = "127.0.0.1"


@pytest.fixture(autouse=True)
def _own_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither sees nor leaves claims of the user's own stacks; and waits little."""
    monkeypatch.setattr(ports, "_NOTES", tmp_path)
    monkeypatch.setattr(ports, "PATIENCE_S", 0.2)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def busy() -> Iterator[int]:
    with socket.create_server((HOST, 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def base() -> int:
    """The first of a few free ports in a row."""
    for candidate in range(21000 + os.getpid() % 20000, 65000, 7):
        if all(ports._free(HOST, port, "test") for port in range(candidate, candidate + 8)):
            return candidate
    raise AssertionError("no free ports on this machine")


def claim(
    home: Home, default: int, configured: int | None = None, key: str = "port", avoid: tuple[int, ...] = ()
) -> int:
    return claim_port(home, "bus", key, host=HOST, default=default, configured=configured, avoid=avoid)


def test_the_default_is_taken_and_written_down(home: Home, base: int) -> None:
    assert claim(home, base) == base
    assert home.endpoints() == {"bus": {"host": HOST, "port": base}}
    assert claim(home, base) == base, "the same claim may be made again"


def test_a_taken_default_is_replaced_by_the_next_free_one(home: Home, busy: int) -> None:
    port = claim(home, busy)
    assert busy < port < busy + ports.SEARCHED
    with socket.create_server((HOST, port)):
        pass


def test_the_choice_is_kept(home: Home, busy: int, base: int) -> None:
    home.update_endpoints("bus", {"port": base + 3})
    assert claim(home, base) == base + 3


def test_a_kept_choice_that_is_taken_gives_way(home: Home, busy: int, base: int) -> None:
    home.update_endpoints("bus", {"port": busy})
    assert claim(home, base) == base
    assert home.endpoints()["bus"]["port"] == base


def test_a_kept_choice_is_waited_for(home: Home, base: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A predecessor's child that was just killed may need a moment to close."""
    monkeypatch.setattr(ports, "PATIENCE_S", 30.0)
    home.update_endpoints("bus", {"port": base + 1})
    server = socket.create_server((HOST, base + 1))
    monkeypatch.setattr(time, "sleep", lambda _: server.close())
    assert claim(home, base) == base + 1


def test_a_configured_port_is_taken_or_refused(home: Home, base: int, busy: int) -> None:
    assert claim(home, 1, configured=base) == base
    with pytest.raises(PortTakenError) as caught:
        claim(home, base, configured=busy)
    assert f"bus.port = {busy} at {HOST} is taken by" in str(caught.value)
    assert f"(pid {os.getpid()})" in str(caught.value)
    assert "choose another bus.port" in str(caught.value)


def test_another_stack_is_named(home: Home, tmp_path: Path, base: int) -> None:
    assert claim(Home(tmp_path / "first"), base) == base
    with pytest.raises(
        PortTakenError, match=rf"taken by the Pointsman of {tmp_path / 'first'} \(bus.port, pid"
    ):
        claim(home, 1, configured=base)
    assert claim(home, base) > base, "claimed, though nobody listens yet"


def test_a_claim_ends_with_its_process(home: Home, tmp_path: Path, base: int) -> None:
    program = (
        "import sys; from pathlib import Path; from services._process import ports; "
        "from services._process.home import Home; ports._NOTES = Path(sys.argv[1]); "
        f"print(ports.claim_port(Home(Path(sys.argv[1], 'first')), 'bus', 'port', host={HOST!r}, "
        f"default={base}, configured=None))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == base
    assert claim(home, base) == base


def test_a_pid_that_is_used_again_claims_nothing(home: Home, tmp_path: Path, base: int) -> None:
    note = ports.Note(home="/other", key="bus.port", pid=os.getpid(), started=1.0)
    (tmp_path / f"pointsman-{os.getuid()}.ports").write_bytes(msgspec.json.encode({base: note}))
    assert claim(home, base) == base


@pytest.mark.parametrize("content", [b"", b"nonsense", b'{"x": 1}'])
def test_a_broken_file_of_claims_is_begun_anew(home: Home, tmp_path: Path, base: int, content: bytes) -> None:
    (tmp_path / f"pointsman-{os.getuid()}.ports").write_bytes(content)
    assert claim(home, base) == base


def test_a_link_in_its_place_is_not_followed(home: Home, tmp_path: Path, base: int) -> None:
    (tmp_path / "precious").write_text("keep")
    (tmp_path / f"pointsman-{os.getuid()}.ports").symlink_to(tmp_path / "precious")
    assert claim(home, base) == base
    assert (tmp_path / "precious").read_text() == "keep"


def test_stacks_that_start_at_once_get_different_ports(tmp_path: Path, base: int) -> None:
    found: list[int] = []
    homes = [Home(tmp_path / f"home{n}") for n in range(8)]
    threads = [threading.Thread(target=lambda h=h: found.append(claim(h, base))) for h in homes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 8


def test_one_home_gives_two_keys_two_ports(home: Home, base: int) -> None:
    assert claim(home, base) != claim(home, base, key="ws_port")


def test_what_the_user_gave_to_something_else_is_left_alone(home: Home, base: int) -> None:
    assert claim(home, base, avoid=(base, base + 1)) == base + 2


def test_a_host_that_is_not_here(home: Home, base: int) -> None:
    with pytest.raises(WorldError, match="is no address of this machine"):
        claim_port(home, "bus", "port", host="192.0.2.1", default=base, configured=None)
    with pytest.raises(WorldError, match=r"the host 'no\.such\.invalid' of bus\.port is not known"):
        claim_port(home, "bus", "port", host="no.such.invalid", default=base, configured=None)


def test_ports_of_a_configuration(home: Home, base: int) -> None:
    environ = {
        "POINTSMAN_INGEST_PORT": str(base),
        "POINTSMAN_METRICS_BASE_PORT": str(base + 1),
        "HOME": "/nowhere",
    }
    config = load_config(environ)
    assert port_for(config, home, "ingest", "port") == base
    assert metrics_port_for(config, home, "ledger") == base + 1 + 4
    assert home.endpoints() == {
        "ingest": {"host": HOST, "port": base},
        "metrics": {"ledger": base + 5},
    }


def test_a_second_name_of_another_file_is_not_overwritten(home: Home, base: int, tmp_path: Path) -> None:
    """Where hard links are not protected, another user could give a file of ours the name of the notes."""
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / f"pointsman-{os.getuid()}.ports").hardlink_to(precious)
    assert claim(home, base) == base  # ports are claimed without notes
    assert precious.read_text() == "mine"


def test_a_pipe_in_the_place_of_the_notes_stops_nobody(home: Home, base: int, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"pointsman-{os.getuid()}.ports")
    assert claim(home, base) == base
