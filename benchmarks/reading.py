"""The reading benchmark: what `metric_range` costs beside a table with a row for each series and bucket.

10,000 series (100 targets x 100 metrics) in one shard: three hours of 1m and twelve of 5m for all of them, and 30 days
of 1h for one metric, written as the roll-up writes them. The same 1m rollups lie in a table of rows with a primary
key, in the same server.

    python benchmarks/reading.py [--explain]

Needs the embedded servers (extra `up`). Takes a minute; everything lives in a temporary directory.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from bench_installation import temporary_home
from figures import Connection, connected, rows, value

from aggregator.config.load import load_settings
from aggregator.embedded.postgres import EmbeddedPostgres
from aggregator.embedded.wheels import postgres_binaries
from aggregator.exposition.series import Kind, SeriesKey
from aggregator.rollups.statistics import Statistics
from aggregator.storage import blocks, catalog, partitions, registry, series, tables
from aggregator.storage.blocks import Grid
from aggregator.storage.bootstrap import bring_up
from aggregator.storage.engine import Connection as StorageConnection
from aggregator.storage.engine import Database
from aggregator.storage.reader_role import make_reader
from aggregator.storage.rollup_rows import Changed, Stored, TierRows, write_rollups

TARGETS = 100
METRICS = 100
#: Of the metrics, so many are counters.
COUNTERS = 40
METRIC = "metric_50"
INTERVAL = timedelta(seconds=15)
SPANS = {"1m": timedelta(hours=3), "5m": timedelta(hours=12)}
LONG_SPAN = timedelta(days=30)
ROUNDS = 25
#: How many buckets are made at a time.
CHUNK = 60

_ROW_TABLE = """
    CREATE TABLE public.rollup_rows AS
    SELECT time, series_id, count, sum, min, max, first, last, m2, increase, covered FROM aggregator.metric_rollups
    WHERE tier = '1m';
    ALTER TABLE public.rollup_rows ADD PRIMARY KEY (series_id, time);
    GRANT USAGE ON SCHEMA public TO reading;
    GRANT SELECT ON public.rollup_rows TO reading;
    GRANT SELECT ON aggregator.series TO reading;
"""


@dataclass(frozen=True)
class Filled:
    """The database: its newest whole hour, and the URL of a reader."""

    until: datetime
    reader_url: str


def fill(url: str, home: Path) -> Filled:
    """Make the schema, the series and their rollups."""
    settings = load_settings(environment={"HOME": str(home), "AGGREGATOR_NODE": "bench"})
    until = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    bring_up(url, settings, now=until)
    database = Database.connect(url, application="benchmark")
    try:
        shard_id = database.run(lambda connection: make_series(connection, now=until))
        for tier, span in SPANS.items():
            write_tier(database, shard_id, tier, since=until - span, until=until)
        write_tier(database, shard_id, "1h", since=until - LONG_SPAN, until=until, metric=METRIC)
        reader = database.run(lambda connection: make_reader(connection, "reading", password="benchmark"))  # noqa: S106 - of a server that is gone in a minute
    finally:
        database.dispose()
    return Filled(until, reader.url(url))


def make_series(connection: StorageConnection, *, now: datetime) -> int:
    """Register all series of one source and place them; gives their shard."""
    source = tables.sources.insert().values(
        name="bench",
        kind="prometheus",
        definition={},
        interval_seconds=INTERVAL.total_seconds(),
        offset_seconds=2,
        active=True,
        published_at=now,
        published_by="bench",
    )
    source_id = connection.execute(source.returning(tables.sources.c.id)).scalar_one()
    labels = [(("instance", f"t{place}"), ("job", "bench")) for place in range(TARGETS)]
    entries = [registry.TargetEntry(f"http://t{place}/metrics", given) for place, given in enumerate(labels)]
    registry.sync_targets(connection, source_id, entries, now=now)
    found = registry.shard_targets(connection, source_id=source_id, shard_id=None)
    shards = registry.assign_shards(connection, source_id, {target.id: METRICS for target in found})
    for target in found:
        keys = [
            SeriesKey(f"metric_{number}", target.labels, Kind.COUNTER if number < COUNTERS else Kind.GAUGE)
            for number in range(METRICS)
        ]
        series.register(connection, target.id, keys, now=now)
    (shard_id,) = set(shards.values())
    blocks.place_new_series(connection, shard_id)
    return shard_id


def write_tier(
    database: Database, shard_id: int, name: str, *, since: datetime, until: datetime, metric: str | None = None
) -> None:
    """Write every bucket of a tier in the half-open span, of all series or of one metric's blocks."""
    generator = np.random.default_rng(7)
    tier = database.run(lambda connection: _tier(connection, name, since=since, until=until))
    grid = database.run(lambda connection: _grid(connection, shard_id, metric))
    starts = list(tier.ladder.starts(since, until))
    for place in range(0, len(starts), CHUNK):
        changed = [_changed(start, grid, tier.ladder.step, generator) for start in starts[place : place + CHUNK]]
        target = TierRows(tier.id, is_finest=tier.is_finest, grid=grid)
        database.run(lambda connection, target=target, changed=changed: write_rollups(connection, target, changed))


