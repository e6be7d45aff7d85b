from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from msgspec import UNSET

from bus import messages as m
from bus import topics as t
from bus.effects import Publish, ReplyTo
from bus.errors import PeerError, RefusedError
from tests.services.ledger.support import OPUS, START, UID, World, fact_of, published, report

HAIKU = "claude-haiku-4-5"
OTHER = "01JE0000000000000000000000"


def test_a_turn_costs_what_the_total_grew() -> None:
    world = World()
    world.open()
    world.cost(1, "0.0067", {OPUS: ("0.0067", 1200, 12, 800, 300)})
    world.cost(2, "0.02862", {OPUS: ("0.02862", 4800, 139, 3200, 1200)}, cache_write_1h=900)
    said = world.session()
    assert said.spent_usd == 0.02862
    assert said.turns == 2
    assert said.tokens == m.Tokens(
        input=4800, output=139, cache_read=3200, cache_write=1200, cache_write_1h=900
    )
    assert said.by_model == {OPUS: m.ModelCost(cost_usd=0.02862, turns=2, tokens=said.tokens)}
    assert said.budget_usd == 10.0
    assert said.remaining_usd == pytest.approx(9.97138)
    assert said.used_ratio == pytest.approx(0.002862)
    assert said.level == "abundant"
    assert said.witnesses.agent_usd == 0.02862
    assert said.estimated_usd == said.drift_usd == 0
    assert not said.notional
    assert [row[:4] for row in world.rows()] == [
        (1, OPUS, 6_700_000_000, 1),
        (2, OPUS, 21_920_000_000, 1),
    ]


def test_the_recording_of_kill_clean_exit_and_kill() -> None:
    """The totals of a real 2.1.329: killed, resumed at nothing, ended well, resumed at what it said then."""
    world = World()
    world.open()
    world.cost(1, "0.006699999999999999")
    world.cost(2, "0.02862")
    world.cost(2, "0", {}, process=2, baseline=True)
    world.cost(3, "0.0067599999999999995", process=2)
    world.cost(3, "0.0067599999999999995", process=3, baseline=True)
    world.cost(4, "0.01356", process=3)
    world.cost(4, "0.0067599999999999995", process=4, baseline=True)
    world.cost(5, "0.013479999999999999", process=4)
    assert world.session().spent_usd == 0.0489  # 0.02862 + 0.00676 + 0.0068 + 0.00672
    assert world.session().turns == 5


def test_clear_is_a_baseline_of_nothing_within_a_process() -> None:
    world = World()
    world.open()
    world.cost(1, "1")
    world.cost(1, "0", {}, baseline=True)
    world.cost(2, "0", {})  # the result of /clear itself
    world.cost(3, "1.5")  # more than before: without the baseline it would look like 0.5
    assert world.session().spent_usd == 2.5
    assert "unattributed" not in world.session().by_model


def test_a_total_that_falls_without_a_word_is_a_new_beginning() -> None:
    world = World()
    world.open()
    world.cost(1, "1", {OPUS: ("1", 100, 10, 0, 0)})
    world.cost(2, "0.25", {OPUS: ("0.25", 30, 5, 0, 0)})
    world.cost(3, "0.5", {OPUS: ("0.5", 60, 9, 0, 0)})
    assert world.session().spent_usd == 1.5
    assert world.session().tokens.input == 160


def test_models_add_up_to_the_total_whatever_they_say() -> None:
    world = World()
    world.open()
    world.cost(1, "1", {OPUS: "0.5", HAIKU: "0.25"})
    world.cost(2, "2", {})  # the total is known, the models are not
    world.cost(3, "3", {}, model=None)
    costs = {name: cost.cost_usd for name, cost in world.session().by_model.items()}
    assert costs == {OPUS: 1.75, HAIKU: 0.25, "unattributed": 1.0}
    assert world.session().by_model[OPUS].turns == 2
    assert world.session().turns == 3


def test_models_that_claim_more_than_the_total_are_brought_down() -> None:
    world = World()
    world.open()
    world.cost(1, "1", {OPUS: "0.5", HAIKU: "0.75"})
    costs = {name: cost.cost_usd for name, cost in world.session().by_model.items()}
    assert costs == {OPUS: 0.25, HAIKU: 0.75}


