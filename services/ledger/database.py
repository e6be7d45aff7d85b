"""The ledger's database: a SQLite file, or a PostgreSQL server, chosen by ``ledger.database``.

Theory of operation. The store speaks one SQL that both understand (``?`` for values, ``ON CONFLICT``, CAST
around sums); the few words that differ stand in the migrations. What makes facts and commands safe
(`bus.durable`: outbox, inbox, command ids) needs a store that is there whenever the service is, so its tables
always stand in a SQLite file of the home:

- with SQLite it is the same file: one transaction holds the postings and the fact's id.
- with PostgreSQL there are two, and PostgreSQL commits first. If everything dies between the two commits, the
  fact comes again and finds its rows already there: every row has an id of its own and is inserted once. So
  what is acknowledged is always kept, and nothing counts twice.

Without its server the ledger cannot keep anything: it says why and ends (`StoreError`), is started again
until the server is back, and the costs wait in the outbox of ingest until then.
"""

from __future__ import annotations

import contextlib
import functools
import sqlite3  # noqa: TID251  # this is the store's seam
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from services._process.store import StoreError, connect_store, transaction, unusable
from services.ledger.migrations import HEAD

if TYPE_CHECKING:
    import psycopg

Tell = Callable[[str], None]

LOCK = 0x706F696E74736D  # "pointsm": the advisory lock of the one ledger that writes into a schema
LOCK_WAIT_S = 5.0  # a server needs a moment to notice that the process before us was killed
CONNECT_S = 5
GONE = "what was spent, and budgets that were set by command"
GONE_MAILBOX = "what the ledger had still to tell the other services"
USER_VERSION = 2  # of the SQLite file: Pointsman before alembic knew version 1 and refuses this one


class Cursor(Protocol):
    """What both drivers' cursors have."""

    @property
    def rowcount(self) -> int: ...
    def fetchone(self) -> Any: ...
    def fetchall(self) -> list[Any]: ...
    def __iter__(self) -> Iterator[Any]: ...


class Database(Protocol):
    """One connection. ``mailbox`` is the SQLite connection for `bus.durable`."""

    mailbox: sqlite3.Connection
    name: str  # for people: no password in it

    def execute(self, sql: str, values: Sequence[object] = ()) -> Cursor: ...
    def executemany(self, sql: str, rows: Iterable[Sequence[object]]) -> None: ...
    def transaction(self) -> AbstractContextManager[None]:
        """All or nothing, of the mailbox as well."""
        ...

    def relaxed(self) -> AbstractContextManager[None]:
        """Transactions within survive any crash of ours, perhaps no power cut: for what can be made again."""
        ...

    def close(self) -> None: ...


def is_server(place: str) -> bool:
    return place.startswith(("postgresql://", "postgres://"))


def open_database(place: Path | str, mailbox: Path, tell: Tell | None = None) -> Database:
    """``place`` is a path, or a PostgreSQL URL; with a server, ``mailbox`` is the file beside it. ``tell``
    hears of what may take long.

    Raises `StoreError` for a server that is away or in use, a file that cannot be read, and a newer schema.
    """
    if isinstance(place, str) and is_server(place):
        return _Postgresql(place, mailbox, tell)
    path = Path(place)
    database = Sqlite(connect_store(path, durable=True, gone=GONE), str(path))
    try:
        database.migrate(tell)
    except sqlite3.DatabaseError as error:
        database.close()
        raise unusable(error) from error
    except StoreError:
        database.close()
        raise
    return database


