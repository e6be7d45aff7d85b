"""The loop of every owner (services/_process/station.py): what was decided has its effect once, in order,
whichever message is lost, doubled or late, and wherever either side dies.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from bus import codec
from bus import messages as m
from bus import topics as t
from bus.api import Connected, Received
from bus.durable import Mailbox
from bus.effects import Do, Effect, Keep, Post, Publish, ReplyTo
from bus.errors import PeerError, RefusedError
from bus.topics import Topic
from services._process.context import Context
from services._process.logs import Log
from services._process.station import Station
from services._process.store import transaction
from tests.support.contexts import context_for

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
PRODUCER, OWNER = "ingest", "approvals"


class CrashError(Exception):
    """kill -9."""


class Wire:
    """A bus that only notes what is said; it may die when something is said."""

    node = "node"
    connected = True
    queued = 0

    def __init__(self) -> None:
        self.said: list[Received] = []
        self.dies_in: int | None = None  # messages that are still said

    def subscribe(self, row: Topic, /, **values: str) -> None: ...

    def look_again(self, row: Topic, /) -> None: ...

    def own(self, row: Topic, /, *, always: bool = False) -> None: ...

    def publish(self, row: Topic, payload: Any, /, **values: str) -> None:
        if self.dies_in == 0:
            raise CrashError
        if self.dies_in is not None:
            self.dies_in -= 1
        raw = codec.encode(row, payload)
        self.said.append(Received(row, values, raw, retained=False, topic=row.path(**values), node="node"))

    async def room(self) -> None: ...

    async def receive(self) -> Received | Connected:
        raise NotImplementedError

    async def deliver(self, handler: Callable[[Received | Connected], None]) -> None:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Row(Keep):
    """An effect that stands in the owner's store."""

    text: str


class Party:
    """A service that can die: its store outlives its station."""

    def __init__(self, service: str, home: Path, *, poison: str | None = None) -> None:
        self.service = service
        self.home = home
        self.poison = poison  # a fact that is refused
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        Mailbox.create_tables(self.db)
        self.db.execute("CREATE TABLE effects (n INTEGER PRIMARY KEY, text TEXT)")
        self.wire = Wire()
        self.now = NOW
        self.keep_dies = False
        self.done: list[Do] = []
        self.acting = 0
        self.start()

    def start(self) -> None:
        self.wire.dies_in = None
        self.keep_dies = False
        context: Context = context_for(self.wire, self.service, self.home, now=lambda: self.now)
        self.station = Station(context, self.db, keep=self._keep, do=self.done.append)
        self.station.on_fact("withdrawn", m.QuestionWithdrawn, self._on_fact)
        self.station.on_command(t.SESSION_INTERRUPT, m.SessionCommand, self._on_command)

    def _keep(self, effect: Keep) -> None:
        assert isinstance(effect, Row)
        self.db.execute("INSERT INTO effects (text) VALUES (?)", (effect.text,))
        if self.keep_dies:
            raise CrashError

    def _on_fact(self, fact: m.Fact, data: m.QuestionWithdrawn, now: datetime) -> list[Effect]:
        if fact.id == self.poison:
            raise RefusedError("bad_request", "poison")
        return [Row(fact.id), Publish(t.APPROVAL_EVENTS, m.ApprovalEvent(at=now, action="x", reason=fact.id))]

    def _on_command(self, command: m.SessionCommand, values: dict[str, str], now: datetime) -> list[Effect]:
        self.acting += 1
        if command.reason == "refuse":
            raise RefusedError("busy", "not now", {"since": 1})
        if command.reason == "peer":
            raise PeerError("bad_request", "odd")
        if command.reason == "later":
            return [Row(f"{command.id}")]
        return [Row(f"{command.id}"), ReplyTo(command.id, {"session": values["session"]})]

    def effects(self) -> list[str]:
        return [row[0] for row in self.db.execute("SELECT text FROM effects ORDER BY n")]

    def take(self, row: Topic) -> list[Received]:
        try:
            self.station.acknowledge()
        except CrashError:
            self.start()
        found = [message for message in self.wire.said if message.row is row]
        self.wire.said = [message for message in self.wire.said if message.row is not row]
        return found

    def replies(self) -> list[m.Reply]:
        return [codec.decode(t.REPLIES, message.payload, m.Reply) for message in self.take(t.REPLIES)]


def withdrawn(number: int) -> m.Fact:
    data = codec.encode_data(m.QuestionWithdrawn(approval="a", reason=str(number)))
    return m.Fact(id=f"f{number}", type="withdrawn", at=NOW, data=data)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


# ── Facts ────────────────────────────────────────────────────────────────────────────────────────────────

