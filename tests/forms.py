"""Rollups that are made up, of series that readers find, in the open form and sealed; and what readers get of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import product
from typing import Any

import numpy as np
from sqlalchemy import text

from aggregator.exposition.series import Kind
from aggregator.rollups.statistics import Statistics, names_of
from aggregator.storage import forms, partitions
from aggregator.storage.blocks import BLOCK_SERIES, Grid
from aggregator.storage.catalog import Installation, TierEntry
from aggregator.storage.engine import Connection
from aggregator.storage.rollup_forms import seal, write_rollups
from aggregator.storage.rollup_matrix import Stored
from aggregator.storage.rollup_rows import Changed, TierRows

#: Blocks by shard: of a target's gauges and counters, and of the outputs of a rule that reads both shards.
BLOCKS = {1: ((1, Kind.GAUGE), (2, Kind.COUNTER)), 2: ((3, Kind.GAUGE), (4, Kind.COUNTER)), 3: ((5, Kind.GAUGE),)}
RULED = 3
#: How many buckets of each span have rollups.
FILLED = {"1m": 9, "5m": 7}

_SERIES = """
    INSERT INTO aggregator.sources (name, kind, definition, interval_seconds, offset_seconds, active, published_at,
        published_by) VALUES ('made', 'prometheus', '{}', 15, 2, true, now(), 'test');
    INSERT INTO aggregator.shards (id, source_id) OVERRIDING SYSTEM VALUE
        SELECT shard, source.id FROM aggregator.sources AS source, unnest(ARRAY[1, 2, 3]) AS shard
        WHERE source.name = 'made';
    INSERT INTO aggregator.targets (id, source_id, shard_id, address, labels, active, created_at)
        OVERRIDING SYSTEM VALUE
        SELECT shard.id, shard.source_id, shard.id, 't' || shard.id, '{}', true, now() FROM aggregator.shards AS shard
        WHERE shard.id <= 3;
    INSERT INTO aggregator.rules (name, definition, shard_id, target_id, active) VALUES ('ruled', '{}', 3, 3, true);
    INSERT INTO aggregator.rule_shards (shard_id, input_shard_id) VALUES (3, 1), (3, 2);
    INSERT INTO aggregator.blocks (id, shard_id, kind, size) OVERRIDING SYSTEM VALUE
        VALUES (1, 1, 1, 64), (2, 1, 2, 64), (3, 2, 1, 64), (4, 2, 2, 64), (5, 3, 1, 64);
    INSERT INTO aggregator.series (target_id, block_id, position, kind, identity_hash, metric, labels, created_at)
        SELECT block.shard_id, block.id, place, block.kind, int8send(block.id * 64 + place),
            (CASE WHEN block.id = 5 THEN 'output' WHEN block.kind = 1 THEN 'gauge' ELSE 'counter' END)
                || '_' || place % 3,
            jsonb_build_object('instance', 't' || block.shard_id, 'job', 'made', 'place', place::text,
                'le', CASE WHEN place > 61 THEN '+Inf' ELSE place::text END),
            now()
        FROM aggregator.blocks AS block, generate_series(1, 64) AS place
