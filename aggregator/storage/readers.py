"""Transactions that go on: one that was there before a partition came may have planned without it."""

from __future__ import annotations

from sqlalchemy import Connection, text

# A virtual transaction holds the lock on its own number as long as it goes on, whether it writes or not. A role that
# may not know what others are sees no type.
_RUNNING = text(
    """
    SELECT held.virtualtransaction
    FROM pg_locks AS held JOIN pg_stat_activity AS activity ON activity.pid = held.pid
    WHERE held.locktype = 'virtualxid' AND held.pid <> pg_backend_pid() AND activity.datname = current_database()
        AND activity.backend_type IS DISTINCT FROM 'autovacuum worker'
    """
)


def running(connection: Connection) -> frozenset[str]:
    """The transactions of this database that go on now, but for our own."""
    return frozenset(connection.execute(_RUNNING).scalars())
