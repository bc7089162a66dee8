"""The coarser tiers: from the rollups of a finer tier to those of the buckets that they fill."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt

from aggregator.rollups.buckets import SlotGrid
from aggregator.rollups.merge import merge
from aggregator.stages.rollup.spans import Span
from aggregator.storage.blocks import Grid
from aggregator.storage.catalog import TierEntry
from aggregator.storage.engine import Connection
from aggregator.storage.rollup_rows import Changed, Stored, read_rollups


@dataclass(frozen=True)
class Merged:
    """A bucket that was merged from its children, and which series (blocks, 64) took the result."""

    bucket: datetime
    better: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Coarse:
    """One span of a coarser tier, on some blocks of a locked shard; `parent` is the tier that it is built from."""

    connection: Connection
    tier: TierEntry
    parent: TierEntry
    grid: Grid
    slots: SlotGrid

    def compute(self, span: Span) -> tuple[list[Changed], list[Merged]]:
        """Recompute buckets from the stored rollups of their children; a bucket that has none stays as it is."""
        children = self._read(self.parent, span.since, span.until)
        stored = self._read(self.tier, span.since, span.until)
        changed: list[Changed] = []
        merged: list[Merged] = []
        by_bucket: defaultdict[datetime, dict[datetime, Stored]] = defaultdict(dict)
        for start, child in children.items():
            by_bucket[self.tier.ladder.start_of(start)][start] = child
        for bucket in span.buckets:
            if inside := by_bucket.get(bucket):
                before = stored.get(bucket) or Stored.nothing(len(self.grid.block_ids))
                fresh = merge([child.statistics for child in inside.values()])
                # Never worse: fewer samples than are stored means that not all children are there.
                better = fresh.count >= before.statistics.count
                merged.append(Merged(bucket, better))
                rollups = Stored(
                    fresh.where(better, before.statistics),
                    before.has_row,
                    np.where(better.all(axis=1), self._slots_due(bucket, inside), before.slots_due),
                )
                lines = np.asarray(rollups.statistics.differs(before.statistics).any(axis=1))
                if lines.any():
                    changed.append(Changed(bucket, rollups, lines))
        return changed, merged

    def _read(self, tier: TierEntry, since: datetime, until: datetime) -> dict[datetime, Stored]:
        return read_rollups(
            self.connection, tier_id=tier.id, is_finest=tier.is_finest, grid=self.grid, since=since, until=until
        )

    def _slots_due(self, bucket: datetime, children: Mapping[datetime, Stored]) -> npt.NDArray[np.int64]:
        """The slots of now, but of each child those that it was collected by: the interval may have changed since."""
        due = np.full(len(self.grid.block_ids), self.slots.due(bucket, self.tier.ladder.end_of(bucket)))
        for start, child in children.items():
            due += np.where(child.has_row, child.slots_due - self.slots.due(start, self.parent.ladder.end_of(start)), 0)
        return due
