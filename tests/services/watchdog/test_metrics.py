"""What the watchdog serves of supervisord and its listener."""

from __future__ import annotations

import os

import msgspec
from prometheus_client import CollectorRegistry

from services.watchdog.metrics import SupervisionFigures
from services.watchdog.programs import Said

OURS = {"processes": [{"name": "supervision", "statename": "RUNNING", "pid": os.getpid(), "exitstatus": 0}]}
COUNTED = {
    "events": {"TICK_5": 7},
    "restarts": 2,
    "refused": 1,
    "unanswered": 3,
    "faults": 0,
    "lines_lost": 4,
}


def said(**words: object) -> Said:
    return msgspec.convert(words, Said)


def test_what_was_told_last_is_served() -> None:
    registry = CollectorRegistry()
    figures = SupervisionFigures(registry, os.getppid())
    assert registry.get_sample_value("pointsman_supervision_restarts_total") is None
    figures.heard(said(**OURS, figures=COUNTED))
    figures.heard(said(died="ledger"))
    value = registry.get_sample_value
    assert value("pointsman_supervision_events_total", {"event": "TICK_5"}) == 7
    assert value("pointsman_supervision_restarts_total") == 2
    assert value("pointsman_supervision_refused_total") == 1
    assert value("pointsman_supervision_unanswered_total") == 3
    assert value("pointsman_supervision_faults_total") == 0
    assert value("pointsman_supervision_lines_lost_total") == 4
    for process in ("supervision", "supervisord"):
        assert value(f"pointsman_{process}_process_resident_memory_bytes")
        assert value(f"pointsman_{process}_process_open_fds")


def test_a_supervisord_that_was_not_restarted_over_an_update_tells_no_figures() -> None:
    registry = CollectorRegistry()
    SupervisionFigures(registry, os.getppid()).heard(said(**OURS))
    assert registry.get_sample_value("pointsman_supervision_restarts_total") is None
    assert registry.get_sample_value("pointsman_supervision_process_open_fds")


def test_without_a_supervisord_there_is_nothing() -> None:
    registry = CollectorRegistry()
    SupervisionFigures(registry, None)
    assert list(registry.collect()) == []