def test_an_alias_of_the_only_model_is_no_second_model() -> None:
    world = World()
    world.open()
    world.cost(1, "1", {"claude-opus-5-5-20261001": "1"}, model=OPUS)
    assert list(world.session().by_model) == ["claude-opus-5-5-20261001"]
    assert world.session().by_model["claude-opus-5-5-20261001"].turns == 1


def test_a_start_known_only_as_a_sum() -> None:
    """A conversation that others began: its old tokens are not ours."""
    world = World()
    world.open()
    world.cost(0, "12.35", {}, baseline=True)
    world.cost(1, "12.5", {OPUS: ("12.5", 1_000_000, 5, 5, 5)})
    world.cost(2, "13", {OPUS: ("13", 1_000_100, 6, 5, 5)})
    assert world.session().spent_usd == 0.65
    assert world.session().tokens == m.Tokens(input=100, output=1)


def test_a_report_that_comes_late_is_put_in_its_place() -> None:
    world = World()
    world.open()
    world.cost(1, "1")
    world.cost(3, "4")
    world.later(1)
    world.cost(2, "2", {HAIKU: "1", OPUS: "1"}, model=HAIKU)
    assert world.session().spent_usd == 4
    assert world.session().turns == 3
    assert [row[:4] for row in world.rows()] == [
        (1, OPUS, 10**12, 1),
        (3, OPUS, 3 * 10**12, 1),
        (2, HAIKU, 10**12, 1),
        (3, OPUS, -(10**12), 0),
    ]


def test_a_late_baseline_takes_back_what_was_booked_too_high() -> None:
    world = World()
    world.open()
    world.cost(4, "5", process=2)
    assert world.session().spent_usd == 5
    world.cost(3, "4", process=2, baseline=True)
    assert world.session().spent_usd == 1
    assert world.session().turns == 1


def test_the_same_report_under_another_id_changes_nothing_and_a_different_one_is_refused() -> None:
    world = World()
    world.open()
    world.cost(1, "1")
    assert world.cost(1, "1", fact_id="other") == []
    assert "turn 1 of process 1 was reported before" in world.refused(1, "2", fact_id="third")
    assert world.session().spent_usd == 1


