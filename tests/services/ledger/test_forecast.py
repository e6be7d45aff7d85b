"""The burn rate, and how well its forecast does on costs whose law is known."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ledger.forecast import BURN_S, YOUNG_S, Burn, exhausted
from services.ledger.money import PICO
from tests.services.ledger.support import START, World


def burn_of(*lumps: tuple[float, int], began_s: float | None = None) -> Burn:
    """Lumps of (seconds before now, amount)."""
    burn = Burn()
    if began_s is not None:
        burn.began = START - timedelta(seconds=began_s)
    for seconds, amount in lumps:
        burn.add(START - timedelta(seconds=seconds), amount)
    burn.prune(START)
    return burn


def test_idle() -> None:
    assert burn_of().per_hour(START) is None
    assert burn_of((BURN_S + 20, PICO)).per_hour(START) is None
    assert exhausted(burn_of(), PICO, START) is None


@pytest.mark.parametrize(
    ("began_s", "per_hour"),
    [(None, 8.0), (3600, 8.0), (BURN_S, 8.0), (600, 12.0), (YOUNG_S, 24.0), (1, 24.0)],
)
def test_the_rate_of_a_young_session(began_s: float | None, per_hour: float) -> None:
    assert burn_of((0, PICO), (20, PICO), began_s=began_s).per_hour(START) == per_hour


def test_no_forecast_from_one_lump_or_without_anything_left() -> None:
    two = burn_of((0, PICO), (100, PICO))
    assert exhausted(burn_of((8, PICO), (2, PICO)), PICO, START) is None  # the pieces of one call
    assert exhausted(two, None, START) is None
    assert exhausted(two, 0, START) is None
    assert exhausted(two, -1, START) is None
    assert exhausted(two, 10**9 * PICO, START) is None  # centuries
    assert exhausted(burn_of((0, PICO), (100, PICO), (200, -3 * PICO)), 1, START) is not None


def test_a_forecast_by_hand() -> None:
    """Two dollars in two equal lumps in 900 s, two left: in 900 s; relative error √(½ · (1 + 1)) = 1."""
    found = exhausted(burn_of((0, PICO), (100, PICO)), 2 * PICO, START)
    assert found is not None
    at, (first, last) = found
    assert at == START + timedelta(seconds=900)
    assert (first - START).total_seconds() == pytest.approx(900 / 2.71828**1.645, rel=1e-3)
    assert (last - START).total_seconds() == pytest.approx(900 * 2.71828**1.645, rel=1e-3)


def test_a_steady_rate_is_known_better() -> None:
    few = exhausted(burn_of(*[(s, PICO) for s in range(0, 900, 300)]), 3 * PICO, START)
    many = exhausted(burn_of(*[(s, PICO // 10) for s in range(0, 900, 30)]), 3 * PICO, START)
    assert few is not None
    assert many is not None
    assert few[0] == many[0]
    assert few[1][0] < many[1][0] < many[0] < many[1][1] < few[1][1]


@given(
    st.lists(st.tuples(st.floats(-100, 2000), st.integers(-PICO, 10 * PICO)), max_size=20),
    st.integers(-PICO, 10**6 * PICO),
    st.none() | st.floats(-100, 10**6),
)
def test_anything(lumps: list[tuple[float, int]], left: int, began_s: float | None) -> None:
    burn = burn_of(*lumps, began_s=began_s)
    rate = burn.per_hour(START)
    assert rate is None or rate >= 0
    found = exhausted(burn, left, START)
    if found is not None:
        at, (first, last) = found
        assert START <= first <= at <= last


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Compound Poisson costs, as the theory has them; seeded, so it is the same every time. 90 % is meant."""
    chance = random.Random(7)
    held = tried = 0
    for _ in range(300):
        rate, mean = chance.choice([0.01, 0.03, 0.1]), chance.choice([0.05, 0.5])
        burn, at, seconds = Burn(), START, 0.0
        while (seconds := seconds + chance.expovariate(rate)) < BURN_S:
            burn.add(START - timedelta(seconds=BURN_S - seconds), int(PICO * chance.expovariate(1 / mean)))
        left = int(PICO * mean * chance.choice([10, 50, 200]))
        found = exhausted(burn, left, START)
        if found is None:
            continue
        spent = 0
        while spent < left:
            at += timedelta(seconds=chance.expovariate(rate))
            spent += int(PICO * chance.expovariate(1 / mean))
        tried += 1
        held += found[1][0] <= at <= found[1][1]
    assert tried > 250
    assert 0.82 < held / tried < 0.97


def test_snapshots_say_it() -> None:
    world = World()
    world.open(budget_usd=10.0)
    world.cost(1, "1")
    world.later(900)
    world.running("1", turn=2)
    world.later(20)
    world.running("2", turn=2)
    said = world.session()
    assert said.burn_usd_per_h == 8.0
    assert said.exhausted_at == world.now + timedelta(hours=7 / 8)
    assert said.exhausted_between is not None
    assert said.exhausted_between[0] < said.exhausted_at < said.exhausted_between[1]
    world.cost(2, "3")  # what ran is posted: the rate does not change
    assert world.session().burn_usd_per_h == 8.0
    world.later(1000)
    world.tick()
    said = world.session()
    assert said.burn_usd_per_h is None
    assert (said.exhausted_at, said.exhausted_between) == (None, None)
