"""The crash test, short: under a minute of attacks on each broker, and a leg with the real Claude Code CLI.
Each process meets each attack, half of them on each broker, before it goes on by chance.

The long run is `make chaos`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.run import Settings, run

AGENTS = frozenset({"agent", "keeper"})
LEGS = {
    "mosquitto": Settings(seed=1, seconds=45, broker="mosquitto", pause_s=0.5, turn=(0, 2)),
    "amqtt": Settings(seed=2, seconds=45, broker="amqtt", pause_s=0.5, turn=(1, 2)),
    # Its agents are left alone: what a killed one had begun is known only to its own record.
    "real": Settings(seed=5, seconds=20, sessions=2, without=AGENTS, turn=None, real=True),
}


@pytest.mark.real
@pytest.mark.timeout(600)
@pytest.mark.parametrize("leg", LEGS)
def test_nothing_is_lost(leg: str, tmp_path: Path) -> None:
    report = run(tmp_path / "run", LEGS[leg])
    print(report.text())
    assert report.violations == [], report.text()
    assert report.missed == [], report.text()
    assert report.kills > 0
    assert report.sizes["outcomes"] > 0
    assert report.sizes["effects"] > 0
