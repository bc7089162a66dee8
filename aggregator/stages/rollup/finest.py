"""The finest tier: from sample frames to rollups, for the targets that are dirty (ledger rules 2, 4 and 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt

from aggregator.rollups.buckets import SlotGrid, milliseconds
from aggregator.rollups.reduce import Edge, reduce_samples
from aggregator.rollups.statistics import Statistics
from aggregator.stages.rollup.matrix import samples_by_cell
from aggregator.storage.blocks import BLOCK_SERIES, Grid, Layout
from aggregator.storage.catalog import TierEntry
from aggregator.storage.engine import Connection
from aggregator.storage.frames import Frame
from aggregator.storage.rollup_rows import Stored, read_bucket, read_rollups

_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True)
class Computed:
    """The new rollups of a bucket on a grid; `changed` (blocks, 64) says where they differ from what was stored."""

    bucket: datetime
    grid: Grid
    rollups: Stored
    changed: npt.NDArray[np.bool_]
    #: Where the last sample of a series changed, which the delta of its next bucket begins with.
    last_changed: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Shape:
    """The cells that the dirty targets' frame maps fill."""

    grid: Grid
    cells_by_map: Mapping[int, npt.NDArray[np.int64]]

    @classmethod
    def of(cls, layouts: Mapping[int, Layout]) -> Shape:
        """The shape of these frame maps' series."""
        grid = Grid.of(layouts)
        return cls(grid, {map_id: grid.cells_of(layout) for map_id, layout in layouts.items()})


def compute(
    connection: Connection,
    tier: TierEntry,
    bucket: datetime,
    *,
    frames: Sequence[Frame],
    shape: Shape,
    slots: SlotGrid,
    lookback: timedelta,
) -> Computed:
    """Recompute a bucket from all samples of its dirty targets; other targets' positions stay as they are stored."""
    grid = shape.grid
    stored = read_bucket(connection, tier_id=tier.id, is_finest=True, grid=grid, bucket=bucket)
    samples = samples_by_cell(frames, shape.cells_by_map, grid=grid)
    dirty = np.zeros(grid.cells, dtype=np.bool_)
    for map_id in {frame.map_id for frame in frames}:
        dirty[shape.cells_by_map[map_id]] = True
    sampled = np.asarray((~np.isnan(samples.values)).any(axis=0))
    reduced = reduce_samples(
        samples.values,
        samples.at_ms,
        start_ms=milliseconds(bucket),
        edge=left_edge(connection, tier, bucket, grid=grid, sampled=sampled, lookback=lookback),
        lookback_ms=lookback // _MILLISECOND,
        is_counter=grid.is_counter_cell,
    )
    fresh = _reshaped(reduced, grid.shape)
    # Never worse: a result of fewer samples than are in the stored one had not all of its input.
    better = dirty.reshape(grid.shape) & (fresh.count >= stored.statistics.count)
    statistics = fresh.where(better, stored.statistics)
    last_changed = better & (
        (fresh.count > 0)
        & (
            (stored.statistics.count == 0)
            | (fresh.last != stored.statistics.last)
            | (fresh.last_at != stored.statistics.last_at)
        )
    )
    # A row keeps its own: the interval may have been another one when it was collected.
    due = np.where(stored.has_row, stored.slots_due, slots.due(bucket, tier.ladder.end_of(bucket)))
    rollups = Stored(statistics, stored.has_row, due)
    return Computed(bucket, grid, rollups, statistics.differs(stored.statistics), last_changed)


def left_edge(
    connection: Connection,
    tier: TierEntry,
    bucket: datetime,
    *,
    grid: Grid,
    sampled: npt.NDArray[np.bool_],
    lookback: timedelta,
) -> Edge:
    """The last sample of each counter before the bucket, from the stored rollups within the lookback.

    The bucket just before has it nearly always; only for what it lacks, older ones are read.
    """
    previous = tier.ladder.start_of(bucket - _MILLISECOND)
    edge = _edge_behind(connection, tier, grid, grid.is_counter, since=previous, until=bucket)
    missing = np.asarray((np.isnan(edge.last) & sampled & grid.is_counter_cell).reshape(grid.shape).any(axis=1))
    if missing.any():
        oldest = tier.ladder.start_of(bucket - lookback)
        older = _edge_behind(connection, tier, grid, missing, since=oldest, until=previous)
        known = ~np.isnan(edge.last)
        edge = Edge(np.where(known, edge.last, older.last), np.where(known, edge.last_at, older.last_at))
    return edge


def _edge_behind(
    connection: Connection,
    tier: TierEntry,
    grid: Grid,
    lines: npt.NDArray[np.bool_],
    *,
    since: datetime,
    until: datetime,
) -> Edge:
    """The last sample of each cell in the stored buckets of the interval; only the given lines (counters) are read."""
    edge = Edge.unknown(grid.cells)
    if not lines.any() or since >= until:
        return edge
    found = read_rollups(
        connection,
        tier_id=tier.id,
        is_finest=True,
        grid=grid.only(lines),
        since=since,
        until=until,
        only=("count", "last_at", "last"),
    )
    cells = np.repeat(lines, BLOCK_SERIES)
    part = Edge(edge.last[cells], edge.last_at[cells])
    for bucket, stored in found.items():
        part = part.after(_reshaped(stored.statistics, (part.last.size,)), start_ms=milliseconds(bucket))
    edge.last[cells], edge.last_at[cells] = part.last, part.last_at
    return edge


def _reshaped(statistics: Statistics, shape: tuple[int, ...]) -> Statistics:
    return Statistics(**{name: getattr(statistics, name).reshape(shape) for name in Statistics.__dataclass_fields__})


def successors(
    connection: Connection, tier: TierEntry, computed: Computed, *, lookback: timedelta
) -> dict[datetime, npt.NDArray[np.bool_]]:
    """The next stored bucket of each counter whose last sample changed: its first delta begins with that sample.

    Gives, by bucket, the cells (blocks, 64) that are to be computed anew.
    """
    changed = computed.last_changed & computed.grid.is_counter[:, None]
    lines = np.asarray(changed.any(axis=1))
    if not lines.any():
        return {}
    end = tier.ladder.end_of(computed.bucket)
    found = read_rollups(
        connection,
        tier_id=tier.id,
        is_finest=True,
        grid=computed.grid.only(lines),
        since=end,
        until=end + lookback,
        only=("count",),
    )
    left = changed[lines]
    result: dict[datetime, npt.NDArray[np.bool_]] = {}
    for bucket, stored in found.items():
        hit = left & (stored.statistics.count > 0)
        if hit.any():
            cells = np.zeros(computed.grid.shape, dtype=np.bool_)
            cells[lines] = hit
            result[bucket] = cells
            left &= ~hit
    return result
