"""Both databases: what is tested with ``database`` is tested on SQLite and on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.ledger.database import Database, open_database
from tests.support import postgres


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Server]:
    with postgres.server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """What ``ledger.database`` says."""
    if request.param == "sqlite":
        return tmp_path / "ledger.sqlite"
    return postgres.schema(request.getfixturevalue("postgres_server").url)


@pytest.fixture
def reopen(place: Path | str, tmp_path: Path) -> Iterator[Callable[[], Database]]:
    """Open the database (again); what was opened before is closed."""
    opened: list[Database] = []

    def again() -> Database:
        for before in opened:
            before.close()
        opened[:] = [open_database(place, tmp_path / "mailbox.sqlite")]
        return opened[0]

    yield again
    for database in opened:
        database.close()


@pytest.fixture
def database(reopen: Callable[[], Database]) -> Database:
    return reopen()
