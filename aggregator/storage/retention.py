"""Retention: whole partitions, never one that a higher tier still needs, and a record of what is gone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, select, text
from sqlalchemy.dialects.postgresql import insert

from aggregator.storage import partition_writes, partitions, tables
from aggregator.storage.catalog import Installation, TierEntry
from aggregator.storage.partitions import SAMPLES, Partition, Partitioned

#: An average month is shorter than a long one, and a day than that on which the clock is put back.
_LONGEST_STEP = 1.05


@dataclass(frozen=True)
class Needs:
    """Whose rows a partition holds, and who may still need them.

    `tier_ids_waiting`: the tiers that are computed from them or still to be written into them. `reach`: how far beside
    the partition a bucket of theirs may lie. `written_since`: what backfill has written to since then stays; None where
    that makes no difference.
    """

    table_name: str
    tier_id: int
    tier_ids_waiting: tuple[int, ...]
    reach: timedelta = timedelta(0)
    written_since: datetime | None = None


def needs_of_samples(installation: Installation, *, written_since: datetime | None = None) -> Needs:
    """Who needs samples: the finest tiers, and the lookback of the buckets beside."""
    waiting = tuple(tier.id for tier in installation.finest)
    return Needs(SAMPLES.table, 0, waiting, installation.lookback, written_since)


def needs_of_rollups(installation: Installation, tier: TierEntry, *, written_since: datetime | None = None) -> Needs:
    """Who needs a tier's rollups: tiers built from it; and what is still to be written into it or below it.

    A bucket of a tier above that straddles the partition's edge needs all of its parts.
    """
    above = installation.built_from(tier.id)
    below = {other.id for other in installation.tiers if other.ladder.step <= tier.ladder.step}
    waiting = tuple({other.id for other in above} | below)
    steps = [other.ladder.step for other in (tier, *above)]
    reach = max(installation.lookback, max(steps) * _LONGEST_STEP)
    return Needs("rollup", tier.id, waiting, reach, written_since)


def is_past(partition: Partition, *, keep: timedelta, now: datetime) -> bool:
    """Whether all of a partition is older than what is kept."""
    return partition.end < now - keep


@dataclass(frozen=True)
class Held:
    """Why a partition past its retention has to stay: `cause` is a static word for `reason`."""

    cause: str
    reason: str


LOCKED = Held("locked", "it is being read or written")
CLOCK = Held("clock", "the clock may have jumped: what is old is dropped once maintain has run for a day")


def drop_unless_needed(
    connection: Connection, partitioned: Partitioned, partition: Partition, needs: Needs
) -> Held | None:
    """Drop a partition and record it, in one transaction; gives the reason where it is still needed.

    First the lock, then in a new statement the ledger: a mark that was committed in between is seen, and none can
    be committed after (docs/adr/0002).
    """
    partitions.limit_waiting(connection)
    if needs.table_name == "rollup":
        # Whoever takes a sample has seen which rollups there are.
        connection.execute(_KEEP_WRITERS_OUT)
    partitions.lock(connection, partitioned, partition)
    held = why_held(connection, partition, needs)
    if held is not None:
        return held
    partitions.drop(connection, partitioned, partition)
    partition_writes.forget(
        connection,
        table_name=needs.table_name,
        tier_id=needs.tier_id,
        start=partition.start,
        before=needs.written_since,
    )
    table = tables.retained
    values = {"dropped_before": partition.end}
    statement = insert(table).values(table_name=needs.table_name, tier_id=needs.tier_id, **values)
    newest = func.greatest(table.c.dropped_before, partition.end)
    connection.execute(
        statement.on_conflict_do_update(index_elements=["table_name", "tier_id"], set_={"dropped_before": newest})
    )
    return None


_KEEP_WRITERS_OUT = text("LOCK TABLE ONLY aggregator.sample_frame IN SHARE ROW EXCLUSIVE MODE")


def why_held(connection: Connection, partition: Partition, needs: Needs) -> Held | None:
    """Why a partition is still needed; None where it is not. Without its lock, the answer may be old at once."""
    if waiting := _waiting(connection, partition, needs):
        return Held("ledger", f"{waiting} ledger rows still wait for it")
    written = partition_writes.last_write(
        connection, table_name=needs.table_name, tier_id=needs.tier_id, start=partition.start
    )
    if written is not None and needs.written_since is not None and written >= needs.written_since:
        return Held("backfill", f"an import or a recomputation wrote to it at {written:%Y-%m-%dT%H:%MZ}")
    return None


def _waiting(connection: Connection, partition: Partition, needs: Needs) -> int:
    """Ledger rows of the tiers that wait for it whose bucket may read this partition.

    A bucket is as long as its tier's step, so it may begin that much before the partition.
    """
    if not needs.tier_ids_waiting:
        return 0
    dirty, tiers = tables.dirty, tables.tiers
    step = func.make_interval(0, 0, 0, 0, 0, 0, tiers.c.step_seconds * _LONGEST_STEP)
    statement = (
        select(func.count())
        .select_from(dirty.join(tiers, tiers.c.id == dirty.c.tier_id))
        .where(
            dirty.c.tier_id.in_(needs.tier_ids_waiting),
            dirty.c.bucket < partition.end + needs.reach,
            dirty.c.bucket > partition.start - needs.reach - step,
        )
    )
    return connection.execute(statement).scalar_one()
