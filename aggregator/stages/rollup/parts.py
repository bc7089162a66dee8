"""What a coarser bucket takes over from its parts, and how many slots it has: of targets, and of outputs of rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy as np
import numpy.typing as npt

from aggregator.rollups.aggregate import slots_of_whole
from aggregator.rollups.buckets import Ladder, SlotGrid
from aggregator.rollups.statistics import Integers, Statistics
from aggregator.storage.rollup_matrix import Stored

#: So many samples a rollup can count: 31 bits. An output of many thousand series may have more in a month.
MOST_SAMPLES = 2**31 - 1


@dataclass(frozen=True)
class Whole:
    """A bucket, and by their starts those of its parts in which any block of a grid has a row."""

    start: datetime
    end: datetime
    parts: Mapping[datetime, Stored]
    finer: Ladder


class Parts(Protocol):
    """How the rows of one shard follow from finer ones."""

    def may_replace(self, fresh: Statistics, stored: Statistics) -> npt.NDArray[np.bool_]:
        """Where a result takes the place of what is stored; shape (blocks, 64)."""

    def slots(self, bucket: Whole, *, blocks: int) -> tuple[Integers, Integers | None]:
        """The slots due by block, shape (blocks,); and where each series has its own, by cell, shape (blocks, 64)."""


@dataclass(frozen=True)
class CollectedParts:
    """Of targets: `grid` is when they are collected now."""

    grid: SlotGrid

    def may_replace(self, fresh: Statistics, stored: Statistics) -> npt.NDArray[np.bool_]:
        """Never worse: fewer samples than are stored means that not all parts are there."""
        return np.asarray(fresh.count >= stored.count)

    def slots(self, bucket: Whole, *, blocks: int) -> tuple[Integers, Integers | None]:
        """The slots of now, but of each part those that it was collected by: the interval may have changed since."""
        due = np.full(blocks, self.grid.due(bucket.start, bucket.end))
        for start, part in bucket.parts.items():
            due += np.where(part.has_row, part.slots_due - self.grid.due(start, bucket.finer.end_of(start)), 0)
        return due, None


@dataclass(frozen=True)
class OutputParts:
    """Of a rule: a bucket is replaced as a whole, since an output that no longer occurs has to go."""

    def may_replace(self, fresh: Statistics, stored: Statistics) -> npt.NDArray[np.bool_]:
        """Everywhere: only buckets that have all of their parts are computed."""
        del stored
        return np.ones(fresh.count.shape, dtype=np.bool_)

    def slots(self, bucket: Whole, *, blocks: int) -> tuple[Integers, Integers | None]:
        """Those of the parts that have samples; a part that has none is taken to have had as many as the others."""
        del blocks
        parts = [(part.statistics.count, part.slots_of_cells) for part in bucket.parts.values()]
        of = sum(1 for _ in bucket.finer.starts(bucket.start, bucket.end))
        return of_outputs(slots_of_whole(parts, of=of))


def countable(statistics: Statistics) -> Statistics:
    """The same without what has more samples than can be counted: no number is better than a wrong one."""
    is_countable = statistics.count <= MOST_SAMPLES
    if is_countable.all():
        return statistics
    return statistics.where(is_countable, Statistics.empty(statistics.count.shape))


def of_outputs(slots: Integers) -> tuple[Integers, Integers]:
    """Slots of the cells of outputs as they are stored: by block the most of any, and by cell."""
    by_cell = np.minimum(slots, MOST_SAMPLES)
    return by_cell.max(axis=1), by_cell
