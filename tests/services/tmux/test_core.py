"""The core as pairs of event and effect, and its promises in any order of events, with crashes anywhere."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bus import messages as m
from bus import topics as t
from bus.codec import decode_data
from bus.effects import Effect, Post, Publish, ReplyTo
from bus.errors import RefusedError
from services.tmux import agents
from services.tmux.core import STEP_S, Core
from services.tmux.judging import DRAIN_S
from services.tmux.model import (
    TRANSITIONS,
    AgentIs,
    Check,
    Clear,
    CloseWindow,
    EndOrphan,
    Exit,
    Forget,
    Found,
    Open,
    Pane,
    Record,
    Save,
    Seen,
    Signal,
    Wake,
)

NOW = datetime(2026, 11, 21, 8, tzinfo=UTC)
FOUND = Found(program="/usr/bin/claude", version="2.1.329 (Claude Code)")
PANE = Pane("%0", "$0", "U1", 1, False, None)
DONE = Pane("%0", "$0", "U1", 1, True, 0)
PANE_2_DONE = Pane("%0", "$0", "U1", 2, True, 0)


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def core(*records: Record) -> Core:
    return Core("node", "acceptEdits", records)


def create(**more: Any) -> m.CreateSession:
    return m.CreateSession(**{"id": "c1", "session": "demo", "cwd": "/work", **more})


def running(**more: Any) -> tuple[Core, str]:
    """A core with a session that runs and has been answered for."""
    it = core()
    it.create(create(**more), "U1", "token", "p1", NOW)
    it.checked("U1", FOUND, NOW)
    it.fact_kept("created-U1", NOW)
    it.opened("U1", 1, NOW)
    return it, "U1"


def kinds(effects: list[Effect]) -> list[type[Effect]]:
    return [type(effect) for effect in effects]


def look(it: Core, at: float = 0, *, online: bool = True, **seen: Any) -> list[Effect]:
    view = Seen(**{"process": 1, "pane": PANE, "agent": AgentIs.ALIVE, "directory": True, **seen})
    return it.look({"U1": view}, after(at), ingest_online=online)


def facts(effects: list[Effect]) -> list[tuple[str, m.Payload]]:
    return [(e.fact.id, decode_data(e.fact)) for e in effects if isinstance(e, Post)]


def replies(effects: list[Effect]) -> list[ReplyTo]:
    return [effect for effect in effects if isinstance(effect, ReplyTo)]


def test_creation_step_by_step() -> None:
    it = core()
    assert kinds(it.create(create(), "U1", "token", "p1", NOW)) == [Save, Check]
    effects = it.checked("U1", FOUND, NOW)
    assert kinds(effects) == [Save, Post]
    [(fact_id, created)] = facts(effects)
    assert fact_id == "created-U1"
    assert isinstance(created, m.SessionCreated)
    assert created.token_sha256 == agents.token_sha256("token")
    assert "token" not in {created.session, created.prompt}
    effects = it.fact_kept("created-U1", NOW)
    assert facts(effects) == [("started-U1-1", m.AgentStarted(process=1, resume=None))]
    assert it.fact_kept("created-U1", NOW) == []
    assert look(it, pane=None, agent=AgentIs.NOT_STARTED, directory=False) == [Open("U1", 1, None)]
    [reply] = replies(it.opened("U1", 1, NOW))
    assert reply.request_id == "c1"
    assert reply.result.status == "starting"
    assert replies(it.opened("U1", 1, NOW)) == []


def test_the_same_name_again() -> None:
    it, _ = running()
    with pytest.raises(RefusedError, match="running already") as refused:
        it.create(create(), "U2", "t", "p", NOW)
    assert refused.value.code == "name_taken"
    assert refused.value.details == {"uid": "U1"}


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (Found(cwd_problem="gone"), "bad_cwd"),
        (Found(tmux_problem="no tmux"), "unavailable"),
        (Found(agent_problem="no claude"), "agent_missing"),
        (Found(program="/c", version="2.1.41"), "agent_version"),
        (Found(program="/c", version="?"), "agent_version"),
    ],
)
def test_a_world_that_is_not_ready(found: Found, code: str) -> None:
    it = core()
    it.create(create(), "U1", "token", "p1", NOW)
    effects = it.checked("U1", found, NOW)
    [reply] = replies(effects)
    assert reply.error is not None
    assert reply.error.code == code
    assert facts(effects) == []
    assert kinds(look(it, pane=None, directory=False)) == [Forget]
    assert it.records == {}


def test_ending_in_three_steps() -> None:
    it, _ = running()
    it.end(m.SessionCommand(id="e1"), "demo", NOW)
    [asked] = look(it)
    assert isinstance(asked, Publish)
    assert asked.row is t.END_AGENT
    assert look(it, STEP_S) == [Signal("U1", 1, "INT")]
    assert look(it, STEP_S + 1) == []
    assert look(it, STEP_S * 2) == [Signal("U1", 1, "TERM")]
    assert look(it, STEP_S * 3) == [Signal("U1", 1, "KILL")]
    assert look(it, STEP_S * 3 + 1) == [Signal("U1", 1, "KILL")]
    assert look(it, STEP_S * 3 + 2, agent=AgentIs.GONE, exit=Exit(-9)) == []  # the bridge still talks
    effects = look(it, STEP_S * 3 + 3, agent=AgentIs.GONE, exit=Exit(-9), pane=DONE)
    [(fact_id, told)] = facts(effects)
    assert fact_id == "ended-U1"
    assert told == m.AgentExited(process=1, exit_code=-9, reason="ended by command", final=True)
    assert look(it, 20, pane=DONE) == [Clear("U1", "$0")]
    effects = look(it, 21, pane=None, directory=False)
    assert [reply.request_id for reply in replies(effects)] == ["e1"]


def test_nobody_to_ask() -> None:
    """With ingest away the signals begin at once; its frames are waited for, and brought when it is back."""
    it, _ = running()
    it.end(m.SessionCommand(id="e1"), "demo", NOW)
    assert look(it, online=False) == [Signal("U1", 1, "INT")]
    assert look(it, 1, online=False, agent=AgentIs.GONE, exit=Exit(0)) == []
    assert look(it, 10_000, online=False, agent=AgentIs.GONE, exit=Exit(0)) == []
    assert look(it, 10_001, agent=AgentIs.GONE, exit=Exit(0)) == []
    effects = look(it, 10_001 + DRAIN_S, agent=AgentIs.GONE, exit=Exit(0))
    assert [fact_id for fact_id, _ in facts(effects)] == ["ended-U1"]


def test_everybody_who_asks_for_the_end_is_answered() -> None:
    it, _ = running()
    it.end(m.SessionCommand(id="e1"), "demo", NOW)
    it.end(m.SessionCommand(id="e2"), "demo", NOW)
    it.end(m.SessionCommand(), "demo", NOW)
    look(it, agent=AgentIs.GONE, exit=Exit(0), pane=DONE)
    effects = look(it, 1, pane=None, directory=False)
    assert [reply.request_id for reply in replies(effects)] == ["e1", "e2"]


def test_the_end_of_something_else() -> None:
    it, _ = running()
    for session, uid in (("other", None), ("demo", "U2")):
        with pytest.raises(RefusedError) as refused:
            it.end(m.SessionCommand(id="e", uid=uid), session, NOW)
        assert refused.value.code == "unknown_session"


@pytest.mark.parametrize("state", ["checking", "creating"])
def test_ended_while_it_is_being_opened(state: str) -> None:
    it = core()
    it.create(create(), "U1", "token", "p1", NOW)
    if state == "creating":
        it.checked("U1", FOUND, NOW)
    it.end(m.SessionCommand(id="e1"), "demo", NOW)
    effects = it.checked("U1", FOUND, NOW) if state == "checking" else it.fact_kept("created-U1", NOW)
    assert [(r.request_id, r.error is None) for r in replies(effects)] == [("c1", False)]
    assert [fact_id for fact_id, _ in facts(effects)] == (["ended-U1"] if state == "creating" else [])
    assert [r.request_id for r in replies(look(it, pane=None, directory=False))] == ["e1"]


@pytest.mark.parametrize(
    ("code", "final", "failed"),
    [(0, True, False), (1, False, False), (None, False, False), (127, True, True)],
)
def test_an_agent_that_ends_by_itself(code: int | None, final: bool, failed: bool) -> None:
    it, _ = running()
    [(_, told)] = facts(look(it, agent=AgentIs.GONE, exit=Exit(code), pane=DONE))
    assert isinstance(told, m.AgentExited)
    assert (told.exit_code, told.final, told.failed) == (code, final, failed)


def test_a_keeper_that_was_killed() -> None:
    """No exit code will ever come: after a moment the agent counts as gone."""
    it, _ = running()
    assert look(it, agent=AgentIs.GONE, pane=DONE) == []
    [(_, told)] = facts(look(it, 3, agent=AgentIs.GONE, pane=DONE))
    assert isinstance(told, m.AgentExited)
    assert told.exit_code is None


def test_the_next_agent() -> None:
    it, _ = running()
    look(it, agent=AgentIs.GONE, exit=Exit(1), pane=DONE)
    spawn = m.SpawnAgent(id="s", uid="U1", process=2, resume="conv")
    effects = it.spawn(spawn, NOW)
    assert facts(effects) == [("started-U1-2", m.AgentStarted(process=2, resume="conv"))]
    assert kinds(it.spawn(spawn, NOW)) == [ReplyTo]
    assert look(it) == []  # an old look: of process 1
    assert look(it, process=2, pane=DONE, agent=AgentIs.NOT_STARTED) == [Open("U1", 2, "%0")]
    it.end(m.SessionCommand(id="e"), "demo", NOW)
    with pytest.raises(RefusedError, match="ending"):
        it.spawn(msgspec.structs.replace(spawn, process=3), NOW)
    with pytest.raises(RefusedError, match="no living session"):
        it.spawn(msgspec.structs.replace(spawn, uid="U9"), NOW)


def test_a_program_that_ends_at_once_is_not_started_ever_faster() -> None:
    it, _ = running()
    broken = Pane("%0", "$0", "U1", 1, True, 70)
    opened = 0
    for second in range(120):
        if kinds(look(it, second, pane=broken, agent=AgentIs.NOT_STARTED)) == [Open]:
            opened += 1
            it.opened("U1", 1, after(second))
    assert 5 <= opened <= 12


def test_a_window_that_cannot_be_opened() -> None:
    it = core()
    it.create(create(), "U1", "token", "p1", NOW)
    it.checked("U1", FOUND, NOW)
    it.fact_kept("created-U1", NOW)
    effects = it.open_failed("U1", 1, "no space left", NOW)
    [reply] = replies(effects)
    assert reply.error is not None
    assert reply.error.code == "unavailable"
    [(_, told)] = facts(effects)
    assert isinstance(told, m.AgentExited)
    assert told.failed


def test_orphans_get_a_moment() -> None:
    it = core()
    seen = {"U9": Seen(1, PANE, AgentIs.ALIVE, None, True)}
    assert it.look(seen, NOW, ingest_online=True) == []
    assert it.look({}, after(1), ingest_online=True) == []
    assert it.look(seen, after(2), ingest_online=True) == []
    assert it.look(seen, after(6), ingest_online=True) == [EndOrphan("U9", "$0")]


def test_an_end_before_any_agent() -> None:
    """The bridge hangs before it starts the agent: its window is closed, and that is that."""
    it, _ = running()
    it.end(m.SessionCommand(id="e1"), "demo", NOW)
    none: dict[str, Any] = {"agent": AgentIs.NOT_STARTED}
    assert look(it, 0, **none) == []
    assert look(it, 6, **none) == [CloseWindow("U1", "$0")]
    assert look(it, 7, pane=None, **none) == []
    assert [fact_id for fact_id, _ in facts(look(it, 10, pane=None, **none))] == ["ended-U1"]


def stop(it: Core, **more: Any) -> list[Effect]:
    return it.stop(m.StopAgent(**{"id": "s1", "uid": "U1", "process": 1, **more}), NOW)


def test_a_stopped_agent_leaves_its_session_which_may_start_another() -> None:
    it, _ = running()
    assert kinds(stop(it)) == [Save, ReplyTo, Wake]
    waits = it.busy
    assert waits, "somebody waits for it"
    [asked] = look(it)
    assert isinstance(asked, Publish)
    assert asked.row is t.END_AGENT
    assert asked.payload == m.EndAgent(id="stop-agent-U1-1", uid="U1", process=1)
    gone: dict[str, Any] = {"pane": DONE, "agent": AgentIs.GONE, "exit": Exit(0)}
    told = look(it, 1, **gone)
    assert facts(told) == [
        ("exited-U1-1", m.AgentExited(process=1, exit_code=0, reason="put to sleep", final=False))
    ]
    assert look(it, 2, **gone) == [], "it sleeps"
    waits = it.busy
    assert not waits
    again = stop(it)
    assert kinds(again) == [ReplyTo], "asked again: it is gone"
    spawned = it.spawn(m.SpawnAgent(id="w", uid="U1", process=2, resume="conv"), NOW)
    assert facts(spawned) == [("started-U1-2", m.AgentStarted(process=2, resume="conv"))]
    assert [
        e.pane for e in look(it, 3, process=2, pane=DONE, agent=AgentIs.NOT_STARTED) if isinstance(e, Open)
    ]
    # what ends by itself afterwards is no sleep
    over = look(it, 4, process=2, pane=PANE_2_DONE, agent=AgentIs.GONE, exit=Exit(0))
    assert [data.final for _, data in facts(over) if isinstance(data, m.AgentExited)] == [True]


def test_a_stop_presses_harder_and_survives_a_crash_of_ours() -> None:
    it, _ = running()
    stop(it)
    look(it)
    it = core(*it.records.values())  # kill -9
    look(it, 1)
    pressed = [e for at in (7, 13, 19) for e in look(it, at)]
    assert [e.name for e in pressed if isinstance(e, Signal)] == ["INT", "TERM", "KILL"]
    killed = look(it, 20, pane=DONE, agent=AgentIs.GONE, exit=Exit(-9))
    assert [name for name, _ in facts(killed)] == ["exited-U1-1"]


def test_a_forced_stop_asks_nobody() -> None:
    it, _ = running()
    stop(it, force=True)
    assert [e.name for at in (0, 6) for e in look(it, at) if isinstance(e, Signal)] == ["TERM", "KILL"]


def test_an_agent_that_has_not_come_up_is_stopped_as_well() -> None:
    it, _ = running()
    stop(it)
    look(it, agent=AgentIs.NOT_STARTED)
    [closed] = look(it, 6, agent=AgentIs.NOT_STARTED)
    assert isinstance(closed, CloseWindow)
    look(it, 7, pane=None, agent=AgentIs.NOT_STARTED)
    told = look(it, 10, pane=None, agent=AgentIs.NOT_STARTED)
    assert [data.final for _, data in facts(told) if isinstance(data, m.AgentExited)] == [False]


def test_a_stop_is_refused_where_there_is_nothing_to_stop() -> None:
    it, _ = running()
    with pytest.raises(RefusedError) as refused:
        stop(it, uid="U2")
    assert refused.value.code == "unknown_session"
    it.end(m.SessionCommand(id="e"), "demo", NOW)
    with pytest.raises(RefusedError) as refused:
        stop(it)
    assert refused.value.code == "busy"


def test_asleep_and_ended() -> None:
    it, _ = running()
    stop(it)
    gone: dict[str, Any] = {"pane": DONE, "agent": AgentIs.GONE, "exit": Exit(0)}
    look(it, 1, **gone)
    it.end(m.SessionCommand(id="e"), "demo", NOW)
    assert [data.final for _, data in facts(look(it, 2, **gone)) if isinstance(data, m.AgentExited)] == [True]


def test_while_the_breaker_is_open_nothing_is_opened() -> None:
    it = core()
    it.create(create(), "U1", "token", "p1", NOW)
    found = msgspec.structs.replace(FOUND, breaker_open="memory is short", retry_at="2026-11-21T08:01:00Z")
    [reply] = [e for e in it.checked("U1", found, NOW) if isinstance(e, ReplyTo)]
    assert reply.error is not None
    assert (reply.error.code, reply.error.details) == ("breaker_open", {"retry_at": "2026-11-21T08:01:00Z"})


class Life(RuleBasedStateMachine):
    """One session in a world that does what it is told, or not, with crashes anywhere: records are what was
    saved, everything else is forgotten.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.store: dict[str, bytes] = {}
        self.outbox: dict[str, m.Fact] = {}
        self.acknowledged: dict[str, m.Payload] = {}
        self.replied: dict[str, int] = {}
        self.asked: set[str] = set()
        self.pane: Pane | None = None
        self.directory = False
        self.agents: dict[int, AgentIs] = {}
        self.exits: dict[int, Exit] = {}
        self.checks: list[str] = []
        self.count = 0
        self.it = core()

    def act(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Save):
                before = self.store.get(effect.record.uid)
                if before is not None:
                    old = msgspec.json.decode(before, type=Record).state
                    new = effect.record.state
                    assert new is old or new in TRANSITIONS[old], (old, new)
                self.store[effect.record.uid] = msgspec.json.encode(effect.record)
            elif isinstance(effect, Forget):
                del self.store[effect.uid]
            elif isinstance(effect, Post):
                self.outbox.setdefault(effect.fact.id, effect.fact)
            elif isinstance(effect, ReplyTo) and effect.request_id:
                self.replied[effect.request_id] = self.replied.get(effect.request_id, 0) + 1
            elif isinstance(effect, Check):
                self.checks.append(effect.uid)
            elif isinstance(effect, Open):
                self.directory = True
                self.pane = Pane("%0", "$0", effect.uid, effect.process, False, None)
                self.agents.setdefault(effect.process, AgentIs.ALIVE)
                self.act(self.it.opened(effect.uid, effect.process, self.now))
            elif isinstance(effect, Signal) and effect.name == "KILL":
                self.agents[effect.process] = AgentIs.GONE
                self.exits[effect.process] = Exit(-9)
            elif isinstance(effect, CloseWindow):
                self.pane = None
            elif isinstance(effect, Clear | EndOrphan):
                self.pane, self.directory = None, False
                self.agents, self.exits = {}, {}
            else:
                assert isinstance(effect, Wake | Publish | ReplyTo | Signal), effect

    @property
    def record(self) -> Record | None:
        return next(iter(self.it.records.values()), None)

    @initialize()
    def begin(self) -> None:
        self.create()

    @precondition(lambda self: not self.it.records)
    @rule()
    def create(self) -> None:
        self.count += 1
        request = f"c{self.count}"
        self.asked.add(request)
        self.agents, self.exits = {}, {}
        self.act(self.it.create(create(id=request), f"U{self.count}", "token", "p", self.now))

    @rule(ready=st.booleans())
    def check(self, ready: bool) -> None:
        for uid in self.checks[:1]:
            self.checks.pop(0)
            self.act(self.it.checked(uid, FOUND if ready else Found(cwd_problem="gone"), self.now))

    @rule(refuse=st.integers(0, 5))
    def acknowledge(self, refuse: int) -> None:
        for fact_id in list(self.outbox)[:1]:
            fact = self.outbox.pop(fact_id)
            if fact.type == "created" and refuse == 0:
                refused = m.Refused(id=fact_id, code="name_taken", message="no")
                self.act(self.it.fact_refused(refused, self.now))
            else:
                assert fact_id not in self.acknowledged or fact.type == "created"
                self.acknowledged[fact_id] = decode_data(fact)
                self.act(self.it.fact_kept(fact_id, self.now))

    @rule()
    def end(self) -> None:
        self.count += 1
        request = f"e{self.count}"
        try:
            self.act(self.it.end(m.SessionCommand(id=request), "demo", self.now))
            self.asked.add(request)
        except RefusedError as error:
            assert error.code == "unknown_session"  # noqa: PT017  # either way is right here

    @precondition(lambda self: self.record is not None and self.record.told == self.record.process)
    @rule()
    def spawn(self) -> None:
        record = self.record
        assert record is not None
        command = m.SpawnAgent(id=None, uid=record.uid, process=record.process + 1, resume="conv")
        try:
            self.act(self.it.spawn(command, self.now))
        except RefusedError as error:
            assert error.code in {"busy", "unknown_session"}  # noqa: PT017  # as above

    @precondition(lambda self: self.record is not None)
    @rule(force=st.booleans())
    def stop(self, force: bool) -> None:
        record = self.record
        assert record is not None
        command = m.StopAgent(id=None, uid=record.uid, process=record.process, force=force)
        try:
            self.act(self.it.stop(command, self.now))
        except RefusedError as error:
            assert error.code in {"busy", "unknown_session"}  # noqa: PT017  # as above

    @rule(code=st.sampled_from([0, 1, 127, None]))
    def agent_ends(self, code: int | None) -> None:
        for process, state in self.agents.items():
            if state is AgentIs.ALIVE:
                self.agents[process] = AgentIs.GONE
                if code is not None:
                    self.exits[process] = Exit(code)

    @rule(status=st.sampled_from([0, 3, 70, None]))
    def pane_ends(self, status: int | None) -> None:
        if self.pane is not None:
            self.pane = Pane("%0", "$0", self.pane.uid, self.pane.process, True, status)

    @rule()
    def window_goes(self) -> None:
        self.pane = None

    @rule()
    def crash(self) -> None:
        records = [msgspec.json.decode(raw, type=Record) for raw in self.store.values()]
        self.it = core(*records)
        self.checks = []
        self.act(self.it.resume({}, self.now))

    @rule(seconds=st.sampled_from([0.1, 1, 6]), online=st.booleans())
    def look(self, seconds: float, online: bool) -> None:
        self.now += timedelta(seconds=seconds)
        self.look_now(online)

    def look_now(self, online: bool) -> None:
        uids = {*self.it.records, *([self.pane.uid] if self.pane else [])}
        seen = {}
        for uid in uids:
            record = self.it.records.get(uid)
            process = record.process if record else 1
            pane = self.pane if self.pane and self.pane.uid == uid else None
            agent = self.agents.get(process, AgentIs.NOT_STARTED)
            seen[uid] = Seen(process, pane, agent, self.exits.get(process), self.directory)
        self.act(self.it.look(seen, self.now, ingest_online=online))

    @invariant()
    def what_is_kept_is_what_is_known(self) -> None:
        assert {uid: msgspec.json.encode(record) for uid, record in self.it.records.items()} == self.store

    @invariant()
    def nobody_is_answered_twice(self) -> None:
        assert all(count == 1 for count in self.replied.values())

    @invariant()
    def the_end_is_told_once(self) -> None:
        for uid in {name.removeprefix("ended-") for name in self.acknowledged if name.startswith("ended-")}:
            assert not [name for name in self.outbox if name.startswith("started-") and name.endswith(uid)]

    def teardown(self) -> None:
        """Ended by command in a world that obeys, everything comes to rest and everybody has an answer."""
        if self.it.living("demo"):
            self.act(self.it.end(m.SessionCommand(), "demo", self.now))
        for _ in range(400):
            self.now += timedelta(seconds=1)
            self.check(True)
            self.acknowledge(1)
            self.look_now(True)
            if self.pane and self.exits.get(self.pane.process):
                self.pane_ends(0)
        assert self.it.records == {}
        assert self.store == {}
        assert self.outbox == {}
        assert self.pane is None
        assert not self.directory
        assert set(self.replied) == self.asked


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_screen_is_ended_by_sigterm_and_typed_into_while_it_runs() -> None:
    it, _ = running(kind="interactive")
    command = m.TypeText(id="t", uid="U1", process=1, text="x")
    assert it.typing(command).uid == "U1"
    for wrong in ({"process": 2}, {"uid": "U9"}):
        with pytest.raises(RefusedError):
            it.typing(msgspec.structs.replace(command, **wrong))
    it.end(m.SessionCommand(id="e1"), "demo", NOW)
    with pytest.raises(RefusedError):
        it.typing(command)
    assert look(it) == [Signal("U1", 1, "TERM")]
    assert look(it, STEP_S) == [Signal("U1", 1, "KILL")]
    effects = look(it, STEP_S + 1, agent=AgentIs.GONE, exit=Exit(143))
    assert [fact_id for fact_id, _ in facts(effects)] == ["ended-U1"], "it has no bridge that is to be read"


def test_only_a_screen_is_typed_into() -> None:
    it, _ = running()
    with pytest.raises(RefusedError, match="no screen"):
        it.typing(m.TypeText(id="t", uid="U1", process=1, text="x"))


def test_a_dialog_is_told_once_of_each_process_that_it_keeps_from_starting() -> None:
    it, uid = running(kind="interactive")

    def told(message: str) -> list[m.Payload]:
        return [data for _, data in facts(it.screen_shows(it.records[uid], message, NOW))]

    assert told("trust?") == [m.ScreenShows(process=1, message="trust?")]
    assert told("trust?") == []
    it.spawn(m.SpawnAgent(id="s", uid=uid, process=2, resume=None), NOW)
    assert told("trust?") == [m.ScreenShows(process=2, message="trust?")]
