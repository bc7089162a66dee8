"""The summaries of the configuration in the database; the answer to a question that has changed is forgotten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, select, update
from sqlalchemy.dialects.postgresql import insert

from aggregator.config.model import Summary
from aggregator.storage import tables

_FORGOTTEN: Mapping[str, None] = dict.fromkeys(("value", "as_of", "computed_at", "last_error", "last_error_at"))
#: What says how an answer is found, and not which.
_HOW = {"refresh", "timeout", "max_rows", "max_bytes"}


def publish_summaries(connection: Connection, summaries: Sequence[Summary], *, now: datetime) -> None:
    """Store the definitions; a summary that is new, or asks another question, is refreshed at the next wake."""
    stored = tables.summaries
    names = [summary.name for summary in summaries]
    connection.execute(update(stored).where(stored.c.name.not_in(names)).values(active=False))
    before = dict(connection.execute(select(stored.c.name, stored.c.definition).where(stored.c.active)).all())
    for summary in summaries:
        values: dict[str, Any] = {
            "definition": definition_of(summary),
            "refresh_seconds": summary.refresh.total_seconds(),
            "active": True,
        }
        if not asks_the_same(summary, before.get(summary.name)):
            values |= {**_FORGOTTEN, "asked_at": now}
        statement = insert(stored).values(name=summary.name, **values)
        connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=values))


def definition_of(summary: Summary) -> dict[str, Any]:
    """What is stored of a summary. As for sources: what was not set stays unset."""
    return summary.model_dump(mode="json", exclude_unset=True)


def asks_the_same(summary: Summary, definition: Mapping[str, Any] | None) -> bool:
    """Whether a stored definition asks the same question, so that its answer stays."""
    if definition is None:
        return False
    try:
        before = Summary.model_validate(definition)
    except ValidationError:
        return False
    return before.model_dump(exclude=_HOW) == summary.model_dump(exclude=_HOW)
