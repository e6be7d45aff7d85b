from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus import messages as m
from bus import topics as t
from services.watchdog.core import DISK_LOW, DISK_NEARLY_FULL, MAX_SERVICES
from services.watchdog.pulse import MISSED_S, STALE_S, Pulse, Word
from tests.services.watchdog.support import MIB, SERVICES, Stand, published

OTHERS = tuple(name for name in SERVICES if name != "ledger")


def events(stand: Stand) -> list[tuple[str, str]]:
    return [(e.action, e.service or "") for e in published(stand.said, t.WATCHDOG_EVENTS)]


@pytest.mark.parametrize(
    ("word", "silent_s", "verdict"),
    [
        (Word.NONE, 0, "online"),
        (Word.NONE, STALE_S - 0.1, "online"),
        (Word.NONE, STALE_S, "stale"),
        (Word.ONLINE, 0, "online"),
        (Word.ONLINE, STALE_S - 0.1, "online"),
        (Word.ONLINE, STALE_S, "stale"),
        (Word.ONLINE, 1e6, "stale"),
        (Word.OFFLINE, 0, "online"),  # a last will alone is not trusted
        (Word.OFFLINE, MISSED_S - 0.1, "online"),
        (Word.OFFLINE, MISSED_S, "offline"),
        (Word.OFFLINE, 1e6, "offline"),
    ],
)
def test_verdicts(word: Word, silent_s: float, verdict: str) -> None:
    pulse = Pulse(100.0, heard=True, word=word)
    assert pulse.verdict(100.0 + silent_s).value == verdict
    hung = word is Word.ONLINE and silent_s >= STALE_S
    pulse = Pulse(100.0, heard=False, word=word)
    assert pulse.verdict(100.0 + silent_s).value == ("stale" if hung else "offline")


def test_all_is_well() -> None:
    stand = Stand()
    stand.later(60, beating=SERVICES)
    health = stand.health()
    assert (health.status, health.reasons) == ("healthy", [])
    assert health.services == dict.fromkeys(SERVICES, "online")
    assert health.memory_used_ratio == 0.06
    assert events(stand) == []


def test_a_service_that_hangs_is_noticed_within_30_s_and_told_once() -> None:
    stand = Stand()
    for name in SERVICES:
        stand.say(name, "online")
    stand.later(30, beating=SERVICES)  # the last beats came 9 s ago
    said = stand.later(20, beating=OTHERS)
    assert stand.verdict("ledger") == "stale"
    assert stand.health().status == "critical"
    assert stand.health().reasons == ["ledger is stale"]
    (event,) = published(said, t.WATCHDOG_EVENTS)
    assert (event.action, event.service) == ("service_stale", "ledger")
    assert event.reason == "ledger is stale: no heartbeat for 25 s"
    assert stand.later(600, beating=OTHERS)
    assert events(stand) == [("service_stale", "ledger")]
    stand.beat()
    assert published(stand.tick(), t.HEALTH)[0].status == "healthy"
    stand.later(60, beating=OTHERS)
    assert events(stand) == [("service_stale", "ledger")] * 2


def test_a_will_counts_once_a_heartbeat_is_missed_as_well() -> None:
    stand = Stand()
    stand.later(11, beating=SERVICES)
    stand.say("ledger", "offline")
    stand.later(8, beating=OTHERS)
    assert stand.verdict("ledger") == "online"
    stand.later(5, beating=OTHERS)
    assert stand.verdict("ledger") == "offline"
    assert stand.health().reasons == ["ledger is offline"]
    stand.later(20, beating=OTHERS)
    assert events(stand) == [("service_stale", "ledger")]


def test_a_late_will_of_a_living_service_does_nothing() -> None:
    stand = Stand()
    stand.later(11, beating=SERVICES)
    stand.say("ledger", "offline")
    stand.later(60, beating=SERVICES)
    assert stand.verdict("ledger") == "online"
    assert {h.status for h in published(stand.said, t.HEALTH)[1:]} == {"healthy"}


def test_a_service_that_is_brought_back_quickly_was_never_gone() -> None:
    stand = Stand()
    stand.later(11, beating=SERVICES)
    stand.say("ledger", "offline")
    stand.later(3, beating=OTHERS)
    stand.say("ledger", "online")
    stand.later(20, beating=OTHERS)
    assert stand.verdict("ledger") == "online"
    assert events(stand) == []


def test_a_service_that_never_came_is_awaited_then_told() -> None:
    stand = Stand()
    stand.later(20, beating=OTHERS)
    health = stand.health()
    assert (health.status, health.services["ledger"]) == ("degraded", "offline")
    assert health.reasons == ["ledger has not been heard of yet"]
    stand.later(10, beating=OTHERS)
    assert stand.health().status == "critical"
    assert stand.health().reasons == ["ledger is offline"]
    assert events(stand) == [("service_stale", "ledger")]
    stand.later(100, beating=OTHERS)
    assert events(stand) == [("service_stale", "ledger")]


