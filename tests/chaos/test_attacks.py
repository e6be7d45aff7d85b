"""The attacks hit what they are meant to hit."""

from __future__ import annotations

import socket
import subprocess
import sys

from tests.chaos.attacks import TARGETS, cut, plan


def test_the_same_seed_gives_the_same_attacks() -> None:
    one, two, other = plan(1, 0.5), plan(1, 0.5), plan(2, 0.5)
    row = [one() for _ in range(300)]
    assert row == [two() for _ in range(300)]
    assert row != [other() for _ in range(300)]
    assert {attack.target for attack in row} == set(TARGETS)
    spared = plan(1, 0.5, without=frozenset({"agent"}))
    assert "agent" not in {spared().target for _ in range(300)}


def test_a_connection_of_another_process_is_cut() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        program = f"import socket; s = socket.create_connection(('127.0.0.1', {port})); print(s.recv(9))"
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as other:
            connection, _ = server.accept()
            with connection:
                assert cut(other.pid)
                out, _ = other.communicate(timeout=30)
                assert out.strip() == b"b''"
                assert connection.recv(9) == b""
