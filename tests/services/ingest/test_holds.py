"""A session that its budget holds: refused, interrupted, denied, and let go; through crashes as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from bus import messages as m
from bus.errors import RefusedError
from services.ingest.core import Sessions
from tests.services.ingest.support import INIT, Play, can_use, frame, result

SPENT = "one has spent 0.02 of 0.01 dollars"


def hold(play: Play, held: bool = True, **more: Any) -> None:
    play.fact(m.BudgetHold(session="one", held=held, scope="session", message=SPENT, **more))


def interrupts(play: Play) -> int:
    requests = [line["request"] for line in play.lines() if line["type"] == "control_request"]
    return sum(request["subtype"] == "interrupt" for request in requests)


def prompt(play: Play, text: str = "go on", prompt_id: str = "p") -> None:
    play.act(play.core.prompt(m.Prompt(id=prompt_id, text=text), "one", play.now))


def prompts(play: Play) -> list[str]:
    return [line["message"]["content"] for line in play.lines() if line["type"] == "user"]


def test_the_running_turn_is_interrupted_once(play: Play) -> None:
    prompt(play)
    play.say(INIT)
    hold(play)
    assert interrupts(play) == 1
    assert play.state().blocked == m.Blocked(by="budget", until=None)
    hold(play)  # another budget, say
    play.say(frame(type="assistant", message={"id": "m", "content": "still here"}))
    assert interrupts(play) == 2  # the second hold tells again, a frame does not
    play.say(result("r1", is_error=True, subtype="error_during_execution"))
    assert play.state().status == "waiting_input"


def test_an_agent_that_does_not_stop_is_told_again(play: Play) -> None:
    prompt(play)
    play.say(INIT)
    hold(play)
    play.later(6)
    assert interrupts(play) == 1  # the first one is not answered yet
    play.initialize()
    play.later(6)
    assert interrupts(play) == 2
    play.initialize()
    play.say(result("r1"))
    play.later(6)
    play.later(6)
    assert interrupts(play) == 2


def test_a_turn_that_begins_nevertheless_is_interrupted(play: Play) -> None:
    """A prompt in the agent's own queue, or the end of a background agent."""
    hold(play)
    assert interrupts(play) == 0
    play.say(INIT)
    assert interrupts(play) == 1
    play.initialize()
    play.say(result("r1"))
    play.say({**INIT, "uuid": "init-2"})
    assert interrupts(play) == 2


def test_prompts_are_refused_and_those_before_wait(tmp_path: Path) -> None:
    play = Play(tmp_path / "ingest.sqlite")
    play.open(prompt="first")
    until = play.now.replace(hour=23, minute=59)
    hold(play, until=until)
    play.initialize()
    assert prompts(play) == []  # it was accepted, but the agent does not get it
    with pytest.raises(RefusedError) as caught:
        prompt(play)
    assert caught.value.code == "budget_exhausted"
    assert caught.value.message == SPENT
    assert caught.value.details == {"until": "2026-11-20T23:59:00Z"}
    assert play.state().queued_prompts == 1
    assert play.state().blocked == m.Blocked(by="budget", until=until)
    hold(play, held=False)
    assert prompts(play) == ["first"]
    assert play.state().blocked is None
    prompt(play)
    assert prompts(play) == ["first", "go on"]


def test_open_questions_are_denied_by_the_gate_in_order(play: Play) -> None:
    prompt(play)
    play.say(INIT, can_use("r1", tool_use_id="toolu_1"))
    hold(play)
    play.say(can_use("r2", tool_use_id="toolu_2"))  # asked before the agent read the interrupt
    kinds = [fact.type for fact in play.post_log if fact.type in ("question", "forbidden")]
    assert kinds == ["question", "forbidden", "question"]
    first, second = play.facts("question")
    assert (first.held, second.held) == ("", SPENT)
    assert play.facts("forbidden") == [m.QuestionForbidden(approval=first.approval, reason=SPENT)]


def test_a_hold_survives_crashes(play: Play) -> None:
    prompt(play)
    play.say(INIT)
    hold(play)
    play.crash()
    play.connect()
    assert interrupts(play) == 1  # the same line, sent again
    with pytest.raises(RefusedError):
        prompt(play, prompt_id="q")
    hold(play, held=False)
    play.crash()
    assert play.state().blocked is None


def test_nothing_holds_what_is_over_or_not_ours(play: Play) -> None:
    play.fact(m.AgentExited(process=1, exit_code=0, reason="done", final=True))
    play.later(60)
    hold(play)
    assert play.state().blocked is None
    fact = m.Fact(id="x", type="hold", uid="nobody", at=play.now, data=msgspec.Raw(b"{}"))
    assert Sessions(play.settings).held(fact, m.BudgetHold(session="x", held=True), play.now) == []


def test_external_sessions_go_on(tmp_path: Path) -> None:
    play = Play(tmp_path / "ingest.sqlite")
    play.open(kind="external")
    hold(play)
    assert play.state().blocked is None


def test_an_end_lets_go(play: Play) -> None:
    hold(play)
    play.fact(m.AgentExited(process=1, exit_code=0, reason="done", final=True))
    play.later(60)
    assert play.state().status == "ended"
    assert play.state().blocked is None


def task(play: Play, subtype: str, task_id: str = "a1", **more: Any) -> None:
    play.say(frame(type="system", subtype=subtype, task_id=task_id, uuid=f"t{len(play.journal)}", **more))


def stops(play: Play) -> list[str]:
    requests = [line["request"] for line in play.lines() if line["type"] == "control_request"]
    return [request["task_id"] for request in requests if request["subtype"] == "stop_task"]


def test_agents_in_the_background_are_stopped_after_the_turn(play: Play) -> None:
    prompt(play)
    play.say(INIT)
    task(play, "task_started", task_type="local_agent")
    task(play, "task_started", "b1", task_type="local_bash")
    play.say(result("r1"))
    assert play.state().status == "waiting_input"
    hold(play)
    assert interrupts(play) == 1
    assert stops(play) == ["a1"]
    play.initialize()
    play.later(6)
    assert interrupts(play) == 2  # it runs on
    task(play, "task_notification", status="stopped")
    play.initialize()
    play.later(6)
    play.later(6)
    assert interrupts(play) == 2


def test_the_agents_own_list_of_what_runs_is_believed(play: Play) -> None:
    task(play, "task_started", task_type="local_agent")
    play.say(frame(type="system", subtype="background_tasks_changed", tasks=[]))
    hold(play)
    assert interrupts(play) == 0
    tasks = [{"task_id": "a2", "task_type": "local_agent"}, {"task_id": "b2", "task_type": "local_bash"}]
    play.say(frame(type="system", subtype="background_tasks_changed", tasks=tasks))
    assert (interrupts(play), stops(play)) == (1, ["a2"])
    play.fact(m.AgentExited(process=1, exit_code=-9, reason="killed", final=False))
    play.later(60)
    assert play.record.agents == []
