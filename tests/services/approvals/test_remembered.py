"""What is remembered settles the same call where it waits, and goes with the session that it was for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bus import messages as m
from bus import topics as t
from bus.effects import Post
from services.approvals.model import Approver, State
from tests.services.approvals.support import SIGHT, START, UID, World, fact, policy, published, question

OTHER = "01JD0000000000000000000001"
MAKE = '{"command":"make"}'


def asked_by(world: World, approval: str, uid: str, **more: str) -> None:
    q = question(approval, MAKE, **more)
    world.act(world.gate.question(fact(f"question-{approval}", "question", q, uid), q, world.now))


def over(world: World, uid: str = UID) -> None:
    o = m.SessionOver(session="web")
    world.act(world.gate.over(fact(f"over-{uid}", "over", o, uid), o, world.now))


# ── the same call that waits ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("decision", "state"), [("approve", State.APPROVED), ("deny", State.DENIED)])
def test_the_same_call_that_waits_is_decided_with_it(decision: str, state: State) -> None:
    world = World(sight=SIGHT)
    world.ask("a1", MAKE)
    world.ask("a2", '{"description":"once more","command":"make"}')
    asked_by(world, "a3", OTHER, session="docs")
    world.ask("b1", '{"command":"make all"}')
    world.ask("b2", MAKE, cwd="/work/other")
    effects = world.decide("a1", decision, remember="always")
    (rule,) = world.store.remembered()
    for approval in ("a2", "a3"):
        outcome = world.approval(approval).outcome
        assert outcome is not None
        assert (outcome.decision, outcome.via, outcome.by, outcome.rule) == (
            state,
            "policy",
            rule.id,
            rule.id,
        )
        assert [answer.decision for answer in world.answers(approval)] == [state]
    assert [e.fact.id for e in effects if isinstance(e, Post)] == ["answer-a1", "answer-a2", "answer-a3"]
    assert [a.id for a in world.store.pending()] == ["b1", "b2"]
    (waiting,) = published(effects, t.APPROVALS_PENDING)[-1:]
    assert [item.id for item in waiting.items] == ["b1", "b2"]
    outcomes = [row.approval for row in world.store.audit_rows() if row.action == "outcome"]
    assert outcomes == ["a1", "a2", "a3"]
    world.restart()
    world.decide("a2", "deny")
    assert world.approval("a2").state is state, "once"


def test_a_rule_for_the_session_settles_only_its_own() -> None:
    world = World(sight=SIGHT)
    world.ask("a1", MAKE)
    world.ask("a2", MAKE)
    asked_by(world, "a3", OTHER)
    world.decide("a1", remember="session")
    assert [a.id for a in world.store.pending()] == ["a3"]


def test_what_two_were_to_see_waits_for_both() -> None:
    """The rule that wanted two is gone since; who was asked then is asked still. One no is enough."""
    two = policy({"decision": "ask", "command": "make", "require": 2})
    for decision, left in (("approve", ["a1"]), ("deny", [])):
        world = World(sight=SIGHT, rules=two, approvers=(Approver("operator"), Approver("ada", since="1")))
        world.ask("a1", MAKE)
        world.adopt(policy())
        world.ask("a2", MAKE)
        world.decide("a2", decision, remember="always")
        assert [a.id for a in world.store.pending()] == left


def test_what_was_shown_as_more_dangerous_waits() -> None:
    """A link that led elsewhere when the first was asked: it was shown as critical, and is not now."""
    links = {"/work/app/notes": "/home/ada/.ssh/authorized_keys"}
    sight = replace(SIGHT, resolve=lambda path: links.get(path, path))
    world = World(sight=sight)
    write = '{"file_path":"/work/app/notes","content":"x"}'
    world.ask("a1", write, tool="Write")
    links.clear()
    world.ask("a2", write, tool="Write")
    world.decide("a2", remember="always")
    assert [(a.id, a.danger.level) for a in world.store.pending()] == [("a1", "critical")]


def test_what_has_grown_more_dangerous_waits() -> None:
    links: dict[str, str] = {}
    sight = replace(SIGHT, resolve=lambda path: links.get(path, path))
    world = World(sight=sight)
    write = '{"file_path":"/work/app/notes","content":"x"}'
    world.ask("a1", write, tool="Write")
    (medium,) = world.store.pending()
    assert medium.danger.level == "medium"
    world.ask("a2", write, tool="Write")
    links["/work/app/notes"] = "/home/ada/.ssh/authorized_keys"
    world.decide("a2", remember="always")
    assert [a.id for a in world.store.pending()] == ["a1"], "the rule reaches up to medium"


def test_what_has_expired_is_not_approved_late() -> None:
    world = World(sight=SIGHT)
    world.ask("a1", MAKE)
    world.later(59)
    world.ask("a2", MAKE)
    world.later(1)
    world.decide("a2", remember="always")
    world.tick()
    assert world.approval("a1").state is State.EXPIRED


# ── the end of a session ─────────────────────────────────────────────────────────────────────────────────


def test_a_rule_for_a_session_ends_with_it() -> None:
    world = World(sight=SIGHT)
    world.ask("a1", MAKE)
    world.decide("a1", remember="session")
    world.ask("a2", '{"command":"ls"}')
    world.decide("a2", remember="always")
    asked_by(world, "a3", OTHER, session="docs", cwd="/work/docs")
    world.decide("a3", remember="session")
    own, for_good, others = (entry["id"] for entry in world.gate.policy()["remembered"])
    over(world)
    assert [entry["id"] for entry in world.gate.policy()["remembered"]] == [for_good, others]
    world.restart()
    assert [entry.id for entry in world.store.remembered()] == [for_good, others]
    (row,) = world.audited("forgotten")
    assert row == {"rule": own, "reason": "the session web is over"}
    over(world)
    assert len(world.audited("forgotten")) == 1


def test_the_next_session_of_that_name_inherits_nothing() -> None:
    """Also while the end of the first has not arrived yet."""
    world = World(sight=SIGHT)
    world.ask("a1", MAKE)
    world.decide("a1", remember="session")
    asked_by(world, "a2", OTHER)
    assert world.approval("a2").state is State.PENDING
    over(world)
    asked_by(world, "a3", OTHER)
    assert world.approval("a3").state is State.PENDING
    assert world.now == START
