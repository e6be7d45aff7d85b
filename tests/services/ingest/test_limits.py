"""Usage limits: told, kept, and (when configured) waited for, once.

The real CLI's frames stand in two recordings, made with a token that the scripted API takes for a
subscription's; the others are made by hand after them, where a case needs more than they have.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from bus import messages as m
from services.ingest.limits import MARGIN_S
from tests.services.ingest.support import INIT, Play, frame, recorded, result

RESET_S = 3600.0


@pytest.fixture
def play(tmp_path: Path) -> Play:
    play = Play(tmp_path / "ingest.sqlite", resume_when_reset=True)
    play.open(prompt="work")
    play.initialize()
    return play


def limit(play: Play, status: str = "rejected", *, resets_in_s: float | None = RESET_S, **more: Any) -> None:
    info = {"status": status, "rateLimitType": "five_hour", **more}
    if resets_in_s is not None:
        info["resetsAt"] = (play.now + timedelta(seconds=resets_in_s)).timestamp()
    play.say(frame(type="rate_limit_event", rate_limit_info=info, uuid=f"limit-{len(play.journal)}"))


def begin(play: Play) -> None:
    """The agent takes up what it has got."""
    play.say({**INIT, "uuid": f"init-{len(play.journal)}"})


def fail(play: Play, status: int | None = 429) -> None:
    said = "You've hit your limit · resets 10pm (UTC)"
    uuid = f"result-{len(play.journal)}"
    play.say(result(uuid, is_error=True, result=said, api_error_status=status))


def sent(play: Play) -> list[str]:
    return [line["message"]["content"] for line in play.lines() if line["type"] == "user"]


def reset(play: Play) -> None:
    play.later(RESET_S)
    assert play.state().blocked is not None  # not at the very moment
    play.later(MARGIN_S)


def test_told_to_readers_and_the_ledger(play: Play) -> None:
    limit(play, "allowed_warning", utilization=0.91)
    (event,) = play.events("limit")
    assert (event["status"], event["window"], event["utilization"]) == ("allowed_warning", "five_hour", 0.91)
    (fact,) = play.facts("limit")
    resets_at = play.now + timedelta(seconds=RESET_S)
    assert fact == m.LimitSeen(
        session="one", window="five_hour", status="allowed_warning", utilization=0.91, resets_at=resets_at
    )
    assert play.state().blocked is None


@pytest.mark.parametrize("version", ["2.1.329", "2.1.119"])
def test_the_real_cli_s_own_frames(play: Play, version: str) -> None:
    """A turn with room, one that is refused, and one after the reset."""
    said = recorded(f"claude-{version}-stdio-limit.ndjson")
    ends = [n for n, one in enumerate(said, 1) if one["type"] == "result"]
    play.say(*said[: ends[0]])
    assert play.state().blocked is None
    play.act(play.core.prompt(m.Prompt(id="p2", text="go on"), "one", play.now))
    play.say(*said[ends[0] : ends[1]])
    until = play.state().blocked
    assert until is not None
    assert (until.by, play.state().queued_prompts) == ("limit", 1)
    assert until.until is not None
    play.now = until.until
    play.later(0)
    assert sent(play) == ["work", "go on", "go on"]
    play.say(*said[ends[1] :])
    told = [(event["status"], event["utilization"]) for event in play.events("limit")]
    used = [0.25, 1.0, 0.25] if version == "2.1.329" else [None] * 3
    assert told == list(zip(["allowed", "rejected", "allowed"], used, strict=True))
    assert [over.ok for over in play.facts("limit_over")] == [True]
    seen = {(fact.window, fact.utilization) for fact in play.facts("limit")}
    weeks = {("seven_day", 0.4)} if version == "2.1.329" else set()
    assert seen == {("five_hour", one) for one in used} | weeks
    assert play.record.notional


def test_sent_again_once_after_the_reset(play: Play) -> None:
    begin(play)
    limit(play)
    fail(play)
    until = play.now + timedelta(seconds=RESET_S + MARGIN_S)
    assert play.state().blocked == m.Blocked(by="limit", until=until)
    assert play.state().queued_prompts == 1
    play.act(play.core.prompt(m.Prompt(id="later", text="and then"), "one", play.now))  # waits as well
    assert sent(play) == ["work"]
    play.crash()
    play.connect()
    reset(play)
    assert sent(play) == ["work", "work", "and then"]
    uuids = [line["uuid"] for line in play.lines() if line["type"] == "user"]
    assert len(set(uuids)) == 3  # the agent drops a uuid that it knows
    assert play.state().blocked is None
    begin(play)
    play.say(result("fine"))
    (over,) = play.facts("limit_over")
    assert over == m.LimitOver(session="one", window="five_hour", prompt_ids=["p1"], ok=True, message="done")
    assert play.session.prompts == {}
    phases = [event["phase"] for event in play.events("prompt") if event["prompt_id"] == "p1"]
    assert phases == ["queued", "delivered", "queued", "delivered"]


def test_failing_again_is_told_and_not_tried_again(play: Play) -> None:
    begin(play)
    limit(play)
    fail(play)
    reset(play)
    begin(play)
    limit(play)
    fail(play)
    (over,) = play.facts("limit_over")
    assert not over.ok
    assert "hit your limit" in over.message
    assert play.state().blocked is None
    play.later(2 * RESET_S)
    assert sent(play) == ["work", "work"]


def test_a_crash_at_the_reset_sends_it_once(play: Play) -> None:
    begin(play)
    limit(play)
    fail(play)
    play.now += timedelta(seconds=RESET_S + MARGIN_S)
    play.core.tick(play.now)  # decided, and dead before it was kept
    play.crash()
    play.connect()
    play.later(1)
    play.crash()
    play.connect()
    assert sent(play) == ["work", "work"]


def test_a_budget_goes_before_a_limit(play: Play) -> None:
    begin(play)
    limit(play)
    fail(play)
    play.fact(m.BudgetHold(session="one", held=True, scope="session", message="spent"))
    assert play.state().blocked == m.Blocked(by="budget", until=None)
    play.later(RESET_S + MARGIN_S)
    assert sent(play) == ["work"]
    play.fact(m.BudgetHold(session="one", held=False))
    assert sent(play) == ["work", "work"]


@pytest.mark.parametrize("why", ["not configured", "another error", "no time", "no limit", "allowed again"])
def test_not_waited_for(tmp_path: Path, why: str) -> None:
    play = Play(tmp_path / "ingest.sqlite", resume_when_reset=why != "not configured")
    play.open(prompt="work")
    play.initialize()
    begin(play)
    if why != "no limit":
        limit(play, resets_in_s=None if why == "no time" else RESET_S)
    if why == "allowed again":
        limit(play, "allowed")
    fail(play, 529 if why == "another error" else 429)
    assert play.state().blocked is None
    assert play.events("error")
    play.later(2 * RESET_S)
    assert sent(play) == ["work"]
