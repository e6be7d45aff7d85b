"""Any history with crashes of ingest, its connections and the agent: nothing lost, nothing twice.

A model of the agent behind a bridge: it reads lines in order of their numbers (each once, as the bridge sees
to), writes frames into a journal that outlives everything, asks before tools, names uuids in its results, and
drops a uuid that its conversation has finished. Ingest may die between any two steps, also after it decided
and before it committed.
"""

from __future__ import annotations

import json
import tempfile
from collections import deque
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bus import bridge_wire as bw
from bus import messages as m
from bus.errors import RefusedError
from services.ingest.model import AskController, SendBye, SendHello, SendLine
from services.ingest.states import Status
from tests.services.ingest.support import INIT, TOKEN, UID, Play, can_use, created, frame, result, tool_result

assert TOKEN


class Agent:
    """One process."""

    def __init__(self, process: int, finished: set[str]) -> None:
        self.process = process
        self.journal = b""
        self.written = 0
        self.queue: deque[str] = deque()
        self.turn: list[str] = []
        self.open: str | None = None
        self.asked = 0
        self.results = 0
        self.cost = 0
        self.finished = finished
        self.alive = True

    def write(self, *lines: bytes) -> None:
        self.journal += b"".join(line + b"\n" for line in lines)

    def read(self, n: int, data: str) -> None:
        if n <= self.written or not self.alive:
            return
        assert n == self.written + 1, "lines come in order, without a gap"
        self.written = n
        line = json.loads(data)
        if line["type"] == "user":
            if line["uuid"] in self.finished:
                self.write(frame(type="command_lifecycle", command_uuid=line["uuid"], state="completed"))
            elif line["uuid"] not in self.queue and line["uuid"] not in self.turn:
                self.queue.append(line["uuid"])
                self.write(frame(type="command_lifecycle", command_uuid=line["uuid"], state="queued"))
        elif line["type"] == "control_request":
            answer = {
                "subtype": "success",
                "request_id": line["request_id"],
                "response": {"text": "Total cost: $0"},
            }
            self.write(frame(type="control_response", response=answer))
            if line["request"]["subtype"] == "interrupt" and self.turn:
                self.end_turn(cancel=True)
            elif line["request"]["subtype"] == "end_session":
                self.alive = False
        elif line["response"]["request_id"] == self.open:
            self.open = None
            self.write(tool_result(f"toolu_{self.process}_{self.asked}"))

    def begin_turn(self) -> None:
        self.turn = list(self.queue)
        self.queue.clear()
        for uuid in self.turn:
            self.write(frame(type="command_lifecycle", command_uuid=uuid, state="started"))
        self.write(frame(**{**INIT, "uuid": f"init-{self.process}-{self.results}"}))

    def ask(self) -> None:
        self.asked += 1
        self.open = f"r-{self.process}-{self.asked}"
        self.write(can_use(self.open, tool_use_id=f"toolu_{self.process}_{self.asked}"))

    def end_turn(self, *, cancel: bool = False) -> None:
        if self.open is not None and cancel:
            self.write(frame(type="control_cancel_request", request_id=self.open))
            self.open = None
        self.results += 1
        self.cost += 1
        uuid = f"res-{self.process}-{self.results}"
        self.write(result(uuid, f"0.0{self.cost}", user_message_uuids=self.turn))
        for done in self.turn:
            self.write(frame(type="command_lifecycle", command_uuid=done, state="completed"))
        self.finished |= set(self.turn)
        self.turn = []