"""


def grids() -> Iterator[tuple[int, Grid]]:
    """The blocks of each shard."""
    for shard_id, blocks in BLOCKS.items():
        ids, kinds = zip(*blocks, strict=True)
        counters = np.array([kind is Kind.COUNTER for kind in kinds])
        yield shard_id, Grid(np.array(ids), counters, is_output=shard_id == RULED)


@dataclass(frozen=True)
class Part:
    """A span of a tier in a shard: what is sealed at once."""

    tier: str
    start: datetime
    shard_id: int


@dataclass(frozen=True)
class Made:
    """What is made up in two spans of the tiers 1m and 5m, the first of which begins at the span that holds `at`."""

    installation: Installation
    at: datetime

    @property
    def tiers(self) -> list[TierEntry]:
        """The tiers that have rollups."""
        return [tier for tier in self.installation.tiers if tier.name in FILLED]

    def spans(self, tier: TierEntry) -> tuple[datetime, datetime]:
        """The starts of the two spans."""
        if tier.spans is None:
            raise AssertionError("such a tier is not sealed")
        start, end = tier.spans.bounds(self.at)
        return start, end

    @property
    def parts(self) -> list[Part]:
        """All that can be sealed."""
        return [
            Part(tier.name, start, shard_id)
            for tier, shard_id in product(self.tiers, BLOCKS)
            for start in self.spans(tier)
        ]

    def fill(self, connection: Connection, seed: int) -> None:
        """Series, rollups, sketches and marks."""
        connection.execute(text(_SERIES.replace(":", "\\:").replace("\\:\\:", "::")))
        for place, tier in enumerate(self.tiers):
            for number, start in enumerate(self.spans(tier)):
                end = start + tier.spans.length if tier.spans else start
                for one in (tier.partitions, tier.sketch_partitions, *tier.sealed_partitions):
                    partitions.ensure(connection, one, since=start, until=end)
                for shard_id, grid in grids():
                    _fill(connection, tier, grid, start=start, seed=seed + 100 * place + 10 * number + shard_id)
                connection.execute(text(_SKETCHES), {"tier_id": tier.id, "start": start, "step": tier.ladder.step})

    def seal(self, connection: Connection, parts: list[Part]) -> None:
        """Seal these parts."""
        by_name = {tier.name: tier for tier in self.tiers}
        blocks = dict(grids())
        for part in parts:
            tier = by_name[part.tier]
            _, end = tier.spans.bounds(part.start) if tier.spans else (None, part.start)
            seal(connection, tier, grid=blocks[part.shard_id], start=part.start)
            forms.note_sealed(connection, tier.id, part.shard_id, until=end, now=self.at)


_SKETCHES = """
    INSERT INTO aggregator.sketch (bucket, block_id, tier_id, positions, keys, counts)
    SELECT r.bucket, r.block_id, r.tier_id, '{1,1,4,7}', '{30000,30100,30050,30060}', '{3,1,2,2}'
    FROM aggregator.rollup AS r
    WHERE r.tier_id = :tier_id AND r.bucket >= :start AND r.block_id = 1
        AND r.bucket < :start + 4 * :step AND 0 < ALL (ARRAY[r.count[1], r.count[4], r.count[7]])
"""


def _fill(connection: Connection, tier: TierEntry, grid: Grid, *, start: datetime, seed: int) -> None:
    random = np.random.default_rng(seed)
    last = round(tier.spans.length / tier.ladder.step) if tier.spans else 0
    places = sorted({0, last - 1, *random.choice(last, FILLED[tier.name], replace=False).tolist()})
    statistics = made_up(random, grid, len(places), is_finest=tier.is_finest)
    changed = []
    for number, place in enumerate(places):
        one = statistics[number]
        slots = np.where(one.count > 0, random.integers(0, 9, grid.shape), 0)
        due = slots.max(axis=1) if grid.is_output else random.integers(0, 5, len(grid.block_ids))
        stored = Stored(one, np.zeros(len(grid.block_ids), dtype=np.bool_), due, slots if grid.is_output else None)
        changed.append(Changed(start + place * tier.ladder.step, stored, (one.count > 0).any(axis=1)))
    write_rollups(connection, TierRows(tier, grid), changed)


def made_up(random: np.random.Generator, grid: Grid, buckets: int, *, is_finest: bool) -> Statistics:
    """Statistics of shape (buckets, blocks, 64) with what the kinds have; some samples are missing."""
    shape = (buckets, *grid.shape)
    found = Statistics.empty(shape)
    scraped = random.integers(0, 5, size=(buckets, len(grid.block_ids), 1))
    found.count[:] = np.where(random.random(shape) < 0.01, 0, np.broadcast_to(scraped, shape))
    for line, is_counter in enumerate(grid.is_counter.tolist()):
        for name in names_of(is_counter=is_counter, is_finest=is_finest, is_output=grid.is_output):
            if name == "last_at":
                found.last_at[:, line] = random.integers(0, 60_000, (buckets, 1))
            elif name == "covered":
                found.covered[:, line] = random.integers(0, 61, (buckets, 1))
            elif name != "count":
                values = _numbers(random, (buckets, BLOCK_SERIES))
                getattr(found, name)[:, line] = np.abs(values) if name in ("m2", "increase") else values
    return found


def _numbers(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers of a kind for each series, and now and then what is no number."""
    kind = random.integers(0, 5, size=shape[1:])
    walks = random.normal(size=shape).cumsum(axis=0)
    found = np.select(
        [kind == 0, kind == 1, kind == 2, kind == 3],
        [np.ones(shape) * random.integers(0, 9), np.round(walks, 2), np.floor(walks * 1_000), walks],
        np.round(walks).astype(np.float32),
    )
    odd = random.choice([np.inf, -np.inf, -0.0, np.nan, 5e-324, 1.7e308, 1e-301])
    return np.where(random.random(shape) < 0.002, odd, found)


