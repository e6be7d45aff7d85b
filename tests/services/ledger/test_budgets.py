"""Budgets that hold: who is held by what, what ingest is told of it, and that it is told exactly once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bus import messages as m
from bus import topics as t
from bus.errors import PeerError
from services.ledger import money, periods
from services.ledger.budgets import Hold, explained
from tests.services.ledger.support import OPUS, UID, Crash, World, fact_of, published, report

OTHER = "01JD0000000000000000000001"
BERLIN, SANTIAGO = ZoneInfo("Europe/Berlin"), ZoneInfo("America/Santiago")


def told(world: World) -> list[tuple[bool, str]]:
    return [(hold.held, hold.scope) for hold in world.holds()]


# ── a session's own budget ───────────────────────────────────────────────────────────────────────────────


def test_exhausted_is_held_and_raised_is_released_once_each() -> None:
    world = World()
    world.open(budget_usd=1.0)
    world.cost(1, "0.999999999999")
    assert told(world) == []
    world.cost(2, "1")
    world.restart()
    world.cost(3, "1.5")
    assert told(world) == [(True, "session")]
    (hold,) = world.holds()
    assert hold.until is None
    assert hold.message == (
        "web has spent 1.00 of 1.00 dollars, its budget: raise it with `pointsman budget web 2`"
    )
    world.budget(1.2)  # not enough: what is said to those who are refused is true again
    assert [(h.held, "1.20 dollars" in h.message) for h in world.holds()] == [(True, False), (True, True)]
    world.budget(2.0)
    world.restart()
    world.budget(3.0)
    assert told(world)[2:] == [(False, "")]
    world.cost(4, "3.5")
    world.budget(None)
    assert told(world)[3:] == [(True, "session"), (False, "")]


def test_a_budget_of_nothing_holds_from_the_beginning() -> None:
    world = World()
    world.open(budget_usd=0.0)
    assert told(world) == [(True, "session")]
    assert "`pointsman budget web 1`" in world.holds()[0].message


@pytest.mark.parametrize(
    ("kind", "given", "notional", "held"),
    [
        ("managed", msgspec.UNSET, False, True),
        ("managed", msgspec.UNSET, True, False),  # a subscription: the default only warns
        ("managed", 10.0, True, True),  # somebody wanted this limit
        ("external", 10.0, False, False),  # not ours to stop
        ("interactive", 10.0, False, True),
    ],
)
def test_whom_an_exhausted_budget_holds(
    kind: str, given: float | msgspec.UnsetType, notional: bool, held: bool
) -> None:
    world = World()
    world.open(budget_usd=given, kind=kind)
    world.cost(1, "11", notional=notional)
    assert told(world) == ([(True, "session")] if held else [])
    assert world.session().level == "exhausted"
    assert ("it only warns" in world.events("level")[-1].reason) is not held


def test_a_default_budget_lets_go_when_the_cost_turns_out_to_be_notional() -> None:
    world = World()
    world.open()
    world.cost(1, "11")
    world.cost(2, "12", notional=True)
    assert told(world) == [(True, "session"), (False, "")]


def test_a_budget_that_was_set_stays_set_over_a_restart() -> None:
    world = World()
    world.open()
    world.budget(5.0)
    world.restart()
    world.cost(1, "6", notional=True)
    assert told(world) == [(True, "session")]


# ── within a turn ────────────────────────────────────────────────────────────────────────────────────────


def test_a_running_turn_counts_against_the_budget_and_is_no_posting() -> None:
    world = World()
    world.open(budget_usd=1.0)
    world.running("0.4")
    world.restart()
    said = world.session()
    assert (said.spent_usd, said.running_usd, said.remaining_usd) == (0.0, 0.4, 0.6)
    assert (said.used_ratio, said.level, said.turns) == (0.4, "moderate", 0)
    assert world.total().spent_usd == 0
    assert world.rows() == []
    world.running("1.1")
    assert told(world) == [(True, "session")]
    world.cost(1, "1.12")
    said = world.session()
    assert (said.spent_usd, said.running_usd, said.remaining_usd) == (1.12, 0.0, 0.0)
    assert told(world) == [(True, "session")]  # the report took its place: nothing was counted twice
    world.budget(2.0)
    world.running("0.1", turn=2)
    assert world.session().remaining_usd == pytest.approx(0.78)


def test_what_a_dead_process_had_spent_counts_until_it_is_booked() -> None:
    world = World()
    world.open(budget_usd=1.0)
    world.running("0.7")
    world.cost(0, "0", {}, process=2, baseline=True)
    world.running("0.5", process=2)
    assert world.session().running_usd == pytest.approx(1.2)
    assert told(world) == [(True, "session")]
    world.cost(1, "0.5", process=2)
    assert world.session().running_usd == pytest.approx(0.7)
    world.cost(1, "0.7", process=1)  # booked late
    assert (world.session().running_usd, world.session().spent_usd) == (0.0, 1.2)


def test_tokens_are_priced_where_the_agent_tells_no_cost() -> None:
    world = World()
    world.open(budget_usd=1.0)
    usage = m.RunningUsage(input=1000, output=1000, cache_read=1000, cache_write_5m=1000, cache_write_1h=1000)
    world.running(None, usage={OPUS: usage, "nobody-knows": usage})
    by_hand = 1000 * (4_000_000 + 20_000_000 + 200_000 + 5_000_000 + 8_000_000)  # as published
    account = world.ledger.account(UID)
    assert account is not None
    assert account.running == by_hand


@pytest.mark.parametrize("bad", ["-1", "NaN", "1e12", "much"])
def test_a_running_cost_that_cannot_be_is_refused(bad: str) -> None:
    world = World()
    world.open()
    with pytest.raises(PeerError):
        world.running(bad)
    with pytest.raises(PeerError):
        world.running(None, usage={OPUS: m.RunningUsage(output=10**18)})
    assert world.session().running_usd == 0


def test_the_report_that_was_kept_before_the_crash_still_takes_the_running_sum_away() -> None:
    """On a server the posting may be kept and the running sum not, because that is in another database."""
    world = World()
    world.open(budget_usd=1.0)
    world.running("0.5")
    fact = fact_of("cost-1", "cost", report(1, "0.5"), world.now)
    world.fact(fact)
    world.db.mailbox.execute("INSERT INTO running VALUES (?, 1, ?, 0)", (UID, money.PICO // 2))
    world.db.mailbox.execute("DELETE FROM inbox")
    world.restart()
    assert world.session().running_usd == 0.5
    assert told(world) == [(True, "session")]  # counted twice, until the fact comes again
    world.fact(fact)
    assert (world.session().running_usd, world.session().spent_usd) == (0.0, 0.5)
    assert told(world) == [(True, "session"), (False, "")]


def test_a_removed_session_leaves_nothing_running() -> None:
    world = World()
    world.open()
    world.running("0.5")
    world.later(1)
    world.act(world.ledger.listed(m.SessionIndex(sessions=[], at=world.now), world.now))
    assert world.total().running_usd == 0
    world.restart()
    assert world.total().running_usd == 0


# ── the node's budgets ───────────────────────────────────────────────────────────────────────────────────


def test_a_day_holds_everyone_until_the_next() -> None:
    world = World(zone=BERLIN)
    world.now = datetime(2026, 10, 24, 23, 30, tzinfo=UTC)  # Sunday 01:30, before the clock change
    world.restart()
    world.open()
    world.open(uid=OTHER, session="api", kind="external")
    world.period_budget(2.0, "day")
    world.running("1.5", session="api", uid=OTHER)
    world.cost(1, "0.5")
    until = datetime(2026, 10, 25, 23, tzinfo=UTC)  # the day has 25 hours
    (hold,) = world.holds()
    assert (hold.session, hold.scope, hold.until) == ("web", "day", until)
    assert "2.00 of 2.00 dollars, its budget for the day" in hold.message
    assert "`pointsman budget --day 4`, or wait until Monday 00:00" in hold.message
    world.open(uid="01JD0000000000000000000002", session="new")
    assert told(world) == [(True, "day"), (True, "day")]
    world.cost(1, "1.5", session="api", uid=OTHER)
    world.now = until - timedelta(seconds=1)
    world.tick()
    assert len(world.holds()) == 2
    world.restart()
    world.now = until
    world.tick()
    assert told(world)[2:] == [(False, ""), (False, "")]
    assert world.events("level")[-1].to == "abundant"
    periods_said = world.total().periods
    assert periods_said is not msgspec.UNSET
    assert (periods_said["day"].level, periods_said["day"].remaining_usd) == ("abundant", 2.0)
    assert periods_said["day"].until == until + timedelta(days=1)


def test_the_night_may_pass_while_the_ledger_is_down() -> None:
    world = World()
    world.open()
    world.period_budget(1.0, "day")
    world.cost(1, "1")
    world.later(86400)
    world.restart()
    assert told(world) == [(True, "day"), (False, "")]


def test_of_several_budgets_the_one_that_lasts_is_told() -> None:
    world = World()
    world.open(budget_usd=1.0)
    for period in ("day", "week", "month", "total"):
        world.period_budget(1.0, period)
    world.cost(1, "1")
    assert told(world)[-1] == (True, "session")
    world.budget(5.0)
    for period in ("total", "month", "week", "day"):
        assert told(world)[-1] == (True, period)
        world.period_budget(9.0, period)
    assert told(world)[-1] == (False, "")


def test_the_nodes_own_budget_ends_with_no_period() -> None:
    said = explained("web", Hold("total", money.PICO), 2 * money.PICO, UTC)
    assert (
        said
        == "this node has spent 2.00 of 1.00 dollars, its budget: raise it with `pointsman budget --total 4`"
    )


@pytest.mark.parametrize(
    ("period", "now", "zone", "ends"),
    [
        ("day", "2026-11-21T12:00Z", BERLIN, "2026-11-21T23:00Z"),
        ("day", "2026-03-29T12:00Z", BERLIN, "2026-03-29T22:00Z"),  # 23 hours
        ("day", "2026-10-25T12:00Z", BERLIN, "2026-10-25T23:00Z"),  # 25 hours
        ("day", "2026-09-05T12:00Z", SANTIAGO, "2026-09-06T04:00Z"),  # the next has no midnight
        ("week", "2026-11-22T12:00Z", UTC, "2026-11-23T00:00Z"),
        ("week", "2026-11-23T00:00Z", UTC, "2026-11-30T00:00Z"),
        ("month", "2026-12-31T23:59Z", UTC, "2027-01-01T00:00Z"),
        ("month", "2028-02-29T12:00Z", UTC, "2028-03-01T00:00Z"),
        ("month", "2026-01-31T12:00Z", UTC, "2026-02-01T00:00Z"),
    ],
)
def test_when_a_period_ends(period: str, now: str, zone: ZoneInfo, ends: str) -> None:
    at = datetime.fromisoformat(now)
    assert periods.until(period, at, zone) == datetime.fromisoformat(ends)
    assert periods.since(period, datetime.fromisoformat(ends), zone) == datetime.fromisoformat(ends)
    assert periods.until("total", at, zone) is None


# ── any history ──────────────────────────────────────────────────────────────────────────────────────────

CRASHES = st.sampled_from([Crash.NONE, Crash.NONE, Crash.BEFORE, Crash.AFTER])
CENTS = st.integers(0, 300)


class Anything(RuleBasedStateMachine):
    """Two sessions and a day's budget, with costs that run and are posted, and kills of the ledger around
    every transaction. A model in cents says who has to be held; what ingest was told last says the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.uids = {"web": UID, "api": OTHER}
        self.budget: dict[str, int | None] = {"web": 1000, "api": 100}
        self.day: int | None = None
        self.posted = dict.fromkeys(self.uids, 0)
        self.today = 0
        self.run = dict.fromkeys(self.uids, 0)
        self.turn = dict.fromkeys(self.uids, 0)
        self.world.open()
        self.world.open(uid=OTHER, session="api", budget_usd=1.0)

    def fact(self, fact: m.Fact, crash: Crash) -> None:
        self.world.fact(fact, crash)
        if crash is not Crash.NONE:
            self.world.fact(fact)  # not acknowledged: it comes again

    @rule(name=st.sampled_from(["web", "api"]), cents=CENTS, crash=CRASHES)
    def runs(self, name: str, cents: int, crash: Crash) -> None:
        self.world.told += 1
        self.run[name] = cents
        data = m.CostRunning(session=name, process=1, turn=self.turn[name] + 1, spent_usd=f"{cents / 100}")
        self.fact(
            fact_of(f"running-{self.world.told}", "running", data, self.world.now, self.uids[name]), crash
        )

    @rule(name=st.sampled_from(["web", "api"]), cents=CENTS, crash=CRASHES)
    def reports(self, name: str, cents: int, crash: Crash) -> None:
        self.turn[name] += 1
        self.run[name] = 0
        self.posted[name] += cents
        self.today += cents
        data = report(self.turn[name], f"{self.posted[name] / 100}", session=name)
        fact = fact_of(f"cost-{name}-{self.turn[name]}", "cost", data, self.world.now, self.uids[name])
        self.fact(fact, crash)

    @rule(name=st.sampled_from(["web", "api"]), cents=st.none() | st.integers(0, 2000))
    def sets(self, name: str, cents: int | None) -> None:
        self.budget[name] = cents
        self.world.budget(None if cents is None else cents / 100, name)

    @rule(cents=st.none() | st.integers(0, 2000))
    def sets_the_day(self, cents: int | None) -> None:
        self.day = cents
        self.world.period_budget(None if cents is None else cents / 100, "day")

    @rule(killed=st.booleans())
    def night(self, killed: bool) -> None:
        self.world.later(86400)
        self.today = 0
        if killed:
            self.world.restart()
        else:
            self.world.tick()

    @rule()
    def kill(self) -> None:
        self.world.restart()

    @invariant()
    def who_has_to_be_is_held(self) -> None:
        last = {hold.session: hold for hold in self.world.holds()}
        for name in self.uids:
            used = self.posted[name] + self.run[name]
            budget = self.budget[name]
            own = budget is not None and used >= budget
            day = self.day is not None and self.today + sum(self.run.values()) >= self.day
            told = last.get(name, m.BudgetHold(session=name, held=False))
            assert told.held is (own or day)
            assert told.scope == ("session" if own else "day" if day else "")

    @invariant()
    def no_hold_is_told_twice(self) -> None:
        for name in self.uids:
            told = [hold for hold in self.world.holds() if hold.session == name]
            assert all(a.held or b.held for a, b in pairwise(told))

    @invariant()
    def what_is_said_adds_up(self) -> None:
        for name in self.uids:
            (said,) = published(
                [
                    e
                    for e in self.world.ledger.snapshots(self.world.now)
                    if getattr(e, "values", {}) == {"session": name}
                ],
                t.LEDGER_SESSION,
            )
            assert round(said.spent_usd * 100) == self.posted[name]
            assert round(said.running_usd * 100) == self.run[name]


