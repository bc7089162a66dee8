"""Summaries as PostgreSQL keeps them: what Redis is refilled from, and what is answered while it is away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, select

from aggregator.storage import tables

_STORED = tables.summaries.c
# `version` first: whoever compares versions in Redis reads the first bytes only.
_COLUMNS = (
    _STORED.version,
    *(_STORED[name] for name in ("name", "value", "as_of", "computed_at", "tier", "completeness", "is_final")),
    _STORED.refresh_seconds,
    _STORED.last_error.is_not(None).label("stale"),
    _STORED.last_error.label("error"),
    _STORED.last_error_at.label("failed_at"),
)


def read_stored_summaries(connection: Connection, names: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The active summaries that have a value (only the named ones, if given), by name.

    Each has the fields of its document in Redis; instants are datetimes in UTC. Uses index: summaries_pkey.
    """
    statement = select(*_COLUMNS).where(_STORED.active, _STORED.computed_at.is_not(None))
    if names is not None:
        statement = statement.where(_STORED.name.in_(names))
    return [dict(row) for row in connection.execute(statement.order_by(_STORED.name)).mappings()]


def is_published(connection: Connection, name: str) -> bool:
    """Whether the configuration has a summary of this name. Uses index: summaries_pkey."""
    found = connection.execute(select(_STORED.name).where(_STORED.name == name, _STORED.active))
    return found.first() is not None
