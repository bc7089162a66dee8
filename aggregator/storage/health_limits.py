"""The health of the PostgreSQL server itself: how near it is to what it must not reach."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text

#: Transactions, and rows that several lock at once, are numbered modulo 2^32: half of that may be in use.
_MOST_IDS = 2**31


@dataclass(frozen=True)
class DatabaseLimits:
    """What the whole server uses: connections, of those that accounts without special rights may have in all.

    `transaction_ids_used`: between 0 and 1; short of 1 PostgreSQL refuses to write until VACUUM has frozen old rows.
    """

    connections: int
    connections_allowed: int
    transaction_ids_used: float


# Any account may read these; they are small.
_LIMITS = text(
    """
    SELECT
        (SELECT CAST(coalesce(sum(numbackends), 0) AS integer) FROM pg_stat_database),
        CAST(current_setting('max_connections') AS integer)
            - CAST(current_setting('superuser_reserved_connections') AS integer)
            - CAST(coalesce(current_setting('reserved_connections', true), '0') AS integer),
        (SELECT max(greatest(age(datfrozenxid), mxid_age(datminmxid))) FROM pg_database)
    """
)


def database_limits(connection: Connection) -> DatabaseLimits:
    """What the server uses now; all databases count."""
    connections, allowed, oldest = connection.execute(_LIMITS).one()
    return DatabaseLimits(connections, allowed, oldest / _MOST_IDS)
