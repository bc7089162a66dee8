"""Partitions that are past their retention and have to stay for now, with the reason, as `maintain` found them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, func, select
from sqlalchemy.dialects.postgresql import aggregate_order_by, insert

from aggregator.storage import tables

_TABLE = tables.held_partitions


@dataclass(frozen=True)
class HeldPartition:
    """A partition that was not dropped. `cause`: a static word for `reason`."""

    name: str
    table_name: str
    cause: str
    reason: str


@dataclass(frozen=True)
class HeldPartitions:
    """The partitions of one table that one cause holds: how many, the oldest of them, since when, and its reason."""

    table: str
    cause: str
    partitions: int
    oldest: str
    reason: str
    since: datetime


def record(connection: Connection, held: Sequence[HeldPartition], *, now: datetime) -> None:
    """Replace what was recorded; what is still held keeps the instant since when it is."""
    connection.execute(delete(_TABLE).where(_TABLE.c.name.not_in([one.name for one in held])))
    if not held:
        return
    rows = [
        {"name": one.name, "table_name": one.table_name, "cause": one.cause, "reason": one.reason, "held_since": now}
        for one in held
    ]
    statement = insert(_TABLE).values(rows)
    changes = {name: statement.excluded[name] for name in ("cause", "reason")}
    connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=changes))


def held_partitions(connection: Connection) -> tuple[HeldPartitions, ...]:
    """What holds partitions, by table and cause."""
    name, reason = (
        func.array_agg(aggregate_order_by(column, _TABLE.c.name))[1] for column in (_TABLE.c.name, _TABLE.c.reason)
    )
    statement = (
        select(_TABLE.c.table_name, _TABLE.c.cause, func.count(), name, reason, func.min(_TABLE.c.held_since))
        .group_by(_TABLE.c.table_name, _TABLE.c.cause)
        .order_by(_TABLE.c.table_name, _TABLE.c.cause)
    )
    return tuple(HeldPartitions(*row) for row in connection.execute(statement))
