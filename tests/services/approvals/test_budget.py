"""Questions of a session whose budget is exhausted: denied, by the budget, once."""

from __future__ import annotations

import pytest

from bus import topics as t
from bus.errors import RefusedError
from tests.services.approvals.support import World, error, published

WHY = "web has spent it all"


def test_an_open_question_is_denied() -> None:
    world = World()
    world.ask()
    said = world.forbid()
    (outcome,) = published(said, t.APPROVAL_OUTCOME)
    assert (outcome.decision, outcome.by, outcome.via, outcome.rule) == ("denied", "budget", "budget", None)
    assert outcome.reason == WHY
    assert published(said, t.APPROVAL_REQUEST) == [None]
    (answer,) = world.answers()
    assert (answer.decision, answer.message) == ("denied", f"Denied by Pointsman: {WHY}")
    world.restart()
    assert error(world.decide()) == "already_decided"
    assert world.forbid() == []
    assert len(world.audited("outcome")) == 1


def test_a_question_of_a_held_session_is_denied_whatever_the_rules_say() -> None:
    world = World()
    said = world.ask(tool="Read", input_json='{"file_path":"/work/app/x"}', held=WHY)
    (outcome,) = published(said, t.APPROVAL_OUTCOME)
    assert (outcome.decision, outcome.via) == ("denied", "budget")
    assert not published(said, t.APPROVAL_REQUEST)
    (answer,) = world.answers()
    assert answer.decision == "denied"


def test_what_is_decided_stays() -> None:
    world = World()
    world.ask()
    world.decide()
    assert world.forbid() == []
    assert world.approval().state == "approved"


def test_what_nobody_answered_in_time_has_expired() -> None:
    world = World()
    world.ask()
    world.later(61)
    (outcome,) = published(world.forbid(), t.APPROVAL_OUTCOME)
    assert outcome.decision == "expired"


def test_one_that_was_never_asked() -> None:
    with pytest.raises(RefusedError) as caught:
        World().forbid("a9")
    assert caught.value.code == "unknown_approval"
