"""Wall clocks that are set forwards and back, by years: what was decided and spent stays as it was."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus import messages as m
from bus.durable import KEPT_ANYWAY, WINDOW, Mailbox
from bus.errors import RefusedError
from tests.services.approvals.support import World as Gate
from tests.services.ledger.support import World as Ledger
from tests.services.watchdog.support import SERVICES, Stand

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
YEAR = timedelta(days=365)
JUMPS = st.sampled_from([timedelta(), timedelta(seconds=90), timedelta(hours=-3), -YEAR, YEAR, 30 * YEAR])


def test_a_clock_that_runs_ahead_makes_no_id_forgotten_that_may_come_again() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    Mailbox.create_tables(connection)
    mailbox = Mailbox(connection)
    assert KEPT_ANYWAY > WINDOW, "so many facts may be on their way"
    mailbox.refuse("ingest", m.Refused(id="old", code="busy", message=""), NOW)
    for number in range(KEPT_ANYWAY):
        at = NOW + timedelta(seconds=1 + number)
        mailbox.keep("ingest", f"f{number}", at)
        mailbox.begin(f"c{number}", b"x", at)
    mailbox.keep("tmux", "seldom", NOW)
    mailbox.forget_old(NOW + 30 * YEAR)
    assert all(mailbox.kept("ingest", f"f{number}") for number in range(KEPT_ANYWAY))
    assert all(mailbox.seen(f"c{number}", b"x") for number in range(KEPT_ANYWAY))
    assert mailbox.kept("tmux", "seldom")
    assert not mailbox.kept("ingest", "old")  # beyond what can be on its way
    assert mailbox.refusal("ingest", "old") is None


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(
        st.tuples(JUMPS, st.sampled_from(["tick", "approve", "deny", "again", "restart"])),
        min_size=1,
        max_size=12,
    )
)
def test_an_approval_is_answered_once_whatever_the_clock_does(steps: list[tuple[timedelta, str]]) -> None:
    gate = Gate()
    gate.ask()
    first: tuple[str, datetime] | None = None
    for jump, what in steps:
        gate.now = max(gate.now + jump, NOW - 40 * YEAR)
        if what == "tick":
            gate.tick()
        elif what == "again":
            gate.ask()
        elif what == "restart":
            gate.restart()
        else:
            with suppress(RefusedError):  # too late, or decided already
                gate.decide(decision=what)
        outcome = gate.approval().outcome
        assert len(gate.answers()) == (outcome is not None)
        if outcome is not None:
            first = first or (outcome.decision, outcome.at)
            assert (outcome.decision, outcome.at) == first
            expires = gate.approval().expires_at
            assert expires is not None
            assert (outcome.decision == "expired") == (outcome.at >= expires)


@settings(max_examples=10, deadline=None)
@given(jumps=st.lists(JUMPS, min_size=1, max_size=8))
def test_what_was_spent_is_counted_once_whatever_the_clock_does(jumps: list[timedelta]) -> None:
    ledger = Ledger(default_budget_usd=None)
    ledger.open()
    ledger.period_budget(0.05, "day")
    for turn, jump in enumerate(jumps, start=1):
        ledger.now = max(ledger.now + jump, NOW - 9 * YEAR)
        ledger.tick()
        for _ in range(2):  # the fact comes twice
            ledger.cost(turn, f"{turn / 100:.2f}", fact_id=f"turn-{turn}")
        assert ledger.total().spent_usd == pytest.approx(turn / 100)
        assert ledger.session().spent_usd == pytest.approx(turn / 100)
    ledger.restart()
    assert ledger.total().spent_usd == pytest.approx(len(jumps) / 100)
    assert len(ledger.rows()) == len(jumps)


@pytest.mark.parametrize("jump", [YEAR, -YEAR, timedelta(hours=1), timedelta(hours=-1)])
def test_nobody_goes_silent_because_a_clock_was_set(jump: timedelta) -> None:
    stand = Stand()
    for service in SERVICES:
        stand.say(service, "online")
    stand.later(60, beating=SERVICES)
    stand.now += jump
    stand.later(60, beating=SERVICES)
    assert {service: stand.verdict(service) for service in SERVICES} == dict.fromkeys(SERVICES, "online")
    assert "service_stale" not in [action for action, _ in stand.events()]
