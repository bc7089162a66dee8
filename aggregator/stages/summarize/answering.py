"""Computing one summary's answer: from rollups, or by asking a database."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from aggregator.config.model import Summary
from aggregator.errors import AggregatorError, QueryRefusedError
from aggregator.storage import asked_database, catalog
from aggregator.storage.asked_database import Limits, too_slow
from aggregator.storage.engine import Connection, Database, StorageError, is_statement_timeout
from aggregator.storage.json_values import json_value
from aggregator.storage.summary_values import Computed, compute

#: How much larger an answer may be in memory than as JSON, before it is refused unread.
_MEMORY_PER_BYTE = 4


class LackingError(AggregatorError):
    """This node does not know the summary's database; add [databases.<name>] to its configuration."""

    @classmethod
    def of(cls, summary: Summary, databases: Mapping[str, str]) -> LackingError | None:
        """What this node lacks to answer a summary; None where it lacks nothing."""
        name = summary.database
        if name is None or name in databases:
            return None
        variable = f"AGGREGATOR_DATABASES_{name.upper()}_URL"
        return cls(f"this node knows no database {name}; give its workers [databases.{name}], or {variable}")


def answer(
    database: Database, summary: Summary, *, databases: Mapping[str, str], own_url: str, now: datetime
) -> Computed:
    """A summary's answer, with values as JSON has them.

    Raises QueryRefusedError where it takes too long, is too large or is no question, LackingError where this node does
    not know the database, and what the storage raises.
    """
    if summary.sql is None:
        computed = _from_rollups(database, summary, now=now)
    else:
        computed = _from_sql(summary, summary.sql, databases=databases, own_url=own_url, now=now)
    size_bytes = len(json.dumps(computed.rows, ensure_ascii=False, allow_nan=False).encode())
    if size_bytes > summary.max_bytes:
        raise QueryRefusedError(
            f"the answer has {size_bytes:,} bytes, which is more than {summary.max_bytes:,}; ask for less, or raise"
            " max_bytes"
        )
    return computed


def _from_rollups(database: Database, summary: Summary, *, now: datetime) -> Computed:
    def work(connection: Connection) -> Computed:
        installation = catalog.read_installation(connection)
        return compute(connection, installation, summary, now=now)

    try:
        computed = database.run(work, statement_timeout=summary.timeout / _statements(summary))
    except StorageError as error:
        if is_statement_timeout(error):
            raise too_slow(summary.timeout) from None
        raise
    return _as_json(computed, [{key: json_value(value) for key, value in row.items()} for row in computed.rows])


def _statements(summary: Summary) -> int:
    """How many statements share the timeout."""
    return (1 + summary.compare + bool(summary.trend)) * (1 if summary.divide_by is None else 2)


def _as_json(computed: Computed, rows: list[dict[str, Any]]) -> Computed:
    return Computed(rows, computed.as_of, computed.tier, computed.completeness, computed.is_final)


def _from_sql(summary: Summary, sql: str, *, databases: Mapping[str, str], own_url: str, now: datetime) -> Computed:
    lacking = LackingError.of(summary, databases)
    if lacking is not None:
        raise lacking
    limits = Limits(summary.timeout, summary.max_rows, _MEMORY_PER_BYTE * summary.max_bytes)
    url = own_url if summary.database is None else databases[summary.database]
    found = asked_database.ask(url, sql, limits=limits, application=f"aggregator summary {summary.name}")
    rows = [dict(zip(found.columns, map(json_value, row), strict=True)) for row in found.rows]
    return Computed(rows, as_of=now, tier=None, completeness=None, is_final=False)
