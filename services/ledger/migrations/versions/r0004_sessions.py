"""Sums by session alone and by model alone: questions are asked of one of them.

``spent_sessions``: ``span`` is 96 (a day of UTC) or 3072 (32 of them), ``quarter`` the first in it.
``spent_models``: by days of UTC. ``spent_spans`` has quarters of an hour alone from now on.
"""

from alembic import op

from services.ledger.migrations import adapt

revision = "0004"
down_revision = "0003"

COLUMNS = (
    "cost, input, output, cache_read, cache_write, cache_write_5m, cache_write_1h, turns, share, estimated, "
    "priced, unpriced, postings"
)
_TYPED = ", ".join(f"{name} INTEGER NOT NULL" for name in COLUMNS.split(", "))
_SUMS = ", ".join(f"CAST(sum({name}) AS BIGINT)" for name in COLUMNS.split(", "))

TABLES = f"""
CREATE TABLE spent_sessions (
  span INTEGER NOT NULL, quarter INTEGER NOT NULL, uid TEXT NOT NULL, {_TYPED}, notional INTEGER NOT NULL,
  PRIMARY KEY (span, quarter, uid)
) WITHOUT ROWID;
CREATE TABLE spent_models (
  quarter INTEGER NOT NULL, model TEXT NOT NULL, {_TYPED}, notional INTEGER NOT NULL,
  PRIMARY KEY (quarter, model)
) WITHOUT ROWID;
"""
FILLED = (
    f"INSERT INTO spent_sessions (span, quarter, uid, {COLUMNS}, notional) "  # noqa: S608  # constants
    f"SELECT 96, quarter, uid, {_SUMS}, max(notional) FROM spent_spans WHERE span = 96 GROUP BY quarter, uid",
    f"INSERT INTO spent_sessions (span, quarter, uid, {COLUMNS}, notional) "  # noqa: S608  # constants
    f"SELECT 3072, quarter / 3072 * 3072 AS month, uid, {_SUMS}, max(notional) FROM spent_sessions "
    "WHERE span = 96 GROUP BY month, uid",
    f"INSERT INTO spent_models (quarter, model, {COLUMNS}, notional) "  # noqa: S608  # constants
    f"SELECT quarter, model, {_SUMS}, max(notional) FROM spent_spans WHERE span = 96 GROUP BY quarter, model",
    "DELETE FROM spent_spans WHERE span = 96",
)


def upgrade() -> None:
    for statement in (*adapt(TABLES, op.get_bind().dialect.name), *FILLED):
        op.execute(statement)
