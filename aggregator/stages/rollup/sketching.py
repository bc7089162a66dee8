"""Sketches beside rollups: from samples in the finest tier, merged in coarser ones; only where a source asks for them.

A stored sketch holds as many samples as its rollup counts: what would hold only a part of them is not kept at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt

from aggregator.rollups.sketch import Sketches, merge, sketch_samples
from aggregator.stages.rollup.edges import Cells
from aggregator.storage import partitions
from aggregator.storage.blocks import BLOCK_SERIES, Grid
from aggregator.storage.catalog import TierEntry
from aggregator.storage.engine import Connection
from aggregator.storage.rollup_forms import read_rollups
from aggregator.storage.sketch_rows import (
    ChangedSketches,
    TierSpan,
    lines_with_sketches,
    read_sketches,
    sketched_cells,
    write_sketches,
)

#: Sketches (series times finer buckets) that are merged at once: of an hour each takes about a kilobyte.
MOST_SKETCHES = 20_000


@dataclass(frozen=True)
class SampledBucket:
    """All samples of a bucket that ends at `end`: `values` of shape (t, n), NaN where there is none.

    `better` (n,): of which series the rollup was replaced by what these samples give.
    """

    bucket: datetime
    end: datetime
    values: npt.NDArray[np.float64]
    better: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class MergedBucket:
    """A bucket that was merged from finer ones; `better` (blocks, 64): where the rollup was replaced by the merged."""

    bucket: datetime
    end: datetime
    better: npt.NDArray[np.bool_]


def finest(
    connection: Connection, tier: TierEntry, buckets: Sequence[SampledBucket], *, cells: Cells
) -> frozenset[datetime]:
    """Recompute the sketches of the better series from their samples; gives the buckets in which any changed.

    `cells`: which n cells of which grid the series are. Two queries that find nothing, where no sketch is asked for.
    """
    if not buckets:
        return frozenset()
    grid = cells.grid
    span = _span(tier, buckets, grid)
    wanted, stored = sketched_cells(connection, grid), read_sketches(connection, span)
    if not wanted.any() and not stored:
        return frozenset()
    changed: dict[datetime, ChangedSketches] = {}
    for one in buckets:
        before = stored.get(one.bucket, Sketches.nothing())
        # What has a sketch keeps one that is right, though none is asked for any more.
        due = one.better & (wanted | (before.totals(grid.cells) > 0))[cells.cells]
        places = cells.cells[due]
        fresh = sketch_samples(one.values[:, due])
        kept = np.ones(grid.cells, dtype=np.bool_)
        kept[places] = False
        after = merge([Sketches(places[fresh.series], fresh.keys, fresh.counts), before.only(kept)])
        _note(changed, one.bucket, before, after, grid=grid)
    return _store(connection, tier, span, changed)


def coarse(
    connection: Connection, tier: TierEntry, parent: TierEntry, buckets: Sequence[MergedBucket], *, grid: Grid
) -> frozenset[datetime]:
    """Merge the sketches of `parent` that lie in each bucket; gives the buckets in which any changed.

    Where they do not hold all samples that the rollups of `parent` count, as when sketches were asked for in the middle
    of the bucket, there is no sketch.
    """
    if not buckets:
        return frozenset()
    lines = lines_with_sketches(connection, _span(parent, buckets, grid), _span(tier, buckets, grid))
    children = max(
        1, round((max(one.end for one in buckets) - min(one.bucket for one in buckets)) / parent.ladder.step)
    )
    size = max(1, MOST_SKETCHES // (children * BLOCK_SERIES))
    changed: set[datetime] = set()
    for start in range(0, len(lines), size):
        part = lines[start : start + size]
        own = [MergedBucket(one.bucket, one.end, one.better[part]) for one in buckets]
        changed |= _merge_blocks(connection, tier, parent, own, grid=Grid(grid.block_ids[part], grid.is_counter[part]))
    return frozenset(changed)


def _merge_blocks(
    connection: Connection, tier: TierEntry, parent: TierEntry, buckets: Sequence[MergedBucket], *, grid: Grid
) -> frozenset[datetime]:
    """The same for blocks whose sketches are held at once."""
    span = _span(tier, buckets, grid)
    stored = read_sketches(connection, span)
    children = read_sketches(connection, _span(parent, buckets, grid))
    counts = _counts(connection, parent, span)
    changed: dict[datetime, ChangedSketches] = {}
    for one in buckets:
        before = stored.get(one.bucket, Sketches.nothing())
        fresh = merge([child for start, child in children.items() if one.bucket <= start < one.end])
        counted = sum(count for start, count in counts.items() if one.bucket <= start < one.end)
        better = one.better.reshape(-1)
        whole = better & (fresh.totals(grid.cells) == counted)
        _note(changed, one.bucket, before, merge([fresh.only(whole), before.only(~better)]), grid=grid)
    return _store(connection, tier, span, changed)


def _span(tier: TierEntry, buckets: Sequence[SampledBucket] | Sequence[MergedBucket], grid: Grid) -> TierSpan:
    return TierSpan(tier.id, min(one.bucket for one in buckets), max(one.end for one in buckets), grid)


def _counts(connection: Connection, tier: TierEntry, span: TierSpan) -> dict[datetime, npt.NDArray[np.int64]]:
    """By bucket the samples that each cell's rollup counts; shape (cells,)."""
    found = read_rollups(
        connection,
        tier,
        grid=span.grid,
        since=span.since,
        until=span.until,
        only=("count",),
    )
    return {bucket: rollups.statistics.count.reshape(-1) for bucket, rollups in found.items()}


def _note(
    changed: dict[datetime, ChangedSketches], bucket: datetime, before: Sketches, after: Sketches, *, grid: Grid
) -> None:
    """Keep what is to be written: the lines in which a sketch differs from the stored one."""
    lines = after.differs(before, series=grid.cells).reshape(-1, BLOCK_SERIES).any(axis=1)
    if lines.any():
        changed[bucket] = ChangedSketches(after, np.asarray(lines))


def _store(
    connection: Connection, tier: TierEntry, span: TierSpan, changed: dict[datetime, ChangedSketches]
) -> frozenset[datetime]:
    for bucket in changed:
        partitions.ensure(connection, tier.sketch_partitions, since=bucket, until=tier.ladder.end_of(bucket))
    write_sketches(connection, span, changed)
    return frozenset(changed)
