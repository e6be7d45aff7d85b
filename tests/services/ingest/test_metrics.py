"""Ingest's figures: what bridges tell of themselves is served for as long as they are there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from bus import messages as m
from services.ingest.bridge_metrics import BridgeFigures
from services.ingest.metrics import SessionFigures
from tests.services.ingest.support import FIGURES, Play

SESSIONS = 1000


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Play]:
    made = Play(tmp_path / "ingest.sqlite")
    yield made
    made.crash()


def served(play: Play) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(SessionFigures(play.core, lambda: 0))
    registry.register(BridgeFigures(play.core))
    text = generate_latest(registry).decode()
    pairs = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def test_what_a_bridge_tells_is_served_by_session(play: Play) -> None:
    play.open()
    play.core.measured(play.number, FIGURES)
    found = served(play)
    assert found['pointsman_bridge_info{session="one",version="1.2"}'] == 1
    assert found['pointsman_bridge_unacknowledged_bytes{session="one"}'] == 77
    assert found['pointsman_bridge_lines_total{session="one",way="in"}'] == 3
    assert found['pointsman_bridge_carried_bytes_total{session="one",way="out"}'] == 1000
    assert found['pointsman_bridge_failed_connections_total{session="one"}'] == 6
    assert found['pointsman_keeper_up{session="one"}'] == 1
    assert found['pointsman_keeper_resident_memory_bytes{session="one"}'] == 6_000_000
    assert found['pointsman_session_agent_starts_total{session="one"}'] == 1
    play.core.measured(play.number, msgspec.structs.replace(FIGURES, keeper=None))
    found = served(play)
    assert found['pointsman_keeper_up{session="one"}'] == 0
    assert 'pointsman_keeper_resident_memory_bytes{session="one"}' not in found


def test_an_older_bridge_is_seen_by_its_unknown_version(play: Play) -> None:
    play.open()
    found = served(play)
    assert found['pointsman_bridge_info{session="one",version="unknown"}'] == 1
    assert not [name for name in found if name.startswith(("pointsman_bridge_l", "pointsman_keeper"))]


def test_a_bridge_that_is_gone_or_replaced_has_no_figures(play: Play) -> None:
    play.open()
    play.core.measured(play.number, FIGURES)
    old = play.number
    play.connect()
    play.core.measured(old, FIGURES)  # what it had still sent
    assert served(play)['pointsman_bridge_info{session="one",version="unknown"}'] == 1
    play.core.measured(play.number, FIGURES)
    play.detach()
    assert not [name for name in served(play) if name.startswith(("pointsman_bridge", "pointsman_keeper"))]


def test_a_thousand_ended_sessions_leave_nothing(play: Play) -> None:
    before = served(play)
    for number in range(SESSIONS):
        uid = f"01JD{number:022}"
        play.open(f"s{number}", uid=uid)
        play.core.measured(play.number, FIGURES)
        play.fact(m.AgentExited(process=1, exit_code=0, reason="done", final=True), uid)
    assert len(served(play)) > len(before) + 10 * SESSIONS
    play.later(11)  # what a bridge may still have to say is waited for
    after = served(play)
    assert after['pointsman_sessions{status="ended"}'] == SESSIONS
    assert after.keys() == before.keys()
