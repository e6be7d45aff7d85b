"""A ledger over a real store in memory, with a clock of its own, for tests of the core."""

from __future__ import annotations

import enum
import functools
import sqlite3
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import msgspec
import pytest

from bus import codec
from bus import messages as m
from bus.durable import Mailbox
from bus.effects import Effect, Keep, Post, Publish
from bus.errors import PeerError
from bus.topics import Topic
from services.ledger import money
from services.ledger.core import Ledger
from services.ledger.database import Database, Sqlite
from services.ledger.evidence_store import EvidenceStore
from services.ledger.forecast import HABIT_S
from services.ledger.prices import Prices
from services.ledger.standing import Standing
from services.ledger.store import Store

START = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
UID = "01JD0000000000000000000000"
OPUS = "claude-opus-5-5"
HAIKU = "claude-haiku-4-5"
OTHER = "01JE0000000000000000000000"
PRICES = Prices()


class Crash(enum.Enum):
    """When the process is killed: never, before a transaction's commit, or right after it."""

    NONE = enum.auto()
    BEFORE = enum.auto()
    AFTER = enum.auto()


@functools.cache
def _empty() -> bytes:
    """A database with today's schema: migrating one for each example of a property would take too long."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    Mailbox.create_tables(connection)
    database = Sqlite(connection, "empty")
    database.migrate()
    return connection.serialize()


def in_memory() -> Database:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.deserialize(_empty())
    return Sqlite(connection, "in memory")


def as_step_4_left_it(database: Database) -> None:
    """Within the caller's transaction."""
    added = ("messages place", "witnessed last", "lost messages", "lost whole", "followed n")
    for table, column in (one.split() for one in added):
        database.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    database.execute("UPDATE alembic_version SET version_num = '0004'")


