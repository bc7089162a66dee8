"""The finest tier: from sample frames to rollups, for the targets that are dirty (ledger rules 2, 4 and 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt

from aggregator.rollups.buckets import SlotGrid, milliseconds
from aggregator.rollups.reduce import Edge, reduce_samples
from aggregator.rollups.statistics import Statistics
from aggregator.stages.rollup.edges import Cells, left_edge, successors
from aggregator.stages.rollup.matrix import samples_by_series
from aggregator.stages.rollup.spans import Span
from aggregator.storage.blocks import Grid, Layout
from aggregator.storage.catalog import TierEntry
from aggregator.storage.engine import Connection
from aggregator.storage.frames import Frame
from aggregator.storage.rollup_forms import read_rollups
from aggregator.storage.rollup_matrix import Stored
from aggregator.storage.rollup_rows import Changed

_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True)
class Shape:
    """The cells that the dirty targets' series fill; `columns` says which of them each frame map's series are."""

    cells: Cells
    columns: Mapping[int, npt.NDArray[np.int64]]

    @classmethod
    def of(cls, layouts: Mapping[int, Layout]) -> Shape:
        """The shape of these frame maps' series."""
        grid = Grid.of(layouts)
        places = {map_id: grid.cells_of(layout) for map_id, layout in layouts.items()}
        cells = np.unique(np.concatenate(list(places.values())))
        return cls(Cells(grid, cells), {map_id: np.searchsorted(cells, found) for map_id, found in places.items()})


@dataclass(frozen=True)
class Sampled:
    """A bucket that was computed from samples: `values` (t, n) by cell, and which cells (n,) took the result."""

    bucket: datetime
    values: npt.NDArray[np.float64]
    better: npt.NDArray[np.bool_]


@dataclass
class Computed:
    """What a span gave: rows to be written, what sketches are made of, and cells (n,) to be marked by bucket."""

    changed: list[Changed] = field(default_factory=list)
    sampled: list[Sampled] = field(default_factory=list)
    successors: dict[datetime, npt.NDArray[np.bool_]] = field(default_factory=dict)


@dataclass(frozen=True)
class Finest:
    """One span of the finest tier on a locked shard."""

    connection: Connection
    tier: TierEntry
    shape: Shape
    slots: SlotGrid
    lookback: timedelta

    def compute(self, span: Span, frames: Mapping[datetime, Sequence[Frame]]) -> Computed:
        """Recompute the buckets that have frames from all samples of their dirty targets; the rest stays as stored.

        `frames`: by bucket, oldest first; those of dirty targets only.
        """
        stored = self._read(span)
        cells, count = self.shape.cells, len(self.shape.cells.cells)
        result = Computed()
        edge = left_edge(
            self.connection, self.tier, span.since, cells=cells, sampled=self._sampled(frames), lookback=self.lookback
        )
        pending_until_ms = np.zeros(count, dtype=np.int64)
        for bucket in sorted({*stored, *frames}):
            before = stored.get(bucket) or Stored.nothing(len(cells.grid.block_ids))
            part, recomputed = before.statistics.at(cells.cells), np.zeros(count, dtype=np.bool_)
            followed = pending_until_ms > milliseconds(bucket)
            if bucket in frames:
                step = self._bucket(bucket, frames[bucket], part, edge=edge)
                self._note(result, bucket, before, step)
                part, recomputed = step.statistics, step.dirty
                end_ms = milliseconds(self.tier.ladder.end_of(bucket))
                pending_until_ms[step.last_changed] = end_ms + self.lookback // _MILLISECOND
                followed &= ~step.last_changed
            followed &= part.count > 0
            if (stale := followed & ~recomputed).any():
                result.successors[bucket] = stale
            pending_until_ms[followed] = 0
            edge = edge.after(part, start_ms=milliseconds(bucket))
        result.successors |= successors(
            self.connection, self.tier, span.until, cells=cells, pending_until_ms=pending_until_ms
        )
        return result

    def _read(self, span: Span) -> dict[datetime, Stored]:
        return read_rollups(
            self.connection,
            self.tier,
            grid=self.shape.cells.grid,
            since=span.since,
            until=span.until,
        )

    def _sampled(self, frames: Mapping[datetime, Sequence[Frame]]) -> npt.NDArray[np.bool_]:
        sampled = np.zeros(len(self.shape.cells.cells), dtype=np.bool_)
        for map_id in {frame.map_id for bucket in frames.values() for frame in bucket}:
            sampled[self.shape.columns[map_id]] = True
        return sampled

    def _bucket(self, bucket: datetime, frames: Sequence[Frame], stored: Statistics, *, edge: Edge) -> _Step:
        is_counter = self.shape.cells.is_counter
        samples = samples_by_series(frames, self.shape.columns, width=len(is_counter))
        fresh = reduce_samples(
            samples.values,
            samples.at_ms,
            start_ms=milliseconds(bucket),
            edge=edge,
            lookback_ms=self.lookback // _MILLISECOND,
            is_counter=is_counter,
        )
        dirty = np.zeros(len(is_counter), dtype=np.bool_)
        for map_id in {frame.map_id for frame in frames}:
            dirty[self.shape.columns[map_id]] = True
        could_lose_edge = is_counter & np.isnan(edge.last) & ~np.isinf(samples.values).any(axis=0)
        better = dirty & is_not_worse(fresh, stored, could_lose_edge=could_lose_edge)
        moved = (stored.count == 0) | (fresh.last != stored.last) | (fresh.last_at != stored.last_at)
        last_changed = better & is_counter & (fresh.count > 0) & moved
        return _Step(fresh.where(better, stored), samples.values, dirty, better, last_changed)

    def _note(self, result: Computed, bucket: datetime, before: Stored, step: _Step) -> None:
        """Keep what is to be written: the lines in which a series differs from what was stored."""
        cells = self.shape.cells
        result.sampled.append(Sampled(bucket, step.values, step.better))
        different = step.statistics.differs(before.statistics.at(cells.cells))
        if different.any():
            # A row keeps its own slots: the interval may have been another one when it was collected.
            due = np.where(before.has_row, before.slots_due, self.slots.due(bucket, self.tier.ladder.end_of(bucket)))
            rollups = Stored(before.statistics.replaced(cells.cells, step.statistics), before.form, due)
            result.changed.append(Changed(bucket, rollups, cells.lines_of(different)))


@dataclass(frozen=True)
class _Step:
    """One bucket: arrays of shape (n,). `dirty` was computed anew, `better` took the result of that."""

    statistics: Statistics
    values: npt.NDArray[np.float64]
    dirty: npt.NDArray[np.bool_]
    better: npt.NDArray[np.bool_]
    last_changed: npt.NDArray[np.bool_]


def is_not_worse(
    fresh: Statistics, stored: Statistics, *, could_lose_edge: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Where a result may replace what is stored (ledger rule 5); shape (n,).

    Samples are never taken away, so fewer than are stored means that some of them are gone; and the same samples
    with less time covered mean that the left edge is gone. `could_lose_edge`: counters of which nothing is known before
    the bucket, and whose samples are finite (a difference to an infinite one is not covered).
    """
    with np.errstate(invalid="ignore"):
        lost_edge = could_lose_edge & (fresh.covered < stored.covered)
    return np.asarray((fresh.count > stored.count) | ((fresh.count == stored.count) & ~lost_edge))
