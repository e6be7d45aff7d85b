"""What the price table and the transcripts say, beside what the agents said; imports.

``postings.priced``: what the tokens cost by the price table, NULL where it does not know the model.
``messages``: every call of a model that a transcript tells of, once; ``booked``: a posting stands for it.
``witnessed``: their sums, made in the same transaction. ``followed``, ``files``: whose transcripts are read,
and how far. ``lost``: what killed agents have not reported.
``imports``: runs of ``ledger/import``, so that one goes on where it was after a crash.
"""

from alembic import op

from services.ledger.migrations import adapt

revision = "0002"
down_revision = "0001"

STEPS = """
ALTER TABLE postings ADD COLUMN estimated INTEGER NOT NULL DEFAULT 0;
ALTER TABLE postings ADD COLUMN priced INTEGER;
ALTER TABLE spent ADD COLUMN priced INTEGER NOT NULL DEFAULT 0;
ALTER TABLE spent ADD COLUMN unpriced INTEGER NOT NULL DEFAULT 0;
ALTER TABLE spent_quarters ADD COLUMN priced INTEGER NOT NULL DEFAULT 0;
ALTER TABLE spent_quarters ADD COLUMN unpriced INTEGER NOT NULL DEFAULT 0;
UPDATE spent SET unpriced = input + output + cache_read + cache_write;
UPDATE spent_quarters SET unpriced = input + output + cache_read + cache_write;
CREATE TABLE messages (
  key TEXT NOT NULL PRIMARY KEY, uid TEXT NOT NULL, at INTEGER NOT NULL, model TEXT NOT NULL,
  cost INTEGER NOT NULL, input INTEGER NOT NULL, output INTEGER NOT NULL, cache_read INTEGER NOT NULL,
  cache_write INTEGER NOT NULL, cache_write_5m INTEGER NOT NULL, cache_write_1h INTEGER NOT NULL,
  unpriced INTEGER NOT NULL, booked INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX messages_uid_at ON messages (uid, at);
CREATE TABLE witnessed (uid TEXT NOT NULL PRIMARY KEY, cost INTEGER NOT NULL);
CREATE TABLE followed (
  uid TEXT NOT NULL, conversation TEXT NOT NULL, cwd TEXT NOT NULL, path TEXT, since INTEGER NOT NULL,
  booked INTEGER NOT NULL, PRIMARY KEY (uid, conversation)
);
CREATE TABLE files (
  path TEXT NOT NULL PRIMARY KEY, uid TEXT NOT NULL, inode INTEGER NOT NULL, read_to INTEGER NOT NULL
);
CREATE TABLE lost (
  fact TEXT NOT NULL PRIMARY KEY, uid TEXT NOT NULL, process INTEGER NOT NULL, turn INTEGER NOT NULL,
  first TEXT NOT NULL, at INTEGER NOT NULL, notional INTEGER NOT NULL, told TEXT NOT NULL,
  state TEXT NOT NULL, uses TEXT, beyond INTEGER NOT NULL
);
CREATE TABLE imports (
  id TEXT NOT NULL PRIMARY KEY, paths TEXT NOT NULL, at INTEGER NOT NULL, file TEXT NOT NULL,
  read_to INTEGER NOT NULL, files INTEGER NOT NULL, lines INTEGER NOT NULL, added INTEGER NOT NULL,
  duplicates INTEGER NOT NULL, broken INTEGER NOT NULL, unreadable INTEGER NOT NULL, done INTEGER NOT NULL
);
"""


def upgrade() -> None:
    for statement in adapt(STEPS, op.get_bind().dialect.name):
        op.execute(statement)
