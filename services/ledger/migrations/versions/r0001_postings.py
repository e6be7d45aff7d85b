"""Sessions, reports, postings, budgets, and the first sums."""

from alembic import op

from services.ledger.migrations import adapt, never_changes

revision = "0001"
down_revision = None

TABLES = """
CREATE TABLE sessions (
  n INTEGER PRIMARY KEY AUTOINCREMENT, uid TEXT NOT NULL UNIQUE, session TEXT NOT NULL, cwd TEXT NOT NULL,
  kind TEXT NOT NULL, opened_at INTEGER, shown INTEGER NOT NULL
);
CREATE TABLE reports (
  uid TEXT NOT NULL, process INTEGER NOT NULL, turn INTEGER NOT NULL, baseline INTEGER NOT NULL,
  at INTEGER NOT NULL, fact TEXT NOT NULL, session TEXT NOT NULL, total INTEGER NOT NULL,
  models TEXT NOT NULL, model TEXT, write_5m INTEGER NOT NULL, write_1h INTEGER NOT NULL,
  notional INTEGER NOT NULL,
  PRIMARY KEY (uid, process, turn, baseline, at, fact)
) WITHOUT ROWID;
CREATE TABLE postings (
  n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, uid TEXT NOT NULL, process INTEGER NOT NULL,
  turn INTEGER NOT NULL, model TEXT NOT NULL, at INTEGER NOT NULL, cost INTEGER NOT NULL,
  input INTEGER NOT NULL, output INTEGER NOT NULL, cache_read INTEGER NOT NULL, cache_write INTEGER NOT NULL,
  cache_write_5m INTEGER NOT NULL, cache_write_1h INTEGER NOT NULL, turns INTEGER NOT NULL,
  share INTEGER NOT NULL, source TEXT NOT NULL, notional INTEGER NOT NULL, fact TEXT NOT NULL
);
CREATE INDEX postings_at ON postings (at);
CREATE TABLE spent (
  uid TEXT NOT NULL, model TEXT NOT NULL, cost INTEGER NOT NULL, input INTEGER NOT NULL,
  output INTEGER NOT NULL, cache_read INTEGER NOT NULL, cache_write INTEGER NOT NULL,
  cache_write_5m INTEGER NOT NULL, cache_write_1h INTEGER NOT NULL, turns INTEGER NOT NULL,
  share INTEGER NOT NULL, estimated INTEGER NOT NULL, notional INTEGER NOT NULL, postings INTEGER NOT NULL,
  PRIMARY KEY (uid, model)
) WITHOUT ROWID;
CREATE TABLE spent_quarters (
  quarter INTEGER PRIMARY KEY, cost INTEGER NOT NULL, input INTEGER NOT NULL, output INTEGER NOT NULL,
  cache_read INTEGER NOT NULL, cache_write INTEGER NOT NULL, cache_write_5m INTEGER NOT NULL,
  cache_write_1h INTEGER NOT NULL, turns INTEGER NOT NULL, share INTEGER NOT NULL,
  estimated INTEGER NOT NULL, notional INTEGER NOT NULL, postings INTEGER NOT NULL
);
CREATE TABLE budgets (
  n INTEGER PRIMARY KEY AUTOINCREMENT, scope TEXT NOT NULL, budget TEXT, source TEXT NOT NULL, by_ TEXT,
  via TEXT, at INTEGER NOT NULL
);
CREATE INDEX budgets_scope ON budgets (scope, n);
"""


def upgrade() -> None:
    dialect = op.get_bind().dialect.name
    for statement in (
        *adapt(TABLES, dialect),
        *never_changes("postings", "a posting never changes: book a correction", dialect),
        *never_changes("reports", "a report never changes", dialect),
    ):
        op.execute(statement)
