"""A real process that speaks the agent's protocol over pipes: two turns, an approval, a denial, the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from bus import messages as m
from services.ingest.model import SendLine
from tests.services.ingest.support import UID, Play

ROOT = Path(__file__).parents[3]


class Piped:
    """The agent's process, and the way of lines between it and a core."""

    def __init__(self, folder: Path, play: Play) -> None:
        self.play = play
        self.folder = folder
        self.sent = 0
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "CLAUDE_CONFIG_DIR": str(folder / "claude"),
        }
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "services/demo/agent.py"), "-p", "--input-format", "stream-json",
             "--output-format", "stream-json", "--verbose", "--permission-prompt-tool", "stdio",
             "--include-partial-messages"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder, env=environ,
        )  # fmt: skip

    def pipe(self, stream: IO[bytes] | None) -> IO[bytes]:
        assert stream is not None
        return stream

    def until(self, condition: Callable[[], bool]) -> None:
        """Carry lines until then; the test's own timeout ends a wait for ever."""
        while True:
            lines = [d for d in self.play.done if isinstance(d, SendLine)]
            for line in lines[self.sent :]:
                self.pipe(self.process.stdin).write(line.data.encode() + b"\n")
                self.pipe(self.process.stdin).flush()
                self.play.act(self.play.core.taken(self.play.number, line.n, self.play.now))
            self.sent = len(lines)
            if condition():
                return
            said = self.pipe(self.process.stdout).readline()
            assert said, "the agent ended"
            self.play.say(said.rstrip(b"\n"))


@pytest.fixture
def piped(tmp_path: Path) -> Iterator[Piped]:
    play = Play(tmp_path / "ingest.sqlite", resume_when_reset=True)
    piped = Piped(tmp_path, play)
    yield piped
    piped.process.kill()
    piped.process.wait()
    for stream in (piped.process.stdin, piped.process.stdout):
        if stream is not None:
            stream.close()


@pytest.mark.timeout(60)
def test_two_turns(piped: Piped) -> None:
    play = piped.play
    play.open(prompt="BASH touch made ;; SAY done, shall I go on?")
    piped.until(lambda: play.state().status == "waiting_approval")
    question = play.facts("question")[0]
    assert json.loads(question.input_json)["command"] == "touch made"
    assert not (piped.folder / "made").exists()
    play.fact(
        m.Answer(
            approval=question.approval,
            process=1,
            request_id=question.request_id,
            decision="approved",
            message="",
            input_json=question.input_json,
            interrupt=False,
        )
    )
    piped.until(lambda: play.state().turns == 1)
    assert (piped.folder / "made").exists()
    assert play.facts("applied")[0].applied
    assert play.events("question")
    assert play.core.malformed == 0

    play.act(play.core.prompt(m.Prompt(id="second", text="BASH touch never ;; SAY fine"), "one", play.now))
    piped.until(lambda: play.state().status == "waiting_approval")
    question = play.facts("question")[1]
    play.fact(
        m.Answer(
            approval=question.approval,
            process=1,
            request_id=question.request_id,
            decision="denied",
            message="not this one",
            input_json="{}",
            interrupt=False,
        )
    )
    piped.until(lambda: play.state().turns == 2)
    assert not (piped.folder / "never").exists()
    assert [e["is_error"] for e in play.events("tool") if e["phase"] == "finished"] == [False, True]
    assert play.events("result")[1]["prompt_ids"] == ["second"]
    totals = [float(f.total_usd) for f in play.facts("cost")]
    assert totals[1] > totals[0] > 0
    assert sum(e["cost_usd"] for e in play.events("result")) == pytest.approx(totals[1])
    play.act(play.core.end_agent(m.EndAgent(id="e", uid=UID), play.now))
    piped.until(lambda: not play.record.requests)
    piped.pipe(piped.process.stdin).close()
    assert piped.process.wait(20) == 0


@pytest.mark.timeout(60)
def test_a_prompt_that_a_usage_limit_stopped_is_sent_again(piped: Piped) -> None:
    play = piped.play
    play.open(prompt="LIMIT 3600 ;; SAY done at last")
    piped.until(lambda: play.state().turns == 1)
    assert [event["status"] for event in play.events("limit")] == ["rejected"]
    blocked = play.state().blocked
    assert blocked is not None
    assert (blocked.by, play.state().queued_prompts) == ("limit", 1)
    assert blocked.until is not None
    play.now = max(play.now, blocked.until)
    play.later(0)
    assert play.state().blocked is None
    piped.until(lambda: play.state().turns == 2)
    assert play.state().last_message == "done at last"
    (over,) = play.facts("limit_over")
    assert (over.window, over.ok, over.prompt_ids) == ("five_hour", True, ["p1"])


@pytest.mark.timeout(60)
def test_a_held_session_stops_in_mid_turn(piped: Piped) -> None:
    play = piped.play
    play.open(prompt="SAY one ;; BASH touch never ;; SAY two")
    piped.until(lambda: play.state().status == "waiting_approval")
    piped.until(lambda: bool(play.facts("running")))
    play.fact(m.BudgetHold(session="one", held=True, scope="session", message="spent"))
    piped.until(lambda: play.state().status == "waiting_input")
    assert [fact.type for fact in play.post_log if fact.type in ("forbidden", "withdrawn")] == [
        "forbidden",
        "withdrawn",
    ]
    assert not (piped.folder / "never").exists()
    reported = play.facts("cost")[-1].total_usd
    assert float(play.facts("running")[-1].spent_usd) == pytest.approx(float(reported), abs=0.0001)
