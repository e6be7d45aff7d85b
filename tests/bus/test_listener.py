"""Whose program listens: another user who takes a port of ours is told no password."""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path

import pytest
import trio

from bus import listener
from bus.address import BusAddress
from bus.client import MqttBus
from bus.errors import BusDownError
from bus.listener import stranger
from services.bridge.link import converse
from tests.support.connections import connected

HEADINGS = (
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
)
NOBODY = 65534


def row(number: int, address: str, port: int, state: str, uid: int) -> str:
    queues = "00000000:00000000 00:00000000 00000000"
    return f"   {number}: {address}:{port:04X} 00000000:0000 {state} {queues} {uid} 0 7\n"


@pytest.fixture
def kernel_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of sockets in place of the kernel's, empty at first."""
    table = tmp_path / "tcp"
    table.write_text(HEADINGS)
    monkeypatch.setattr(listener, "TABLES", (table, tmp_path / "not-there"))
    monkeypatch.setattr(listener, "_LITTLE", True)
    monkeypatch.setattr(socket, "htonl", lambda x: int.from_bytes(x.to_bytes(4, "little"), "big"))
    return table


@pytest.mark.parametrize(
    ("rows", "host", "found"),
    [
        ([], "127.0.0.1", None),
        ([("0100007F", 1883, "0A", 1234)], "127.0.0.1", 1234),
        ([("0100007F", 1883, "0A", 1234)], "localhost", 1234),
        ([("0100007F", 1884, "0A", 1234)], "127.0.0.1", None),
        ([("0100007F", 1883, "0A", 0)], "127.0.0.1", None),
        ([("00000000", 1883, "0A", 1234)], "127.0.0.1", 1234),
        ([("00000000", 1883, "0A", 1234), ("0100007F", 1883, "0A", os.getuid())], "127.0.0.1", None),
        ([("00000000000000000000000000000000", 1883, "0A", 1234)], "127.0.0.1", 1234),
        ([("0000000000000000FFFF00000100007F", 1883, "0A", 1234)], "127.0.0.1", 1234),
        ([("00000000000000000000000001000000", 1883, "0A", 1234)], "::1", 1234),
        ([("0200007F", 1883, "0A", 1234)], "127.0.0.1", None),
        (
            [("0100007F", 9, "01", 1), ("0100007F", 1883, "0A", 1234)],
            "127.0.0.1",
            None,
        ),  # after the listeners
        ([("nonsense", 1883, "0A", 1234)], "127.0.0.1", None),
    ],
)
def test_whose_it_is(
    kernel_says: Path, rows: list[tuple[str, int, str, int]], host: str, found: int | None
) -> None:
    kernel_says.write_text(HEADINGS + "".join(row(at, *one) for at, one in enumerate(rows)))
    assert stranger(host, 1883) == found


def test_our_own_listener_is_no_stranger() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert stranger("127.0.0.1", server.getsockname()[1]) is None


def test_the_password_is_not_told_to_another_user(kernel_says: Path) -> None:
    """And the message says who has the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        kernel_says.write_text(HEADINGS + row(0, "0100007F", port, "0A", NOBODY))
        told = trio.run(refused, BusAddress("127.0.0.1", port, "operator", "secret", own=True))
        assert "another user (uid 65534)" in told
        assert "make run" in told
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_bridge_says_nothing_to_another_user_in_ingest_s_place(kernel_says: Path) -> None:
    """It would be told the session's token, and could say yes to the agent."""

    def never(*_: object) -> None:
        raise AssertionError("it was spoken with")

    async def main(url: str) -> str:
        return await converse(url, "the-token", never, never, never)  # type: ignore[arg-type]  # not called

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        kernel_says.write_text(HEADINGS + row(0, "0100007F", port, "0A", NOBODY))
        assert "another user (uid 65534)" in trio.run(main, f"ws://127.0.0.1:{port}/ws/sessions/x")
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_the_kernel_s_own_table_is_understood() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as six,
    ):
        told = set(listener._listeners())
        for one, address in ((server, "127.0.0.1"), (six, "::1")):
            assert (ipaddress.ip_address(address), one.getsockname()[1], os.getuid()) in told


async def refused(address: BusAddress) -> str:
    with pytest.raises(BusDownError) as caught:
        async with connected(MqttBus(lambda: address, root="pointsman", node="node"), 0.3):
            pass
    return str(caught.value)
