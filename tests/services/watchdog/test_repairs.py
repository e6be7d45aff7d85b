"""Hung services are started again, within limits; seen through the whole core."""

from __future__ import annotations

from services.watchdog.repairs import RESTARTS, RESTARTS_S, Restart
from tests.services.watchdog.support import SERVICES, Stand

OTHERS = tuple(name for name in SERVICES if name != "ledger")


def restarts(stand: Stand) -> list[Restart]:
    return [e for e in stand.said if isinstance(e, Restart)]


def test_a_hung_service_is_ended_once_it_is_noticed() -> None:
    stand = Stand()
    stand.beat(pid=41)
    stand.later(24, beating=OTHERS)
    assert restarts(stand) == []
    stand.later(3, beating=OTHERS)
    assert restarts(stand) == [Restart("ledger", 41, "no heartbeat for 25 s: it hangs")]
    stand.later(20, beating=OTHERS)
    assert len(restarts(stand)) == 1, "it gets time to come up"
    stand.beat("ledger", pid=42)
    stand.later(20, beating=SERVICES)
    assert len(restarts(stand)) == 1


def test_what_hangs_again_and_again_is_left_and_told() -> None:
    stand = Stand()
    stand.beat(pid=41)
    stand.later(round(RESTARTS_S), beating=OTHERS)
    assert len(restarts(stand)) == RESTARTS
    assert [e for e in stand.events() if e[0] == "crash_loop"] == [("crash_loop", "ledger")]
    stand.later(40, beating=OTHERS)
    assert len(restarts(stand)) == RESTARTS + 1, "after a while it is worth another try"


def test_nobody_is_ended_for_our_own_deafness() -> None:
    stand = Stand()
    stand.beat()
    stand.listening = False
    stand.later(300)
    stand.listening = True
    stand.later(20)
    assert restarts(stand) == []


def test_a_service_that_is_offline_is_supervisord_s() -> None:
    stand = Stand()
    stand.beat()
    stand.say("ledger", "offline")
    stand.later(120, beating=OTHERS)
    assert restarts(stand) == []


def test_a_service_that_is_started_again_and_again() -> None:
    stand = Stand()
    for pid in range(50, 57):
        stand.beat("ledger", pid=pid)
        stand.later(5, beating=OTHERS)
    assert [e for e in stand.events() if e[0] == "crash_loop"] == [("crash_loop", "ledger")]
    assert restarts(stand) == []
