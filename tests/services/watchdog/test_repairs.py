"""Hung services are started again, within limits; seen through the whole core."""

from __future__ import annotations

from services.watchdog.repairs import RESTARTS, RESTARTS_S, Restart
from tests.services.watchdog.support import SERVICES, Stand

OTHERS = tuple(name for name in SERVICES if name != "ledger")


def restarts(stand: Stand) -> list[Restart]:
    return [e for e in stand.said if isinstance(e, Restart)]


def hangs_on(stand: Stand, seconds: int) -> None:
    """Time passes; each process that is to be ended is ended, and its successor hangs as well."""
    for _ in range(seconds):
        said = stand.later(1)
        stand.beat(*OTHERS)
        for effect in [e for e in said if isinstance(e, Restart)]:
            stand.said += stand.dog.repairs.ended(effect, stand.mono, stand.now)


def test_a_hung_service_is_ended_once_it_is_noticed() -> None:
    stand = Stand()
    stand.beat(pid=41)
    stand.later(24, beating=OTHERS)
    assert restarts(stand) == []
    stand.later(3, beating=OTHERS)
    assert restarts(stand) == [Restart("ledger", 41, "no heartbeat for 25 s: it hung")]
    stand.later(20, beating=OTHERS)
    assert len(restarts(stand)) == 1, "it gets time to come up"
    stand.beat("ledger", pid=42)
    stand.later(20, beating=SERVICES)
    assert len(restarts(stand)) == 1


def test_what_hangs_again_and_again_is_left_and_told() -> None:
    stand = Stand()
    stand.beat(pid=41)
    hangs_on(stand, round(RESTARTS_S))
    assert len(restarts(stand)) == RESTARTS
    told = [action for action, service in stand.events() if service == "ledger"]
    assert told == ["service_stale", *["service_restarted"] * RESTARTS, "crash_loop"]
    hangs_on(stand, 40)
    assert len(restarts(stand)) == RESTARTS + 1, "after a while it is worth another try"


def test_nobody_is_ended_for_our_own_deafness() -> None:
    stand = Stand()
    stand.beat()
    stand.listening = False
    stand.later(300)
    stand.listening = True
    stand.later(20)
    assert restarts(stand) == []


def test_a_hung_service_that_the_broker_gave_up_says_offline_and_is_ended_all_the_same() -> None:
    stand = Stand()
    stand.beat(pid=41)
    stand.later(20, beating=OTHERS)
    stand.say("ledger", "offline")  # its last will
    stand.later(8, beating=OTHERS)
    assert [effect.pid for effect in restarts(stand)] == [41]


def test_a_service_whose_process_is_gone_is_supervisord_s() -> None:
    """It is looked for, and nothing is counted or told."""
    stand = Stand()
    stand.beat()
    stand.say("ledger", "offline")
    stand.later(round(RESTARTS_S), beating=OTHERS)
    assert [action for action, _ in stand.events()] == ["service_stale"]


def test_a_service_that_is_started_again_and_again() -> None:
    stand = Stand()
    for pid in range(50, 57):
        stand.beat("ledger", pid=pid)
        stand.later(5, beating=OTHERS)
    assert stand.events() == [("crash_loop", "ledger")]
    assert restarts(stand) == []
