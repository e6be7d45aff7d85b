"""Hibernation and waking in the core; crashes at every step are in `test_crashes`."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from bus import messages as m
from bus.effects import ReplyTo
from bus.errors import RefusedError
from services.ingest.model import SendLine
from services.ingest.states import Status
from tests.services.ingest.support import INIT, UID, Play, can_use, frame, result


@pytest.fixture
def play(tmp_path: Path) -> Play:
    it = Play(tmp_path / "ingest.sqlite")
    it.open()
    it.initialize()
    it.say(INIT, result("r-1"))
    return it


def hibernate(play: Play, **more: Any) -> None:
    play.act(play.core.hibernate(m.SessionCommand(id="h", **more), "one", play.now))


def wake(play: Play, request: str = "w") -> None:
    play.act(play.core.wake(m.SessionCommand(id=request), "one", play.now))


def agent_ends(play: Play) -> None:
    """The controller has ended it, and its bridge has brought everything."""
    process = play.record.process
    exited = m.AgentExited(process=process, exit_code=0, reason="put to sleep", final=False)
    play.fact(exited)
    play.later(11)  # no bridge says that all was read: the exit has its effect then


def asleep(play: Play) -> None:
    hibernate(play)
    controller(play)
    agent_ends(play)
    play.detach()
    assert play.record.status is Status.HIBERNATED


def controller(play: Play, error: RefusedError | None = None) -> None:
    """The controller (or, before it, the watchdog) answers what it was asked last."""
    play.act(play.core.controller_answered(UID, play.asked()[-1].id, error, play.now))


def starts(play: Play) -> None:
    """The controller starts what it was asked for."""
    asked = play.asked()[-1]
    play.journal = b""
    play.fact(m.AgentStarted(process=asked.process, resume=asked.resume))
    play.connect(process=asked.process)
    play.initialize()


def refused(call: Any, *args: Any) -> str:
    with pytest.raises(RefusedError) as error:
        call(*args)
    return error.value.code


def statuses(play: Play) -> list[str]:
    return [event["to"] for event in play.events("status")]


def prompts(play: Play) -> list[str]:
    return [line["message"]["content"] for line in play.lines() if line["type"] == "user"]


def test_to_sleep_and_woken_by_a_prompt_with_its_conversation(play: Play) -> None:
    hibernate(play, reason="idle for an hour")
    asked = play.asked()[-1]
    assert (asked.stop, asked.force, asked.process) == (True, False, 1)
    assert play.replies[-1].result == {"status": "hibernating"}
    controller(play)
    play.act(play.core.end_agent(m.EndAgent(id="e", uid=UID, process=1), play.now))
    assert play.lines()[-1]["request"]["subtype"] == "end_session"
    assert not play.record.ending
    agent_ends(play)
    play.detach()
    assert play.state().status == "hibernated"
    assert play.state().agent.session_id == "conv-1"
    play.act(play.core.prompt(m.Prompt(id="p", text="still there?"), "one", play.now))
    asked = play.asked()[-1]
    assert (asked.process, asked.resume, asked.admit, asked.stop) == (2, "conv-1", True, False)
    assert play.state().status == "waking"
    controller(play)
    starts(play)
    assert prompts(play) == ["still there?"]
    play.say({**INIT, "uuid": "init-2"}, result("r-2", "0.02"))
    assert play.session.prompts == {}
    assert play.record.deaths == []
    # "ready" is not among them: the agent's last answer and the prompt's line leave in one step
    assert statuses(play)[-6:-2] == ["hibernating", "hibernated", "waking", "ready"]
    assert [e["phase"] for e in play.events("prompt")] == ["queued", "delivered"]


def test_the_wake_command_is_answered_when_the_agent_is_being_started(play: Play) -> None:
    asleep(play)
    before = len(play.replies)
    wake(play)
    wake(play, "w2")
    assert len(play.replies) == before, "nobody has admitted it yet"
    controller(play)
    assert [r.request_id for r in play.replies[before:]] == ["w", "w2"]
    starts(play)
    assert play.state().status == "ready"
    wake(play, "w3")
    assert play.replies[-1] == ReplyTo("w3", {"status": Status.READY})
    assert prompts(play) == []


def test_a_prompt_and_a_wake_on_the_way_to_sleep_wake_it_at_once(play: Play) -> None:
    hibernate(play)
    play.act(play.core.prompt(m.Prompt(id="p", text="wait"), "one", play.now))
    wake(play)
    assert prompts(play) == [], "the agent is ending: it must not take it along"
    agent_ends(play)
    assert play.state().status == "waking"
    assert statuses(play)[-3:] == ["hibernating", "hibernated", "waking"]
    controller(play)
    starts(play)
    assert prompts(play) == ["wait"]


def test_while_the_breaker_is_open(play: Play) -> None:
    """A wake is refused; a prompt waits, says so, and is tried again when the watchdog said."""
    asleep(play)
    at = play.now + timedelta(seconds=40)
    closed = RefusedError("breaker_open", "memory is short", {"retry_at": at.isoformat()})
    wake(play)
    controller(play, closed)
    assert play.replies[-1].error is closed
    assert (play.state().status, play.state().blocked) == ("hibernated", None)
    play.act(play.core.prompt(m.Prompt(id="p", text="hello"), "one", play.now))
    first = play.asked()[-1].id
    controller(play, closed)
    assert play.state().status == "hibernated"
    assert play.state().blocked == m.Blocked(by="breaker", until=at)
    assert play.state().queued_prompts == 1
    play.later(39)
    assert play.asked()[-1].id == first
    play.crash()  # which does not forget it
    play.later(0.3)
    again = play.asked()[-1]
    assert again.id != first, "a refusal stands for its id"
    controller(play, closed)
    play.later(2)
    controller(play)
    starts(play)
    assert prompts(play) == ["hello"]
    assert play.state().blocked is None


def test_only_an_idle_session_is_put_to_sleep(tmp_path: Path) -> None:
    play = Play(tmp_path / "ingest.sqlite")
    call = (play.core.hibernate, m.SessionCommand(id="h"), "one")
    play.open(prompt="begin")
    assert refused(*call, play.now) == "busy"  # starting
    play.initialize()
    assert refused(*call, play.now) == "busy"  # a prompt waits
    play.say(INIT, can_use("q-1"))
    assert refused(*call, play.now) == "busy"  # an approval is open
    play.say(frame(type="control_cancel_request", request_id="q-1"))
    assert refused(*call, play.now) == "busy"  # working
    play.say(result("r"))
    play.act(play.core.change(m.SetSession(pinned=True), "one", play.now))
    assert refused(*call, play.now) == "not_allowed"
    play.act(play.core.change(m.SetSession(pinned=False), "one", play.now))
    play.act(play.core.hibernate(m.SessionCommand(id="h"), "one", play.now))
    hibernate(play)  # again: nothing more happens
    assert len([ask for ask in play.asked() if ask.stop]) == 1
    assert refused(play.core.hibernate, m.SessionCommand(uid="x"), "one", play.now) == "unknown_session"


def test_eviction_ends_an_agent_at_work_and_its_prompt_goes_to_the_next(play: Play) -> None:
    play.act(play.core.prompt(m.Prompt(id="p", text="long work"), "one", play.now))
    play.taken()
    play.say({**INIT, "uuid": "init-2"}, can_use("q-1"))
    play.act(play.core.evict(m.EvictAgent(id="x", uid=UID, reason="memory is short"), play.now))
    asked = play.asked()[-1]
    assert (asked.stop, asked.force) == (True, True)
    assert play.state().status == "hibernating"
    agent_ends(play)
    assert play.facts("withdrawn")[0].reason == "the agent is gone"
    assert play.state().status == "waking"
    controller(play)
    starts(play)
    sent = [d for d in play.done if isinstance(d, SendLine) and '"long work"' in d.data]
    assert len({d.data for d in sent}) == 1, "the same uuid: the agent drops what it has"
    assert len(sent) == 2


def test_a_stop_that_the_controller_refuses_is_called_off(play: Play) -> None:
    hibernate(play)
    controller(play, RefusedError("busy", "it is ending"))
    assert play.state().status == "waiting_input"
    assert statuses(play)[-2:] == ["hibernating", "waiting_input"]


def test_what_is_set_while_it_sleeps_is_told_when_it_wakes(play: Play) -> None:
    asleep(play)
    play.act(play.core.change(m.SetSession(id="s", model="opus"), "one", play.now))
    wake(play)
    controller(play)
    starts(play)
    asked = [line["request"] for line in play.lines() if line["type"] == "control_request"]
    assert [a["model"] for a in asked if a["subtype"] == "set_model"] == ["opus"]
    assert refused(play.core.wake, m.SessionCommand(uid="x"), "one", play.now) == "unknown_session"


def test_ended_while_it_sleeps(play: Play) -> None:
    asleep(play)
    wake(play)
    play.fact(m.AgentExited(process=1, exit_code=0, reason="ended by command", final=True))
    assert play.state().status == "ended"
    assert play.replies[-1].error is not None
    assert play.replies[-1].error.code == "unavailable"
    controller(play)  # the answer to the wake comes late, and means nothing
    assert play.state().status == "ended"


def test_woken_but_its_agent_cannot_be_started(play: Play) -> None:
    asleep(play)
    wake(play)
    controller(play, RefusedError("agent_missing", "claude is not there"))
    assert play.state().status == "failed"
    assert "claude is not there" in (play.state().error or "")
