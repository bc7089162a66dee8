"""What `verify` reads besides samples and rollups: the places of series, what is dirty, what is gone, sketches."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, func, select, text

from aggregator.exposition.series import Kind
from aggregator.rollups.statistics import Statistics
from aggregator.storage import tables
from aggregator.storage.blocks import Grid
from aggregator.storage.catalog import dropped_before
from aggregator.storage.rollup_matrix import Stored
from aggregator.storage.rules import RuleEntry
from aggregator.storage.series import maps_of


@dataclass(frozen=True)
class ShardSeries:
    """The placed series of some targets of a shard; arrays of shape (n,), `ids` ascend.

    `lines` and `positions` (from 0) say where the rollups of each series lie on `grid`.
    """

    ids: npt.NDArray[np.int64]
    target_ids: npt.NDArray[np.int64]
    is_counter: npt.NDArray[np.bool_]
    lines: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    grid: Grid

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def keys(self) -> list[tuple[int, int]]:
        """Block and position (from 1) of each series, as SQL knows them."""
        return list(zip(self.grid.block_ids[self.lines].tolist(), (self.positions + 1).tolist(), strict=True))

    def statistics_of(self, stored: Stored) -> Statistics:
        """The stored statistics of each series, from those of the grid's blocks."""
        return Statistics(
            **{
                name: getattr(stored.statistics, name)[self.lines, self.positions]
                for name in Statistics.__dataclass_fields__
            }
        )

    def slots_of(self, stored: Stored) -> npt.NDArray[np.int64]:
        """The slots due for each series, from those of the grid's blocks."""
        return stored.slots_of_cells[self.lines, self.positions]

    def only(self, chosen: npt.NDArray[np.bool_]) -> ShardSeries:
        """Some of the series, on the grid of their blocks."""
        used = np.unique(self.lines[chosen])
        lines = np.zeros(len(self.grid.block_ids), dtype=np.bool_)
        lines[used] = True
        return ShardSeries(
            self.ids[chosen],
            self.target_ids[chosen],
            self.is_counter[chosen],
            np.searchsorted(used, self.lines[chosen]),
            self.positions[chosen],
            self.grid.only(lines),
        )


def read_shard_series(connection: Connection, shard_id: int, *, rule: RuleEntry | None) -> ShardSeries:
    """All series of a shard that have a place. `rule`: whose outputs they are.

    Uses indexes: targets_shard_id_idx, series_target_id_identity_hash_key.
    """
    series, targets = tables.series, tables.targets
    rows = connection.execute(
        select(series.c.id, series.c.target_id, series.c.kind, series.c.block_id, series.c.position)
        .join(targets, targets.c.id == series.c.target_id)
        .where(targets.c.shard_id == shard_id, series.c.block_id.is_not(None))
        .order_by(series.c.id)
    ).all()
    table = np.array([tuple(row) for row in rows], dtype=np.int64).reshape(len(rows), 5)
    ids, target_ids, kinds, block_of, positions = table.T
    is_counter = kinds == Kind.COUNTER
    block_ids, first, lines = np.unique(block_of, return_index=True, return_inverse=True)
    grid = Grid(block_ids, is_counter[first], is_output=rule is not None)
    return ShardSeries(ids, target_ids, is_counter, lines, positions - 1, grid)


def columns_of_maps(
    connection: Connection, map_ids: Collection[int], *, series: ShardSeries
) -> dict[int, npt.NDArray[np.int64]]:
    """By frame map, where each of its series stands among `series`; -1 for one that is not among them.

    Uses index: frame_maps_pkey.
    """
    if not map_ids:
        return {}
    columns: dict[int, npt.NDArray[np.int64]] = {}
    for map_id, listed in maps_of(connection, sorted(map_ids)).items():
        series_ids = np.array(listed, dtype=np.int64)
        found = np.minimum(np.searchsorted(series.ids, series_ids), max(len(series) - 1, 0))
        known = series.ids[found] == series_ids if len(series) else np.zeros(len(series_ids), dtype=np.bool_)
        columns[map_id] = np.where(known, found, -1)
    return columns


def names_of(connection: Connection, series_ids: Collection[int]) -> dict[int, tuple[str, dict[str, str]]]:
    """Metric and labels of series. Uses index: series_pkey."""
    table = tables.series
    statement = select(table.c.id, table.c.metric, table.c.labels).where(table.c.id.in_(sorted(series_ids)))
    return {row.id: (row.metric, dict(row.labels)) for row in connection.execute(statement)}


def dirty_buckets(
    connection: Connection, shard_id: int, *, since: datetime, until: datetime
) -> list[tuple[int, datetime]]:
    """Tier and bucket of a shard's ledger rows in a half-open interval. Uses index: dirty_shard_id_bucket_idx."""
    table = tables.dirty
    statement = select(table.c.tier_id, table.c.bucket).distinct()
    rows = connection.execute(
        statement.where(table.c.shard_id == shard_id, table.c.bucket >= since, table.c.bucket < until)
    )
    return [(row.tier_id, row.bucket) for row in rows]


def samples_kept_since(connection: Connection) -> datetime | None:
    """From when on all samples are there; None: from ever on."""
    return dropped_before(connection, "sample_frame")


def rollups_kept_since(connection: Connection, tier_id: int) -> datetime | None:
    """From when on a tier has all its buckets: later ones were not dropped, and it was there to get them; None: ever.

    Uses indexes: tiers_pkey, retained_pkey.
    """
    tiers, retained = tables.tiers, tables.retained
    is_dropped = (retained.c.table_name == "rollup") & (retained.c.tier_id == tiers.c.id)
    statement = select(func.greatest(retained.c.dropped_before, tiers.c.complete_since))
    kept = statement.select_from(tiers.outerjoin(retained, is_dropped)).where(tiers.c.id == tier_id)
    return connection.execute(kept).scalar_one_or_none()


# Uses index: sketch_pkey.
_SKETCH_TOTALS = text(
    """
    SELECT s.bucket, s.block_id, part.position, sum(part.samples) AS samples
    FROM aggregator.sketch AS s CROSS JOIN LATERAL unnest(s.positions, s.counts) AS part (position, samples)
    WHERE s.tier_id = :tier_id AND s.block_id = ANY(:block_ids) AND s.bucket >= :since AND s.bucket < :until
    GROUP BY s.bucket, s.block_id, part.position
    ORDER BY s.bucket, s.block_id, part.position
    """
)


def sketch_totals(
    connection: Connection, *, tier_id: int, block_ids: Sequence[int], since: datetime, until: datetime
) -> list[tuple[datetime, int, int, int]]:
    """How many samples the sketches of a half-open interval hold: bucket, block, position (from 1), samples."""
    parameters = {"tier_id": tier_id, "block_ids": list(block_ids), "since": since, "until": until}
    rows = connection.execute(_SKETCH_TOTALS, parameters)
    return [(row.bucket, row.block_id, row.position, int(row.samples)) for row in rows]


def shards_in(connection: Connection) -> list[int]:
    """All shards that hold targets. Uses index: targets_shard_id_idx."""
    table = tables.targets
    statement = select(table.c.shard_id).where(table.c.shard_id.is_not(None)).distinct().order_by(table.c.shard_id)
    return list(connection.execute(statement).scalars())


def targets_of_kind(connection: Connection, kind: str) -> list[int]:
    """All targets of sources of a kind."""
    targets, sources = tables.targets, tables.sources
    statement = select(targets.c.id).join(sources, sources.c.id == targets.c.source_id).where(sources.c.kind == kind)
    return list(connection.execute(statement).scalars())