class Sqlite:
    def __init__(self, connection: sqlite3.Connection, name: str) -> None:
        self.name = name
        self.mailbox = connection

    def migrate(self, tell: Tell | None = None) -> None:
        (version,) = self.execute("PRAGMA user_version").fetchone()
        if version > USER_VERSION:
            raise StoreError(_newer(self.name, version, USER_VERSION, "move the file away to begin anew"))
        names = {row[0] for row in self.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        found = _revision(self) if "alembic_version" in names else None
        if found == HEAD:
            return
        if tell is not None and "postings" in names:
            tell(_migrating(self, found))
        if found is None and "postings" in names:
            found = "0001"  # from before alembic
            _upgrade("sqlite://", lambda: self.mailbox, self.name, stamp=found)
        _upgrade("sqlite://", lambda: self.mailbox, self.name)
        self.execute(f"PRAGMA user_version = {USER_VERSION}")

    def execute(self, sql: str, values: Sequence[object] = ()) -> Cursor:
        return self.mailbox.execute(sql, values)

    def executemany(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        self.mailbox.executemany(sql, rows)

    def transaction(self) -> AbstractContextManager[None]:
        return transaction(self.mailbox)

    @contextmanager
    def relaxed(self) -> Iterator[None]:
        with _relaxed(self.mailbox):
            yield

    def close(self) -> None:
        self.mailbox.close()


@contextmanager
def reading(place: Path | str) -> Iterator[Database]:
    """The database of a running ledger as it is now, on a connection of its own, to be read alone."""
    if isinstance(place, str) and is_server(place):
        with _Postgresql.reading(place) as database:
            yield database
        return
    with contextlib.closing(
        sqlite3.connect(f"{Path(place).absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    ) as connection:
        connection.execute("BEGIN")  # from the first question on: one moment of the log
        yield Sqlite(connection, str(place))


def _migrating(database: Database, found: str | None) -> str:
    (count,) = database.execute("SELECT coalesce(max(n), 0) FROM postings").fetchone()
    schemas = f"schema {found or 'none'} to {HEAD}"
    return f"bringing {database.name} with {count:,} postings from {schemas}: some 3 s for each million"


@contextmanager
def _relaxed(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("PRAGMA synchronous = NORMAL")
    try:
        yield
    finally:
        connection.execute("PRAGMA synchronous = FULL")


def _revision(database: Database) -> str | None:
    row = database.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if row is None else str(row[0])


def _newer(name: str, found: object, known: object, otherwise: str) -> str:
    return (
        f"{name} was written by a newer Pointsman (schema {found}, this one knows {known}): start that "
        f"version, or {otherwise}"
    )


def _upgrade(url: str, connect: Callable[[], Any], name: str, *, stamp: str | None = None) -> None:
    """Bring the schema up to date with alembic, or only note down which one it is (``stamp``)."""
    import alembic.command
    import alembic.config
    import alembic.util
    import sqlalchemy

    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    engine = sqlalchemy.create_engine(url, creator=connect, poolclass=sqlalchemy.StaticPool)
    if url.startswith("sqlite"):
        # Our connection commits each statement by itself: a transaction must be begun, also for CREATE TABLE.
        sqlalchemy.event.listen(engine, "begin", lambda c: c.exec_driver_sql("BEGIN IMMEDIATE"))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        try:
            if stamp is None:
                alembic.command.upgrade(config, "head")
            else:
                alembic.command.stamp(config, stamp)
        except sqlalchemy.exc.DBAPIError as error:  # a full disk, for one: told as what it is
            raise error.orig or error from error
        except alembic.util.CommandError as error:
            found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
            raise StoreError(_newer(name, found, HEAD, "name another ledger.database")) from error


# ── PostgreSQL ───────────────────────────────────────────────────────────────────────────────────────────


@functools.lru_cache(maxsize=500)
def _theirs(sql: str) -> str:
    """The same statement with psycopg's marks. None of ours has a ``?`` or ``%`` in a literal."""
    return sql.replace("?", "%s")


def _kept(values: Sequence[object]) -> Sequence[object]:
    """What PostgreSQL keeps of them: no text with a NUL, which SQLite takes, and agents may write."""
    if not any(isinstance(value, str) and "\0" in value for value in values):
        return values
    return [value.replace("\0", "\ufffd") if isinstance(value, str) else value for value in values]


class _Postgresql:
    """A transaction begins with the first write within `transaction`; reads outside of one stand alone."""

    def __init__(self, url: str, mailbox: Path, tell: Tell | None = None) -> None:
        import psycopg

        self._errors = psycopg.Error
        self._away = (psycopg.OperationalError, psycopg.InterfaceError)
        self.name = _shown(url)
        self._within = False
        try:
            self._db: psycopg.Connection[Any] = psycopg.connect(
                url, autocommit=True, connect_timeout=CONNECT_S, application_name="pointsman ledger"
            )
            try:
                self._db.execute("SET synchronous_commit = on")  # what was said survives a power cut
                self._lock()
                self._migrate(lambda: psycopg.connect(url, connect_timeout=CONNECT_S), tell)
                self.mailbox = connect_store(mailbox, durable=True, gone=GONE_MAILBOX)
            except BaseException:  # whatever it was, the server need not keep a connection for us
                self._db.close()
                raise
        except psycopg.Error as error:
            raise self._trouble(error) from error

    def _trouble(self, error: Exception) -> StoreError:
        said = str(error).strip().splitlines()
        return StoreError(
            f"PostgreSQL ({self.name}) cannot be used: {said[0] if said else type(error).__name__}. Is it "
            "running, and is ledger.database right? Costs wait in the other services until it is"
        )

    def _lock(self) -> None:
        until = time.monotonic() + LOCK_WAIT_S  # noqa: TID251  # the seam is part of the shell
        ask = "SELECT pg_try_advisory_lock(%s, hashtext(current_schema()))"
        while not self._db.execute(ask, (LOCK >> 24,)).fetchone()[0]:  # type: ignore[index]  # one row
            if time.monotonic() > until:  # noqa: TID251  # as above
                raise StoreError(
                    f"another ledger writes into {self.name}: give each node a schema of its own, such as "
                    "postgresql://…/costs?options=-csearch_path%3Dthis_node"
                )
            time.sleep(0.1)

    def _migrate(self, connect: Callable[[], Any], tell: Tell | None) -> None:
        found = self._db.execute("SELECT to_regclass('alembic_version')").fetchone()
        if found is not None and found[0] is not None:
            if _revision(self) == HEAD:
                return
            if tell is not None:
                tell(_migrating(self, _revision(self)))
        made: list[Any] = []

        def connected() -> Any:
            made.append(connect())
            return made[-1]

        try:
            _upgrade("postgresql+psycopg://", connected, self.name)
        finally:
            for connection in made:
                connection.close()

    @classmethod
    @contextmanager
    def reading(cls, url: str) -> Iterator[Database]:
        """One moment of it, without our lock: the ledger that runs has that."""
        import psycopg

        made = cls.__new__(cls)
        made._errors, made._away = psycopg.Error, (psycopg.OperationalError, psycopg.InterfaceError)
        made.name, made._within = _shown(url), False
        try:
            with psycopg.connect(url, autocommit=True, connect_timeout=CONNECT_S) as made._db:
                made._db.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                yield made
        except psycopg.Error as error:
            raise made._trouble(error) from error

    def execute(self, sql: str, values: Sequence[object] = ()) -> Cursor:
        try:
            self._begin(sql)
            return self._db.execute(_theirs(sql), _kept(values))
        except self._away as error:
            raise self._trouble(error) from error

    def executemany(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        try:
            self._begin(sql)
            self._db.cursor().executemany(_theirs(sql), map(_kept, rows))
        except self._away as error:
            raise self._trouble(error) from error

    def _begin(self, sql: str) -> None:
        if self._within and not self._db.info.transaction_status and not sql.startswith("SELECT"):
            self._db.execute("BEGIN")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with transaction(self.mailbox):
            self._within = True
            try:
                yield
                if self._db.info.transaction_status:  # begun: anything but IDLE, which is 0
                    self._db.execute("COMMIT")
            except BaseException as error:  # whatever it was, nothing of it is kept
                with contextlib.suppress(self._errors):
                    self._db.rollback()
                if isinstance(error, self._away):
                    raise self._trouble(error) from error
                raise
            finally:
                self._within = False

    @contextmanager
    def relaxed(self) -> Iterator[None]:
        self.execute("SET synchronous_commit = off")
        try:
            with _relaxed(self.mailbox):
                yield
        finally:
            self.execute("SET synchronous_commit = on")

    def close(self) -> None:
        self._db.close()
        self.mailbox.close()


def _shown(url: str) -> str:
    """Without user and password."""
    parts = urlsplit(url)
    place = f"{parts.hostname or 'local'}{f':{parts.port}' if parts.port else ''}"
    return f"postgresql://{place}{parts.path}"
