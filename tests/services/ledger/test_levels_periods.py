from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ledger import periods
from services.ledger.levels import level, used_ratio
from services.ledger.zone import local_zone

BERLIN, KATHMANDU, SAMOA = ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Kathmandu"), ZoneInfo("Pacific/Apia")
SAO_PAULO = ZoneInfo("America/Sao_Paulo")  # its clocks changed at midnight: some days began at one
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")  # its summer time is half an hour


@pytest.mark.parametrize(
    ("spent", "budget", "name"),
    [
        (5, None, "unlimited"),
        (0, 1000, "abundant"),
        (381, 1000, "abundant"),
        (382, 1000, "moderate"),
        (617, 1000, "moderate"),
        (618, 1000, "cautious"),
        (853, 1000, "cautious"),
        (854, 1000, "critical"),
        (999, 1000, "critical"),
        (1000, 1000, "exhausted"),
        (5000, 1000, "exhausted"),
        (0, 0, "exhausted"),
        (-1, 1000, "abundant"),  # after a correction
    ],
)
def test_levels(spent: int, budget: int | None, name: str) -> None:
    assert level(spent, budget) == name


def test_ratio() -> None:
    assert used_ratio(1, None) is None
    assert used_ratio(1, 0) == 1.0
    assert used_ratio(1, 4) == 0.25


@pytest.mark.parametrize(
    ("period", "now", "zone", "began"),
    [
        ("day", "2026-11-21T12:00Z", BERLIN, "2026-11-20T23:00Z"),
        ("day", "2026-11-20T23:30Z", BERLIN, "2026-11-20T23:00Z"),
        (
            "day",
            "2026-10-25T12:00Z",
            BERLIN,
            "2026-10-24T22:00Z",
        ),  # the day of 25 hours begins in summer time
        ("day", "2026-10-26T12:00Z", BERLIN, "2026-10-25T23:00Z"),
        ("day", "2026-11-21T00:00Z", KATHMANDU, "2026-11-20T18:15Z"),
        ("week", "2026-11-21T12:00Z", UTC, "2026-11-16T00:00Z"),
        ("week", "2026-11-16T00:00Z", UTC, "2026-11-16T00:00Z"),
        ("week", "2026-10-26T00:00Z", BERLIN, "2026-10-25T23:00Z"),
        ("month", "2026-10-31T23:30Z", BERLIN, "2026-10-31T23:00Z"),
        ("month", "2026-11-21T12:00Z", SAMOA, "2026-10-31T11:00Z"),
    ],
)
def test_periods_begin_in_the_nodes_own_zone(period: str, now: str, zone: ZoneInfo, began: str) -> None:
    assert periods.since(period, datetime.fromisoformat(now), zone) == datetime.fromisoformat(began)


def test_the_total_never_began() -> None:
    assert periods.since("total", datetime(2026, 1, 1, tzinfo=UTC), UTC) is None


@given(
    st.integers(946_684_800, 4_070_908_800).map(lambda second: datetime.fromtimestamp(second, UTC)),
    st.sampled_from([BERLIN, KATHMANDU, SAMOA, SAO_PAULO, LORD_HOWE]),
)
def test_a_day_is_whole_quarters_and_holds_now(now: datetime, zone: ZoneInfo) -> None:
    began = periods.since("day", now, zone)
    assert began is not None
    assert began <= now < began + timedelta(hours=26)
    assert began.timestamp() % periods.QUARTER_S == 0
    today = now.astimezone(zone).date().isoformat()
    assert periods.day_of(periods.quarter_of(now), zone) == today
    assert periods.day_of(periods.quarter_of(began), zone) == today
    assert periods.day_of(periods.quarter_of(began) - 1, zone) < today


def test_the_machines_zone(tmp_path: Path) -> None:
    now = datetime(2026, 7, 1, tzinfo=UTC)
    file = Path("/usr/share/zoneinfo/Europe/Berlin")
    assert local_zone({"TZ": "Asia/Kathmandu"}).utcoffset(now) == timedelta(hours=5, minutes=45)
    assert local_zone({"TZ": ":UTC"}).utcoffset(now) == timedelta(0)
    assert local_zone({"TZ": "No/Such"}) is UTC
    assert local_zone({"TZ": "../x"}) is UTC
    assert local_zone({}, tmp_path / "nothing") is UTC
    broken = tmp_path / "broken"
    broken.write_bytes(b"no zone")
    assert local_zone({}, broken) is UTC
    if file.exists():
        assert local_zone({}, file).utcoffset(now) == timedelta(hours=2)
        assert local_zone({"TZ": str(file)}, broken).utcoffset(now) == timedelta(hours=2)


@given(
    st.lists(st.integers(-1_000_000, 2_500_000), min_size=1, max_size=30),
    st.sampled_from([UTC, BERLIN, KATHMANDU, SAMOA, SAO_PAULO, LORD_HOWE]),
)
def test_days_of_many_quarters(quarters: list[int], zone: ZoneInfo) -> None:
    """In any order, over changes of the clock, and neighbours of each."""
    day = periods.days_of(zone)
    for quarter in [near for one in quarters for near in range(one, one + 100)]:
        assert day(quarter) == periods.day_of(quarter, zone)


QUARTER, A_DAY = 900_000, 86_400_000


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [
        (5, 9, periods.Parts(cuts=((5, 9),))),
        (5, 5, periods.Parts()),
        (9, 5, periods.Parts()),
        (0, QUARTER, periods.Parts(quarters=((0, 1),))),
        (5, QUARTER + 5, periods.Parts(cuts=((5, QUARTER + 5),))),  # no whole quarter
        (5, 3 * QUARTER, periods.Parts(cuts=((5, QUARTER),), quarters=((1, 3),))),
        (0, A_DAY, periods.Parts(days=((0, 96),))),
        (
            QUARTER,
            3 * A_DAY + 1,
            periods.Parts(cuts=((3 * A_DAY, 3 * A_DAY + 1),), quarters=((1, 96),), days=((96, 288),)),
        ),
        (QUARTER, A_DAY + QUARTER, periods.Parts(quarters=((1, 97),))),  # no whole day
        (0, 64 * A_DAY, periods.Parts(months=((0, 2 * 3072),))),
        (
            A_DAY,
            33 * A_DAY + QUARTER,
            periods.Parts(quarters=((33 * 96, 33 * 96 + 1),), days=((96, 33 * 96),)),  # no whole month
        ),
        (
            31 * A_DAY,
            65 * A_DAY,
            periods.Parts(days=((31 * 96, 3072), (6144, 65 * 96)), months=((3072, 6144),)),
        ),
    ],
)
def test_parts_of_a_stretch_of_time(low: int, high: int, found: periods.Parts) -> None:
    assert periods.parts(low, high) == found


@pytest.mark.parametrize("zone", [UTC, BERLIN, KATHMANDU, SAO_PAULO, LORD_HOWE, SAMOA])
def test_local_days_one_after_the_other(zone: tzinfo) -> None:
    first = periods.quarter_of(datetime(2011, 1, 1, 7, tzinfo=UTC))  # Samoa left a day out in this year
    last = first + 400 * 96 + 7
    found = list(periods.days_between(first, last, zone))
    assert [start for start, _ in found] == [first, *(end for _, end in found[:-1])]
    assert found[-1][1] == last
    day = periods.days_of(zone)
    names = [{day(quarter) for quarter in range(*bounds)} for bounds in found]
    assert all(len(name) == 1 for name in names)
    assert len(set().union(*names)) == len(found)