class Crashes(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.play = Play(Path(self.folder.name) / "ingest.sqlite")
        self.play.fact(created())
        self.play.fact(m.AgentStarted(process=1, resume=None))
        self.agents = [Agent(1, set())]
        self.connected = False
        self.prompts = 0
        self.seen_effects = 0
        self.answers: list[m.Answer] = []
        self.taken_up = 0
        self.offset = 0
        self.spawned = {1}
        self.gone = False  # the exit of the newest is told

    def teardown(self) -> None:
        try:
            self.finish()
        finally:
            assert self.play._db is not None
            self.play._db.close()
            self.folder.cleanup()

    @property
    def agent(self) -> Agent:
        return self.agents[-1]

    def hear(self) -> None:
        """What the bridge and the gate hear of ingest since the last time."""
        play = self.play
        for effect in play.done[self.seen_effects :]:
            if isinstance(effect, SendHello):
                assert effect.process == self.agent.process
                self.offset = effect.offset
            elif isinstance(effect, SendLine) and self.connected and effect.link == play.number:
                self.agent.read(effect.n, effect.data)
        self.seen_effects = len(play.done)
        for fact in play.facts("question")[self.taken_up :]:
            self.taken_up += 1
            self.answers.append(
                m.Answer(
                    approval=fact.approval,
                    process=fact.process,
                    request_id=fact.request_id,
                    decision="denied" if fact.held else "approved",
                    message=fact.held,
                    input_json=fact.input_json,
                    interrupt=False,
                )
            )

    def dead(self) -> None:
        self.connected = False

    @rule()
    def crash(self) -> None:
        self.play.crash()
        self.dead()

    @rule()
    def drop(self) -> None:
        if self.connected:
            self.play.detach()
            self.dead()

    @precondition(lambda self: not self.connected)
    @rule()
    def connect(self) -> None:
        play, agent = self.play, self.agent
        play.number += 1
        play.act(play.core.connected("one", play.number, play.now, bridge=True, seen=set()))
        hello = bw.BridgeHello(
            process=agent.process, written=agent.written, agent_pid=1, size=len(agent.journal)
        )
        self.connected = True
        play.act(play.core.hello(play.number, hello, play.now))
        self.hear()

    @precondition(lambda self: self.connected)
    @rule(lines=st.integers(1, 5), committed=st.booleans())
    def send(self, lines: int, committed: bool) -> None:
        journal, end = self.agent.journal, self.offset
        for _ in range(lines):
            end = journal.find(b"\n", end) + 1 or len(journal)
            if end == len(journal):
                break
        if end == self.offset:
            return
        data = bw.decode_from_bridge(bw.encode_data(self.offset, journal[self.offset : end]))
        assert isinstance(data, bw.Data)
        effects = self.play.core.data(self.play.number, data, self.play.now)
        assert effects is not None
        if not committed:
            self.crash()  # decided, and dead before it was kept
            return
        self.offset = end
        self.play.act(effects)
        self.hear()

    @precondition(lambda self: self.connected)
    @rule()
    def taken(self) -> None:
        if self.agent.written:
            self.play.act(self.play.core.taken(self.play.number, self.agent.written, self.play.now))
            self.hear()

    @rule()
    def prompt(self) -> None:
        if self.play.record.held is not None:
            with pytest.raises(RefusedError, match="spent"):
                self.play.act(self.play.core.prompt(m.Prompt(text="never"), "one", self.play.now))
        elif self.prompts < 6:
            self.prompts += 1
            command = m.Prompt(id=f"p{self.prompts}", text=f"prompt {self.prompts}")
            self.play.act(self.play.core.prompt(command, "one", self.play.now))
            self.hear()

    @rule(held=st.booleans())
    def hold(self, held: bool) -> None:
        """The ledger's word: afterwards no turn runs on, and none begins."""
        self.play.fact(m.BudgetHold(session="one", held=held, scope="session", message="spent"))
        self.hear()
        if held and self.agent.alive:
            self.drain()
            assert not self.agent.turn

    @rule()
    def answer(self) -> None:
        if self.answers:
            self.play.fact(self.answers.pop(0))
            self.hear()

    @rule(what=st.sampled_from(["begin", "ask", "end"]))
    def agent_works(self, what: str) -> None:
        agent = self.agent
        if not agent.alive:
            return
        if what == "begin" and agent.queue and not agent.turn:
            agent.begin_turn()
        elif what == "ask" and agent.turn and agent.open is None:
            agent.ask()
        elif what == "end" and agent.turn and agent.open is None:
            agent.end_turn()

    @rule()
    def interrupt(self) -> None:
        if self.play.record.alive and self.play.record.rest is None:
            self.play.act(self.play.core.interrupt(m.SessionCommand(), "one", self.play.now))
            self.hear()

    @rule(force=st.booleans(), answered=st.booleans())
    def hibernate(self, force: bool, answered: bool) -> None:
        """The controller has it end, if ingest asks for that."""
        play = self.play
        if len(self.agents) >= 4:
            return
        try:
            if force:
                play.act(play.core.evict(m.EvictAgent(uid=UID, reason="memory is short"), play.now))
            else:
                play.act(play.core.hibernate(m.SessionCommand(id="h"), "one", play.now))
        except RefusedError:
            return
        asked = play.asked()[-1] if play.asked() else None
        if asked is not None and asked.stop and asked.process == self.agent.process:
            if answered:
                play.act(play.core.controller_answered(UID, asked.id, None, play.now))
            end = m.EndAgent(id="e", uid=UID, process=asked.process)
            play.act(play.core.end_agent(end, play.now))
            self.hear()
            self.agent.alive = self.agent.alive and not asked.force

    @rule()
    def wake(self) -> None:
        self.play.act(self.play.core.wake(m.SessionCommand(id="w"), "one", self.play.now))
        self.hear()

    @rule(seconds=st.sampled_from([0.3, 3.0, 7.0]))
    def time(self, seconds: float) -> None:
        self.play.later(seconds)
        self.hear()

    @precondition(lambda self: len(self.agents) < 3 and self.agent.alive)
    @rule()
    def kill_agent(self) -> None:
        self.agent.alive = False

    @precondition(lambda self: not self.agent.alive)
    @rule()
    def next_agent(self) -> None:
        """Its exit is told, its journal read to the end, the next one started as ingest asks."""
        self.bring_back()

    def bring_back(self) -> None:
        play, agent = self.play, self.agent
        play.fact(m.AgentExited(process=agent.process, exit_code=-9, reason="killed", final=False))
        self.drain()
        if play.record.exit is not None or not play.record.drained:
            play.act(
                play.core.agent_gone(
                    play.number, bw.Exit(process=agent.process, code=-9, size=self.offset), play.now
                )
            )
        assert any(isinstance(e, SendBye) for e in play.done)
        if play.record.rest is Status.HIBERNATED:  # else it is waking already, because a prompt waits
            assert play.session.prompts == {} or play.record.held is not None
            play.act(play.core.wake(m.SessionCommand(id="w"), "one", play.now))
        asked = [e.ask for e in play.done if isinstance(e, AskController)][-1]
        assert asked.process == agent.process + 1
        self.hear()
        play.detach()
        self.dead()
        play.fact(m.AgentStarted(process=asked.process, resume=asked.resume))
        self.agents.append(Agent(asked.process, agent.finished))
        self.connect()

    def drain(self) -> None:
        if not self.connected:
            self.connect()
        while self.offset < len(self.agent.journal):
            self.send(5, True)

    @invariant()
    def nothing_is_told_twice(self) -> None:
        ids = [fact.id for fact in self.play.post_log]
        assert len(ids) == len(set(ids))

    @invariant()
    def the_status_is_legal(self) -> None:
        assert self.play.record.status not in {Status.ENDED, Status.FAILED}

    def finish(self) -> None:
        """The world gets well: in the end everything has happened, once."""
        self.hold(False)
        for _ in range(60):
            if not self.agent.alive:
                self.bring_back()
            self.drain()
            self.taken()
            while self.answers:
                self.answer()
            agent = self.agent
            if agent.queue and not agent.turn:
                agent.begin_turn()
            elif agent.turn and agent.open is None:
                agent.end_turn()
            self.time(0.3)
        play = self.play
        seqs = [event["seq"] for event in play.kept_events()]
        assert seqs == list(range(1, len(seqs) + 1))
        assert play.record.seq == len(seqs)
        asked = [(a.process, f"r-{a.process}-{n}") for a in self.agents for n in range(1, a.asked + 1)]
        assert [(q.process, q.request_id) for q in play.facts("question")] == asked
        settled = {f.approval for f in play.facts("applied")} | {f.approval for f in play.facts("withdrawn")}
        assert settled == {q.approval for q in play.facts("question")}
        costs = [(f.process, f.total_usd) for f in play.facts("cost") if not f.baseline]
        assert costs == [(a.process, f"0.0{n}") for a in self.agents for n in range(1, a.results + 1)]
        assert play.session.prompts == {}
        assert len(self.agent.finished) == self.prompts
        kept: dict[str, list[Any]] = {}
        for event in play.kept_events():
            if event["type"] == "prompt":
                kept.setdefault(event["prompt_id"], []).append(event["phase"])
        assert all(phases == ["queued", "delivered"] for phases in kept.values())
        assert len(kept) == self.prompts
        assert play.record.status in {Status.READY, Status.WAITING_INPUT}
        assert play.record.questions == {}
        assert play.record.tools == {}


TestCrashes = Crashes.TestCase
TestCrashes.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