STEPS = st.one_of(
    st.just(("post",)),
    st.just(("resend",)),
    st.tuples(st.sampled_from(["fact", "ack", "lose fact", "lose ack", "double fact"]), st.integers(0, 30)),
    st.tuples(st.sampled_from(["producer dies", "owner dies"]), st.integers(0, 2)),
    st.just(("owner dies while keeping",)),
)


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("station") / "home"


@settings(max_examples=300, deadline=None)
@given(steps=st.lists(STEPS, max_size=60), poison=st.sampled_from([None, "f1"]))
def test_every_fact_has_its_effect_once_and_in_order(
    shared_home: Path, steps: list[tuple[Any, ...]], poison: str | None
) -> None:
    producer = Party(PRODUCER, shared_home)
    owner = Party(OWNER, shared_home, poison=poison)
    facts: list[Received] = []  # on their way, in any order
    acks: list[Received] = []
    posted = 0

    def collect() -> None:
        facts.extend(producer.take(t.FACTS))
        acks.extend(owner.take(t.ACKS))

    def survive(party: Party, act: Any) -> None:
        try:
            act()
        except CrashError:
            party.start()

    def resend() -> None:
        for name in producer.station.mailbox.owners():
            producer.station._send_facts(name, again=True)

    for step in steps:
        producer.now = owner.now = owner.now + timedelta(seconds=1)
        if step[0] == "post":
            fact = withdrawn(posted)
            posted += 1
            survive(producer, lambda fact=fact: producer.station.act([Post(OWNER, fact)]))
        elif step[0] == "resend":
            survive(producer, resend)
        elif step[0] == "fact" and facts:
            message = facts.pop(step[1] % len(facts))
            survive(owner, lambda message=message: owner.station.receive(message))
        elif step[0] == "double fact" and facts:
            facts.append(facts[step[1] % len(facts)])
        elif step[0] == "lose fact" and facts:
            facts.pop(step[1] % len(facts))
        elif step[0] == "ack" and acks:
            message = acks.pop(step[1] % len(acks))
            survive(producer, lambda message=message: producer.station.receive(message))
        elif step[0] == "lose ack" and acks:
            acks.pop(step[1] % len(acks))
        elif step[0] == "producer dies":
            producer.wire.dies_in = step[1]
        elif step[0] == "owner dies":
            owner.wire.dies_in = step[1]
        elif step[0] == "owner dies while keeping":
            owner.keep_dies = True
        collect()

    # The world calms down: a few rounds of sending again settle everything.
    producer.start()
    owner.start()
    for _ in range(4):
        producer.now = owner.now = owner.now + timedelta(seconds=6)
        resend()
        collect()
        while facts or acks:
            for message in facts:
                owner.station.receive(message)
            facts.clear()
            collect()
            for message in acks:
                producer.station.receive(message)
            acks.clear()
            producer.station.settle()
            collect()
    assert owner.effects() == [f"f{n}" for n in range(posted) if f"f{n}" != poison]
    assert producer.station.mailbox.waiting() == 0
    aside = [row[0] for row in producer.db.execute("SELECT id FROM refused")]
    assert aside == (["f1"] if poison and posted > 1 else [])


def test_a_fact_is_acknowledged_after_it_was_kept_and_again_when_it_comes_again(home: Path) -> None:
    producer, owner = Party(PRODUCER, home), Party(OWNER, home)
    producer.station.act([Post(OWNER, withdrawn(0))])
    (message,) = producer.take(t.FACTS)
    for _ in range(2):
        owner.station.receive(message)
        (ack,) = owner.take(t.ACKS)
        assert codec.decode(t.ACKS, ack.payload, m.Ack).ids == ["f0"]
    assert owner.effects() == ["f0"]
    assert len(owner.take(t.APPROVAL_EVENTS)) == 1


def test_an_owner_that_sees_a_gap_asks_for_what_waits(home: Path) -> None:
    producer, owner = Party(PRODUCER, home), Party(OWNER, home)
    producer.station.act([Post(OWNER, withdrawn(0)), Post(OWNER, withdrawn(1))])
    _, second = producer.take(t.FACTS)
    owner.station.receive(second)
    (asks,) = owner.take(t.ACKS)
    owner.station.receive(second)  # it asks once a second at most
    assert owner.take(t.ACKS) == []
    producer.station.receive(asks)
    for message in producer.take(t.FACTS):
        owner.station.receive(message)
    assert owner.effects() == ["f0", "f1"]


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xff", b"{}", b'{"id":"f9"}', b'{"id":"f9","type":"nonsense","at":"2026-11-21T09:00:00Z"}'],
)
def test_what_is_no_fact_is_reported_or_refused_and_never_stops_the_owner(home: Path, payload: bytes) -> None:
    owner = Party(OWNER, home)
    values = {"producer": PRODUCER, "owner": OWNER}
    for _ in range(2):
        owner.station.receive(Received(t.FACTS, values, payload, False, t.FACTS.path(**values), "node"))
        owner.station.acknowledge()
    acks = [codec.decode(t.ACKS, message.payload, m.Ack) for message in owner.take(t.ACKS)]
    if b"f9" in payload:
        assert [ack.refused[0].id for ack in acks] == ["f9", "f9"]
    else:
        assert acks == []
        assert owner.take(t.ERRORS)
    assert owner.effects() == []


