"""Retention: whole partitions, never one that a higher tier still needs, and a record of what is gone."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects.postgresql import insert

from aggregator.storage import partitions, tables
from aggregator.storage.partitions import Partition, Partitioned


@dataclass(frozen=True)
class Needs:
    """Whose rows a partition holds, and the tiers that are computed from them or still to be written into them."""

    table_name: str
    tier_id: int
    tier_ids_waiting: tuple[int, ...]


def drop_unless_needed(
    connection: Connection, partitioned: Partitioned, partition: Partition, needs: Needs
) -> str | None:
    """Drop a partition and record it, in one transaction; gives the reason where it is still needed.

    First the lock, then in a new statement the ledger: a mark that was committed in between is seen, and none can
    be committed after (docs/adr/0002).
    """
    partitions.lock(connection, partitioned, partition)
    waiting = _waiting(connection, partition, needs)
    if waiting:
        return f"{waiting} ledger rows still wait for it"
    partitions.drop(connection, partitioned, partition)
    table = tables.retained
    values = {"dropped_before": partition.end}
    statement = insert(table).values(table_name=needs.table_name, tier_id=needs.tier_id, **values)
    newest = func.greatest(table.c.dropped_before, partition.end)
    connection.execute(
        statement.on_conflict_do_update(index_elements=["table_name", "tier_id"], set_={"dropped_before": newest})
    )
    return None


def _waiting(connection: Connection, partition: Partition, needs: Needs) -> int:
    """Ledger rows of the tiers that wait for it whose bucket may read this partition.

    A bucket is as long as its tier's step, so it may begin that much before the partition.
    """
    if not needs.tier_ids_waiting:
        return 0
    dirty, tiers = tables.dirty, tables.tiers
    statement = (
        select(func.count())
        .select_from(dirty.join(tiers, tiers.c.id == dirty.c.tier_id))
        .where(
            dirty.c.tier_id.in_(needs.tier_ids_waiting),
            dirty.c.bucket < partition.end,
            dirty.c.bucket > partition.start - func.make_interval(0, 0, 0, 0, 0, 0, tiers.c.step_seconds),
        )
    )
    return connection.execute(statement).scalar_one()