def _tier(connection: StorageConnection, name: str, *, since: datetime, until: datetime) -> catalog.TierEntry:
    tier = next(tier for tier in catalog.read_installation(connection).tiers if tier.name == name)
    partitions.ensure(connection, tier.partitions, since=since, until=until)
    return tier


def _grid(connection: StorageConnection, shard_id: int, metric: str | None) -> Grid:
    grid = blocks.shard_grid(connection, shard_id)
    if metric is None:
        return grid
    chosen = connection.execute(tables.series.select().where(tables.series.c.metric == metric))
    return grid.only(np.isin(grid.block_ids, sorted({row.block_id for row in chosen})))


def _changed(start: datetime, grid: Grid, step: timedelta, generator: np.random.Generator) -> Changed:
    count = len(grid.block_ids)
    values = {field.name: generator.normal(100, 5, grid.shape) for field in fields(Statistics)}
    samples = step // INTERVAL
    values |= {"count": np.full(grid.shape, samples), "last_at": np.full(grid.shape, 45_000)}
    values["covered"] = np.full(grid.shape, step.total_seconds())
    none = np.zeros(count, dtype=np.bool_)
    return Changed(start, Stored(Statistics(**values), none, np.full(count, samples)), ~none)


def queries(until: datetime) -> dict[str, str]:
    """What is measured, by its name in the table."""

    def ranged(columns: str, selector: str, span: timedelta, interval: timedelta) -> str:
        start, interval_ms = until - span, interval // timedelta(milliseconds=1)
        return (
            f"SELECT {columns} FROM aggregator.metric_range('{selector}',"  # noqa: S608 - written here
            f" '{start.isoformat()}', '{until.isoformat()}', {interval_ms})"
        )

    two_hours, minute, panel = timedelta(hours=2), timedelta(minutes=1), "time, instance, avg"
    inside = f"time >= '{(until - two_hours).isoformat()}' AND time < '{until.isoformat()}'"
    row_table = (
        "SELECT r.time, s.labels ->> 'instance', r.sum / r.count FROM public.rollup_rows AS r"  # noqa: S608 - as above
        f" JOIN aggregator.series AS s ON s.id = r.series_id WHERE s.metric = '{METRIC}' AND {inside}"
    )
    view = f"SELECT {panel} FROM aggregator.metrics_1m WHERE metric = '{METRIC}' AND {inside}"  # noqa: S608 - as above
    return {
        "100 targets, 2 h at 1m: rows": row_table,
        "100 targets, 2 h at 1m: view": view,
        "100 targets, 2 h at 1m: metric_range": ranged(panel, METRIC, two_hours, minute),
        "  with is_final": ranged(f"{panel}, is_final", METRIC, two_hours, minute),
        "  every column": ranged("*", METRIC, two_hours, minute),
        "100 targets, 2 h at 2m": ranged(panel, METRIC, two_hours, 2 * minute),
        "100 targets, 12 h at 30m": ranged(panel, METRIC, 6 * two_hours, 30 * minute),
        "one series, 2 h at 1m: rows": f"{row_table} AND s.labels ->> 'instance' = 't7'",
        "one series, 2 h at 1m: metric_range": ranged(panel, f'{METRIC}{{instance="t7"}}', two_hours, minute),
        "10 series, 30 d at 1h": ranged(panel, f'{METRIC}{{instance=~"t1."}}', LONG_SPAN, 60 * minute),
    }


