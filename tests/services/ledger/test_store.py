from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.effects import Keep
from services.ledger import say
from services.ledger.columns import from_ms, to_ms
from services.ledger.database import Database
from services.ledger.forecast import BURN_S
from services.ledger.model import KeepPosting, KeepSession, Posting, Use
from services.ledger.queries import Queries
from services.ledger.store import Store
from tests.services.ledger.support import HAIKU, OPUS, OTHER, START, UID, World, busy

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("by", "rows"),
    [
        ("session", [("web", UID, 3.0, 2), ("web", OTHER, 0.5, 1)]),
        ("model", [(OPUS, "", 2.0, 2), (HAIKU, "", 1.5, 2)]),
        ("project", [("/work/app", "", 3.0, 2), ("/work/other", "", 0.5, 1)]),
        ("day", [("2026-11-20", "", 1.0, 1), ("2026-11-21", "", 2.5, 2)]),
    ],
)
@pytest.mark.parametrize("bounded", [False, True])
def test_queries(by: str, rows: list[tuple[str, str, float, int]], bounded: bool, database: Database) -> None:
    world = busy(database)
    since = datetime(2026, 11, 20, tzinfo=UTC) if bounded else None
    found = say.answer(by, world.store.queries.ask(by, since, None, BERLIN), BERLIN)
    assert [(r.key, r.uid or "", r.spent_usd, r.turns) for r in found.rows] == rows
    assert found.total_usd == 3.5


def test_bounds_include_the_first_moment_and_not_the_last(database: Database) -> None:
    world = busy(database)
    first = datetime(2026, 11, 20, 22, 50, tzinfo=UTC)
    second = first + timedelta(seconds=900)

    def total(since: datetime | None, until: datetime | None) -> float:
        return say.answer("model", world.store.queries.ask("model", since, until, UTC), UTC).total_usd

    assert total(first, None) == 3.5
    assert total(first, second) == 1.0
    assert total(second, None) == 2.5
    assert total(first + timedelta(milliseconds=1), second) == 0
    assert total(datetime(2026, 11, 20, 23, tzinfo=UTC), datetime(2026, 11, 20, 23, 15, tzinfo=UTC)) == 2.5
    assert total(datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)) == 3.5


def test_thousands_of_rows_are_said_together(monkeypatch: pytest.MonkeyPatch, database: Database) -> None:
    monkeypatch.setattr(say, "MAX_ROWS", 1)
    world = busy(database)
    found = say.answer("model", world.store.queries.ask("model", None, None, UTC), UTC)
    assert [(r.key, r.spent_usd) for r in found.rows] == [(OPUS, 2.0), ("(others)", 1.5)]
    found = say.answer("day", world.store.queries.ask("day", None, None, BERLIN), BERLIN)
    assert [(r.key, r.spent_usd) for r in found.rows] == [("(others)", 1.0), ("2026-11-21", 2.5)]
    assert found.total_usd == 3.5


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM spent",
        "DELETE FROM spent_quarters",
        "UPDATE spent_quarters SET cost = cost - 1",
        "UPDATE spent SET cost = cost + 1",
        "UPDATE spent SET turns = turns + 1",
        "UPDATE spent SET postings = postings + 1",
        "UPDATE spent SET input = 0",
        "DELETE FROM spent_spans",
        "UPDATE spent_sessions SET cost = cost + 1 WHERE span = 96",
        "DELETE FROM spent_sessions WHERE span = 3072",
        "UPDATE spent_models SET share = share + 1",
        "DELETE FROM checked",
        "UPDATE checked SET cost = cost + 1",
    ],
)
def test_sums_that_do_not_agree_are_seen_and_made_again(damage: str, database: Database) -> None:
    world = busy(database)
    before = world.store.load(world.now, BURN_S)
    assert world.store.derived_agrees()
    world.db.execute(damage)
    assert not world.store.derived_agrees()
    with world.db.transaction():
        world.store.rebuild()
    assert world.store.derived_agrees()
    assert world.store.load(world.now, BURN_S) == before


