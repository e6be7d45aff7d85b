"""The breaker: every pair of its table, its pauses, its three causes."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.errors import RefusedError
from services.watchdog.breaker import (
    CRASHES,
    DISK_CALM,
    DISK_TROUBLE,
    PAUSE_MAX_S,
    PAUSE_S,
    PROBE_S,
    TABLE,
    Action,
    Breaker,
    Measured,
    Signal,
    State,
)
from tests.services.watchdog.support import START

BUDGET = 1000
PAIRS = list(itertools.product(State, Signal))


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def breaker() -> Breaker:
    return Breaker(BUDGET, START)


def measured(it: Breaker, ratio: float, at: float = 0, *, free: int = 1 << 40, failed: int = 0) -> list[str]:
    seen = Measured(int(ratio * BUDGET), free, failed)
    return [event.action for event in it.measured(seen, after(at))]


def asked(it: Breaker, at: float = 0) -> str:
    try:
        it.asked(after(at))
    except RefusedError as error:
        return "refused" if "'retry_at'" in str(error.details) else error.code
    return "admitted"


def test_the_table_is_whole() -> None:
    assert set(TABLE) == set(PAIRS)


@pytest.mark.parametrize(("state", "signal"), PAIRS)
def test_every_pair(state: State, signal: Signal) -> None:
    new, action = TABLE[state, signal]
    if signal is Signal.CALM:
        assert new is State.CLOSED
    if signal is Signal.TROUBLE:
        assert new is State.OPEN
    if signal is Signal.BETWEEN:
        assert (new, action) == (state, Action.NOTHING), "hysteresis: between the marks nothing changes"
    if signal is Signal.PAUSE_OVER and state is State.OPEN:
        assert (new, action) == (State.HALF_OPEN, Action.HALF_OPEN)
    if signal in (Signal.ASKED, Signal.ASKED_AGAIN):
        assert new is state
        first = signal is Signal.ASKED
        wanted = {
            State.CLOSED: Action.ADMIT,
            State.OPEN: Action.REFUSE,
            State.HALF_OPEN: Action.PROBE if first else Action.REFUSE,
        }
        assert action is wanted[state]
    changes = {Action.OPEN: State.OPEN, Action.HALF_OPEN: State.HALF_OPEN, Action.CLOSE: State.CLOSED}
    assert (new is not state) == (action in changes)
    if action in changes:
        assert new is changes[action]


def test_it_opens_at_080_and_closes_below_0618() -> None:
    it = breaker()
    assert measured(it, 0.79) == []
    assert asked(it) == "admitted"
    assert measured(it, 0.80, 1) == ["breaker_opened"]
    assert asked(it, 2) == "refused"
    assert measured(it, 0.619, 3) == []
    assert it.state is State.OPEN
    assert measured(it, 0.617, 4) == ["breaker_closed"]
    assert asked(it, 5) == "admitted"
    snapshot = it.snapshot()
    assert (snapshot.state, snapshot.cause, snapshot.retry_at) == ("closed", None, None)


def test_after_its_pause_it_lets_one_through_and_watches() -> None:
    it = breaker()
    measured(it, 0.9)
    assert it.retry_at == after(PAUSE_S)
    assert measured(it, 0.7, PAUSE_S - 0.1) == []
    assert measured(it, 0.7, PAUSE_S) == ["breaker_half_open"]
    assert [asked(it, PAUSE_S + 1) for _ in range(3)] == ["admitted", "refused", "refused"]
    assert measured(it, 0.75, PAUSE_S + 20) == []
    assert asked(it, PAUSE_S + 20) == "refused"
    assert measured(it, 0.75, PAUSE_S + 1 + PROBE_S) == []
    assert asked(it, PAUSE_S + 2 + PROBE_S) == "admitted"
    assert measured(it, 0.81, PAUSE_S + 3 + PROBE_S) == ["breaker_opened"]
    assert it.pause_s == 2 * PAUSE_S


def test_pauses_grow_while_the_trouble_stays_and_begin_anew_when_it_was_gone_for_long() -> None:
    it, at, pauses = breaker(), 0.0, []
    measured(it, 0.9)
    for _ in range(9):
        pauses.append(it.pause_s)
        at += it.pause_s
        assert measured(it, 0.9, at) == [], "it stays open: nobody is let through into trouble"
    assert pauses == [15, 30, 60, 120, 240, 480, 600, 600, 600]
    assert measured(it, 0.1, at + 1) == ["breaker_closed"]
    measured(it, 0.9, at + 2)
    assert it.pause_s == PAUSE_MAX_S, "it has not been well for long"
    measured(it, 0.1, at + 3)
    measured(it, 0.9, at + 3 + PAUSE_MAX_S + 1)
    assert it.pause_s == PAUSE_S


@pytest.mark.parametrize(
    ("seen", "advice"),
    [
        ({"ratio": 0.9}, "hibernate"),
        ({"ratio": 0.1, "free": DISK_TROUBLE - 1}, "make room on that disk"),
        ({"ratio": 0.1, "failed": CRASHES}, "pointsman logs"),
    ],
)
def test_who_is_refused_is_told_what_helps(seen: dict[str, Any], advice: str) -> None:
    it = breaker()
    measured(it, **seen)
    with pytest.raises(RefusedError, match=advice):
        it.asked(START)


def test_a_disk_that_is_nearly_full() -> None:
    it = breaker()
    assert measured(it, 0.1, free=DISK_TROUBLE - 1) == ["breaker_opened"]
    assert (it.snapshot().cause, it.snapshot().reason) == ("disk", "99 MiB free on the disk of the home")
    assert measured(it, 0.1, 1, free=DISK_CALM - 1) == []
    assert measured(it, 0.1, 2, free=DISK_CALM) == ["breaker_closed"]


def test_agents_that_crash_in_a_loop() -> None:
    it = breaker()
    assert measured(it, 0.1, failed=CRASHES - 1) == []
    assert measured(it, 0.1, 1, failed=CRASHES) == ["breaker_opened"]
    assert it.snapshot().cause == "crash_loop"
    assert measured(it, 0.1, 2, failed=1) == [], "one of them is still too fresh"
    assert measured(it, 0.1, 3) == ["breaker_closed"]


def test_one_failed_session_keeps_no_breaker_open_that_is_open_for_memory() -> None:
    it = breaker()
    measured(it, 0.9)
    assert measured(it, 0.3, 1, failed=1) == ["breaker_closed"]


def test_the_cause_is_what_is_wrong_now() -> None:
    it = breaker()
    measured(it, 0.9)
    assert it.snapshot().cause == "memory"
    assert it.snapshot().reason == "memory is at 90% of its budget (0 of 0 MiB)"
    measured(it, 0.3, 1, free=1)
    assert it.snapshot().cause == "disk"
    assert it.state is State.OPEN


def test_no_budget_to_speak_of() -> None:
    it = Breaker(0, START)
    assert [event.action for event in it.measured(Measured(10**9, 1 << 40), START)] == []
    assert it.used_ratio == 0.0


@given(st.lists(st.tuples(st.floats(0, 1.2), st.floats(0, 700), st.integers(0, 3)), max_size=60))
def test_whatever_happens(steps: list[tuple[float, float, int]]) -> None:
    """Open means refused and a time to try again; closed means admitted."""
    it, at = breaker(), 0.0
    for ratio, passed, asks in steps:
        at += passed
        measured(it, ratio, at)
        if ratio >= 0.8:
            assert it.state is State.OPEN
        if ratio < 0.617:
            assert it.state is State.CLOSED
        answers = [asked(it, at) for _ in range(asks)]
        if it.state is State.CLOSED:
            assert set(answers) <= {"admitted"}
            assert it.retry_at is None
        elif it.state is State.OPEN:
            assert set(answers) <= {"refused"}
            assert it.retry_at is not None
            assert it.retry_at > after(at)
        else:
            assert answers.count("admitted") <= 1
        assert it.pause_s <= PAUSE_MAX_S
