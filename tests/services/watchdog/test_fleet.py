"""Who is put to sleep, and whose agent is ended, seen through the whole core."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from bus import topics as t
from bus.effects import Publish
from bus.errors import RefusedError
from services.watchdog.fleet import Limits, Sweep
from tests.services.watchdog.support import MIB, SERVICES, Stand, published

# The budget is 1,000 MiB, and the services use 60 of them.


def stand(**limits: Any) -> Stand:
    it = Stand(limits=Limits(**{"idle_s": 0.0, "max_sessions": 100, **limits}))
    it.later(1, beating=SERVICES)
    return it


def put_to_sleep(it: Stand) -> list[str]:
    """Sessions that were asked to, in order."""
    return [e.values["session"] for e in it.said if isinstance(e, Publish) and e.row is t.SESSION_HIBERNATE]


def ended(it: Stand) -> list[str]:
    return [e.uid.removeprefix("uid-") for e in published(it.said, t.EVICT_AGENT)]


def falls_asleep(it: Stand, name: str) -> None:
    it.session(name, "hibernating")
    it.session(name, "hibernated")
    it.used.pop(name, None)


def test_past_idle_s() -> None:
    it = stand(idle_s=600.0)
    it.session("a")
    it.session("b", "working")
    it.later(599, beating=SERVICES)
    assert put_to_sleep(it) == []
    it.later(2, beating=SERVICES)
    assert put_to_sleep(it) == ["a"]
    [command] = published(it.said, t.SESSION_HIBERNATE)
    assert (command.uid, command.reason) == ("uid-a", "idle for 600 s")
    it.later(20, beating=SERVICES)
    assert put_to_sleep(it) == ["a"], "it has been asked"
    it.later(15, beating=SERVICES)
    assert put_to_sleep(it) == ["a", "a"], "it was refused, or lost: asked again"
    falls_asleep(it, "a")
    it.later(60, beating=SERVICES)
    assert put_to_sleep(it) == ["a", "a"]
    assert it.events() == [("evicted", "a")]


def test_above_max_sessions_the_longest_idle() -> None:
    it = stand(max_sessions=2)
    for name in ("a", "b", "c", "d"):
        it.session(name, "working" if name == "a" else "waiting_input")
        it.later(10, beating=SERVICES)
    it.session("e", "hibernated")
    it.session("f", kind="external")
    it.later(1, beating=SERVICES)
    assert put_to_sleep(it) == ["b", "c"]


def test_above_0618_of_the_budget_the_longest_idle_and_no_more_than_it_takes() -> None:
    it = stand()
    for name in ("old", "older", "oldest"):
        it.session(name, mib=150, last_activity_at=it.now - timedelta(hours=len(name)),
                   status_since=it.now - timedelta(hours=len(name)))  # fmt: skip
    it.later(2)
    assert put_to_sleep(it) == [], "510 of 1,000"
    it.session("busy", "working", mib=170)
    it.later(2)  # 680: one of them is enough
    assert put_to_sleep(it) == ["oldest"]
    it.later(2)
    assert put_to_sleep(it) == ["oldest"], "it is on its way: nobody else has to go"
    falls_asleep(it, "oldest")
    it.later(2)
    assert put_to_sleep(it) == ["oldest"]
    assert published(it.said, t.BREAKER)[-1].evicted == ["oldest"]
    assert it.events() == [("evicted", "oldest")]
    it.session("oldest", "waking")
    it.session("oldest", "ready")
    it.later(1)
    assert it.events()[-1] == ("resumed", "oldest")
    assert published(it.said, t.BREAKER)[-1].evicted == []


@pytest.mark.parametrize(
    "more",
    [
        {"status": "working"},
        {"status": "waiting_approval"},
        {"status": "compacting"},
        {"status": "starting"},
        {"status": "disconnected"},
        {"pinned": True},
        {"queued_prompts": 1},
        {"pending_approvals": ["x"]},
        {"kind": "external"},
        {"kind": "interactive"},
    ],
)
def test_never_put_to_sleep(more: dict[str, Any]) -> None:
    it = stand(idle_s=10.0, max_sessions=1)
    it.session("a", mib=700, **more)
    it.session("b", mib=10, **more)
    it.later(60, beating=SERVICES)
    assert put_to_sleep(it) == []


def test_at_080_the_breaker_opens_and_running_sessions_go_on() -> None:
    it = stand()
    it.session("busy", "working", mib=750)
    it.later(1)
    assert it.events() == [("breaker_opened", "")]
    with pytest.raises(RefusedError) as refused:
        it.dog.admit(it.now)
    assert refused.value.code == "breaker_open"
    assert it.health().status == "degraded"
    assert ended(it) == []
    it.used["busy"] = 100
    it.later(1)
    assert it.events()[-1] == ("breaker_closed", "")
    it.dog.admit(it.now)


def test_beyond_095_the_largest_idle_then_the_largest_at_work() -> None:
    it = stand()
    it.session("idle-small", mib=20)
    it.session("idle-pinned", mib=50, pinned=True)
    it.session("idle-large", mib=30)
    it.session("busy-large", "working", mib=100)
    it.session("busy-small", "working", mib=50)
    it.session("not-ours", "working", kind="external", mib=680)
    it.tick()
    assert ended(it) == ["idle-large"], "960 of 1,000"
    it.later(7)
    assert ended(it) == ["idle-large"], "it gets its time"
    while len(ended(it)) < 5:
        falls_asleep(it, ended(it)[-1])
        it.used["not-ours"] += 60
        it.later(8)
    order = ["idle-large", "idle-small", "idle-pinned", "busy-large", "busy-small"]
    assert ended(it) == order
    told = [e for e in published(it.said, t.WATCHDOG_EVENTS) if e.action == "agent_ended"]
    assert [e.session for e in told] == order
    assert told[0].reason == (
        "memory is at 99% of its budget: its agent (30 MiB, idle) is ended; the next prompt wakes it"
    )


def test_what_an_ended_agent_leaves_behind_is_swept() -> None:
    it = stand()
    it.session("hog", "working", mib=930)
    it.tick()
    assert ended(it) == ["hog"]
    it.later(3)
    assert not [e for e in it.said if isinstance(e, Sweep)]
    it.session("hog", "hibernating")
    it.later(1)
    it.session("hog", "hibernated")
    it.later(3)
    assert [e for e in it.said if isinstance(e, Sweep)] == [Sweep("hog", ((7, 1),))]


def test_three_sessions_that_crash_in_a_loop_open_it_for_five_minutes() -> None:
    it = stand()
    for name in ("a", "b", "c"):
        it.session(name, "disconnected")
        it.session(name, "failed", error="the agent died 4 times in 60 s")
        it.later(10, beating=SERVICES)
    assert it.events() == [
        ("crash_loop", "a"),
        ("crash_loop", "b"),
        ("crash_loop", "c"),
        ("breaker_opened", ""),
    ]
    assert published(it.said, t.BREAKER)[-1].cause == "crash_loop"
    it.later(320, beating=SERVICES)
    assert it.events()[-1] == ("breaker_closed", "")


def test_resources_are_said_every_ten_seconds_and_cleared() -> None:
    it = stand()
    it.session("a", "working", mib=100)
    it.later(21, beating=SERVICES)
    said = published(it.said, t.SESSION_RESOURCES)
    assert len(said) == 3
    assert (said[0].session, said[0].uid, said[0].pid, said[0].processes) == ("a", "uid-a", 7, 2)
    assert (said[0].rss_bytes, said[0].cpu_percent) == (100 * MIB, 1.5)
    assert it.dog.usages()["a"].rss_bytes == 100 * MIB
    del it.used["a"]
    it.later(1)
    assert published(it.said, t.SESSION_RESOURCES)[-1] is None
    assert it.dog.usages() == {}


def test_a_thousand_ended_sessions_do_not_pile_up() -> None:
    it = stand()
    for number in range(1000):
        it.session(f"s{number}", mib=1)
        it.session(f"s{number}", "ended")
        it.used.clear()
        it.dog.session(f"s{number}", None, it.now)
    it.tick()
    assert it.dog.fleet.members == {}
    assert it.dog.usages() == {}


def test_while_it_hears_nothing_it_decides_nothing() -> None:
    it = stand(idle_s=10.0)
    it.session("a", mib=940)
    it.listening = False
    it.later(60)
    assert put_to_sleep(it) == ended(it) == []