def sent(payload: bytes) -> Received:
    values = {"producer": PRODUCER, "owner": OWNER}
    return Received(t.FACTS, values, payload, False, t.FACTS.path(**values), "node")


def acks(party: Party) -> list[m.Ack]:
    return [codec.decode(t.ACKS, message.payload, m.Ack) for message in party.take(t.ACKS)]


@pytest.mark.parametrize("poison", [None, "f0"], ids=["kept", "refused"])
def test_what_was_dealt_with_is_answered_the_same_whatever_comes_under_its_id(
    home: Path, poison: str | None
) -> None:
    owner = Party(OWNER, home, poison=poison)
    owner.station.receive(sent(msgspec.json.encode(withdrawn(0))))
    (answer,) = acks(owner)
    assert (answer.ids == ["f0"]) is (poison is None)
    effects, owner.poison = owner.effects(), None
    other = msgspec.structs.replace(withdrawn(1), id="f0")
    for payload in (msgspec.json.encode(other), b'{"id":"f0","type":7}', msgspec.json.encode(withdrawn(0))):
        owner.start()
        owner.station.receive(sent(payload))
        assert acks(owner) == [answer]
    assert owner.effects() == effects


def test_a_bug_in_a_handler_keeps_nothing_of_the_fact(home: Path) -> None:
    """The process ends of it; what is mended takes the fact when it comes again."""
    owner = Party(OWNER, home)

    def acts(*_: object) -> Iterator[Effect]:
        owner.station.act([Row("by itself")])
        yield Row("never")

    def raises(*_: object) -> Iterator[Effect]:
        raise KeyError("a bug of ours")

    for bug in (raises, acts):
        owner.station._facts["withdrawn"] = bug
        with pytest.raises((KeyError, sqlite3.OperationalError)):
            owner.station.receive(sent(msgspec.json.encode(withdrawn(0))))
        assert (owner.effects(), acks(owner), owner.db.in_transaction) == ([], [], False)
        owner.start()
    owner.station.receive(sent(msgspec.json.encode(withdrawn(0))))
    assert (owner.effects(), acks(owner)) == (["f0"], [m.Ack(ids=["f0"])])


def test_what_follows_from_an_acknowledgement_is_kept_with_it(home: Path) -> None:
    class Telling(Station):
        def fact_kept(self, fact_id: str) -> Iterator[Effect]:
            return iter([Row(f"kept {fact_id}")])

        def fact_refused(self, refused: m.Refused) -> Iterator[Effect]:
            return iter([Row(f"refused {refused.id}")])

    party = Party(PRODUCER, home)
    context = replace(party.station.context, registry=CollectorRegistry())
    party.station = Telling(context, party.db, keep=party._keep)
    party.station.act([Post(OWNER, withdrawn(0)), Post(OWNER, withdrawn(1))])
    ack = m.Ack(ids=["f0"], refused=[m.Refused(id="f1", code="busy", message="no")])
    values = {"owner": OWNER, "producer": PRODUCER}
    message = Received(t.ACKS, values, codec.encode(t.ACKS, ack), False, t.ACKS.path(**values), "node")
    party.keep_dies = True
    with pytest.raises(CrashError):
        party.station.receive(message)
    assert party.effects() == []
    assert party.station.mailbox.waiting() == 2
    party.keep_dies = False
    party.station.receive(message)
    assert party.effects() == ["kept f0", "refused f1"]
    assert party.station.mailbox.waiting() == 0


# ── Commands ─────────────────────────────────────────────────────────────────────────────────────────────


def command(payload: bytes, *, retained: bool = False, session: str = "s1") -> Received:
    row = t.SESSION_INTERRUPT
    return Received(row, {"session": session}, payload, retained, row.path(session=session), "node")


def test_a_command_acts_once_and_is_answered_as_often_as_it_comes(home: Path) -> None:
    party = Party(OWNER, home)
    for _ in range(3):
        party.station.receive(command(b'{"id":"c1"}'))
    assert [reply.result for reply in party.replies()] == [{"session": "s1"}] * 3
    assert party.effects() == ["c1"]


