"""The coarser tiers: from the rollups of a finer tier to those of the buckets that they fill."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt

from aggregator.rollups.merge import merge
from aggregator.stages.rollup.parts import Parts, Whole, countable
from aggregator.stages.rollup.spans import Span
from aggregator.storage.blocks import Grid
from aggregator.storage.catalog import TierEntry
from aggregator.storage.engine import Connection
from aggregator.storage.rollup_forms import read_rollups
from aggregator.storage.rollup_matrix import Stored
from aggregator.storage.rollup_rows import Changed


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
    parts: Parts

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
                fresh = countable(merge([child.statistics for child in inside.values()]))
                better = self.parts.may_replace(fresh, before.statistics)
                merged.append(Merged(bucket, better))
                due, slots = self.parts.slots(self._whole(bucket, inside), blocks=len(self.grid.block_ids))
                rollups = Stored(
                    fresh.where(better, before.statistics),
                    before.form,
                    np.where(better.all(axis=1), due, before.slots_due),
                    slots,
                )
                lines = np.asarray(rollups.statistics.differs(before.statistics).any(axis=1))
                if lines.any():
                    changed.append(Changed(bucket, rollups, lines))
        return changed, merged

    def _read(self, tier: TierEntry, since: datetime, until: datetime) -> dict[datetime, Stored]:
        return read_rollups(self.connection, tier, grid=self.grid, since=since, until=until)

    def _whole(self, bucket: datetime, inside: Mapping[datetime, Stored]) -> Whole:
        return Whole(bucket, self.tier.ladder.end_of(bucket), inside, self.parent.ladder)
