"""The seam: SQLite or PostgreSQL, migrated on opening, and both halves of a transaction kept or neither."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import alembic.script
import msgspec
import pytest

from bus import messages as m
from bus import topics as t
from bus.api import Received
from bus.durable import Mailbox
from bus.memory import MemoryBroker
from services._process.store import StoreError, connect_store
from services.ledger import database as seam
from services.ledger import migrations
from services.ledger.database import Database, open_database
from services.ledger.migrations.versions import r0001_postings
from services.ledger.model import KeepBudget
from services.ledger.shell import Shell
from services.ledger.store import Store
from tests.services.ledger.support import START, UID, World, as_step_4_left_it, fact_of, report
from tests.support import postgres
from tests.support.contexts import context_for

Reopen = Callable[[], Database]


def budgets(database: Database) -> dict[str, int | None]:
    return dict(Store(database).load(START, 900).budgets)


def a_budget(usd: int) -> KeepBudget:
    return KeepBudget("period:day", usd, "command", None, None, START)


def test_what_was_committed_is_there_after_opening_again(reopen: Reopen) -> None:
    database = reopen()
    with database.transaction():
        Store(database).keep(a_budget(7))
    assert budgets(reopen()) == {"period:day": 7}


def test_nothing_is_kept_of_what_failed(database: Database) -> None:
    mailbox = Mailbox(database.mailbox)

    def fail() -> None:
        with database.transaction():
            mailbox.keep("ingest", "f1", START)
            Store(database).keep(a_budget(7))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert budgets(database) == {}
    assert not mailbox.kept("ingest", "f1")
    with database.transaction():  # and it goes on
        Store(database).keep(a_budget(8))
    assert budgets(database) == {"period:day": 8}


def test_rows_that_never_change(database: Database) -> None:
    world = World(database=database)
    world.open()
    world.cost(1, "1")
    for table in ("postings", "reports"):
        for damage in ("UPDATE {} SET turn = 2", "DELETE FROM {}"):
            with pytest.raises(Exception, match="never changes"):
                database.execute(damage.format(table))
    assert world.rows()[0][0] == 1


def test_a_newer_schema_is_refused(reopen: Reopen, place: Path | str, tmp_path: Path) -> None:
    database = reopen()
    with database.transaction():
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    with pytest.raises(StoreError, match=r"newer Pointsman \(schema 9999, this one knows"):
        open_database(place, tmp_path / "mailbox.sqlite")


def test_a_file_newer_than_alembic_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    open_database(path, path).close()
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("PRAGMA user_version = 7")
    with pytest.raises(StoreError, match="schema 7"):
        open_database(path, path)


def test_a_disk_that_is_full_in_the_midst_of_a_migration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told as what it is (exit code 4), and the next start finds a schema that is whole."""
    path = tmp_path / "ledger.sqlite"

    def no_room(*args: Any, pages: int, **named: Any) -> sqlite3.Connection:
        connection = connect_store(*args, **named)
        (count,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {count + pages}")
        return connection

    for pages in (1, 12, 25):  # in the first step, and in later ones
        monkeypatch.setattr(seam, "connect_store", partial(no_room, pages=pages))
        with pytest.raises(StoreError, match=r"cannot be used: .* is full\. Make room on its disk"):
            open_database(path, path)
    monkeypatch.undo()
    database = open_database(path, path)
    assert database.execute("SELECT version_num FROM alembic_version").fetchone() == (migrations.HEAD,)
    database.close()


def test_a_file_from_before_alembic_is_brought_up(tmp_path: Path) -> None:
    """As the first release left it: the tables of step 1, counted by SQLite's own user_version."""
    path = tmp_path / "ledger.sqlite"
    with closing(sqlite3.connect(path)) as old:
        old.executescript(r0001_postings.TABLES)
        old.execute("INSERT INTO sessions VALUES (1, 'u', 'web', '/', 'managed', 1, 1)")
        old.execute(
            "INSERT INTO postings VALUES "
            "(1, 'p', 'u', 1, 1, 'm', 1, 5, 1, 2, 3, 4, 0, 4, 1, 1, 'agent', 0, 'f')"
        )
        old.execute("INSERT INTO spent VALUES ('u', 'm', 5, 1, 2, 3, 4, 0, 4, 1, 1, 0, 0, 1)")
        old.execute("INSERT INTO spent_quarters VALUES (0, 5, 1, 2, 3, 4, 0, 4, 1, 1, 0, 0, 1)")
        old.execute("PRAGMA user_version = 1")
        old.commit()
    database = open_database(path, path)
    store = Store(database)
    (found,) = store.load(START, 900).sums
    assert (found.uid, found.use.cost, found.turns) == ("u", 5, 1)
    assert store.derived_agrees()
    database.close()
    open_database(path, path).close()


def test_sums_by_time_are_made_of_the_postings_that_are_there(reopen: Reopen) -> None:
    world = World(database=reopen())
    world.open()
    world.cost(1, "1")
    world.later(900)
    world.cost(2, "3")
    tables = ("spent_spans", "spent_sessions", "spent_models")
    rows = [world.db.execute(f"SELECT * FROM {one} ORDER BY 1, 2").fetchall() for one in tables]  # noqa: S608
    costs = [[row[-14] // 10**12 for row in of] for of in rows]
    assert costs == [[1, 2], [3, 3], [3]]  # two quarters of an hour; their day and month; their day
    with world.db.transaction():  # as step 2 left it
        as_step_4_left_it(world.db)
        for table in tables:
            world.db.execute(f"DROP TABLE {table}")
        world.db.execute("DROP TABLE checked")
        world.db.execute("UPDATE alembic_version SET version_num = '0002'")
    database = reopen()
    assert [database.execute(f"SELECT * FROM {one} ORDER BY 1, 2").fetchall() for one in tables] == rows  # noqa: S608
    assert database.execute("SELECT n, cost, postings FROM checked").fetchall() == [(2, 3 * 10**12, 2)]
    assert Store(database).derived_agrees(whole=True)


def test_a_start_with_today_s_schema_does_not_load_alembic(reopen: Reopen, monkeypatch: Any) -> None:
    reopen()
    monkeypatch.setattr(seam, "_upgrade", None)
    assert budgets(reopen()) == {}


def test_the_head_is_alembic_s() -> None:
    assert alembic.script.ScriptDirectory(str(Path(migrations.__file__).parent)).get_heads() == [
        migrations.HEAD
    ]


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"this is a letter, and no database at all" * 100)
    with pytest.raises(StoreError, match="cannot be used"):
        open_database(path, path)


def test_a_cost_whose_commit_fails_counts_once_and_holds_once(place: Path | str, tmp_path: Path) -> None:
    """At the mailbox's commit; a server has the postings by then. The next process gets the fact again."""
    broker = MemoryBroker()

    def started() -> Shell:
        bus = broker.client(service="ledger")
        context = context_for(bus, "ledger", tmp_path, now=lambda: START, ledger_database=str(place))
        made = Shell(context)
        made.station.on_fact("opened", m.SessionOpened, made.ledger.opened)
        made.station.on_fact("cost", m.CostReported, made.ledger.cost)
        made.station.act(made.ledger.snapshots(START))
        return made

    def tell(to: Shell, kind: str, data: m.Payload) -> None:
        raw = msgspec.json.encode(fact_of(f"{kind}-1", kind, data, START))
        values = {"producer": "ingest", "owner": "ledger"}
        to.station.receive(Received(t.FACTS, values, raw, False, t.FACTS.path(**values), to.station.bus.node))

    def deny(did: int, what: str | None, *_: object) -> int:
        full = did == sqlite3.SQLITE_TRANSACTION and what == "COMMIT"
        return sqlite3.SQLITE_DENY if full else sqlite3.SQLITE_OK

    shell = started()
    tell(shell, "opened", m.SessionOpened(session="web", cwd="/work", kind="managed", budget_usd=1.0))
    shell.database.mailbox.set_authorizer(deny)
    with pytest.raises(sqlite3.DatabaseError):
        tell(shell, "cost", report(1, "2"))
    shell.database.close()
    for _ in range(2):  # it comes again, and once more
        shell = started()
        tell(shell, "cost", report(1, "2"))
        assert shell.station.mailbox.kept("ingest", "cost-1")
        assert shell.station.mailbox.refusal("ingest", "cost-1") is None
        (cost,) = shell.database.execute("SELECT cost FROM postings").fetchall()
        assert tuple(cost) == (2 * 10**12,)
        assert shell.store.load(START, 900).sums[0].use.cost == 2 * 10**12
        holds = shell.database.mailbox.execute("SELECT id FROM outbox").fetchall()
        assert holds == [(f"hold-{UID}-1",)]
        shell.database.close()


def test_what_an_agent_writes_into_a_name_stops_no_ledger(database: Database) -> None:
    """A NUL is text to JSON and to SQLite, and none to PostgreSQL: its fact would come again for ever."""
    world = World(database=database)
    since, nul = START, "a\0b"
    world.open(cwd=nul)
    followed = m.ConversationFollowed(session="web", conversation=nul, cwd=nul, since=since, path=nul)
    world.fact(fact_of("f1", "conversation", followed, since))
    lost = m.CostUnreported(
        session="web", process=1, turn=0, conversation=nul, first=nul, messages=[nul],
        usage={nul: m.RunningUsage(input=1)},
    )  # fmt: skip
    world.fact(fact_of("f2", "unreported", lost, since))
    world.later(1000)
    world.act(world.ledger.read(UID, [], world.now))
    world.cost(1, "1")
    world.restart()
    assert world.session().spent_usd == 1.0


# ── PostgreSQL alone ─────────────────────────────────────────────────────────────────────────────────────


def test_two_ledgers_do_not_share_a_schema(
    postgres_server: postgres.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seam, "LOCK_WAIT_S", 0.2)
    url = postgres.schema(postgres_server.url)
    first = open_database(url, tmp_path / "one.sqlite")
    with pytest.raises(StoreError, match="another ledger"):
        open_database(url, tmp_path / "two.sqlite")
    open_database(postgres.schema(postgres_server.url), tmp_path / "two.sqlite").close()
    first.close()
    open_database(url, tmp_path / "two.sqlite").close()


def test_killed_between_the_two_commits(postgres_server: postgres.Server, tmp_path: Path) -> None:
    """PostgreSQL has the cost, the mailbox has not: the fact comes again and counts nothing twice."""
    url = postgres.schema(postgres_server.url)
    world = World(database=open_database(url, tmp_path / "mailbox.sqlite"))
    world.open()
    world.cost(1, "1", fact_id="f1")
    with world.db.transaction():
        world.db.mailbox.execute("DELETE FROM inbox WHERE id = 'f1'")  # as if it had never been committed
    world.restart()
    before = world.session().spent_usd
    world.cost(1, "1", fact_id="f1")
    assert world.mailbox.kept("ingest", "f1")
    assert (world.session().spent_usd, before) == (1.0, 1.0)
    world.restart()
    assert world.session().spent_usd == 1.0
    world.db.close()


def test_a_server_that_goes_away(tmp_path: Path) -> None:
    """Its own server, because this one is killed: what was refused is kept nowhere, and comes again."""
    with postgres.server() as server:
        url = postgres.schema(server.url)
        world = World(database=open_database(url, tmp_path / "mailbox.sqlite"))
        world.open()
        world.cost(1, "1", fact_id="f1")
        server.stop()
        with pytest.raises(StoreError, match="Costs wait in the other services"):
            world.cost(2, "3", fact_id="f2")
        assert not world.mailbox.kept("ingest", "f2")
        world.db.close()
        with pytest.raises(StoreError, match="Is it running"):
            open_database(url, tmp_path / "mailbox.sqlite")
        server.start()
        world.db = open_database(url, tmp_path / "mailbox.sqlite")
        again = World(database=world.db)
        assert again.session().spent_usd == 1.0
        again.cost(1, "1", fact_id="f1")
        again.cost(2, "3", fact_id="f2")
        assert again.session().spent_usd == 3.0
        world.db.close()
