"""What takes long with a big ledger: bringing its schema up, making sums again, comparing everything.

Ten million postings take 20 s and more, and a service that is silent for 25 s is taken for hung and ended. So
both are done in a thread, over a connection of their own, while the service's heart goes on beating:

- `due`, `bring_up`: at a start, before anything else. The health of the service says what it is doing.
- `check`: asked for (``ledger/check``), beside the work. It reads one moment of the database (a snapshot) and
  compares every sum with the rows that it was made of, key by key. Sums are not made again beside the work,
  because what the ledger has in memory was read from them: the service starts anew for that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from services.ledger.columns import ADDED, sums_of
from services.ledger.database import Database, is_server, open_database, reading
from services.ledger.periods import MONTH, QUARTER_MS
from services.ledger.store import MADE, Store

LARGE_BYTES = 64 * 1024 * 1024  # of a file: some 400,000 postings, which take a second
_COLUMNS = ", ".join((*ADDED, "notional"))

Tell = Callable[[str], None]


def due(place: Path | str) -> bool:
    """Whether opening this database may take long."""
    if isinstance(place, str) and is_server(place):
        return True
    path = Path(place)
    return path.exists() and path.stat().st_size >= LARGE_BYTES


def bring_up(place: Path | str, mailbox: Path, tell: Tell) -> bool:
    """Migrate the database and compare its sums. Returns whether they agreed. For a thread.

    ``tell`` hears what is being done. Raises what `open_database` does.
    """
    database = open_database(place, mailbox, tell=tell)
    try:
        return compare(database, tell)
    finally:
        database.close()


def compare(database: Database, tell: Tell) -> bool:
    """Compare the derived sums with their postings, and make them again if they differ."""
    store = Store(database)
    with database.transaction():
        agreed = store.derived_agrees()
        if agreed:
            store.note_checked()
        else:
            tell(f"making the sums of {database.name} again from its postings: some 4 s for each million")
            store.rebuild()
    return agreed


def check(place: Path | str, progress: Callable[[int, int], None]) -> tuple[int, dict[str, int]]:
    """Compare all sums, key by key, as they are at this moment: the number of postings, and for each table
    how many keys differ. ``progress`` hears how many steps of how many are done. For a thread.
    """
    with reading(place) as database:
        (postings, first, last) = database.execute(
            "SELECT count(*), min(at), max(at) FROM postings"
        ).fetchone()
        slices = [] if first is None else list(_slices(first, last))
        done, of = 0, len(slices) + len(MADE) - 1
        found = {table: 0 for table, *_ in MADE}
        quarters, *others = MADE
        for low, high in slices:
            at = (low * QUARTER_MS, high * QUARTER_MS)
            made = _made(quarters, "WHERE at >= ? AND at < ?")
            kept = f"SELECT {quarters[1]}, {_COLUMNS} FROM spent_spans WHERE span = 1 AND quarter >= ? AND quarter < ?"  # noqa: S608, E501  # constants
            found["spent_spans"] += _differ(database, made, at, kept, (low, high))
            done += 1
            progress(done, of)
        for table, key, kind, source, grouped in others:
            where = "" if table != "spent_sessions" else f"WHERE span = {kind.partition(',')[0]}"
            kept = f"SELECT {key}, {_COLUMNS} FROM {table} {where}"  # noqa: S608  # constants
            found[table] += _differ(database, _made((table, key, kind, source, grouped)), (), kept, ())
            done += 1
            progress(done, of)
        low, high = (slices[0][0], slices[-1][1]) if slices else (0, 0)
        beyond = "SELECT count(*) FROM spent_spans WHERE quarter < ? OR quarter >= ?"
        found["spent_spans"] += database.execute(beyond, (low, high)).fetchone()[0]  # sums of nothing
    return postings, found


def _slices(first: int, last: int) -> Iterator[tuple[int, int]]:
    """Of about a month, in quarters of an hour, from the first to after the last posting (ms)."""
    begin, end = first // QUARTER_MS // MONTH * MONTH, last // QUARTER_MS + 1
    for low in range(begin, end, MONTH):
        yield low, low + MONTH


def _made(row: tuple[str, ...], where: str = "") -> str:
    _, _, kind, source, grouped = row
    return f"SELECT {kind}, {sums_of(ADDED, source)}, max(notional) FROM {source} {where} GROUP BY {grouped}"  # noqa: S608  # constants


def _differ(
    database: Database, made: str, of_made: Sequence[object], kept: str, of_kept: Sequence[object]
) -> int:
    """How many rows stand in one of two, and not in the other."""
    row = database.execute(
        f"WITH made AS MATERIALIZED ({made}), kept AS MATERIALIZED ({kept}) SELECT "  # noqa: S608  # constants
        "(SELECT count(*) FROM (SELECT * FROM made EXCEPT SELECT * FROM kept) AS missing), "
        "(SELECT count(*) FROM (SELECT * FROM kept EXCEPT SELECT * FROM made) AS beyond)",
        (*of_made, *of_kept),
    ).fetchone()
    return int(max(row))
