"""What lies on both sides of a span: the samples that its counters' deltas begin with, and the buckets after it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt

from aggregator.rollups.buckets import from_milliseconds, milliseconds
from aggregator.rollups.reduce import Edge
from aggregator.storage.blocks import BLOCK_SERIES, Grid
from aggregator.storage.catalog import TierEntry
from aggregator.storage.engine import Connection
from aggregator.storage.rollup_forms import read_rollups

_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True)
class Cells:
    """The cells of a grid that are computed, ascending: int64 of shape (n,). `is_counter`: bool of shape (n,)."""

    grid: Grid
    cells: npt.NDArray[np.int64]

    @property
    def is_counter(self) -> npt.NDArray[np.bool_]:
        """Which of the cells belong to counters; shape (n,)."""
        return self.grid.is_counter[self.cells // BLOCK_SERIES]

    def lines_of(self, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """The lines (blocks) of the grid in which chosen cells lie; `chosen` has shape (n,), the result (blocks,)."""
        lines = np.zeros(len(self.grid.block_ids), dtype=np.bool_)
        lines[self.cells[chosen] // BLOCK_SERIES] = True
        return lines

    def within(self, lines: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
        """Which of the cells lie in the chosen lines (n,), and their places in the grid of those lines alone."""
        line = self.cells // BLOCK_SERIES
        inside = lines[line]
        rank = np.cumsum(lines) - 1
        return inside, rank[line[inside]] * BLOCK_SERIES + self.cells[inside] % BLOCK_SERIES


def left_edge(
    connection: Connection,
    tier: TierEntry,
    since: datetime,
    *,
    cells: Cells,
    sampled: npt.NDArray[np.bool_],
    lookback: timedelta,
) -> Edge:
    """The last sample of each sampled counter before an instant, from the stored rollups within the lookback.

    The bucket just before has it nearly always; only for what it lacks, older ones are read. Shapes (n,).
    """
    edge = Edge.unknown(len(cells.cells))
    wanted = sampled & cells.is_counter
    previous = tier.ladder.start_of(since - _MILLISECOND)
    edge = _edge_behind(connection, tier, cells, wanted, edge, since=previous, until=since)
    missing = wanted & np.isnan(edge.last)
    oldest = tier.ladder.start_of(since - lookback)
    return _edge_behind(connection, tier, cells, missing, edge, since=oldest, until=previous)


def _edge_behind(
    connection: Connection,
    tier: TierEntry,
    cells: Cells,
    wanted: npt.NDArray[np.bool_],
    edge: Edge,
    *,
    since: datetime,
    until: datetime,
) -> Edge:
    """The edge with the last samples of the wanted cells in the stored buckets of the interval filled in."""
    if not wanted.any() or since >= until:
        return edge
    lines = cells.lines_of(wanted)
    inside, places = cells.within(lines)
    found = read_rollups(
        connection,
        tier,
        grid=cells.grid.only(lines),
        since=since,
        until=until,
        only=("count", "last_at", "last"),
    )
    part = Edge.unknown(len(places))
    for bucket, stored in found.items():
        part = part.after(stored.statistics.at(places), start_ms=milliseconds(bucket))
    last, last_at = edge.last.copy(), edge.last_at.copy()
    last[inside], last_at[inside] = part.last, part.last_at
    return Edge(np.where(wanted, last, edge.last), np.where(wanted, last_at, edge.last_at))


def successors(
    connection: Connection,
    tier: TierEntry,
    until: datetime,
    *,
    cells: Cells,
    pending_until_ms: npt.NDArray[np.int64],
) -> dict[datetime, npt.NDArray[np.bool_]]:
    """The next stored bucket after a span of each counter whose last sample in it changed (ledger rule 4).

    `pending_until_ms`, shape (n,): up to when a delta may begin with that sample; 0 where none does. Gives, by bucket,
    the cells (n,) that are to be computed anew.
    """
    left = pending_until_ms > milliseconds(until)
    if not left.any():
        return {}
    lines = cells.lines_of(left)
    inside, places = cells.within(lines)
    found = read_rollups(
        connection,
        tier,
        grid=cells.grid.only(lines),
        since=until,
        until=from_milliseconds(int(pending_until_ms.max())),
        only=("count",),
    )
    result: dict[datetime, npt.NDArray[np.bool_]] = {}
    for bucket, stored in found.items():
        has_sample = np.zeros(len(left), dtype=np.bool_)
        has_sample[inside] = stored.statistics.at(places).count > 0
        hit = left & has_sample & (pending_until_ms > milliseconds(bucket))
        if hit.any():
            result[bucket] = hit
            left &= ~hit
    return result
