"""Alembic's entry: runs what is missing over the connection that the caller hands in, in one transaction."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    transactional_ddl=True,  # SQLite's too: the caller's connection begins transactions itself
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
