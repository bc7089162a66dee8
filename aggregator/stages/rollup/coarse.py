"""The coarser tiers: from the rollups of a finer tier to those of the bucket that they fill."""

from __future__ import annotations

from datetime import datetime

import numpy as np

from aggregator.rollups.buckets import SlotGrid
from aggregator.rollups.merge import merge
from aggregator.stages.rollup.finest import Computed
from aggregator.storage.blocks import shard_grid
from aggregator.storage.catalog import TierEntry
from aggregator.storage.engine import Connection
from aggregator.storage.rollup_rows import Stored, read_bucket, read_rollups


def compute(
    connection: Connection, tier: TierEntry, parent: TierEntry, bucket: datetime, *, shard_id: int, slots: SlotGrid
) -> Computed | None:
    """Recompute a bucket of a whole shard from the stored rollups of `parent`; None where there are none."""
    grid = shard_grid(connection, shard_id)
    if not len(grid.block_ids):
        return None
    children = read_rollups(
        connection,
        tier_id=parent.id,
        is_finest=parent.is_finest,
        grid=grid,
        since=bucket,
        until=tier.ladder.end_of(bucket),
    )
    if not children:
        return None
    fresh = merge([child.statistics for child in children.values()])
    stored = read_bucket(connection, tier_id=tier.id, is_finest=False, grid=grid, bucket=bucket)
    # Never worse: fewer samples than are stored means that not all children are there.
    statistics = fresh.where(fresh.count >= stored.statistics.count, stored.statistics)
    changed = statistics.differs(stored.statistics)
    # The slots of now, but of each child those that it was collected by: the interval may have changed in between.
    due = np.full(len(grid.block_ids), slots.due(bucket, tier.ladder.end_of(bucket)))
    for start, child in children.items():
        due += np.where(child.has_row, child.slots_due - slots.due(start, parent.ladder.end_of(start)), 0)
    return Computed(bucket, grid, Stored(statistics, stored.has_row, due), changed, np.zeros_like(changed))
