"""The second witness: what is booked from transcripts, taken back, compared. On both databases."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bus import messages as m
from bus.effects import Effect, Publish
from services.ledger.database import Database
from services.ledger.files import Place
from services.ledger.model import Use
from services.ledger.transcripts import Call
from services.ledger.watch import Watch
from tests.services.ledger.support import OPUS, START, UID, World, as_step_4_left_it, fact_of

OTHER = "01JD0000000000000000000009"
CALL = 4_000_000 + 2 * 20_000_000  # one token in, two out


@pytest.fixture
def world(database: Database) -> World:
    made = World(database=database)
    made.open()
    follow(made)
    return made


def follow(world: World, conversation: str = "c1", uid: str = UID, **more: Any) -> None:
    data = m.ConversationFollowed(session="web", conversation=conversation, cwd="/work", since=START, **more)
    world.fact(fact_of(f"conv-{uid}-{conversation}", "conversation", data, world.now, uid))


def lost(
    world: World, *heard: str, turn: int = 1, process: int = 1, older: bool = False, **more: Any
) -> None:
    """``older``: as an ingest tells it that names the first message alone."""
    names = [] if older else list(heard)
    data = m.CostUnreported(
        session="web", process=process, turn=turn, conversation="c1", first=heard[0], messages=names, **more
    )
    world.fact(fact_of(f"lost-{process}-{heard[0]}", "unreported", data, world.now))


def call(name: str, at: datetime, *, model: str = OPUS, output: int = 2, w1: int = 0) -> Call:
    use = Use(0, 1, output, 0, w1, 0, w1)
    return Call(f"{name}/r", int(at.timestamp() * 1000), model, use, 0, False, "c1", "/work", None)


def read(world: World, *calls: Call, uid: str = UID, conversation: str = "c1") -> list[Effect]:
    place = ("/transcript", Place(1, 1))
    effects = world.act(world.ledger.read(uid, [(conversation, list(calls), [place])], world.now))
    return [*effects, *world.act(world.ledger.read(uid, [], world.now))]


def drifts(world: World) -> list[str]:
    said = [effect.payload for effect in world.said if isinstance(effect, Publish)]
    return [one.reason for one in said if isinstance(one, m.LedgerEvent) and one.action == "drift"]


def pico(usd: float | None) -> int:
    return round((usd or 0) * 10**12)


def test_what_a_killed_agent_could_not_report(world: World) -> None:
    world.cost(1, "0.000044")
    world.later(10)
    lost(world, "b", "c")
    calls = [call("a", START), call("b", START + timedelta(seconds=3)), call("c", world.now)]
    read(world, *calls, call("next", world.now + timedelta(seconds=1)))
    found = world.session()
    assert (pico(found.spent_usd), pico(found.estimated_usd), found.turns) == (3 * CALL, 2 * CALL, 1)
    assert pico(found.witnesses.agent_usd) == CALL
    read(world, *calls)
    world.restart()
    assert world.session().spent_usd == found.spent_usd
    assert world.session().witnesses.transcript_usd == 4 * CALL / 10**12
    assert world.ledger.witness.due() == []


@pytest.mark.parametrize("older", [False, True])
def test_messages_of_the_same_millisecond_are_told_apart(world: World, older: bool) -> None:
    """What stands before "a" is in the total of turn 1, whatever it is called; "a" and "c" are not."""
    world.cost(1, "0.000044")
    lost(world, "a", older=older)
    read(world, call("b", START), call("a", START), call("c", START))
    world.later(4)
    read(world)
    assert pico(world.session().spent_usd) == 3 * CALL


def test_a_clock_that_is_set_back_in_mid_life_counts_nothing_twice(world: World) -> None:
    """Before the lost turn, within it, and before the next process's first."""
    at = [START + timedelta(seconds=s) for s in (60, 30, 50, 40)]
    world.now = at[0]
    world.cost(1, "0.000044")
    world.now = at[2]
    lost(world, "b", "c", whole=True)
    read(world, *(call(name, then) for name, then in zip("abcd", at, strict=True)))
    world.restart()
    world.cost(2, "0.000044", process=2)
    assert pico(world.session().spent_usd) == 4 * CALL
    assert world.store.derived_agrees()


def test_what_nobody_heard_is_booked_up_to_the_end_of_its_process(world: World) -> None:
    world.later(10)
    lost(world, "a", turn=0)
    read(world, call("a", START), call("b", START), call("c", world.now))
    read(world, call("next", world.now + timedelta(seconds=1)))
    assert pico(world.session().spent_usd) == 3 * CALL


