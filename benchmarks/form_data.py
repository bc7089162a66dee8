"""Rollups of many hosts for the benchmarks of both forms, written as rows at once: nobody waits for an import."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
from figures import connected
from host_dump import HostDump
from importing import whole
from sqlalchemy import text

from aggregator.rollups.statistics import Statistics
from aggregator.storage import catalog, forms, partitions
from aggregator.storage.blocks import BLOCK_SERIES, Grid
from aggregator.storage.catalog import TierEntry
from aggregator.storage.engine import Connection, Database
from aggregator.storage.rollup_forms import seal, write_rollups
from aggregator.storage.rollup_matrix import Stored
from aggregator.storage.rollup_rows import Changed, TierRows

HOSTS = 100
METRIC = "node_load1"
#: How old the newest rollups are.
NEWEST = timedelta(hours=1)
#: How far back each tier has rollups.
LENGTHS = {"1m": timedelta(hours=28), "5m": timedelta(days=4), "1h": timedelta(days=32)}
_BLOCKS = 32
_SLOTS_OF_A_MINUTE = 4
Floats = npt.NDArray[np.float64]
_BUCKETS_AT_ONCE = 240


def fill(url: str, directory: Path, until: datetime) -> None:
    """Series of hosts and their places, by an import of some minutes, then rollups of `LENGTHS` before it."""
    dump = HostDump(HOSTS, until, timedelta(minutes=10), recent=timedelta(minutes=10), recent_step=timedelta(minutes=1))
    path = directory / "dump.om"
    dump.write(path)
    whole(path, url)
    path.unlink()
    database = Database.connect(url, application="benchmark")
    try:
        database.run(lambda connection: connection.execute(text("DELETE FROM aggregator.rollup")))
        installation = database.run(catalog.read_installation)
        for tier in installation.tiers:
            if tier.name in LENGTHS:
                database.run(lambda connection, tier=tier: _fill_tier(connection, tier, until))
    finally:
        database.dispose()


def _fill_tier(connection: Connection, tier: TierEntry, until: datetime) -> None:
    first = tier.ladder.start_of(until - LENGTHS[tier.name])
    last = tier.ladder.start_of(until - NEWEST)
    partitions.ensure(connection, tier.partitions, since=first, until=until)
    grid = _grid(connection)
    random = np.random.default_rng(1)
    level = np.round(random.normal(500, 100, (len(grid.block_ids), BLOCK_SERIES)), 2)
    changed: list[Changed] = []
    for bucket in tier.ladder.starts(first, last):
        level, rollups = _bucket(random, level, slots=_SLOTS_OF_A_MINUTE * (tier.ladder.step // timedelta(minutes=1)))
        changed.append(Changed(bucket, rollups, np.ones(len(grid.block_ids), dtype=np.bool_)))
        if len(changed) == _BUCKETS_AT_ONCE or bucket + tier.ladder.step >= last:
            write_rollups(connection, TierRows(tier, grid), changed)
            changed = []


def seal_all(url: str, until: datetime) -> None:
    """Seal all of it, and drop the open partitions that have ended."""
    database = Database.connect(url, application="benchmark")
    try:
        installation = database.run(catalog.read_installation)
        for tier in installation.tiers:
            if tier.name in LENGTHS and tier.spans is not None:
                database.run(lambda connection, tier=tier: _seal_tier(connection, tier, until))
    finally:
        database.dispose()
    with connected(url) as owner, owner.cursor() as cursor:
        cursor.execute("VACUUM FULL")
        cursor.execute("VACUUM ANALYZE")


def _seal_tier(connection: Connection, tier: TierEntry, until: datetime) -> None:
    if tier.spans is None:
        return
    grid = _grid(connection)
    start, end = tier.spans.bounds(until - LENGTHS[tier.name])
    while start < until:
        for one in tier.sealed_partitions:
            partitions.ensure(connection, one, since=start, until=end)
        seal(connection, tier, grid=grid, start=start)
        start, end = tier.spans.bounds(end)
    forms.note_sealed(connection, tier.id, _shard(connection, grid), until=start, now=until)
    for partition in partitions.existing(connection, tier.partitions):
        if partition.end <= until:
            partitions.drop_one(connection, tier.partitions, partition)


def _shard(connection: Connection, grid: Grid) -> int:
    statement = text("SELECT shard_id FROM aggregator.blocks WHERE id = :block_id")
    return int(connection.execute(statement, {"block_id": int(grid.block_ids[0])}).scalar_one())


def _bucket(random: np.random.Generator, level: Floats, *, slots: int) -> tuple[Floats, Stored]:
    """The levels after a bucket of so many samples with two places, and its rollups."""
    steps = random.normal(0, 1, (min(slots, _SLOTS_OF_A_MINUTE), *level.shape))
    values = np.round(level + np.cumsum(steps, axis=0), 2)
    count = np.full(level.shape, slots, dtype=np.int64)
    mean = values.mean(axis=0)
    statistics = Statistics(
        count=count,
        last_at=np.full(level.shape, 45_000 + int(random.integers(40)), dtype=np.int64),
        sum=values.sum(axis=0) * (slots // len(values)),
        min=values.min(axis=0),
        max=values.max(axis=0),
        first=values[0],
        last=values[-1],
        m2=((values - mean) ** 2).sum(axis=0),
        increase=np.full(level.shape, np.nan),
        covered=np.full(level.shape, np.nan),
    )
    has_row = np.zeros(len(level), dtype=np.bool_)
    return values[-1], Stored(statistics, has_row, np.full(len(level), slots, dtype=np.int64))


def _grid(connection: Connection) -> Grid:
    """The blocks of the metric that is read, and others of gauges, so that these lie between them as always."""
    blocks = connection.execute(_GAUGES, {"metric": METRIC, "limit": _BLOCKS}).scalars().all()
    ids = np.array(sorted(blocks), dtype=np.int64)
    return Grid(ids, np.zeros(len(ids), dtype=np.bool_))


_GAUGES = text(
    """
    SELECT b.id FROM aggregator.blocks AS b WHERE b.kind = 1
    ORDER BY NOT EXISTS (SELECT FROM aggregator.series AS s WHERE s.block_id = b.id AND s.metric = :metric), b.id
    LIMIT :limit
    """
)
