"""The crash test, short: about a minute of attacks on each broker. The long run is `make chaos`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.run import Settings, run


@pytest.mark.real
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("broker", "seed"), [("mosquitto", 1), ("amqtt", 2)])
def test_nothing_is_lost(broker: str, seed: int, tmp_path: Path) -> None:
    report = run(tmp_path / "run", Settings(seed=seed, seconds=50, broker=broker))
    print(report.text())
    assert report.violations == [], report.text()
    assert report.kills > 0
    assert report.sizes["outcomes"] > 0
    assert report.sizes["tools that ran"] > 0
