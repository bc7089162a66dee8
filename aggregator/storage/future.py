"""What was claimed for slots that have yet to come, by a clock that has been set back since: it must not block them."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, select, update

from aggregator.storage import tables
from aggregator.storage.quarantine import LONGEST_PAUSE

#: Clocks may differ by a minute, and a slot be claimed two minutes too early.
AHEAD = timedelta(minutes=3)
_APART = timedelta(microseconds=1)


def free_slots(connection: Connection, *, now: datetime) -> int | None:
    """Take everything off slots that have yet to come; gives the collections so freed, None where no slot lay ahead.

    What was collected stays stored, as if collected by hand: under a key of its own, a microsecond later. Cheap where
    there is nothing to do: it looks at the last wake of each job.
    """
    ahead = now + AHEAD
    wakes, runs, nodes, summaries = tables.wakes, tables.runs, tables.nodes, tables.summaries
    losses = tables.job_losses
    if connection.execute(select(wakes.c.job).where(wakes.c.slot > ahead).limit(1)).first() is None:
        return None
    # One process does it: the others wait for these rows, and then find nothing.
    connection.execute(update(wakes).where(wakes.c.slot > ahead).values(slot=now, woken_at=now))
    freed = _free_collections(connection, ahead)
    counted = select(tables.shard_slots).where(tables.shard_slots.c.last_slot > ahead)
    for row in connection.execute(counted.order_by(tables.shard_slots.c.shard_id)).all():
        _count_anew(connection, row.shard_id, row.last_slot, claimed=freed[row.shard_id], until=ahead)
    connection.execute(update(runs).where(runs.c.slot > ahead).values(slot=None))
    connection.execute(update(nodes).where(nodes.c.last_seen > ahead).values(last_seen=now))
    connection.execute(update(summaries).where(summaries.c.computed_at > ahead).values(computed_at=now))
    connection.execute(update(losses).where(losses.c.last_lost_at > ahead).values(last_lost_at=now))
    connection.execute(update(losses).where(losses.c.retry_at > ahead + LONGEST_PAUSE).values(retry_at=now))
    return freed.total()


def _free_collections(connection: Connection, ahead: datetime) -> Counter[int]:
    """How many slots of each shard were freed. Uses no index: it reads the newest partitions."""
    table = tables.collections
    statement = update(table).where(table.c.slot > ahead, ~table.c.by_hand)
    freed = statement.values(slot=table.c.slot + _APART, by_hand=True).returning(table.c.shard_id)
    return Counter(connection.execute(freed).scalars())


def _count_anew(connection: Connection, shard_id: int, last_slot: datetime, *, claimed: int, until: datetime) -> None:
    """Go back to the last slot that has come; those after it that nobody claimed had been counted as missed.

    Uses indexes: collections_pkey, shard_slots_pkey.
    """
    table, collections, shards, sources = tables.shard_slots, tables.collections, tables.shards, tables.sources
    before = select(func.max(collections.c.slot)).where(
        collections.c.shard_id == shard_id, collections.c.slot <= until, ~collections.c.by_hand
    )
    come = connection.execute(before).scalar_one()
    here = table.c.shard_id == shard_id
    if come is None:  # it has no slot but in the future
        connection.execute(table.delete().where(here))
        return
    interval = select(sources.c.interval_seconds).join(shards, shards.c.source_id == sources.c.id)
    seconds = connection.execute(interval.where(shards.c.id == shard_id)).scalar_one()
    uncounted = round((last_slot - come).total_seconds() / seconds) - claimed
    missed = func.greatest(table.c.slots_missed - uncounted, 0)
    connection.execute(update(table).where(here).values(last_slot=come, slots_missed=missed))