def test_a_start_adds_up_what_is_new_and_the_whole_is_checked_too(database: Database) -> None:
    world = busy(database)
    with world.db.transaction():
        world.store.note_checked()
    ((n, postings),) = world.db.execute("SELECT n, postings FROM checked").fetchall()
    assert (n, postings) == world.db.execute("SELECT max(n), count(*) FROM postings").fetchone()
    world.later(900)
    world.cost(3, "4")
    assert world.store.derived_agrees()
    assert world.store.derived_agrees(whole=True)
    world.db.execute("UPDATE checked SET cost = cost + 1")
    world.db.execute("UPDATE spent SET cost = cost + 1 WHERE model = ? AND uid = ?", (OPUS, UID))
    quarter = "(SELECT min(quarter) FROM spent_quarters)"
    for table in ("spent_quarters", "spent_spans"):
        world.db.execute(f"UPDATE {table} SET cost = cost + 1 WHERE quarter = {quarter}")  # noqa: S608
    world.db.execute("UPDATE spent_sessions SET cost = cost + 1 WHERE uid = ?", (UID,))
    world.db.execute("UPDATE spent_models SET cost = cost + 1 WHERE model = ?", (OPUS,))
    assert world.store.derived_agrees()  # a mistake that all of them share
    assert not world.store.derived_agrees(whole=True)


AROUND = 1792792800000  # 2026-10-23T22:00Z: two days before the clocks of Berlin change


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_sums_by_time_answer_as_the_postings_do(data: st.DataObject) -> None:
    """Whatever the bounds and the zone: against adding up the postings one by one."""
    world = World()
    moments = st.integers(0, 4 * 96 * 900).map(lambda s: from_ms(AROUND + s * 1000))
    rows = []
    for turn in range(data.draw(st.integers(1, 12))):
        uid = data.draw(st.sampled_from([UID, OTHER]))
        model = data.draw(st.sampled_from([OPUS, HAIKU]))
        at = data.draw(moments)
        use = Use(cost=data.draw(st.integers(1, 9)) * 10**12)
        rows.append(Posting(str(turn), uid, 1, turn, model, at, use, 1, 1, "agent", False, "f"))
    with world.db.transaction():
        for uid, cwd in ((UID, "/a"), (OTHER, "/b")):
            world.store.keep(KeepSession(uid, uid, cwd, "managed", START, True))
        for row in rows:
            world.store.keep(KeepPosting(row))
    since, until = (data.draw(st.none() | moments) for _ in range(2))
    zone = data.draw(
        st.sampled_from([UTC, BERLIN, ZoneInfo("Asia/Kathmandu"), ZoneInfo("Australia/Lord_Howe")])
    )
    keys: dict[str, Callable[[Posting], str]] = {
        "session": lambda row: row.uid,
        "model": lambda row: row.model,
        "project": lambda row: {UID: "/a", OTHER: "/b"}[row.uid],
        "day": lambda row: row.at.astimezone(zone).date().isoformat(),
    }
    wanted_by_session: dict[str, float] = {}
    for by, key in keys.items():
        wanted: dict[str, float] = {}
        for row in rows:
            if (since is None or row.at >= since) and (until is None or row.at < until):
                wanted[key(row)] = wanted.get(key(row), 0) + row.use.cost / 10**12
        wanted_by_session = wanted if by == "session" else wanted_by_session
        found = say.answer(by, world.store.queries.ask(by, since, until, zone), zone)
        assert {row.key: row.spent_usd for row in found.rows} == wanted
        again = say.answer(by, world.store.queries.ask(by, since, until, zone), zone)
        assert again == found
    dearest = say.answer("session", Queries(world.db, most=1).ask("session", since, until, zone), zone)
    told = sorted(wanted_by_session.values(), reverse=True)
    assert [row.spent_usd for row in dearest.rows] == [*told[:1], *([sum(told[1:])] if told[1:] else [])]
    assert dearest.total_usd == sum(told)
    late = Posting("late", UID, 1, 99, OPUS, rows[0].at, Use(cost=10**12), 1, 1, "agent", False, "f")
    with world.db.transaction():
        world.store.keep(KeepPosting(late))
    found = say.answer("day", world.store.queries.ask("day", None, None, zone), zone)
    assert found.total_usd == sum(row.use.cost for row in rows) / 10**12 + 1  # nothing old is remembered
    assert world.store.derived_agrees(whole=True)


def test_a_posting_kept_twice_counts_once(database: Database) -> None:
    world = World(database=database)
    world.open()
    effects = world.cost(1, "1")
    before = world.store.load(world.now, BURN_S)
    world.act(effect for effect in effects if isinstance(effect, Keep))
    assert world.store.load(world.now, BURN_S) == before
    assert world.store.derived_agrees()


def test_times_are_kept_to_the_millisecond() -> None:
    at = datetime(2026, 11, 21, 12, 0, 0, 123_000, tzinfo=UTC)
    assert from_ms(to_ms(at)) == at
    assert from_ms(to_ms(START)) == START


def test_an_empty_store(database: Database) -> None:
    world = World(database=database)
    assert world.store.derived_agrees()
    assert Store(world.db).load(world.now, BURN_S).sessions == []
    assert say.answer("day", world.store.queries.ask("day", None, None, UTC), UTC).rows == []
