"""What may be sealed, and sealing some blocks of it: closed spans of a tier that still have open rows."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from sqlalchemy import Connection, func, select, text

from aggregator.storage import blocks, forms, ledger, partition_writes, partitions, rules, tables
from aggregator.storage.blocks import BLOCK_SERIES
from aggregator.storage.catalog import Installation, TierEntry
from aggregator.storage.partitions import Partition, Partitioned
from aggregator.storage.rollup_forms import seal

#: What a backfill has written to lately may soon change again.
QUIET = timedelta(hours=1)
#: An open partition stays so long after its last rows were sealed: whoever holds an older snapshot still reads them.
KEEP_EMPTY = timedelta(hours=1)
#: Rollups that are packed at once, in one transaction: about a second's work.
MOST_CELLS = 1_000_000


def closed_spans(
    connection: Connection, installation: Installation, tier: TierEntry, *, now: datetime
) -> Iterator[datetime]:
    """The starts of the spans of a tier's open partitions that ended longer than lateness ago, oldest first."""
    if tier.spans is None:
        return
    for partition in partitions.existing(connection, tier.partitions):
        written = partition_writes.last_write(connection, table_name="rollup", tier_id=tier.id, start=partition.start)
        if written is not None and written > now - QUIET:
            continue
        start, end = tier.spans.bounds(partition.start)
        while end <= min(partition.end, now - installation.lateness):
            yield start
            start, end = tier.spans.bounds(end)


# Uses index rollup_pkey, once for each block.
_OPEN_SHARDS = text(
    """
    SELECT DISTINCT b.shard_id
    FROM aggregator.blocks AS b
    WHERE EXISTS (
        SELECT FROM aggregator.rollup AS r
        WHERE r.tier_id = :tier_id AND r.block_id = b.id AND r.bucket >= :since AND r.bucket < :until
    )
    ORDER BY 1
    """
)


def open_shards(
    connection: Connection, installation: Installation, tier: TierEntry, *, start: datetime, end: datetime
) -> list[int]:
    """The shards that have open rows in a span for which the ledger waits for nothing."""
    found = connection.execute(_OPEN_SHARDS, {"tier_id": tier.id, "since": start, "until": end}).scalars().all()
    waiting = _waiting_shards(connection, installation, tier, start=start, end=end) if found else set()
    return [shard_id for shard_id in found if shard_id not in waiting]


def _waiting_shards(
    connection: Connection, installation: Installation, tier: TierEntry, *, start: datetime, end: datetime
) -> set[int]:
    """The shards whose ledger has something that will be written into a span."""
    dirty = tables.dirty
    below = [other.id for other in installation.tiers if other.ladder.step <= tier.ladder.step]
    statement = select(dirty.c.shard_id).where(
        dirty.c.tier_id.in_(below), dirty.c.bucket >= start - installation.lookback, dirty.c.bucket < end
    )
    return set(connection.execute(statement.distinct()).scalars())


def seal_some(connection: Connection, tier: TierEntry, *, shard_id: int, start: datetime, now: datetime) -> int | None:
    """Seal some blocks of a shard that have open rows in the span that begins at `start`; gives how many rollups.

    None where nothing is left to do, or somebody else has the shard.
    """
    if tier.spans is None or not rules.hold(connection) or not ledger.lock_shard(connection, shard_id):
        return None
    _, end = tier.spans.bounds(start)
    whole = blocks.shard_grid(connection, shard_id)
    is_open = np.isin(whole.block_ids, _open_blocks(connection, tier, whole.block_ids.tolist(), start=start, end=end))
    if not is_open.any():
        return None
    at_once = max(1, int(MOST_CELLS // (BLOCK_SERIES * ((end - start) / tier.ladder.step))))
    sealed = seal(connection, tier, grid=whole.only(is_open).part(0, at_once), start=start)
    forms.note_sealed(connection, tier.id, shard_id, until=end, now=now)
    forms.changing(connection)
    return sealed


# Uses index rollup_pkey, once for each block.
_OPEN_BLOCKS = text(
    """
    SELECT asked.block_id
    FROM unnest(CAST(:block_ids AS integer[])) AS asked (block_id)
    WHERE EXISTS (
        SELECT FROM aggregator.rollup AS r
        WHERE r.tier_id = :tier_id AND r.block_id = asked.block_id AND r.bucket >= :since AND r.bucket < :until
    )
    """
)


def _open_blocks(
    connection: Connection, tier: TierEntry, block_ids: Collection[int], *, start: datetime, end: datetime
) -> list[int]:
    where = {"block_ids": list(block_ids), "tier_id": tier.id, "since": start, "until": end}
    return list(connection.execute(_OPEN_BLOCKS, where).scalars())


def emptied(connection: Connection, partitioned: Partitioned, *, ended_before: datetime) -> list[Partition]:
    """The open partitions whose time has passed and that may be empty because their rows are sealed, oldest first."""
    sealed = {one.start for one in partitions.existing(connection, partitioned.beside[-1])}
    return [
        one
        for one in partitions.existing(connection, partitioned)
        if one.end <= ended_before and one.start in sealed and _is_empty(connection, one)
    ]


def _is_empty(connection: Connection, partition: Partition) -> bool:
    statement = text(f'SELECT NOT EXISTS (SELECT FROM aggregator."{partition.name}")')  # noqa: S608 - a name of our own
    return bool(connection.execute(statement).scalar_one())


def last_sealed(connection: Connection, tier_id: int) -> datetime | None:
    """When a tier's rows were last sealed. Uses index: sealings_pkey."""
    table = tables.sealings
    statement = select(func.max(table.c.sealed_at)).where(table.c.tier_id == tier_id)
    found: datetime | None = connection.execute(statement).scalar_one()
    return found


def drop_if_empty(connection: Connection, partitioned: Partitioned, partition: Partition) -> bool:
    """Drop an open partition, and none beside it, if it is still empty; the sealed one of its interval stays."""
    partitions.limit_waiting(connection)
    partitions.lock_one(connection, partitioned, partition)
    if not _is_empty(connection, partition):
        return False
    partitions.drop_one(connection, partitioned, partition)
    return True


@dataclass(frozen=True)
class SealedTier:
    """The rollups of a tier that has spans, as what is sealed."""

    installation: Installation
    tier: TierEntry

    @property
    def name(self) -> str:
        """The tier's name."""
        return self.tier.name

    @property
    def tier_id(self) -> int:
        """The tier's id."""
        return self.tier.id

    @property
    def partitioned(self) -> Partitioned:
        """The tier's part of `rollup`."""
        return self.tier.partitions

    def closed_spans(self, connection: Connection, *, now: datetime) -> Iterator[datetime]:
        """As `closed_spans`."""
        return closed_spans(connection, self.installation, self.tier, now=now)

    def shards(self, connection: Connection, *, start: datetime) -> list[int]:
        """As `open_shards`."""
        end = start if self.tier.spans is None else self.tier.spans.bounds(start)[1]
        return open_shards(connection, self.installation, self.tier, start=start, end=end)

    def seal_some(self, connection: Connection, *, shard_id: int, start: datetime, now: datetime) -> int | None:
        """As `seal_some`."""
        return seal_some(connection, self.tier, shard_id=shard_id, start=start, now=now)
