"""The smallest owner and producer of facts, with real stores, for faults of what is around them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bus import codec
from bus import messages as m
from bus.api import Bus
from bus.effects import Effect, Keep, Post
from services._process.station import Station
from services._process.store import open_store
from tests.support.contexts import context_for

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
PRODUCER, OWNER = "ingest", "approvals"
SCHEMA = "CREATE TABLE effects (n INTEGER PRIMARY KEY, text TEXT, weight BLOB)"


@dataclass(frozen=True, slots=True)
class Row(Keep):
    """An effect that stands in the store, so heavy."""

    text: str
    weight: int


class Party:
    """A service whose store is a file. Facts that it gets become rows."""

    def __init__(self, bus: Bus, service: str, home: Path, *, weight: int = 0) -> None:
        self.path = home / f"{service}.sqlite"
        self.db = open_store(self.path, [SCHEMA], durable=False)
        self.weight = weight  # bytes that a fact's effect takes
        self.station = Station(context_for(bus, service, home), self.db, keep=self._keep)
        self.station.on_fact("withdrawn", m.QuestionWithdrawn, self._on_fact)

    def _keep(self, effect: Keep) -> None:
        assert isinstance(effect, Row)
        self.db.execute(
            "INSERT INTO effects (text, weight) VALUES (?, zeroblob(?))", (effect.text, effect.weight)
        )

    def _on_fact(self, fact: m.Fact, data: m.QuestionWithdrawn, now: datetime) -> list[Effect]:
        return [Row(data.reason, self.weight)]

    def effects(self) -> list[str]:
        return [row[0] for row in self.db.execute("SELECT text FROM effects ORDER BY n")]

    def post(self, count: int) -> None:
        """Facts 0, 1, 2, … for the owner."""
        self.station.act([Post(OWNER, withdrawn(number)) for number in range(count)])


def withdrawn(number: int) -> m.Fact:
    data = codec.encode_data(m.QuestionWithdrawn(approval="a", reason=str(number)))
    return m.Fact(id=f"f{number}", type="withdrawn", at=NOW, data=data)


def content(path: Path) -> list[tuple[str]]:
    """The rows of a store that nobody has open."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT text FROM effects ORDER BY n").fetchall()
