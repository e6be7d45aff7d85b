"""Whatever clocks say, whenever transcripts are read, wherever it crashes: every call of a model counts once.

A session's agents live and are killed; what they say is in order, in ingest's facts and in the transcript.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from itertools import cycle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus import messages as m
from services.ledger.database import open_database
from services.ledger.files import Place
from services.ledger.model import Use
from services.ledger.transcripts import Call
from services.ledger.witness import GIVE_UP_S
from tests.services.ledger.support import OPUS, START, UID, World, fact_of, report
from tests.support import postgres

CALL = 4_000_000 + 2 * 20_000_000  # one token in, two out
MS = timedelta(milliseconds=1)
START_OF_AGENTS = START + timedelta(hours=1)


@dataclass(frozen=True)
class Turn:
    """``heard`` calls, and ``unheard`` ones; ``killed`` before its result. ``late``: those that are heard
    when the process's end has taken effect. ``steps``: what the clock goes on by before each of them and
    before the ends, in milliseconds.
    """

    heard: int
    late: int
    unheard: int
    killed: bool
    steps: list[int]


@dataclass
class Life:
    """What happened, in order: facts of ingest, and lines of the transcript."""

    happened: list[m.Fact | Call] = field(default_factory=list)
    calls: int = 0


def turns(steps: st.SearchStrategy[int], unheard: int) -> st.SearchStrategy[list[Turn]]:
    """Names sort by themselves: only the order in which things happen is the true one."""
    each = st.lists(steps, min_size=8, max_size=8)
    done = st.builds(Turn, st.integers(1, 3), st.just(0), st.just(0), st.just(False), each)
    some = st.integers(0, unheard)
    killed = st.builds(Turn, st.integers(1, 3), some, some, st.just(True), each)
    return st.lists(st.one_of(done, killed), min_size=1, max_size=6)


def life(lived: list[Turn], names: list[str], *, older: bool) -> Life:
    """What ingest says, and the agent writes. ``older``: an ingest that names the first message alone."""
    made = Life()
    at, process, total, results = START_OF_AGENTS, 1, 0, 0

    def say(kind: str, data: m.Payload) -> None:
        made.happened.append(fact_of(f"{kind}-{len(made.happened)}", kind, data, at))

    say("conversation", m.ConversationFollowed(session="web", conversation="c1", cwd="/work", since=START))
    for turn in lived:
        steps = cycle(turn.steps)
        said = []
        for _ in range(turn.heard + turn.late + turn.unheard):
            at += next(steps) * MS
            name = names[made.calls]
            made.calls += 1
            said.append(name)
            ms = round(at.timestamp() * 1000)
            made.happened.append(Call(f"{name}/r", ms, OPUS, Use(0, 1, 2), 0, False, "c1", "/work", None))
        at += next(steps) * MS
        if turn.killed:
            rest = said[turn.heard :]
            for heard, after in ((said[: turn.heard], len(rest)), (rest[: turn.late], turn.unheard)):
                if not heard:
                    continue
                data = m.CostUnreported(
                    session="web",
                    process=process,
                    turn=results,
                    conversation="c1",
                    first=heard[0],
                    messages=[] if older else heard,
                    whole=not older and not after,
                )
                say("unreported", data)
                at += next(steps) * MS
            process, total = process + 1, 0
            at += MS  # the next process is started after that
        else:
            total += len(said)
            results += 1
            usd = f"{total * CALL / 10**12:.6f}"
            say("cost", report(results, usd, {OPUS: (usd, total, 2 * total, 0, 0)}, process=process))
        at += next(steps) * MS
    return made


def told(world: World, lived: Life, data: st.DataObject) -> None:
    """Everything in its order, the ledger behind it by as much as may be: facts and lines apart."""
    world.open()
    facts = [one for one in lived.happened if isinstance(one, m.Fact)]
    written = [one for one in lived.happened if isinstance(one, Call)]
    world.fact(facts.pop(0))
    read_to = 0

    def read(up_to: int) -> None:
        nonlocal read_to
        found = ("c1", written[read_to:up_to], [("/transcript", Place(1, up_to))])
        read_to = up_to
        world.act(world.ledger.read(UID, [found], world.now))
        world.act(world.ledger.read(UID, [], world.now))

    for place, fact in enumerate(facts):
        position = lived.happened.index(fact)
        there = sum(isinstance(one, Call) for one in lived.happened[:position])
        world.now = max(world.now, fact.at)
        if data.draw(st.booleans()):
            read(data.draw(st.integers(max(read_to, there), len(written)), label=f"read before {place}"))
        world.fact(fact)
        if data.draw(st.booleans()):
            world.restart()
        if data.draw(st.booleans()):
            read(max(read_to, there))
    read(len(written))
    world.now += timedelta(seconds=2 * GIVE_UP_S)
    read(len(written))
    assert world.ledger.witness.due() == []


def agrees(world: World, lived: Life) -> None:
    account = world.ledger.account(UID)
    assert account is not None
    assert account.all.use.cost == lived.calls * CALL
    assert account.transcript == lived.calls * CALL
    assert world.store.derived_agrees()


names = st.permutations([f"msg_{number}" for number in range(42)])
ANY_CLOCK = st.sampled_from([0, 0, 1, 1000, 60_000, -1, -1000, -60_000])
"""Within the hour before which nothing is the session's."""
A_CLOCK = st.sampled_from([0, 0, 0, 0, 0, 0, 1, 1000])
"""As clocks go: never back. Many things happen in one millisecond."""


@settings(max_examples=100, deadline=None)
@given(lived=turns(ANY_CLOCK, unheard=0), names=names, data=st.data())
def test_what_was_heard_counts_once_whatever_the_clock_says(
    lived: list[Turn], names: list[str], data: st.DataObject
) -> None:
    world, happened = World(), life(lived, names, older=False)
    told(world, happened, data)
    agrees(world, happened)
    world.restart()
    agrees(world, happened)


@settings(max_examples=100, deadline=None)
@given(lived=turns(A_CLOCK, unheard=2), names=names, older=st.booleans(), data=st.data())
def test_what_nobody_heard_counts_once_where_no_clock_is_set_back(
    lived: list[Turn], names: list[str], older: bool, data: st.DataObject
) -> None:
    world, happened = World(), life(lived, names, older=older)
    told(world, happened, data)
    agrees(world, happened)


@settings(max_examples=10, deadline=None)
@given(lived=turns(A_CLOCK, unheard=2), names=names, data=st.data())
def test_the_same_on_postgresql(
    postgres_server: postgres.Server,
    tmp_path_factory: pytest.TempPathFactory,
    lived: list[Turn],
    names: list[str],
    data: st.DataObject,
) -> None:
    mailbox = tmp_path_factory.mktemp("witness") / "mailbox.sqlite"
    database = open_database(postgres.schema(postgres_server.url), mailbox)
    world, happened = World(database=database), life(lived, names, older=False)
    told(world, happened, data)
    agrees(world, happened)
    database.close()
