"""Usage limits in the ledger's snapshots, and the word that a prompt was sent again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from bus import messages as m
from tests.services.ledger.support import UID, World, fact_of

OTHER = "01JD0000000000000000000001"


def limit(world: World, window: str = "five_hour", utilization: float = 0.5, **more: Any) -> None:
    uid, session = more.pop("uid", UID), more.pop("session", "web")
    resets_at = world.now + timedelta(seconds=more.pop("resets_in_s", 3600))
    data = m.LimitSeen(
        session=session, window=window, status="allowed", utilization=utilization, resets_at=resets_at
    )
    world.told += 1
    world.fact(fact_of(f"limit-{world.told}", "limit", data, world.now, uid))


def test_the_last_word_on_each_window_until_it_ends() -> None:
    world = World()
    world.open()
    limit(world, "seven_day", 0.1, resets_in_s=86400)
    limit(world)
    limit(world, utilization=0.75)
    world.restart()
    five, seven = world.session().limits
    assert (five.window, five.utilization, five.resets_at) == (
        "five_hour",
        0.75,
        world.now + timedelta(seconds=3600),
    )
    assert seven.window == "seven_day"
    assert world.total().limits == [five, seven]
    world.later(3600)
    assert world.session().limits == [seven]


def test_all_sessions_share_the_account() -> None:
    world = World()
    world.open()
    world.open(uid=OTHER, session="api")
    limit(world, utilization=0.2)
    world.later(1)
    limit(world, utilization=0.3, uid=OTHER, session="api")
    assert [w.utilization for w in world.total().limits] == [0.3]
    assert [w.utilization for w in world.session().limits] == [0.2]


def test_many_windows_are_bounded() -> None:
    world = World()
    world.open()
    for n in range(50):
        limit(world, f"window {n}")
    assert len(world.session().limits) == 20


def test_a_prompt_that_was_sent_again_is_said() -> None:
    world = World()
    world.open()
    for number, ok in enumerate((True, False)):
        data = m.LimitOver(
            session="web", window="five_hour", prompt_ids=["p1"], ok=ok, message="You've hit your limit"
        )
        world.fact(fact_of(f"over-{number}", "limit_over", data, world.now))
    good, bad = world.events("limit_reset")
    assert (good.session, good.uid) == ("web", UID)
    assert good.reason == "the limit five_hour was reset, p1 was sent again: it worked"
    assert bad.reason.endswith("it failed again: You've hit your limit")
