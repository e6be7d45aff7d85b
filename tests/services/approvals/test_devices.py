"""What a device may decide, and which approval an empty press is for."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from bus import messages as m
from bus import topics as t
from bus.effects import Publish
from services.approvals.devices import Limit
from tests.services.approvals.support import TwoYes, World, published, user

LOW = '{"file_path":"/work/app/a.py"}'  # to read it is low


DANGEROUS = '{"command":"git reset --hard"}'


def world(level: str = "low", *more: m.BusUser, **settings: Any) -> World:
    """A device `wall` up to a level, and a tool call of level low that waits, `a1`."""
    limit = Limit(**{"max_level": "critical", **settings})
    w = World(limit=lambda _device: limit)
    w.rules = type(w.rules)((), w.rules.timeout_for)  # nothing is approved by itself
    w.restart()
    w.admit(user("wall", "device", level), *more)
    low(w, "a1")
    return w


def low(w: World, approval: str, **more: Any) -> None:
    w.ask(approval, LOW, tool="Read", **more)


def code(reply: m.DeviceReply) -> str | None:
    return reply.error.code if isinstance(reply.error, m.ErrorBody) else None


def pending(w: World, device: str = "wall") -> list[str]:
    """The ids in the device's last snapshot."""
    said = [payload for payload, one in snapshots(w) if one == device]
    assert said[-1] is not None
    return [item.id for item in said[-1].items]


def snapshots(w: World) -> list[tuple[m.PendingApprovals | None, str]]:
    """What was said to devices, oldest first."""
    return [
        (e.payload, e.values["device"])  # type: ignore[misc]  # the row's own type
        for e in w.said
        if isinstance(e, Publish) and e.row is t.DEVICE_PENDING
    ]


@pytest.mark.parametrize("payload", ["a1", " a1\n", '{"approval":"a1"}', '{"approval":"a1","session":"web"}'])
@pytest.mark.parametrize(("row", "state"), [(t.DEVICE_APPROVE, "approved"), (t.DEVICE_DENY, "denied")])
def test_a_press_that_names_an_approval_decides_it_at_once(payload: str, row: t.Topic, state: str) -> None:
    w = world()
    reply = w.press("wall", payload, row)
    assert reply == m.DeviceReply(ok=True, approval="a1", decision=state)
    (outcome,) = published(w.said, t.APPROVAL_OUTCOME)
    assert (outcome.by, outcome.via, outcome.decision) == ("wall", "device", state)
    assert w.answers()[0].decision == state
    (row_,) = w.audited()
    assert (row_["user"], row_["stated_via"], row_["error"]) == ("wall", "device", None)
    assert code(w.press("wall", payload, row)) == "already_decided"  # it arrived twice
    assert len(w.answers()) == 1


@pytest.mark.parametrize("payload", ["", " ", "{}", '{"session":"web"}', '{"reason":"why not"}'])
def test_an_empty_press_decides_the_single_one_once_it_has_waited(payload: str) -> None:
    w = world()
    w.later(0.999)
    assert code(w.press("wall", payload)) == "busy"
    w.later(0.001)
    assert w.press("wall", payload) == m.DeviceReply(ok=True, approval="a1", decision="approved")


def test_a_press_that_arrives_twice_decides_once() -> None:
    w = world()
    w.later(10)
    assert w.press("wall").ok
    low(w, "a2")
    w.later(1.9)
    assert code(w.press("wall")) == "busy"
    w.restart()
    assert code(w.press("wall")) == "busy"  # that it has decided is kept
    w.later(0.1)
    assert w.press("wall").approval == "a2"


def test_naming_one_has_no_such_limits() -> None:
    w = world()
    low(w, "a2")
    assert w.press("wall", "a1").ok
    assert w.press("wall", "a2").ok


def test_with_several_an_empty_press_is_refused_unless_the_oldest_is_meant() -> None:
    for oldest in (False, True):
        w = world(oldest=oldest)
        w.later(1)
        low(w, "a2", session="docs")
        reply = w.press("wall")
        assert (code(reply), reply.approval) == ((None, "a1") if oldest else ("ambiguous", UNSET))
    w = world()
    low(w, "a2", session="docs")
    w.later(1)
    assert w.press("wall", '{"session":"docs"}').approval == "a2"  # the only one of that session


