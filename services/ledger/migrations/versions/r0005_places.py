"""The order of messages, by which it is told what a killed agent could not report.

``messages.place``: a session's messages in the order in which they were read; 0 for what was imported, and
for all from before this step. ``witnessed.last``: the place of a session's last one. ``lost.messages``: the
ids of the messages that no total counts, a JSON list; NULL: ``first`` alone is known. ``lost.whole``: they
are all.
"""

from alembic import op

from services.ledger.migrations import adapt

revision = "0005"
down_revision = "0004"

STEPS = """
ALTER TABLE messages ADD COLUMN place INTEGER NOT NULL DEFAULT 0;
ALTER TABLE witnessed ADD COLUMN last INTEGER NOT NULL DEFAULT 0;
ALTER TABLE lost ADD COLUMN messages TEXT;
ALTER TABLE lost ADD COLUMN whole INTEGER NOT NULL DEFAULT 0;
"""


def upgrade() -> None:
    for statement in adapt(STEPS, op.get_bind().dialect.name):
        op.execute(statement)
