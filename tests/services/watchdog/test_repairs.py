"""Hung services are started again, within limits; seen through the whole core."""

from __future__ import annotations

import msgspec
import pytest

from services.watchdog.programs import Program, Said
from services.watchdog.repairs import DEATHS, RESTARTS, RESTARTS_S, Restart, Start
from tests.services.watchdog.support import SERVICES, Stand

OTHERS = tuple(name for name in SERVICES if name != "ledger")


def restarts(stand: Stand) -> list[Restart]:
    return [e for e in stand.said if isinstance(e, Restart)]


def hangs_on(stand: Stand, seconds: int) -> None:
    """Time passes; each process that is to be restarted is, and its successor hangs as well."""
    for _ in range(seconds):
        said = stand.later(1)
        stand.beat(*OTHERS)
        for effect in [e for e in said if isinstance(e, Restart)]:
            stand.supervisor(restarted=effect.service)


def test_a_hung_service_is_restarted_once_it_is_noticed() -> None:
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


def test_a_hung_service_that_the_broker_gave_up_says_offline_and_is_restarted_all_the_same() -> None:
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


def test_what_supervisord_could_not_restart_counts_as_nothing() -> None:
    stand = Stand()
    stand.beat(pid=41)
    stand.later(26, beating=OTHERS)
    stand.supervisor(restarted="ledger", problem="process 41 is not ledger")
    stand.later(round(RESTARTS_S), beating=OTHERS)
    assert [action for action, _ in stand.events()] == ["service_stale"]


def test_the_watchdog_tells_that_it_was_itself_restarted() -> None:
    stand = Stand()
    stand.supervisor(restarted="watchdog", reason="it did not answer")
    stand.later(1)
    assert stand.events() == [("service_restarted", "watchdog")]


def test_a_service_that_dies_again_and_again() -> None:
    stand = Stand()
    stand.beat()
    for _ in range(DEATHS):
        assert stand.events() == []
        stand.supervisor(died="ledger")
        stand.later(5, beating=SERVICES)
    assert stand.events() == [("crash_loop", "ledger")]
    for _ in range(DEATHS):
        stand.supervisor(died="ledger")
        stand.later(50, beating=SERVICES)
    assert stand.events() == [("crash_loop", "ledger")], "four in a day are no loop"
    assert restarts(stand) == []


@pytest.mark.parametrize(
    ("state", "code", "why"),
    [
        ("EXITED", 2, "a mistake in the configuration; it is started again when that file is changed"),
        ("EXITED", 3, "it runs already for this home; it is not started again"),
        ("EXITED", 70, None),
        ("BACKOFF", 0, "it ends as soon as it is started"),
        ("FATAL", 0, "gave it up"),
        ("STARTING", 0, None),
        ("RUNNING", 0, None),
    ],
)
def test_health_says_why_a_service_is_not_there(state: str, code: int, why: str | None) -> None:
    stand = Stand()
    stand.beat()
    stand.say("ledger", "offline")
    stand.supervisor(processes=(Program("ledger", state, 0, code), Program("watchdog", "RUNNING", 7, 0)))
    stand.later(15, beating=OTHERS)
    (reason,) = stand.health().reasons
    assert reason.startswith("ledger is offline")
    assert (why is None) == (reason == "ledger is offline")
    assert why is None or (why in reason and "pointsman logs ledger" in reason)


def starts(stand: Stand) -> int:
    return sum(isinstance(effect, Start) for effect in stand.said)


def test_what_ended_over_a_mistake_is_started_once_for_each_state_of_the_file() -> None:
    left, runs = Program("ledger", "EXITED", 0, 2), Program("ledger", "RUNNING", 8, 2)
    stand = Stand(supervised=True)

    def supervisord_says(program: Program) -> None:
        stand.supervisor(processes=(program, Program("supervision", "RUNNING", 66, 0)))
        stand.later(5, beating=OTHERS)

    supervisord_says(left)
    assert starts(stand) == 1, "it may have been mended since the service read it"
    supervisord_says(left)
    assert starts(stand) == 2, "supervisord has not said that it was started: it may not have heard"
    stand.supervisor(started="ledger", problem="not today")
    supervisord_says(left)
    assert starts(stand) == 3
    stand.supervisor(started="ledger")
    for _ in range(3):
        supervisord_says(left)
    assert starts(stand) == 3
    stand.config_file = (1,)
    supervisord_says(left)
    assert starts(stand) == 4
    stand.config_file = (2,)  # it may have read the one before
    stand.supervisor(started="ledger")
    supervisord_says(left)
    assert starts(stand) == 5
    stand.supervisor(started="ledger")
    supervisord_says(runs)
    stand.config_file = None
    supervisord_says(runs)
    assert starts(stand) == 5
    assert stand.events().count(("service_restarted", "ledger")) == 3


@pytest.mark.parametrize("program", [Program("ledger", "EXITED", 0, 3), Program("ledger", "STARTING", 0, 2)])
def test_nobody_else_is_started(program: Program) -> None:
    stand = Stand(supervised=True)
    stand.supervisor(processes=(program,))
    stand.later(5)
    assert starts(stand) == 0


def test_a_silent_supervisord_degrades_and_the_listener_is_restarted() -> None:
    stand = Stand(supervised=True)
    everybody = (Program("supervision", "RUNNING", 66, 0),)
    for _ in range(10):
        stand.supervisor(processes=everybody)
        stand.later(5, beating=SERVICES)
    assert (stand.health().status, restarts(stand)) == ("healthy", [])
    stand.later(30, beating=SERVICES)
    assert stand.health().reasons == ["supervisord does not answer: what hangs is not restarted"]
    assert [(effect.service, effect.pid) for effect in restarts(stand)] == [("supervision", 66)]
    stand.supervisor(processes=everybody)
    stand.later(1, beating=SERVICES)
    assert stand.health().status == "healthy"


def test_without_supervisord_nobody_waits_for_its_word() -> None:
    stand = Stand()
    stand.later(100, beating=SERVICES)
    assert stand.health().status == "healthy"


def test_a_word_of_supervisord_may_hold_fields_that_are_new() -> None:
    assert msgspec.json.decode(b'{"died": "ledger", "later": 1}', type=Said) == Said(died="ledger")