def readings(made: Made, *, since: datetime, until: datetime) -> Mapping[str, tuple[str, dict[str, Any]]]:
    """By name, what readers ask of an interval: statement and parameters."""
    minute, five = made.tiers
    bounds: dict[str, Any] = {"since": since, "until": until}
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for tier in (minute, five):
        length = tier.spans.length if tier.spans else timedelta(0)
        spans = "span > :since - CAST(:length AS interval) AND span < :until"
        inside = {**bounds, "length": length}
        for name, columns in VIEWS.items():
            view = f"{name}_{tier.name}" if name != "metric_rollups" else name
            where = f"time >= :since AND time < :until AND {spans}"
            where += f" AND tier_id = {tier.id}" if name == "metric_rollups" else ""
            found[f"{view} of {tier.name}"] = (f"SELECT {columns} FROM aggregator.{view} WHERE {where}", inside)  # noqa: S608 - ours
            free = where.replace(f" AND {spans}", "")
            statement = f"SELECT {columns} FROM aggregator.{view} WHERE {free}"  # noqa: S608 - ours
            found[f"{view} of {tier.name}, all spans"] = (statement, bounds)
    for interval_ms in (15_000, 60_000, 120_000, 240_000, 300_000, 600_000, 3_000_000):
        for name, call in CALLS.items():
            statement = f"SELECT * FROM aggregator.{call}"  # noqa: S608 - ours
            found[f"{name} at {interval_ms}"] = (statement, {**bounds, "interval_ms": interval_ms})
    return found


_COLUMNS = "time, metric, labels, job, instance, count"
_NUMBERS = "sum, avg, min, max, first, last, stddev, increase, rate, completeness, is_final"
#: What is the same in both forms: every column but `span`.
VIEWS = {
    "metrics": f"{_COLUMNS}, {_NUMBERS}",
    "sketches": f"{_COLUMNS}, sketch",
    "metric_rollups": f"tier_id, tier, {_COLUMNS}, {_NUMBERS}, m2, covered, slots_due, series_id, shard_id, built_from",
}
_RANGE = ":since, :until, :interval_ms"
CALLS = {
    "metric_range of gauges": f"metric_range('gauge_0', {_RANGE})",
    "metric_range of counters": f"metric_range('counter_1', {_RANGE})",
    "metric_range of outputs": f"metric_range('output_2', {_RANGE})",
    "metric_range_by": f"metric_range_by('gauge_1', {_RANGE}, '{{instance}}')",
    "metric_range_by of counters": f"metric_range_by('counter_2', {_RANGE}, '{{instance}}')",
    "histogram": f"histogram_quantile_range(0.9, 'counter_0', {_RANGE}, '{{instance}}')",
    "sketch": f"sketch_quantile_range(0.9, 'gauge_1', {_RANGE}, '{{instance}}')",
}