def test_what_is_heard_of_a_process_late_is_booked_once(world: World) -> None:
    """Its bridge came again after its end had taken effect: "b" was taken from the transcript by then."""
    lost(world, "a", turn=0)
    read(world, call("a", START), call("b", START))
    assert pico(world.session().spent_usd) == 2 * CALL
    world.restart()
    world.later(10)
    lost(world, "b", turn=0, whole=True)
    read(world, call("next", world.now + timedelta(seconds=1)))
    assert pico(world.session().spent_usd) == 2 * CALL
    assert drifts(world) == []
    assert world.ledger.witness.due() == []


def test_the_transcript_of_a_subagent_is_waited_for(world: World) -> None:
    """All that was heard is to be read before any of it is booked, as long as that may still come."""
    lost(world, "a", "sub", turn=0, usage={OPUS: m.RunningUsage(input=1, output=2)})
    read(world, call("a", START))
    assert world.session().spent_usd == 0
    read(world, call("sub", START))
    assert pico(world.session().spent_usd) == 2 * CALL


def test_what_an_older_release_has_left_is_booked(reopen: Callable[[], Database]) -> None:
    world = World(database=reopen())
    world.open()
    follow(world)
    read(world, call("a", START))
    world.later(10)
    lost(world, "b", turn=0, older=True)
    calls = [call("b", START + timedelta(seconds=1)), call("c", world.now)]
    world.act(world.ledger.read(UID, [("c1", calls, [])], world.now))
    with world.db.transaction():
        as_step_4_left_it(world.db)
    again = World(database=reopen())
    again.now = world.now
    read(again, call("next", again.now + timedelta(seconds=1)))
    assert [row[-1] for row in again.rows()] == ["lost-1-b/b/r", "lost-1-b/c/r"]


def test_what_had_only_been_streamed_is_booked_as_well(world: World) -> None:
    told = m.RunningUsage(input=3, output=6, cache_write_1h=1)
    lost(world, "a", turn=0, usage={OPUS: told})
    read(world, call("a", START))
    assert world.session().spent_usd == 0, "the agent may still be writing"
    world.later(4)
    read(world)
    assert pico(world.session().spent_usd) == 3 * CALL + 8_000_000
    world.restart()
    (one,) = world.evidence.lost()
    assert (one.state, one.beyond) == ("booked", 2 * CALL + 8_000_000)


def test_a_later_total_takes_the_estimate_back(world: World) -> None:
    world.cost(1, "0.000044")
    world.later(1)
    lost(world, "b")
    read(world, call("a", START), call("b", world.now))
    assert pico(world.session().spent_usd) == 2 * CALL
    world.restart()
    world.cost(2, "0.000088")  # its last frames were read late
    assert pico(world.session().spent_usd) == 2 * CALL
    assert world.session().estimated_usd == 0
    world.restart()
    assert pico(world.session().spent_usd) == 2 * CALL
    assert world.store.derived_agrees()
    world.cost(3, "0.000132")
    assert pico(world.session().spent_usd) == 3 * CALL


def test_another_process_takes_nothing_back(world: World) -> None:
    lost(world, "a", turn=0)
    read(world, call("a", START))
    world.cost(1, "1", process=2)
    assert pico(world.session().spent_usd) == CALL + 10**12


def test_a_transcript_that_never_comes(world: World) -> None:
    lost(world, "a")
    world.later(60)
    read(world, call("other", world.now))
    assert world.ledger.witness.due() == [UID]
    world.later(70)
    read(world)
    assert world.session().spent_usd == 0
    assert "no transcript" in drifts(world)[0]
    assert world.ledger.witness.due() == []


def test_a_call_belongs_to_one_session(world: World) -> None:
    other = "01JE0000000000000000000000"
    world.open(uid=other, session="other")
    follow(world, uid=other)
    read(world, call("a", START))
    assert pico(world.session().witnesses.transcript_usd) == CALL
    read(world, call("a", START), uid=other)
    assert world.session("other").witnesses.transcript_usd is None
    read(world, call("a", START, output=3))  # a larger telling
    assert pico(world.session().witnesses.transcript_usd) == CALL + 20_000_000
    read(world, call("a", START, output=1))
    assert pico(world.session().witnesses.transcript_usd) == CALL + 20_000_000
    world.restart()
    assert pico(world.session().witnesses.transcript_usd) == CALL + 20_000_000
    assert pico(world.total().witnesses.transcript_usd) == CALL + 20_000_000


