"""The second computation: from kept samples, or from a finer tier's stored rollups, to what a bucket must hold.

It goes by series where the stage rollup goes by block, and takes the sample before a bucket from the samples themselves
where these are kept: a place, or an edge, that went wrong there shows here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt

from aggregator.rollups.aggregate import slots_of_whole
from aggregator.rollups.buckets import milliseconds
from aggregator.rollups.merge import merge
from aggregator.rollups.reduce import Edge, reduce_samples
from aggregator.rollups.statistics import Statistics
from aggregator.storage.catalog import TierEntry
from aggregator.storage.engine import Connection
from aggregator.storage.frames import Frame, read_frames_as_stored
from aggregator.storage.rollup_forms import read_rollups
from aggregator.storage.rollup_matrix import Stored
from aggregator.storage.verify_inputs import ShardSeries, columns_of_maps

_MILLISECOND = timedelta(milliseconds=1)
#: Rollup rows of a finer tier that are held at once; one takes 5 kB.
_MOST_CHILD_ROWS = 12_000

Columns = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Given:
    """The samples of one frame: the columns of their series, their values, and when they were (ms since the epoch)."""

    columns: Columns
    values: npt.NDArray[np.float64]
    at_ms: int
    target_id: int


@dataclass(frozen=True)
class FromSamples:
    """A bucket of the finest tier as its samples say; statistics of shape (n,), in the order of the series."""

    bucket: datetime
    statistics: Statistics
    samples: Sequence[Given]


def from_samples(
    connection: Connection,
    tier: TierEntry,
    buckets: Sequence[datetime],
    *,
    series: ShardSeries,
    lookback: timedelta,
    kept_since: datetime | None,
    stored: Mapping[datetime, Stored],
) -> Iterator[FromSamples]:
    """Recompute consecutive buckets of the finest tier.

    `kept_since`: samples before it may be gone (None: none is); where they are, the sample before a bucket comes from
    the `stored` rollups.
    """
    if not buckets or not len(series):
        return
    since, until = buckets[0], tier.ladder.end_of(buckets[-1])
    frames = read_frames_as_stored(
        connection, target_ids=np.unique(series.target_ids).tolist(), since=since - lookback, until=until
    )
    columns = columns_of_maps(connection, {frame.map_id for frame in frames}, series=series)
    samples = [_given(frame, columns) for frame in frames]
    start = milliseconds(since)
    edge = _edge_of_samples([one for one in samples if one.at_ms < start], len(series))
    if kept_since is not None and since - lookback < kept_since:
        edge = _later(edge, _edge_of_rollups(connection, tier, series, since=since, lookback=lookback))
    for bucket in buckets:
        start, end = milliseconds(bucket), milliseconds(tier.ladder.end_of(bucket))
        inside = [one for one in samples if start <= one.at_ms < end]
        statistics = _reduced(inside, start, edge=edge, series=series, lookback=lookback)
        yield FromSamples(bucket, statistics, inside)
        if kept_since is not None and bucket < kept_since and bucket in stored:
            kept = series.statistics_of(stored[bucket])
            edge = edge.after(statistics.where(statistics.count >= kept.count, kept), start_ms=start)
        else:
            edge = edge.after(statistics, start_ms=start)


def _given(frame: Frame, columns: Mapping[int, Columns]) -> Given:
    own = frame.pick(columns[frame.map_id])
    known = (own >= 0) & ~np.isnan(frame.values)
    return Given(own[known], frame.values[known], milliseconds(frame.at), frame.target_id)


def _edge_of_samples(samples: Sequence[Given], width: int) -> Edge:
    edge = Edge.unknown(width)
    for one in samples:
        edge.last[one.columns] = one.values
        edge.last_at[one.columns] = one.at_ms
    return edge


def _edge_of_rollups(
    connection: Connection, tier: TierEntry, series: ShardSeries, *, since: datetime, lookback: timedelta
) -> Edge:
    """The last sample of each series before `since`, as the finest tier has it stored within the lookback."""
    found = read_rollups(
        connection,
        tier,
        grid=series.grid,
        since=tier.ladder.start_of(since - lookback),
        until=since,
        only=("count", "last_at", "last"),
    )
    edge = Edge.unknown(len(series))
    for bucket, stored in found.items():
        edge = edge.after(series.statistics_of(stored), start_ms=milliseconds(bucket))
    return edge


def _later(edge: Edge, other: Edge) -> Edge:
    """The later sample of the two, for each series that has any."""
    known = ~np.isnan(edge.last) & (np.isnan(other.last) | (edge.last_at >= other.last_at))
    return Edge(np.where(known, edge.last, other.last), np.where(known, edge.last_at, other.last_at))


def _reduced(
    samples: Sequence[Given], start_ms: int, *, edge: Edge, series: ShardSeries, lookback: timedelta
) -> Statistics:
    """The k-th line holds the k-th sample of each series: only the order within a series matters."""
    filled = np.zeros(len(series), dtype=np.int64)
    for one in samples:
        filled[one.columns] += 1
    shape = (int(filled.max(initial=0)), len(series))
    values, at_ms = np.full(shape, np.nan), np.zeros(shape, dtype=np.int64)
    filled[:] = 0
    for one in samples:
        lines = filled[one.columns]
        values[lines, one.columns] = one.values
        at_ms[lines, one.columns] = one.at_ms
        filled[one.columns] += 1
    return reduce_samples(
        values,
        at_ms,
        start_ms=start_ms,
        edge=edge,
        lookback_ms=lookback // _MILLISECOND,
        is_counter=series.is_counter,
    )


@dataclass(frozen=True)
class FromRollups:
    """A part of a coarser bucket as a finer tier says; statistics of shape (n,) in the order of `series`.

    `places`: where these stand among all series that were asked for. `slots_due` by block of the series' grid, of the
    finer rows together; `is_whole` where these fill the bucket. `slots` of outputs of a rule, shape (n,).
    """

    bucket: datetime
    series: ShardSeries
    places: Columns
    statistics: Statistics
    slots_due: npt.NDArray[np.int64]
    is_whole: npt.NDArray[np.bool_]
    slots: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Part:
    """Some buckets of a coarser tier, ascending, with the starts of the finer ones in each; and some series."""

    finer: Mapping[datetime, Sequence[datetime]]
    until: datetime
    series: ShardSeries
    places: Columns

    @property
    def since(self) -> datetime:
        """The start of the first bucket."""
        return next(iter(self.finer))


def parts(tier: TierEntry, parent: TierEntry, buckets: Sequence[datetime], *, series: ShardSeries) -> Iterator[Part]:
    """The buckets (ascending) and the series in parts, each of which can be recomputed in memory."""
    blocks = len(series.grid.block_ids)
    held: dict[datetime, Sequence[datetime]] = {}
    for bucket in buckets:
        finer = list(parent.ladder.starts(bucket, tier.ladder.end_of(bucket)))
        if held and (sum(map(len, held.values())) + len(finer)) * blocks > _MOST_CHILD_ROWS:
            yield from _by_blocks(tier, held, series)
            held = {}
        held[bucket] = finer
    if held:
        yield from _by_blocks(tier, held, series)


def _by_blocks(tier: TierEntry, finer: Mapping[datetime, Sequence[datetime]], series: ShardSeries) -> Iterator[Part]:
    at_once = max(1, _MOST_CHILD_ROWS // sum(map(len, finer.values())))
    until = tier.ladder.end_of(max(finer))
    for first in range(0, len(series.grid.block_ids), at_once):
        chosen = (series.lines >= first) & (series.lines < first + at_once)
        yield Part(finer, until, series.only(chosen), np.flatnonzero(chosen))


def from_rollups(connection: Connection, parent: TierEntry, part: Part) -> Iterator[FromRollups]:
    """Recompute coarser buckets from the stored rollups of `parent`, the tier that they are built from."""
    series = part.series
    stored = read_rollups(
        connection,
        parent,
        grid=series.grid,
        since=part.since,
        until=part.until,
    )
    nothing = Statistics.empty((len(series),))
    for bucket, starts in part.finer.items():
        children = [stored[start] for start in starts if start in stored]
        due = np.zeros(len(series.grid.block_ids), dtype=np.int64)
        rows = np.zeros_like(due)
        for child in children:
            due += np.where(child.has_row, child.slots_due, 0)
            rows += child.has_row
        merged = merge([series.statistics_of(child) for child in children]) if children else nothing
        slots = _slots_of_outputs(series, children, of=len(starts)) if series.grid.is_output and children else None
        yield FromRollups(bucket, series, part.places, merged, due, rows == len(starts), slots)


def _slots_of_outputs(series: ShardSeries, children: Sequence[Stored], *, of: int) -> npt.NDArray[np.int64]:
    parts = [(series.statistics_of(child).count, series.slots_of(child)) for child in children]
    return slots_of_whole(parts, of=of)