@pytest.mark.parametrize(("age_s", "verdict"), [(-5, "online"), (3, "online"), (24, "online"), (25, "stale")])
def test_a_retained_heartbeat_is_as_old_as_it_says(age_s: float, verdict: str) -> None:
    stand = Stand()
    stand.say("ledger", "online", retained=True)
    assert stand.verdict("ledger") == "offline"  # a retained word proves nothing
    stand.beat("ledger", retained=True, age_s=age_s)
    assert stand.verdict("ledger") == verdict


def test_retained_words_and_heartbeats_in_either_order() -> None:
    for first in (True, False):
        stand = Stand()
        if first:
            stand.say("ledger", "offline", retained=True)
        stand.beat("ledger", retained=True, age_s=3)
        if not first:
            stand.say("ledger", "offline", retained=True)
        assert stand.verdict("ledger") == "online"
        stand.later(10)
        assert stand.verdict("ledger") == "offline"


def test_a_retained_heartbeat_never_makes_younger_what_was_heard_later() -> None:
    stand = Stand()
    stand.beat("ledger")
    stand.beat("ledger", retained=True, age_s=100)
    assert stand.verdict("ledger") == "online"


def test_what_was_retained_since_yesterday_is_no_event_at_start() -> None:
    stand = Stand()
    for name in SERVICES:
        stand.say(name, "online", retained=True)
    stand.beat(retained=True, age_s=86_400)
    stand.later(5)
    assert stand.health().status == "critical"
    stand.later(60, beating=SERVICES)
    assert stand.health().status == "healthy"
    assert events(stand) == []


def test_while_we_are_deaf_nobody_goes_silent() -> None:
    stand = Stand()
    stand.later(60, beating=OTHERS)
    assert events(stand) == [("service_stale", "ledger")]
    stand.listening = False
    stand.later(120)
    stand.listening = True
    assert {stand.verdict(name) for name in OTHERS} == {"online"}
    assert stand.verdict("ledger") == "offline"
    stand.later(20)
    assert {stand.verdict(name) for name in OTHERS} == {"online"}
    stand.later(10)
    assert {stand.verdict(name) for name in OTHERS} == {"stale"}


def test_our_own_standstill_is_nobodys_silence() -> None:
    stand = Stand()
    stand.later(20, beating=SERVICES)
    stand.mono += 300
    stand.now += timedelta(seconds=300)
    stand.tick()
    assert stand.verdict("ledger") == "online"
    stand.later(30)
    assert stand.verdict("ledger") == "stale"


def test_another_service_is_followed_once_it_speaks() -> None:
    stand = Stand()
    stand.later(20, beating=(*SERVICES, "gateway"))
    assert stand.health().services["gateway"] == "online"
    assert "gateway" in published(stand.said, t.INFO)[-1].services
    stand.later(40, beating=SERVICES)
    assert (stand.health().status, stand.health().reasons) == ("degraded", ["gateway is stale"])
    assert events(stand) == [("service_stale", "gateway")]
    stand.beat("gateway")
    stand.say("gateway", "offline")
    stand.later(60, beating=SERVICES)
    assert stand.health().services["gateway"] == "offline"
    assert stand.health().status == "healthy"  # it said goodbye, and need not be there
    assert len(events(stand)) == 1


def test_names_without_end_are_not_followed() -> None:
    stand = Stand()
    for number in range(2 * MAX_SERVICES):
        stand.beat(f"s{number}")
        stand.say(f"t{number}", "online")
    assert len(stand.dog.verdicts(stand.mono)) == MAX_SERVICES
    stand.beat()
    assert stand.verdict("ledger") == "online"


def test_health_is_said_on_change_and_every_ten_seconds() -> None:
    stand = Stand()
    said = published(stand.later(60, beating=SERVICES), t.HEALTH)
    assert len(said) == 6
    entry = m.IndexEntry(session="web", uid="u", kind="managed", status="working")
    stand.dog.index(m.SessionIndex(sessions=[entry, entry], at=stand.now))
    (said_now,) = published(stand.later(1), t.HEALTH)
    assert said_now.sessions == {"working": 2}
    stand.disk_free -= 1  # a figure alone is no change
    assert published(stand.later(1), t.HEALTH) == []