def test_an_agent_that_reports_nothing_is_booked_from_its_transcript(world: World) -> None:
    follow(world, "c2", booked=True)
    read(world, call("a", START), call("x", START, model="my-model"), conversation="c2")
    read(world, call("a", START, output=3), conversation="c2")
    found = world.session()
    assert (pico(found.spent_usd), found.turns, found.unpriced) == (CALL + 20_000_000, 2, ["my-model"])
    assert found.estimated_usd == found.spent_usd
    assert [row[2] for row in world.rows()] == [CALL, 0, 20_000_000]  # a correction is a new row
    read(world, call("a", START, output=3), conversation="c2")
    world.restart()
    assert world.session().spent_usd == found.spent_usd


@pytest.mark.parametrize("clock", [1, -1], ids=["went on", "was set back"])
def test_a_resumed_conversation_is_booked_for_the_session_that_has_it_now(world: World, clock: int) -> None:
    """Both follow the same file: what one has read, the other will not see."""
    follow(world, "c2", booked=True)
    assert world.ledger.witness.due() == [UID]
    since = START + clock * timedelta(hours=1)
    data = m.ConversationFollowed(session="on", conversation="c2", cwd="/work", since=since, booked=True)
    world.fact(fact_of("conv-2", "conversation", data, world.now, OTHER))
    for _ in range(2):  # the order in which they were told is kept
        assert world.ledger.witness.due() == [OTHER]
        assert [one.conversation for one in world.ledger.witness.conversations(UID)] == ["c1"]
        assert [one.conversation for one in world.ledger.witness.conversations(OTHER)] == ["c2"]
        world.restart()


@pytest.mark.parametrize(
    ("total", "calls", "cause"),
    [
        ("0.000044", [call("a", START)], None),
        ("0.0000443", [call("a", START)], None),  # less than 1 %
        ("0.000088", [call("a", START)], "stand in no transcript"),
        ("0.000044", [call("a", START), call("b", START)], "agent does not count"),
        ("0.005044", [call("a", START, w1=1000)], "1-hour cache writes"),
        ("0.000044", [call("a", START), call("b", START, model="my-model")], None),
        ("0.1", [call("a", START), call("b", START, model="my-model")], "no price for my-model"),
    ],
)
def test_drift_and_its_cause(world: World, total: str, calls: list[Call], cause: str | None) -> None:
    world.cost(1, total)
    read(world, *calls, call("next turn", world.now + timedelta(seconds=2)))
    assert drifts(world) == []  # the agent may still be writing
    world.later(4)
    read(world)
    found = world.session()
    assert (cause or "-") in (found.drift_cause or "-")
    assert len(drifts(world)) == (cause is not None)
    if cause is not None:
        seen = sum(world.evidence.spent(UID, START) or 0 for _ in [0])
        assert pico(found.drift_usd) == round(float(total) * 10**12) - seen
        assert found.drift_usd == world.total().drift_usd
        world.cost(2, total)
        world.later(4)
        read(world)
        assert len(drifts(world)) == 1  # said once


def test_what_a_transcript_had_before_the_session_is_not_its(tmp_path: Path, world: World) -> None:
    """Whatever the clock says afterwards: what is appended to it then is."""
    path = tmp_path / "-work" / "c1.jsonl"
    path.parent.mkdir()
    watch = Watch(
        world.ledger.witness,
        read=world.ledger.read,
        root=tmp_path,
        place=world.evidence.place,
        act=world.act,
        now=lambda: world.now,
        broken=lambda _count: None,
        refused=lambda uid, path: None,
    )

    def read_of(uid: str, *written: Call) -> int:
        with path.open("a") as file:
            file.writelines(line(one) for one in written)
        watch.read_now(uid)
        account = world.ledger.account(uid)
        assert account is not None
        return (account.transcript or 0) // CALL

    world.now = START - timedelta(hours=2)  # set back
    assert read_of(UID, call("old", world.now), call("a", START)) == 1
    assert read_of(UID, call("b", world.now)) == 2
    follow(world, uid=OTHER)
    assert read_of(OTHER, call("c", world.now), call("d", START)) == 1  # it has not read in it before
    assert read_of(OTHER, call("e", world.now)) == 2
    assert read_of(UID) == 2


def line(one: Call) -> str:
    """As the agent writes it."""
    name, _, request = one.key.partition("/")
    usage = {"input_tokens": one.use.input, "output_tokens": one.use.output}
    at = datetime.fromtimestamp(one.at / 1000, UTC).isoformat()
    message = {"id": name, "model": one.model, "usage": usage}
    return (
        json.dumps(
            {
                "type": "assistant",
                "message": message,
                "requestId": request,
                "timestamp": at,
                "sessionId": "c1",
            }
        )
        + "\n"
    )
