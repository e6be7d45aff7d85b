"""Whatever the order, however often, wherever it crashes: the sums are those of an independent count."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from bus import messages as m
from services.ledger.forecast import BURN_S
from tests.services.ledger.support import START, Crash, World, fact_of, report

MODELS = ("opus", "haiku", "sonnet")
UIDS = ("01JD0000000000000000000001", "01JD0000000000000000000002", "01JD0000000000000000000003")


@dataclass(frozen=True)
class Turn:
    """What happens to an agent: ``costs`` is spent by model (10⁻¹² dollars), after what ``before`` says.
    ``later_s`` by the wall clock: within one millisecond, or earlier where it was set back.
    """

    costs: dict[str, int]
    before: str  # "" | clear | kill (resumed at nothing) | exit (resumed at the old total)
    later_s: int


turns = st.lists(
    st.builds(
        Turn,
        st.dictionaries(st.sampled_from(MODELS), st.integers(1, 10**10), max_size=3),
        st.sampled_from(["", "", "clear", "kill", "exit"]),
        st.sampled_from([0, 0, 400, -30]),
    ),
    max_size=6,
)


def usd(amount: int) -> str:
    return str(Decimal(amount).scaleb(-12))


def life(uid: str, session: str, happened: list[Turn]) -> list[m.Fact]:
    """The facts that ingest would post."""
    facts: list[m.Fact] = []
    running: Counter[str] = Counter()
    process, at = 1, START

    def post(turn: int, baseline: bool) -> None:
        data = report(
            turn,
            usd(sum(running.values())),
            {name: (usd(cost), cost, 2 * cost, 0, 0) for name, cost in running.items()},
            process=process,
            baseline=baseline,
            session=session,
            model="opus",
        )
        kind = "base" if baseline else "cost"
        facts.append(fact_of(f"{kind}-{uid[-3:]}-{process}-{turn}-{len(facts)}", "cost", data, at, uid))

    for number, turn in enumerate(happened, 1):
        at += timedelta(seconds=turn.later_s)
        if turn.before:
            if turn.before != "exit":
                running.clear()
            if turn.before != "clear":
                process += 1
            post(number - 1, baseline=True)
        running.update(turn.costs)
        post(number, baseline=False)
    return facts


def opened(uid: str, session: str) -> m.Fact:
    data = m.SessionOpened(session=session, cwd=f"/work/{session}", kind="managed")
    return fact_of(f"opened-{uid}", "opened", data, START, uid)


@settings(max_examples=150, deadline=None)
@given(lives=st.tuples(turns, turns, turns), data=st.data())
def test_any_order_any_duplicates_any_crash(
    lives: tuple[list[Turn], list[Turn], list[Turn]], data: st.DataObject
) -> None:
    """Three sessions, two of them of the same name."""
    names = ("web", "api", "web")
    facts = [opened(uid, name) for uid, name in zip(UIDS, names, strict=True)]
    costs = [
        fact for uid, name, turn in zip(UIDS, names, lives, strict=True) for fact in life(uid, name, turn)
    ]
    facts += data.draw(st.permutations(costs))
    if costs:
        facts += data.draw(st.lists(st.sampled_from(costs), max_size=10))  # again
    world = World()
    world.now = START + timedelta(hours=1)
    for fact in facts:
        crash = data.draw(st.sampled_from([Crash.NONE, Crash.NONE, Crash.BEFORE, Crash.AFTER]))
        world.fact(fact, crash)
        if crash is Crash.BEFORE:  # ingest has seen no acknowledgement, and sends it again
            world.fact(fact)
    assert_agrees(world, lives)
    world.restart()
    assert_agrees(world, lives)
    assert world.store.derived_agrees()
    before = world.store.load(world.now, BURN_S)
    with world.db.transaction():
        world.store.rebuild()
    assert world.store.load(world.now, BURN_S) == before


def assert_agrees(world: World, lives: tuple[list[Turn], ...]) -> None:
    spent: dict[str, Counter[str]] = defaultdict(Counter)
    for uid, happened in zip(UIDS, lives, strict=True):
        for turn in happened:
            spent[uid].update(turn.costs)
    for uid, happened in zip(UIDS, lives, strict=True):
        account = world.ledger.account(uid)
        assert account is not None
        assert account.all.use.cost == spent[uid].total()
        assert account.all.use.input == spent[uid].total()
        assert account.all.turns == len(happened)
        assert {name: y.use.cost for name, y in account.models.items() if y.use.cost} == +spent[uid]
        assert {name: y.use.output for name, y in account.models.items() if y.use.output} == {
            name: 2 * cost for name, cost in spent[uid].items()
        }
    everything = sum(counts.total() for counts in spent.values())
    assert world.ledger.node.all.use.cost == everything
    assert world.ledger.spent("total") == everything
    assert world.ledger.spent("day") == everything
    assert world.session("web").uid == UIDS[2]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.decimals(0, 50, places=4), st.booleans()), max_size=12))
def test_totals_that_fall_without_a_word(steps: list[tuple[Decimal, bool]]) -> None:
    """Never less than the largest total said, and never less than what the last one says was begun."""
    world = World()
    world.open()
    expected, last = Decimal(0), Decimal(0)
    for turn, (total, restart) in enumerate(steps, 1):
        world.later(1)
        world.cost(turn, str(total))
        expected += total - last if total >= last else total
        last = total
        if restart:
            world.restart()
    assert Decimal(world.ledger.node.all.use.cost).scaleb(-12) == expected