def test_the_disk() -> None:
    stand = Stand()
    stand.later(20, beating=SERVICES)
    stand.disk_free = DISK_LOW - 1
    stand.later(5, beating=SERVICES)
    assert (stand.health().status, stand.health().reasons) == ("degraded", ["the disk of the home runs low"])
    stand.disk_free = DISK_LOW + 1
    stand.later(5, beating=SERVICES)
    assert stand.health().status == "degraded"
    stand.disk_free = DISK_NEARLY_FULL - 1
    stand.later(5, beating=SERVICES)
    assert stand.health().status == "critical"
    stand.disk_free = 2 * DISK_LOW
    stand.later(5, beating=SERVICES)
    assert stand.health().status == "healthy"
    assert [action for action, _ in events(stand)] == ["disk_low", "breaker_opened", "breaker_closed"]


def test_a_lagging_loop_and_memory_near_its_budget() -> None:
    stand = Stand()
    stand.beat()
    stand.beat("ingest", loop_lag_ms=1500.0)
    stand.beat("ledger", rss_bytes=800 * MIB)
    stand.tick()
    health = stand.health()
    assert health.reasons == [
        "ingest is slow: its event loop lags", "memory is close to its budget", "the breaker is open: memory"
    ]  # fmt: skip
    assert (health.status, health.memory_used_ratio) == ("degraded", 0.85)
    snapshot: m.Breaker = published(stand.said, t.BREAKER)[-1]
    assert (snapshot.state, snapshot.used_bytes, snapshot.budget_bytes) == ("open", 850 * MIB, 1000 * MIB)
    assert (snapshot.cause, snapshot.since, snapshot.evicted) == ("memory", stand.now, [])


def test_memory_of_a_service_that_is_gone_is_free() -> None:
    stand = Stand()
    stand.beat()
    stand.say("ledger", "offline")
    stand.later(20, beating=OTHERS)
    assert published(stand.said, t.BREAKER)[-1].used_bytes == 50 * MIB


def test_info_is_said_when_it_changes() -> None:
    stand = Stand()
    (info,) = published(stand.later(30, beating=SERVICES), t.INFO)
    assert (info.node, info.version, info.contract, info.broker) == ("node", "1.2.3", 1, "mosquitto")
    assert info.services == sorted(SERVICES)
    stand.endpoints = {**stand.endpoints, "ingest": {"port": 6180}}
    (info,) = published(stand.later(30), t.INFO)
    assert info.endpoints["ingest"] == {"port": 6180}


steps = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.integers(1, 40)),
        st.tuples(st.just("beat"), st.just(0)),
        st.tuples(st.just("retained beat"), st.integers(-20, 60)),
        st.tuples(st.just("online"), st.just(0)),
        st.tuples(st.just("offline"), st.just(0)),
        st.tuples(st.just("nonsense"), st.just(0)),
        st.tuples(st.just("retained online"), st.just(0)),
        st.tuples(st.just("retained offline"), st.just(0)),
        st.tuples(st.just("deaf"), st.integers(1, 60)),
    ),
    max_size=30,
)


@settings(max_examples=300, deadline=None)
@given(steps)
def test_never_online_when_silent_never_silent_when_online(happened: list[tuple[str, int]]) -> None:
    """Held against a count of its own: ``quiet`` is how long we listened since the last sign of life."""
    stand = Stand(("ledger",))
    quiet: float | None = None  # None: never heard

    for what, value in happened:
        if what == "wait":
            for _ in range(value):
                stand.later(1)
                quiet = None if quiet is None else quiet + 1
                if stand.verdict("ledger") == "online":
                    assert quiet is not None
                    assert quiet < STALE_S
                if quiet is not None and quiet < MISSED_S:
                    assert stand.verdict("ledger") == "online"
                if quiet is not None and quiet >= STALE_S:
                    assert stand.verdict("ledger") != "online"
        elif what == "deaf":
            stand.listening = False
            stale = stand.verdict("ledger") != "online"
            stand.later(value)
            stand.listening = True
            if stale and quiet is not None:
                quiet += value  # silence that was there before goes on
                assert stand.verdict("ledger") != "online"
            elif quiet is not None:
                quiet = 0.0
                assert stand.verdict("ledger") == "online"
        elif what == "beat":
            stand.beat("ledger")
            quiet = 0.0
            assert stand.verdict("ledger") == "online"
        elif what == "retained beat":
            stand.beat("ledger", retained=True, age_s=value)
            age = max(0.0, float(value))
            quiet = age if quiet is None else min(quiet, age)
        elif what == "online":
            stand.say("ledger", "online")
            quiet = 0.0
        else:
            stand.say("ledger", what.removeprefix("retained "), retained=what.startswith("retained"))
    told = len(events(stand))
    stand.later(40)
    assert len(events(stand)) in (told, told + 1)
    assert len(events(stand)) >= 1  # 40 s of silence are told, once
    stand.later(100)
    assert len(events(stand)) in (told, told + 1)
