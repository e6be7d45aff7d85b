"""The handler's accounts, in milliseconds: over supervisord's own interface class, with the stand-ins for
processes of its own test suite. The real supervisord is in test_supervision.
"""

from __future__ import annotations

import itertools
import json
import time
from typing import Any

import pytest
from supervisor import events
from supervisor.states import ProcessStates
from supervisor.tests.base import DummyOptions, DummyPConfig, PopulatedDummySupervisor

from services.supervision.handler import HUNG, HUNG_YOUNG, RESTARTS, RESTARTS_S, Handler
from services.supervision.logfiles import Losses


class Stand:
    """supervisord with a watchdog and a ledger; what it wrote to the watchdog's standard input."""

    def __init__(self) -> None:
        options = DummyOptions()
        configs = [DummyPConfig(options, name, "/bin/true") for name in ("watchdog", "ledger")]
        self.supervisord = PopulatedDummySupervisor(options, "services", *configs)
        self.processes = self.supervisord.process_groups["services"].processes
        self.pids = itertools.count(100)
        for process in self.processes.values():
            process.group = self.supervisord.process_groups["services"]
            process.transition = lambda: None
            process.get_execv_args = lambda: ("/bin/true", [])
            self.new(process)
        self.dog = self.processes["watchdog"]
        self.mono = 1000.0
        self.losses = Losses()
        self.handle = Handler(self.losses, lambda: self.mono)

    def new(self, process: Any) -> None:
        process.pid, process.state, process.spawned, process.stop_called = (
            next(self.pids),
            ProcessStates.RUNNING,
            False,
            False,
        )

    def tick(self, *, age_s: float = 0) -> None:
        self.mono += 5
        self.handle(events.Tick5Event(time.time() - age_s, self.supervisord), b"OK")
        if self.dog.spawned:
            self.new(self.dog)

    def says(self, data: Any, pid: int | None = None) -> None:
        text = json.dumps(data).encode()
        process = self.dog
        self.handle(events.ProcessCommunicationStdoutEvent(process, pid or process.pid, text), b"OK")

    def lines(self) -> list[dict[str, Any]]:
        text = self.dog.stdin_buffer
        self.dog.stdin_buffer = b""
        return [json.loads(line) for line in text.splitlines()]

    @property
    def warnings(self) -> str:
        return "\n".join(self.supervisord.options.logger.data)


@pytest.fixture
def stand() -> Stand:
    return Stand()


def hang(stand: Stand) -> None:
    """It answers once, and then no more, for as long as it takes to be noticed."""
    stand.tick()
    stand.says({})
    for _ in range(HUNG + 1):
        stand.tick()


def test_a_watchdog_that_hangs_is_restarted_within_a_budget(stand: Stand) -> None:
    pids = {stand.dog.pid}
    for _ in range(RESTARTS):
        hang(stand)
        assert stand.dog.stop_called
        stand.tick()  # it has stopped: another one is started
        assert stand.dog.pid not in pids
        pids.add(stand.dog.pid)
        stand.lines()
        stand.tick()
        assert [line for line in stand.lines() if "reason" in line] == [
            {"restarted": "watchdog", "reason": "it did not answer supervisord for 25 s: it hung"}
        ]
    hang(stand)
    assert not stand.dog.stop_called
    assert "again and again" in stand.warnings
    stand.mono += RESTARTS_S
    for _ in range(HUNG):
        stand.tick()
    assert stand.dog.stop_called, "after a while it is worth another try"


def figures(stand: Stand) -> dict[str, Any]:
    stand.tick()
    return dict(stand.lines()[-1]["figures"])


def test_it_counts_what_it_does(stand: Stand) -> None:
    stand.tick()
    stand.says({})
    stand.says({"restart": "ledger", "pid": 1})
    stand.says({"restart": "ledger", "pid": stand.processes["ledger"].pid})
    stand.says({"restart": "ledger"})
    assert figures(stand) == {
        "events": {"TICK_5": 2, "PROCESS_COMMUNICATION_STDOUT": 4},
        "restarts": 1,
        "refused": 1,
        "unanswered": 0,
        "faults": 1,
        "lines_lost": 0,
    }
    stand.losses.lines = 7
    assert figures(stand)["lines_lost"] == 7
    assert figures(stand)["unanswered"] == 2
    hang(stand)
    stand.tick()
    told = figures(stand)
    assert told["restarts"] == 2
    assert told["unanswered"] > HUNG


def test_one_that_has_yet_to_come_up_has_more_time(stand: Stand) -> None:
    for _ in range(HUNG_YOUNG):
        stand.tick()
    assert not stand.dog.stop_called
    assert len(stand.lines()) == HUNG_YOUNG
    stand.tick()
    assert stand.dog.stop_called


def test_ticks_that_waited_for_the_listener_are_no_silence(stand: Stand) -> None:
    stand.tick()
    stand.says({})
    for age_s in range(200, 10, -5):
        stand.tick(age_s=age_s)
    assert not stand.dog.stop_called


def test_the_answer_of_a_dead_predecessor_is_none(stand: Stand) -> None:
    stand.tick()
    for _ in range(HUNG_YOUNG):
        stand.tick()
        stand.says({}, pid=1)
    assert stand.dog.stop_called


def test_a_watchdog_that_does_not_read_is_told_no_more(stand: Stand) -> None:
    stand.tick()
    stand.dog.stop = lambda: "not today"
    for _ in range(1000):
        stand.tick()
        stand.handle(events.ProcessStateBackoffEvent(stand.processes["ledger"], None), b"OK")
    assert len(stand.lines()) < 5 * HUNG_YOUNG


def test_only_what_ended_is_started_on_demand(stand: Stand) -> None:
    ledger = stand.processes["ledger"]
    stand.tick()
    for name in ("ledger", "nobody"):
        stand.says({"start": name})
        assert stand.lines()[-1] == {"started": name, "problem": f"{name} has not ended"}
    ledger.state, ledger.pid = ProcessStates.EXITED, 0
    stand.says({"start": "ledger"})
    assert stand.lines() == [{"started": "ledger", "problem": None}]
    assert ledger.spawned


@pytest.mark.parametrize("wish", [[], "x", {"restart": "ledger"}, {"restart": None, "pid": None}, 7])
def test_nonsense_restarts_nobody_and_is_nobodys_fault_but_ours(stand: Stand, wish: Any) -> None:
    stand.tick()
    stand.says(wish)
    assert not any(process.stop_called for process in stand.processes.values())


def test_nothing_is_done_while_supervisord_stops(stand: Stand) -> None:
    stand.tick()
    stand.supervisord.options.mood = -1
    stand.says({"restart": "ledger", "pid": stand.processes["ledger"].pid})
    stand.tick()
    assert not stand.processes["ledger"].stop_called
    assert stand.warnings == ""
