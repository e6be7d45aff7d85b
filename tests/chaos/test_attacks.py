"""The attacks hit what they are meant to hit."""

from __future__ import annotations

import socket
import subprocess
import sys

from tests.chaos.attacks import ACTIONS, CUT, NO_CONNECTION, TARGETS, cut, in_turn, plan


def test_the_same_seed_gives_the_same_attacks() -> None:
    one, two, other = plan(1, 0.5), plan(1, 0.5), plan(2, 0.5)
    row = [one() for _ in range(300)]
    assert row == [two() for _ in range(300)]
    assert row != [other() for _ in range(300)]
    assert {attack.target for attack in row} == set(TARGETS)
    spared = plan(1, 0.5, without=frozenset({"agent"}))
    assert "agent" not in {spared().target for _ in range(300)}


def test_the_turn_is_the_whole_table_and_its_parts_are_no_less() -> None:
    table = [(target, action) for target, actions in TARGETS.items() for action in actions]
    assert [(a.target, a.action) for a in in_turn(1)] == table
    parts = [(a.target, a.action) for part in range(3) for a in in_turn(1, (part, 3))]
    assert sorted(parts) == sorted(table)
    assert "agent" not in {a.target for a in in_turn(1, without=frozenset({"agent"}))}


def test_every_attack_stands_in_the_table_or_a_reason_does() -> None:
    for target, actions in TARGETS.items():
        assert set(ACTIONS) - set(actions) == ({CUT} if target in NO_CONNECTION else set()), target


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