def test_the_same_id_with_another_content_or_topic_is_refused(home: Path) -> None:
    party = Party(OWNER, home)
    for message in (
        command(b'{"id":"c1"}'),
        command(b'{"id":"c1","reason":"x"}'),
        command(b'{"id":"c1"}', session="s2"),
    ):
        party.station.receive(message)
    assert [reply.ok for reply in party.replies()] == [True, False, False]
    assert party.acting == 1


@pytest.mark.parametrize("dies_in", [0, 1])
def test_a_command_whose_owner_dies_is_answered_after_it_was_sent_again(home: Path, dies_in: int) -> None:
    party = Party(OWNER, home)
    party.wire.dies_in = dies_in
    with suppress(CrashError):
        party.station.receive(command(b'{"id":"c1"}'))
    party.start()
    party.take(t.REPLIES)
    party.station.receive(command(b'{"id":"c1"}'))
    assert [reply.ok for reply in party.replies()] == [True]
    assert party.effects() == ["c1"]


def test_a_command_that_dies_while_it_is_kept_acts_when_it_comes_again(home: Path) -> None:
    party = Party(OWNER, home)
    party.keep_dies = True
    with pytest.raises(CrashError):
        party.station.receive(command(b'{"id":"c1"}'))
    party.start()
    party.station.receive(command(b'{"id":"c1"}'))
    assert party.effects() == ["c1"]
    assert [reply.ok for reply in party.replies()] == [True]


def test_an_answer_that_comes_later_is_remembered(home: Path) -> None:
    party = Party(OWNER, home)
    message = command(b'{"id":"c1","reason":"later"}')
    party.station.receive(message)
    party.station.receive(message)
    assert party.replies() == []
    party.station.act([ReplyTo("c1", {"late": True})])
    party.station.receive(message)
    assert [reply.result for reply in party.replies()] == [{"late": True}] * 2


@pytest.mark.parametrize(("reason", "code"), [("refuse", "busy"), ("peer", "bad_request")])
def test_a_refusal_is_answered_and_remembered(home: Path, reason: str, code: str) -> None:
    party = Party(OWNER, home)
    for _ in range(2):
        party.station.receive(command(msgspec.json.encode({"id": "c1", "reason": reason})))
    replies = party.replies()
    assert [reply.error.code for reply in replies if isinstance(reply.error, m.ErrorBody)] == [code, code]
    assert party.acting == 1


def test_without_an_id_it_acts_each_time_and_errors_go_to_errors(home: Path) -> None:
    party = Party(OWNER, home)
    party.station.receive(command(b"{}"))
    party.station.receive(command(b"{}"))
    party.station.receive(command(b'{"reason":"refuse"}'))
    party.station.receive(command(b'{"reason":7}'))
    party.station.receive(command(b"\xff\x00"))
    assert party.acting == 3
    assert party.replies() == []
    reports = [codec.decode(t.ERRORS, x.payload, m.ErrorReport) for x in party.take(t.ERRORS)]
    assert [report.code for report in reports] == ["busy", "bad_request", "bad_request"]
    assert {report.topic for report in reports} == {"sessions/s1/interrupt"}


def test_the_log_names_the_session_of_what_was_not_acted_on(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(Log, "warning", lambda _self, _event, /, **fields: told.append(fields))
    Party(OWNER, home).station.receive(command(b"no command"))
    assert [(fields["session"], fields["topic"]) for fields in told] == [("s1", "sessions/s1/interrupt")]


def test_a_retained_command_is_ignored_and_so_is_the_message_that_clears_it(home: Path) -> None:
    party = Party(OWNER, home)
    party.station.receive(command(b'{"id":"c1"}', retained=True))
    party.station.receive(command(b""))
    assert party.acting == 0
    assert party.wire.said == []


@given(st.binary(max_size=100))
@settings(max_examples=200, deadline=None)
def test_no_payload_stops_an_owner(shared_home: Path, payload: bytes) -> None:
    party = Party(OWNER, shared_home)
    party.station.receive(command(payload))
    party.station.receive(command(b'{"id":"after"}'))
    assert party.effects()[-1:] == ["after"]


def test_nothing_is_said_that_was_not_kept(home: Path) -> None:
    party = Party(OWNER, home)
    party.keep_dies = True
    with pytest.raises(CrashError):
        party.station.act(
            [Publish(t.APPROVAL_EVENTS, m.ApprovalEvent(at=NOW, action="x", reason="")), Row("a")]
        )
    assert party.wire.said == []
    assert party.effects() == []


def test_what_the_station_cannot_carry_out_is_our_own_mistake(home: Path) -> None:
    party = Party(OWNER, home)
    station = Station(replace(party.station.context, registry=CollectorRegistry()), party.db)
    with pytest.raises(TypeError):
        station.act([Row("x")])
    with pytest.raises(TypeError):
        station.act([Do()])
    with transaction(party.db), pytest.raises(sqlite3.OperationalError), transaction(party.db):
        pass
