"""Users come and go while approvals wait: who has a token, and what a removed one is still worth."""

from __future__ import annotations

from typing import Any

import pytest

from bus import messages as m
from bus import topics as t
from bus.effects import Effect, Publish
from services.approvals.tokens import Tokens
from tests.services.approvals.support import HOME, KEY, RULES, TwoYes, World, error, published, result, user


def tokens(effects: list[Effect]) -> dict[str, str | None]:
    """User → token; None where it was cleared."""
    return {
        e.values["user"]: e.payload.token if isinstance(e.payload, m.ApprovalToken) else None
        for e in effects
        if isinstance(e, Publish) and e.row is t.APPROVAL_TOKEN
    }


def test_a_user_may_decide_what_waits_already_and_not_any_more_once_removed() -> None:
    w = World()
    w.ask()
    said = tokens(w.admit(user("ada"), user("vic", "viewer", None), user("wall", "device", "low")))
    assert said.keys() == {"ada"}  # a viewer and a device have none
    ada = said["ada"]
    assert w.admit(user("ada"), user("vic", "viewer", None), user("wall", "device", "low")) == []
    assert tokens(w.admit()) == {"ada": None}
    assert error(w.decide(token=ada)) == "bad_token"
    said = tokens(w.admit(user("ada", since="s2")))
    assert said["ada"] not in {None, ada}
    assert error(w.decide(token=ada)) == "bad_token"  # another user of the same name
    w.restart()
    assert result(w.decide(token=said["ada"])).by == "ada"
    assert w.audited("users")[0]["users"][0]["user"] == "ada"


def test_every_new_question_has_a_token_for_each_who_may_decide() -> None:
    w = World()
    w.admit(user("ada"), user("op", "operator"), user("vic", "viewer", None), user("wall", "device", "low"))
    said = w.ask()
    assert tokens(said).keys() == {"operator", "ada", "op"}
    assert tokens(w.withdraw()) == {"operator": None, "ada": None, "op": None}


def test_a_token_made_for_a_viewer_or_a_device_proves_nothing() -> None:
    w = World()
    w.admit(user("vic", "viewer", None), user("wall", "device", "critical"))
    w.ask()
    a = w.approval()
    for name in ("vic", "wall"):
        forged = Tokens([KEY]).issue(name, a.id, a.uid, a.input_sha256, a.expires_at, "s1")
        assert error(w.decide(token=forged)) == "bad_token"
        assert error(w.decide(decision="deny", token=forged)) == "bad_token"


def test_a_users_level_bounds_what_it_may_approve() -> None:
    w = World()
    token = tokens([*w.ask(input_json='{"command":"rm -rf /"}'), *w.admit(user("ada", max_level="medium"))])[
        "ada"
    ]
    assert error(w.decide(token=token)) == "level_too_high"
    assert result(w.decide(decision="deny", token=token)).by == "ada"


@pytest.mark.parametrize(
    ("kind", "input_json", "own", "refused"),
    [
        ("plan", '{"plan":"first tests"}', "low", "level_too_high"),
        ("plan", '{"plan":"first tests"}', "medium", None),
        ("plan", f'{{"plan":"cat {HOME}/secrets"}}', "high", "level_too_high"),
        ("question", '{"questions":[{"question":"Which?"}]}', "low", None),
        (
            "question",
            f'{{"questions":[{{"question":"Which?","header":"{HOME}"}}]}}',
            "high",
            "level_too_high",
        ),
    ],
)
def test_a_users_level_holds_for_plans_and_questions_as_well(
    kind: str, input_json: str, own: str, refused: str | None
) -> None:
    tool = {"plan": "ExitPlanMode", "question": "AskUserQuestion"}[kind]
    answers: dict[str, Any] = {"answers": {"Which?": "Red"}} if kind == "question" else {}
    for decision in ("approve", "deny"):
        w = World()
        w.admit(user("ada", max_level=own))
        token = tokens(w.ask(kind=kind, tool=tool, input_json=input_json))["ada"]
        said = w.decide(decision=decision, token=token, **(answers if decision == "approve" else {}))
        assert error(said) == (refused if decision == "approve" else None)
        assert len(w.answers()) == (0 if decision == "approve" and refused else 1)


def test_the_yes_of_a_removed_user_counts_no_more() -> None:
    w = World(rules=TwoYes(RULES.auto_approve, RULES.timeout_for))
    w.ask()
    ada = tokens(w.admit(user("ada")))["ada"]
    assert result(w.decide(token=ada))["approved_by"] == ["ada"]
    bob = tokens(w.admit(user("bob", since="s2")))["bob"]
    assert result(w.decide(token=bob))["approved_by"] == ["bob"]
    assert result(w.decide()).decision == "approved"


def test_the_list_is_kept() -> None:
    w = World()
    w.admit(user("ada"), user("wall", "device", "low"))
    assert [u.user for u in w.store.users()] == ["ada", "wall"]
    w.admit(user("wall", "device", "low"))
    assert [u.user for u in w.store.users()] == ["wall"]
    assert published(w.said, t.APPROVAL_TOKEN) == []
