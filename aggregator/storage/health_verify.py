"""The health of the numbers: what the newest verification said."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, select

from aggregator.storage import tables


@dataclass(frozen=True)
class Verification:
    """The newest verification that has ended: how many rollups were compared; `error`: what was found, if anything."""

    finished_at: datetime
    rollups: int
    error: str | None


def last_verification(connection: Connection) -> Verification | None:
    """The newest verification by a task; None before the first. Uses index: runs_slot_key."""
    table = tables.runs
    statement = select(table.c.finished_at, table.c.rows, table.c.error).where(
        table.c.stage == "verify", table.c.subject == "", table.c.slot.is_not(None), table.c.finished_at.is_not(None)
    )
    row = connection.execute(statement.order_by(table.c.slot.desc()).limit(1)).one_or_none()
    return None if row is None else Verification(row.finished_at, row.rows or 0, row.error)
