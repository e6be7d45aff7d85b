"""The order in which conversations were followed: the one who resumed a conversation last has it.

``followed.n``: 0 for all from before this step, of whom the one that was opened last has it.
"""

from alembic import op

from services.ledger.migrations import adapt

revision = "0006"
down_revision = "0005"

STEPS = """
ALTER TABLE followed ADD COLUMN n INTEGER NOT NULL DEFAULT 0;
"""


def upgrade() -> None:
    for statement in adapt(STEPS, op.get_bind().dialect.name):
        op.execute(statement)
