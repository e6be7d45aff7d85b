"""While the ledger says nothing, its last word is kept to; and a short silence disturbs nobody."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from bus import messages as m
from bus.errors import RefusedError
from services.ingest.allowances import BLIND_S, SILENT_S, STEP_S, Allowances
from services.ingest.model import Cost, Running
from tests.services.ingest.support import INIT, START, UID, Play, created, frame, result
from tests.services.ingest.test_holds import hold, interrupts, prompt, prompts

NEVER = "never heard of"


def word(play: Play, left: float | None, node: float | None = None, *, retained: bool = False) -> None:
    said = m.LedgerAllowances(node_usd=node, sessions={UID: left}, at=play.now)
    play.act(play.core.ledger_said(said, play.now, retained=retained))


def silence(play: Play, seconds: float = SILENT_S) -> None:
    for _ in range(int(seconds / STEP_S)):
        play.act(play.core.ledger_silent(STEP_S, play.now))


def works(play: Play) -> None:
    prompt(play)
    play.say(INIT)


def spends(play: Play, usd: str) -> None:
    """As the agent tells in the running turn."""
    play.record.running.told = usd


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("same_process", [True, False])
@pytest.mark.parametrize(
    ("left", "spent", "held"),
    [
        (None, "99", False),  # no budget stops it
        ("1.5", "0", False),
        ("1.5", "1.49", False),
        ("1.5", "1.5", True),
        ("0", "0", True),
        (NEVER, "0", True),
    ],
)
def test_the_table(
    play: Play, left: str | None, spent: str, held: bool, tells: bool, same_process: bool
) -> None:
    record = play.record
    record.cost, record.tells_cost = Cost(total="7"), tells
    table = Allowances()
    known = {} if left == NEVER else {UID: None if left is None else float(left)}
    table.heard(m.LedgerAllowances(node_usd=None, sessions=known, at=START), [record], retained=False)
    record.running = Running(told=spent)
    record.process += not same_process
    blind = left is not None and (left == NEVER or not (tells and same_process))
    table.silent_s = SILENT_S
    assert (table.refused(record, Decimal(0)) is not None) == (held and not blind)
    table.silent_s = BLIND_S
    assert (table.refused(record, Decimal(0)) is not None) == (held or blind)
    record.kind = "external"
    assert table.refused(record, Decimal(0)) is None


@pytest.mark.parametrize(("node", "held"), [(None, False), (0.3, True), (0.4, False)])
def test_the_nodes_budgets_are_one_purse(tmp_path: Path, node: float | None, held: bool) -> None:
    play = Play(tmp_path / "ingest.sqlite")
    records = []
    for number in range(3):
        play.fact(created(f"s{number}"), uid=f"uid-{number}")
        records.append(play.core.named(f"s{number}", None).record)
    table = Allowances()
    left = {record.uid: node for record in records}
    table.heard(m.LedgerAllowances(node_usd=node, sessions=left, at=START), records, retained=False)
    table.silent_s = SILENT_S
    for record in records:
        record.running.told = "0.1"
    assert table.spent_since(records) == Decimal("0.3")
    assert [table.refused(r, table.spent_since(records)) is not None for r in records] == [held] * 3


def test_a_short_silence_disturbs_nobody(play: Play) -> None:
    word(play, 0.0)  # the ledger's own hold is on its way
    works(play)
    silence(play, SILENT_S - STEP_S)
    assert interrupts(play) == 0
    word(play, 0.0)
    silence(play, SILENT_S - STEP_S)
    assert interrupts(play) == 0
    assert play.state().blocked is None


def test_a_process_that_stood_still_has_not_heard_a_silence(play: Play) -> None:
    word(play, 0.0)
    play.act(play.core.ledger_silent(3600, play.now))
    assert play.core.allowances.silent_s == STEP_S


def test_held_when_the_last_word_is_used_up_and_released_by_the_next(play: Play) -> None:
    word(play, 0.5)
    works(play)
    silence(play)
    spends(play, "0.49")
    silence(play, 60)
    assert interrupts(play) == 0
    prompt(play, "one more", "p2")  # there is something left
    spends(play, "0.5")
    silence(play, 1)
    assert interrupts(play) == 1
    assert play.state().blocked == m.Blocked(by="budget", until=None)
    with pytest.raises(RefusedError, match="what it had left to spend is spent") as refused:
        prompt(play, "and more", "p3")
    assert refused.value.code == "unavailable"
    play.initialize()
    play.say(result("r1", is_error=True, subtype="error_during_execution"))
    play.crash()  # it is kept
    play.connect()
    assert play.state().blocked is not None
    word(play, 0.4, retained=True)  # the broker's copy of an old word is no sign of life
    assert play.state().blocked is not None
    word(play, 4.0)
    assert play.state().blocked is None
    prompt(play, "on", "p4")
    assert prompts(play)[-1] == "on"


def test_the_ledgers_own_hold_is_left_alone(play: Play) -> None:
    word(play, 0.0)
    hold(play)
    works_held = play.state().blocked
    silence(play)
    word(play, 0.0)
    assert play.state().blocked == works_held
    assert play.record.held is not None


def test_an_agent_that_tells_no_figure_is_stopped_and_an_open_question_with_it(play: Play) -> None:
    word(play, 5.0)
    works(play)
    play.record.tells_cost = False
    silence(play, BLIND_S - STEP_S)
    assert interrupts(play) == 0, "one that hangs is back by then"
    silence(play, STEP_S)
    assert interrupts(play) == 1
    play.say(frame(type="assistant", message={"id": "m", "content": "still here"}))
    assert interrupts(play) == 1


def test_what_no_budget_stops_goes_on(play: Play) -> None:
    word(play, None)
    play.record.tells_cost = False
    works(play)
    silence(play, 3600)
    assert interrupts(play) == 0
    prompt(play, "more", "p2")


def test_made_while_the_ledger_is_silent_waits_for_it(play: Play) -> None:
    word(play, None)
    silence(play, BLIND_S)
    play.fact(created("two", prompt="hello"), uid="01JE0000000000000000000000")
    silence(play, 1)
    two = play.core.named("two", None)
    assert two.record.blocked == m.Blocked(by="budget", until=None)
    assert not next(iter(two.prompts.values())).delivered
