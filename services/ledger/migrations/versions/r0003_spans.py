"""Sums by time, session and model, so that questions with bounds need not read every posting.

``spent_spans``: ``span`` is 1 (a quarter of an hour) or 96 (a day of UTC), ``quarter`` the first in it.
``checked``: the sums of all postings up to number ``n``; one row. A start adds up only what came after it.
"""

from alembic import op

from services.ledger.migrations import adapt

revision = "0003"
down_revision = "0002"

COLUMNS = (
    "cost, input, output, cache_read, cache_write, cache_write_5m, cache_write_1h, turns, share, estimated, "
    "priced, unpriced, postings"
)
_TYPED = ", ".join(f"{name} INTEGER NOT NULL" for name in COLUMNS.split(", "))
_SUMS = ", ".join(f"CAST(sum({name}) AS BIGINT)" for name in COLUMNS.split(", "))
_ZEROS = _SUMS.replace("CAST(", "CAST(coalesce(").replace(") AS", "), 0) AS")

TABLES = f"""
CREATE TABLE spent_spans (
  span INTEGER NOT NULL, quarter INTEGER NOT NULL, uid TEXT NOT NULL, model TEXT NOT NULL, {_TYPED},
  notional INTEGER NOT NULL, PRIMARY KEY (span, quarter, uid, model)
) WITHOUT ROWID;
CREATE TABLE checked (n INTEGER NOT NULL, {_TYPED});
"""
FILLED = (
    f"INSERT INTO spent_spans (span, quarter, uid, model, {COLUMNS}, notional) "  # noqa: S608  # constants
    f"SELECT 1, quarter, uid, model, {_SUMS}, max(notional) FROM (SELECT at / 900000 AS quarter, uid, model, "
    "cost, input, output, cache_read, cache_write, cache_write_5m, cache_write_1h, turns, share, "
    "CASE estimated WHEN 0 THEN 0 ELSE cost END AS estimated, coalesce(priced, 0) AS priced, "
    "CASE WHEN priced IS NULL THEN input + output + cache_read + cache_write ELSE 0 END AS unpriced, "
    "1 AS postings, notional FROM postings) AS each_one GROUP BY quarter, uid, model",
    f"INSERT INTO spent_spans (span, quarter, uid, model, {COLUMNS}, notional) "  # noqa: S608  # constants
    f"SELECT 96, quarter / 96 * 96 AS day, uid, model, {_SUMS}, max(notional) FROM spent_spans "
    "WHERE span = 1 GROUP BY day, uid, model",
    f"INSERT INTO checked (n, {COLUMNS}) "  # noqa: S608  # constants
    f"SELECT (SELECT coalesce(max(n), 0) FROM postings), {_ZEROS} FROM spent_spans WHERE span = 96",
)


def upgrade() -> None:
    for statement in (*adapt(TABLES, op.get_bind().dialect.name), *FILLED):
        op.execute(statement)