@pytest.mark.parametrize(
    "bad",
    [
        {"total": "-1"},
        {"total": "nan"},
        {"total": "1e9"},
        {"total": "one"},
        {"total": "1", "models": {OPUS: ("1", -1, 0, 0, 0)}},
        {"total": "1", "models": {OPUS: ("1", 10**13, 0, 0, 0)}},
        {"total": "1", "models": {OPUS: "x"}},
        {"total": "1", "models": {f"m{n}": "0" for n in range(101)}},
        {"total": "1", "models": {"m" * 201: "0"}},
        {"total": "1", "process": -1},
        {"total": "1", "cache_write_5m": -1},
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(bad: dict[str, Any]) -> None:
    world = World()
    world.open()
    world.refused(1, bad.pop("total"), bad.pop("models", None), **bad)
    assert world.rows() == []
    assert world.session().spent_usd == 0


def test_an_agent_that_lies_about_huge_costs_cannot_break_the_sums() -> None:
    world = World()
    world.open()
    for turn in range(90):
        world.cost(turn, "100000", {}, baseline=False)
        world.cost(turn, "0", {}, baseline=True)
    assert "cannot hold" in world.refused(91, "100000", {})
    assert world.total().spent_usd == 9_000_000
    world.restart()
    assert world.total().spent_usd == 9_000_000


def test_a_fact_without_uid_or_name_is_refused() -> None:
    world = World()
    with pytest.raises(PeerError, match="uid"):
        world.ledger.cost(m.Fact(id="x", type="cost", uid=None, at=START), report(1, "1"), START)
    with pytest.raises(PeerError, match="name"):
        world.open(session="a/b")


def test_a_cost_before_its_session_is_known_counts() -> None:
    world = World()
    world.cost(1, "4")
    assert world.session().level == "moderate"
    world.restart()
    assert world.session().budget_usd == 10.0
    world.open(budget_usd=5.0)
    world.restart()
    assert world.session().level == "cautious"
    assert world.session().spent_usd == 4


def test_opening_again_changes_nothing() -> None:
    world = World()
    world.open(budget_usd=5.0)
    data = m.SessionOpened(session="web", cwd="/elsewhere", kind="managed")
    assert world.fact(fact_of("opened-again", "opened", data, world.now)) == []
    assert world.session().budget_usd == 5.0


@pytest.mark.parametrize(
    ("default", "given", "budget", "level"),
    [
        (10.0, UNSET, 10.0, "abundant"),
        (None, UNSET, None, "unlimited"),
        (10.0, None, None, "unlimited"),
        (10.0, 2.5, 2.5, "abundant"),
        (None, 0.0, 0.0, "exhausted"),
        (10.0, 1e9, 1e9, "abundant"),
    ],
)
def test_the_budget_of_a_new_session(
    default: float | None, given: Any, budget: float | None, level: str
) -> None:
    world = World(default_budget_usd=default)
    world.open(budget_usd=given)
    world.restart()
    assert world.session().budget_usd == budget
    assert world.session().level == level


def test_crossing_a_level_is_said_once_also_over_a_restart() -> None:
    world = World()
    world.open(budget_usd=1.0)
    for turn, total in enumerate(["0.1", "0.4", "0.5", "0.7", "0.9", "1.5", "2"], 1):
        world.cost(turn, total)
        world.restart()
    assert world.levels() == [
        ("web", "abundant", "moderate"),
        ("web", "moderate", "cautious"),
        ("web", "cautious", "critical"),
        ("web", "critical", "exhausted"),
    ]
    assert world.session().remaining_usd == 0
    assert world.session().used_ratio == 2.0
    assert world.session().exhausted_at is None


def test_raising_a_budget() -> None:
    world = World()
    world.open(budget_usd=1.0)
    world.cost(1, "2")
    command = m.SetBudget(id="c1", budget_usd=4.0, by="ada", via="cli")
    effects = world.act(world.ledger.set_budget(command, "web", world.now))
    (reply,) = [e for e in effects if isinstance(e, ReplyTo)]
    assert isinstance(reply.result, m.LedgerSession)
    assert (reply.result.budget_usd, reply.result.level) == (4.0, "moderate")
    assert world.levels()[-1] == ("web", "exhausted", "moderate")
    world.restart()
    assert world.session().budget_usd == 4.0
    world.act(world.ledger.set_budget(m.SetBudget(budget_usd=None), "web", world.now))
    world.restart()
    assert (world.session().budget_usd, world.session().level) == (None, "unlimited")


def test_a_budget_for_nobody() -> None:
    world = World()
    world.open()
    for session, uid in (("other", None), ("web", OTHER)):
        with pytest.raises(RefusedError) as caught:
            world.ledger.set_budget(m.SetBudget(budget_usd=1.0, uid=uid), session, world.now)
        assert caught.value.code == "unknown_session"


def test_a_name_used_again_shows_the_new_session_and_keeps_the_old_costs() -> None:
    world = World()
    world.open()
    world.cost(1, "3")
    world.open(uid=OTHER)
    assert (world.session().uid, world.session().spent_usd) == (OTHER, 0)
    assert published(world.cost(2, "4"), t.LEDGER_SESSION) == []  # a late cost of the old one
    world.cost(1, "0.5", uid=OTHER)
    world.restart()
    assert (world.session().uid, world.session().spent_usd) == (OTHER, 0.5)
    assert world.total().spent_usd == 4.5
    assert world.total().turns == 3


def test_a_removed_session_is_cleared_and_its_costs_stay() -> None:
    world = World()
    world.open()
    world.cost(1, "3")
    entry = m.IndexEntry(session="web", uid=UID, kind="managed", status="ended")
    old = m.SessionIndex(sessions=[], at=START - timedelta(seconds=1))
    assert world.ledger.listed(old, world.now) == []  # said before it was opened
    world.later(1)
    assert world.ledger.listed(m.SessionIndex(sessions=[entry], at=world.now), world.now) == []
    gone = world.act(world.ledger.listed(m.SessionIndex(sessions=[], at=world.now), world.now))
    assert Publish(t.LEDGER_SESSION, None, {"session": "web"}) in gone
    world.restart()
    assert published(world.ledger.snapshots(world.now), t.LEDGER_SESSION) == []
    assert world.total().spent_usd == 3
    with pytest.raises(RefusedError):
        world.ledger.set_budget(m.SetBudget(budget_usd=1.0), "web", world.now)
    back = world.act(world.ledger.listed(m.SessionIndex(sessions=[entry], at=world.now), world.now))
    assert [p.uid for p in published(back, t.LEDGER_SESSION)] == [UID]


def test_periods_of_the_node_and_their_budgets() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    world = World(zone=berlin)
    world.now = datetime(2026, 10, 25, 21, 50, tzinfo=UTC)  # 22:50, Sunday: the day of the clock change
    world.restart()
    world.open()
    world.cost(1, "1")
    effects = world.act(world.ledger.set_period_budget(m.SetBudget(id="b", budget_usd=2.0), "day", world.now))
    (reply,) = [e for e in effects if isinstance(e, ReplyTo)]
    assert isinstance(reply.result, m.LedgerTotal)
    assert reply.result.periods is not UNSET
    assert reply.result.periods["day"].budget_usd == 2.0
    world.cost(2, "2")
    assert world.levels() == [
        (UNSET, "unlimited", "moderate"),
        (UNSET, "moderate", "exhausted"),
    ]
    world.later(3600 + 600)  # 00:00 on Monday
    world.act(world.ledger.tick(world.now))
    assert world.levels()[-1] == (UNSET, "exhausted", "abundant")
    world.cost(3, "2.25")
    for _ in range(2):
        periods = world.total().periods
        assert periods is not UNSET
        assert {name: period.spent_usd for name, period in periods.items()} == {
            "day": 0.25,
            "week": 0.25,
            "month": 2.25,
            "total": 2.25,
        }
        assert periods["week"].since == datetime(2026, 10, 25, 23, tzinfo=UTC)
        world.restart()
    world.act(world.ledger.set_period_budget(m.SetBudget(budget_usd=4.5), "total", world.now))
    assert (world.total().budget_usd, world.total().level, world.total().used_ratio) == (4.5, "moderate", 0.5)


def test_burn_and_forecast() -> None:
    world = World()
    world.open()
    assert world.session().burn_usd_per_h is None
    world.cost(1, "1")
    assert world.session().burn_usd_per_h == 12.0  # a young session: over five minutes
    assert world.session().exhausted_at is None  # from one turn, no rate can be told
    world.later(450)
    world.cost(2, "2")
    assert world.session().burn_usd_per_h == 16.0  # over what it has lived
    assert world.session().exhausted_at == world.now + timedelta(minutes=30)
    assert world.total().exhausted_at is None  # no budget
    world.restart()
    assert world.session().burn_usd_per_h == 16.0
    world.later(650)
    (said,) = published(world.ledger.tick(world.now), t.LEDGER_SESSION)
    assert said.burn_usd_per_h == 4.0
    world.later(350)
    (said,) = published(world.ledger.tick(world.now), t.LEDGER_SESSION)
    assert said.burn_usd_per_h is said.exhausted_at is None
    assert world.total().burn_usd_per_h is None
    assert world.ledger.tick(world.now) == []  # idle: nothing more to say


def test_costs_under_a_subscription_are_notional() -> None:
    world = World()
    world.open()
    world.cost(1, "1", notional=True)
    world.restart()
    assert world.session().notional
    assert world.total().notional


def test_hundreds_of_models_are_said_together() -> None:
    world = World()
    world.open()
    models = {f"m{n:02}": str(n + 1) for n in range(60)}
    world.cost(1, str(sum(range(1, 61))), models, model="m59")
    by_model = world.session().by_model
    assert len(by_model) == 51
    assert by_model["(others)"].cost_usd == sum(range(1, 11))


def test_nothing_changes_a_posting_or_a_report() -> None:
    world = World()
    world.open()
    world.cost(1, "1")
    for sql in (
        "UPDATE postings SET cost = 0",
        "DELETE FROM postings",
        "UPDATE reports SET total = 0",
        "DELETE FROM reports",
    ):
        with pytest.raises(sqlite3.IntegrityError):
            world.db.execute(sql)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_clock_that_was_ahead_for_a_while_takes_nothing_from_the_periods(restarted: bool) -> None:
    world = World()
    world.open()
    world.cost(1, "1")
    world.later(400 * 86400)
    world.tick()
    assert world.ledger.spent("month") == 0
    if restarted:
        world.restart()
    world.later(-400 * 86400)
    world.tick()
    assert [world.ledger.spent(period) for period in ("day", "week", "month", "total")] == [10**12] * 4