TestAnything = Anything.TestCase
TestAnything.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_the_budget_that_is_proposed_would_do() -> None:
    """What is spent may be far above a budget that was lowered."""
    text = explained("a", Hold("session", money.PICO // 50), money.PICO // 15, UTC)
    assert float(text.rpartition(" ")[2].rstrip("`")) > 1 / 15


def test_a_model_that_is_newer_than_the_price_table_counts_as_the_dearest_of_its_family() -> None:
    world = World()
    world.open(budget_usd=1.0)
    million = m.RunningUsage(input=1_000_000)
    for model, dollars in (("claude-opus-99", 15), ("claude-haiku-99", 1), ("opus-of-another", 0)):
        world.running(None, usage={model: million})
        assert world.ledger.node.running == dollars * money.PICO
    assert [hold.held for hold in world.holds()][:1] == [True]


def test_what_is_left_to_spend() -> None:
    """For ingest, which keeps to it while the ledger is away."""
    world = World()

    def left() -> tuple[float | None, dict[str, float | None]]:
        payload = world.ledger.allowances(world.now).payload
        assert isinstance(payload, m.LedgerAllowances)
        return payload.node_usd, payload.sessions

    assert left() == (None, {})
    world.open(budget_usd=5.0)
    world.open("uid-free", "free", budget_usd=None)
    world.open("uid-seen", "seen", kind="external")
    world.cost(1, "1")
    assert left() == (None, {UID: 4.0, "uid-free": None, "uid-seen": None})
    world.act(world.ledger.set_period_budget(m.SetBudget(id="d", budget_usd=3.0), "day", world.now))
    assert left() == (2.0, {UID: 2.0, "uid-free": 2.0, "uid-seen": None})
    world.act(world.ledger.set_budget(m.SetBudget(id="s", budget_usd=0.5), "web", world.now))
    assert left() == (2.0, {UID: 0.0, "uid-free": 2.0, "uid-seen": None})
    world.open("uid-sub", "sub")  # the default budget, and a subscription: warned only
    world.cost(1, "0.5", uid="uid-sub", session="sub", notional=True)
    assert left()[1]["uid-sub"] == 1.5