@dataclass(frozen=True)
class Times:
    """Milliseconds that the server spent, the median of all rounds."""

    planning: float
    execution: float
    rows: int


def measure(connection: Connection, measured: Mapping[str, str]) -> dict[str, Times]:
    """Every query in every round, one after the other, so that a busy neighbour slows all of them."""
    found: dict[str, list[Times]] = {name: [] for name in measured}
    for _ in range(ROUNDS):
        for name, query in measured.items():
            plan = value(connection, f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT json) {query}")[0]
            found[name].append(Times(plan["Planning Time"], plan["Execution Time"], plan["Plan"]["Actual Rows"]))
    return {name: _middle(times) for name, times in found.items()}


def _middle(times: Sequence[Times]) -> Times:
    return Times(
        statistics.median(one.planning for one in times),
        statistics.median(one.execution for one in times),
        round(times[0].rows),
    )


def report(owner: Connection, reading: Connection, until: datetime, *, explain: bool) -> None:
    """Print bytes, times and, if wanted, the plans at three intervals."""
    frames = value(
        owner, "SELECT sum(pg_total_relation_size(relid))::float8 FROM pg_partition_tree('aggregator.rollup_1m')"
    )
    in_rows = value(owner, "SELECT pg_total_relation_size('public.rollup_rows')::float8")
    count = value(owner, "SELECT count(*) FROM public.rollup_rows")
    version = value(owner, "SHOW server_version")
    sizes = f"{frames / count:.0f} B as frames, {in_rows / count:.0f} B as rows"
    print(f"PostgreSQL {version}, {count:,} rollups of 1m: {sizes}")
    measured = queries(until)
    print(f"{'query (server time, median)':40} {'rows':>7} {'plan ms':>8} {'run ms':>8}")
    for name, times in measure(reading, measured).items():
        print(f"{name:40} {times.rows:7,} {times.planning:8.2f} {times.execution:8.2f}")
    if explain:
        for name in ("100 targets, 2 h at 1m: metric_range", "100 targets, 12 h at 30m", "10 series, 30 d at 1h"):
            print(f"\n{name}\n{measured[name]}")
            for (line,) in rows(reading, f"EXPLAIN (ANALYZE, BUFFERS) {measured[name]}"):
                print(line)


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--explain", action="store_true", help="print the plans at three intervals, too")
    arguments = parser.parse_args()
    with (
        temporary_home("aggregator-bench-") as home,
        EmbeddedPostgres(home / "postgres", binaries=postgres_binaries(), port=None) as postgres,
    ):
        filled = fill(postgres.url, home)
        with connected(postgres.url) as owner, connected(filled.reader_url) as reading:
            with owner.cursor() as cursor:
                cursor.execute(_ROW_TABLE)
                cursor.execute("ANALYZE aggregator.series, aggregator.blocks, aggregator.rollup, public.rollup_rows")
                cursor.execute("VACUUM public.rollup_rows")
            report(owner, reading, filled.until, explain=arguments.explain)


if __name__ == "__main__":
    main()
