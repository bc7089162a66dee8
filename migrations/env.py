"""How migrations run: one transaction, short locks, and one migrator at a time."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool

from aggregator.storage.tables import SCHEMA, metadata

#: Any fixed number; every migrator of a database asks for the same one.
ADVISORY_LOCK_KEY = 0x616767_726567


def run() -> None:
    """Migrate online; a script to be run by hand is not supported."""
    engine = create_engine(context.config.attributes["url"], poolclass=NullPool)
    # All in one transaction: what belongs to a session would be lost, or kept for ever, behind PgBouncer.
    with engine.begin() as connection:
        connection.execute(text("SELECT set_config('statement_timeout', '10min', true)"))
        _wait_for_other_migrators(connection)
        # Not IF NOT EXISTS, which asks for the right to make one although somebody with more rights has made it.
        if connection.execute(text("SELECT to_regnamespace(:name) IS NULL"), {"name": SCHEMA}).scalar_one():
            connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
        context.configure(connection=connection, target_metadata=metadata, version_table_schema=SCHEMA)
        with context.begin_transaction():
            context.run_migrations()


def _wait_for_other_migrators(connection: Connection) -> None:
    """Let one migrator work at a time; the others wait for it, as long as it takes a migration to end."""
    connection.execute(text("SELECT set_config('lock_timeout', '10min', true)"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK_KEY})
    # Readers must not queue behind a migration that waits for a lock.
    connection.execute(text("SELECT set_config('lock_timeout', '5s', true)"))


run()