class World:
    """The ledger and everything around it; ``said`` are the effects since the last `restart` or `clear`."""

    def __init__(
        self,
        *,
        zone: tzinfo = UTC,
        default_budget_usd: float | None = 10.0,
        database: Database | None = None,
    ) -> None:
        self.now = START
        self.zone = zone
        self.default = default_budget_usd
        self.db = database or in_memory()
        self.store = Store(self.db)
        self.evidence = EvidenceStore(self.db, self.store)
        self.standing = Standing(self.db.mailbox)
        self.mailbox = Mailbox(self.db.mailbox)
        self.said: list[Effect] = []
        self.told = 0
        self.restart()

    def restart(self) -> None:
        self.ledger = Ledger(
            zone=self.zone,
            default_budget=None if self.default is None else money.from_usd(self.default),
            loaded=self.evidence.load(self.now, HABIT_S),
            recall=self.store.near,
            archive=self.evidence.archive,
            prices=PRICES,
            now=self.now,
            stood=self.standing.load(),
        )
        self.act(self.ledger.snapshots(self.now))

    def later(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def act(self, effects: Iterable[Effect]) -> list[Effect]:
        decided = list(effects)
        with self.db.transaction():
            self.keep(decided)
        self.said += decided
        return decided

    def keep(self, effects: Iterable[Effect]) -> None:
        """What is durable of it, as the shell does it."""
        for effect in effects:
            if isinstance(effect, Standing.KEEPS):
                self.standing.keep(effect)
            elif isinstance(effect, Keep) and not self.evidence.keep(effect):
                self.store.keep(effect)
            elif isinstance(effect, Post):
                self.mailbox.post(effect.owner, effect.fact)

    def fact(self, fact: m.Fact, crash: Crash = Crash.NONE) -> list[Effect]:
        """As the station does: once per id, effects and id in one transaction. Refused facts raise."""
        if self.mailbox.kept("ingest", fact.id):
            return []
        data = codec.decode_data(fact)
        handlers: dict[type, Any] = {
            m.SessionOpened: self.ledger.opened,
            m.CostReported: self.ledger.cost,
            m.CostRunning: self.ledger.running,
            m.LimitSeen: self.ledger.limit,
            m.LimitOver: self.ledger.limit_over,
            m.ConversationFollowed: self.ledger.followed,
            m.CostUnreported: self.ledger.unreported,
        }
        effects: list[Effect] = handlers[type(data)](fact, data, self.now)
        if crash is Crash.BEFORE:
            self.restart()
            return []
        with self.db.transaction():
            self.mailbox.keep("ingest", fact.id, self.now)
            self.keep(effects)
        if crash is Crash.AFTER:
            self.restart()
            return []
        self.said += effects
        return effects

    # events

    def open(self, uid: str = UID, session: str = "web", **more: Any) -> list[Effect]:
        kind = more.pop("kind", "managed")
        data = m.SessionOpened(session=session, cwd=more.pop("cwd", "/work/app"), kind=kind, **more)
        return self.fact(fact_of(f"opened-{uid}", "opened", data, self.now, uid))

    def cost(
        self, turn: int, total: str, models: Mapping[str, Any] | None = None, uid: str = UID, **more: Any
    ) -> list[Effect]:
        """``models``: name → (cost, input, output, cache read, cache write), or cost alone."""
        fact_id = more.pop("fact_id", None)
        data = report(turn, total, models, **more)
        kind = "base" if data.baseline else "cost"
        name = fact_id or f"{kind}-{uid}-{data.process}-{turn}-{self.now.timestamp():.0f}"
        return self.fact(fact_of(name, "cost", data, self.now, uid))

    def running(self, spent: str | None, uid: str = UID, *, turn: int = 1, **more: Any) -> list[Effect]:
        self.told += 1
        data = m.CostRunning(
            session=more.pop("session", "web"),
            process=more.pop("process", 1),
            turn=turn,
            spent_usd=spent,
            **more,
        )
        return self.fact(fact_of(f"running-{self.told}", "running", data, self.now, uid))

    def tick(self) -> list[Effect]:
        return self.act(self.ledger.tick(self.now))

    def budget(self, usd: float | None, session: str = "web") -> None:
        self.act(self.ledger.set_budget(m.SetBudget(budget_usd=usd), session, self.now))

    def period_budget(self, usd: float | None, period: str) -> None:
        self.act(self.ledger.set_period_budget(m.SetBudget(budget_usd=usd), period, self.now))

    def refused(self, turn: int, total: str, models: Mapping[str, Any] | None = None, **more: Any) -> str:
        """The reason why a report is refused."""
        with pytest.raises(PeerError) as caught:
            self.cost(turn, total, models, **more)
        assert caught.value.code == "bad_request"
        return caught.value.message

    # what is known

    def session(self, session: str = "web") -> m.LedgerSession:
        found = {
            e.values["session"]: e.payload
            for e in self.act(self.ledger.snapshots(self.now))
            if isinstance(e, Publish) and isinstance(e.payload, m.LedgerSession)
        }
        return found[session]

    def total(self) -> m.LedgerTotal:
        last = self.act(self.ledger.snapshots(self.now))[-1]
        assert isinstance(last, Publish)
        assert isinstance(last.payload, m.LedgerTotal)
        return last.payload

    def rows(self) -> list[tuple[Any, ...]]:
        found = self.db.execute("SELECT turn, model, cost, turns, id FROM postings ORDER BY n")
        return [tuple(row) for row in found]

    def holds(self) -> list[m.BudgetHold]:
        """What ingest was told, in order, each once."""
        rows = self.db.mailbox.execute("SELECT payload FROM outbox WHERE owner = 'ingest' ORDER BY rowid")
        facts = [msgspec.json.decode(payload, type=m.Fact) for (payload,) in rows]
        assert len({fact.id for fact in facts}) == len(facts)
        return [codec.decode_data(fact) for fact in facts]  # type: ignore[misc]  # that is all there is

    def events(self, action: str) -> list[m.LedgerEvent]:
        found = [e.payload for e in self.said if isinstance(e, Publish)]
        return [e for e in found if isinstance(e, m.LedgerEvent) and e.action == action]

    def levels(self) -> list[tuple[Any, str, str]]:
        """(session or UNSET, from, to) of the level events said so far."""
        events = [e.payload for e in self.said if isinstance(e, Publish)]
        return [
            (e.session, str(e.from_), str(e.to))
            for e in events
            if isinstance(e, m.LedgerEvent) and e.action == "level"
        ]


def report(
    turn: int,
    total: str,
    models: Mapping[str, Any] | None = None,
    *,
    process: int = 1,
    model: str | None = OPUS,
    baseline: bool = False,
    session: str = "web",
    **more: Any,
) -> m.CostReported:
    if models is None:
        models = {OPUS: total}
    uses = {}
    for name, use in models.items():
        cost, *tokens = use if isinstance(use, tuple) else (use, 0, 0, 0, 0)
        uses[name] = m.ModelUsage(
            cost_usd=cost, input=tokens[0], output=tokens[1], cache_read=tokens[2], cache_write=tokens[3]
        )
    return m.CostReported(
        session=session,
        process=process,
        turn=turn,
        baseline=baseline,
        total_usd=total,
        models=uses,
        model=model,
        **more,
    )


def fact_of(fact_id: str, kind: str, data: m.Payload, at: datetime, uid: str = UID) -> m.Fact:
    return m.Fact(id=fact_id, type=kind, uid=uid, at=at, data=codec.encode_data(data))


def published(effects: Iterable[Effect], row: Topic) -> list[Any]:
    """Payloads for a row, None where it was cleared."""
    return [e.payload for e in effects if isinstance(e, Publish) and e.row is row]


def as_json(payload: m.Payload) -> Any:
    return msgspec.json.decode(msgspec.json.encode(payload))


def busy(database: Database) -> World:
    """Two sessions of one name, two models, two days in Berlin (23:00 UTC is midnight)."""
    world = World(database=database)
    world.now = datetime(2026, 11, 20, 22, 50, tzinfo=UTC)
    world.open()
    world.cost(1, "1", {OPUS: ("1", 10, 0, 0, 0)})
    world.later(900)  # 00:05 of the next day
    world.cost(2, "3", {OPUS: ("2", 20, 0, 0, 0), HAIKU: ("1", 5, 0, 0, 0)})
    world.open(uid=OTHER, cwd="/work/other")
    world.cost(1, "0.5", {HAIKU: "0.5"}, uid=OTHER, model=HAIKU)
    return world
