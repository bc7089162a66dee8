"""Summaries as PostgreSQL keeps them: what is answered while the cache is away."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, select

from aggregator.storage import tables

_COLUMNS = ("name", "value", "as_of", "computed_at", "tier", "completeness", "is_final", "version", "refresh_seconds")


def read_stored_summaries(connection: Connection, name: str | None = None) -> list[dict[str, Any]]:
    """The active summaries that were computed at least once (only the named one, if given), by name.

    Each has the fields of its document in the cache; instants are datetimes in UTC. Uses index: summaries_pkey.
    """
    table = tables.summaries
    statement = select(*(table.c[column] for column in _COLUMNS)).where(
        table.c.active, table.c.computed_at.is_not(None)
    )
    if name is not None:
        statement = statement.where(table.c.name == name)
    return [dict(row) for row in connection.execute(statement.order_by(table.c.name)).mappings()]