def test_a_device_decides_tools_up_to_its_level_and_nothing_else() -> None:
    w = world("medium")
    w.ask("high", DANGEROUS)
    w.ask("plan", "{}", kind="plan", tool="ExitPlanMode")
    assert pending(w) == ["a1"]
    for row in (t.DEVICE_APPROVE, t.DEVICE_DENY):
        assert code(w.press("wall", "high", row)) == "level_too_high"
        assert code(w.press("wall", "plan", row)) == "not_allowed"
    w.later(5)
    assert w.press("wall").approval == "a1"
    w.later(5)
    assert code(w.press("wall")) == "unknown_approval"
    assert w.answers("high") == w.answers("plan") == []
    assert [row["error"] for row in w.audited()] == [
        "level_too_high", "not_allowed", "level_too_high", "not_allowed", None, "unknown_approval",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("own", "configured", "may"), [("high", "low", False), ("low", "high", False), ("high", "high", True)]
)
def test_the_configuration_can_only_lower_a_level(own: str, configured: str, may: bool) -> None:
    w = world(own, max_level=configured)
    w.ask("high", DANGEROUS)
    assert w.press("wall", "high").ok == may


@pytest.mark.parametrize(
    ("payload", "wanted"),
    [
        ("none", "unknown_approval"), ("ON", "unknown_approval"), ("a b", "bad_request"),
        ("é", "bad_request"),
        ('{"approval":"a/b"}', "bad_request"), ("{", "bad_request"), ('{"approval":7}', "bad_request"),
        ("x" * 65, "bad_request"), ('{"approval":"a1","session":"docs"}', "unknown_approval"),
        ('{"session":"docs"}', "unknown_approval"), ("[]", "bad_request"),
    ],
)  # fmt: skip
def test_what_is_no_press_decides_nothing_and_is_told(payload: str, wanted: str) -> None:
    w = world()
    w.later(5)
    assert code(w.press("wall", payload)) == wanted
    assert w.answers() == []
    assert w.audited()[0]["error"] == wanted


def test_it_is_told_nothing_of_what_others_decided() -> None:
    w = world()
    w.decide(reason="secret plans")
    reply = w.press("wall", "a1")
    assert code(reply) == "already_decided"
    assert b"secret" not in msgspec.json.encode(reply)


def test_its_snapshot_follows_what_it_may_decide_and_is_said_when_it_changes() -> None:
    w = world("low", user("tall", "device", "critical"))
    assert pending(w) == pending(w, "tall") == ["a1"]
    w.said.clear()
    w.ask("high", DANGEROUS)
    assert pending(w, "tall") == ["a1", "high"]
    assert [device for _, device in snapshots(w)] == ["tall"]
    w.later(61)
    w.tick()
    assert pending(w) == pending(w, "tall") == []
    low(w, "a3")
    w.restart()
    w.said = w.gate.snapshots()
    assert pending(w) == ["a3"]
    w.said.clear()
    w.admit(user("tall", "device", "critical"))
    assert published(w.said, t.DEVICE_PENDING) == [None]  # wall is gone


def test_a_device_counts_as_one_approver_and_is_asked_once() -> None:
    w = World(rules=TwoYes((), lambda _kind, _level: None))
    w.admit(user("wall", "device", "critical"))
    w.ask()
    w.later(5)
    assert w.press("wall") == m.DeviceReply(ok=True, approval="a1", decision="pending")
    assert pending(w) == []
    w.later(5)
    assert code(w.press("wall")) == "unknown_approval"
    assert w.press("wall", "a1").decision == "pending"
    w.decide()
    assert w.approval().outcome.decision == "approved"  # type: ignore[union-attr]  # it is decided


def test_who_comes_after_a_removed_device_has_decided_nothing() -> None:
    w = world()
    assert w.press("wall", "a1").ok
    low(w, "a2")
    w.admit(user("wall", "device", "low", since="s2"))
    w.later(1)
    assert w.press("wall").approval == "a2"
