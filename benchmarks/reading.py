"""The reading benchmark: what `metric_range` costs beside a table with a row for each series and bucket.

10,000 series, 100 of each of 100 hosts: 30 days at one sample in 5 minutes, the last 2 hours at 15 s, imported as from
Prometheus. The 1m rollups of the last days lie in a table of rows with a primary key too, in the same server.

    python benchmarks/reading.py [--directory DIRECTORY] [--days 30] [--explain]

Needs the embedded servers (extra `up`), 40 GB and half an hour for the whole. What was made in a directory stays there
and is read again the next time; without one everything lives in a temporary directory.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench_installation import temporary_home
from figures import Connection, connected, rows, value
from host_dump import HostDump
from importing import whole

from aggregator.embedded.postgres import EmbeddedPostgres
from aggregator.embedded.wheels import postgres_binaries
from aggregator.storage import publish
from aggregator.storage.engine import Connection as StorageConnection
from aggregator.storage.engine import Database
from aggregator.storage.migrate import upgrade
from aggregator.storage.reader_role import make_reader

HOSTS = 100
METRIC = "node_load1"
ROUNDS = 25
_ROW_TABLE = """
    CREATE TABLE public.rollup_rows AS
    SELECT r.time, s.series_id, r.count[s.position] AS count, r.sum[s.position] AS sum, r.min[s.position] AS min,
        r.max[s.position] AS max, r.first[s.position] AS first, r.last[s.position] AS last, r.m2[s.position] AS m2,
        r.increase[s.position] AS increase, r.covered[s.position] AS covered
    FROM aggregator.block_rollups AS r JOIN aggregator.metric_series AS s ON s.block_id = r.block_id
    WHERE r.tier = '1m' AND r.count[s.position] > 0 AND r.time >= '{since}';
    ALTER TABLE public.rollup_rows ADD PRIMARY KEY (series_id, time);
    GRANT USAGE ON SCHEMA public TO reading;
    GRANT SELECT ON public.rollup_rows TO reading;
    GRANT SELECT ON aggregator.series TO reading;
"""
_SIZE_OF_1M = """
    SELECT sum(pg_total_relation_size(tree.relid))::float8
    FROM pg_partition_tree('aggregator.rollup_1m') AS tree JOIN pg_class AS table_ ON table_.oid = tree.relid
    WHERE tree.isleaf AND table_.relname >= 'rollup_1m_' || to_char('{since}'::timestamptz, 'YYYYMMDD')
"""


def since(until: datetime) -> datetime:
    """From when on there are rows."""
    return until.replace(hour=0) - timedelta(days=1)


@dataclass(frozen=True)
class Filled:
    """A database that is being served: its owner's and a reader's URL, and the end of its samples."""

    owner_url: str
    reader_url: str
    until: datetime


@contextmanager
def filled(directory: Path, *, days: int) -> Iterator[Filled]:
    """The database in a directory, made where it is not there yet, with views and functions of this version."""
    note = directory / "until"
    with EmbeddedPostgres(directory / "postgres", binaries=postgres_binaries(), port=None) as server:
        if not note.exists():
            until = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
            _fill(server.url, directory, until, days)
            note.write_text(until.isoformat())
        upgrade(server.url)
        until = datetime.fromisoformat(note.read_text())
        database = Database.connect(server.url, application="benchmark")
        try:
            database.run(_renew_views)
            reader = database.run(lambda connection: make_reader(connection, "reading", password="benchmark"))  # noqa: S106 - of a server on loopback, for now
        finally:
            database.dispose()
        yield Filled(server.url, reader.url(server.url), until)


def _renew_views(connection: StorageConnection) -> None:
    publish.lock(connection)
    publish.create_views(connection)


def _fill(url: str, directory: Path, until: datetime, days: int) -> None:
    dump = HostDump(HOSTS, until, timedelta(days=days))
    path = directory / "dump.om"
    dump.write(path)
    whole(path, url)
    path.unlink()
    database = Database.connect(url, application="benchmark")
    database.run(lambda connection: make_reader(connection, "reading", password="benchmark"))  # noqa: S106 - as above
    database.dispose()
    with connected(url) as owner, owner.cursor() as cursor:
        cursor.execute(_ROW_TABLE.format(since=since(until).isoformat()))
        cursor.execute("VACUUM ANALYZE")


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
    month = timedelta(days=30)
    return {
        "100 targets, 2 h at 1m: rows": row_table,
        "100 targets, 2 h at 1m: view": view,
        "100 targets, 2 h at 1m: metric_range": ranged(panel, METRIC, two_hours, minute),
        "  with is_final": ranged(f"{panel}, is_final", METRIC, two_hours, minute),
        "  every column": ranged("*", METRIC, two_hours, minute),
        "100 targets, 2 h at 2m": ranged(panel, METRIC, two_hours, 2 * minute),
        "100 targets, 12 h at 30m": ranged(panel, METRIC, 6 * two_hours, 30 * minute),
        "one series, 2 h at 1m: rows": f"{row_table} AND s.labels ->> 'instance' = 'host7'",
        "one series, 2 h at 1m: metric_range": ranged(panel, f'{METRIC}{{instance="host7"}}', two_hours, minute),
        "10 series, 30 d at 1h": ranged(panel, f'{METRIC}{{instance=~"host1."}}', month, 60 * minute),
        "100 series, 30 d at 6h": ranged(panel, METRIC, month, 360 * minute),
    }


@dataclass(frozen=True)
class Times:
    """Milliseconds that the server spent, the median of all rounds."""

    planning: float
    execution: float
    rows: int

    @property
    def total(self) -> float:
        """Planning and execution."""
        return self.planning + self.execution


def measure(connection: Connection, measured: Mapping[str, str], *, rounds: int = ROUNDS) -> dict[str, Times]:
    """Every query in every round, one after the other, so that a busy neighbour slows all of them."""
    found: dict[str, list[Times]] = {name: [] for name in measured}
    for _ in range(rounds):
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
    frames = value(owner, _SIZE_OF_1M.format(since=since(until).isoformat()))
    in_rows = value(owner, "SELECT pg_total_relation_size('public.rollup_rows')::float8")
    count = value(owner, "SELECT count(*) FROM public.rollup_rows")
    version = value(owner, "SHOW server_version")
    sizes = f"{frames / count:.0f} B as frames, {in_rows / count:.0f} B as rows"
    print(f"load average {os.getloadavg()[0]:.1f}; PostgreSQL {version}; {count:,} rollups of 1m: {sizes}")
    measured = queries(until)
    print(f"{'query (server time, median)':40} {'rows':>7} {'plan ms':>8} {'run ms':>8} {'all ms':>8}")
    for name, times in measure(reading, measured).items():
        print(f"{name:40} {times.rows:7,} {times.planning:8.2f} {times.execution:8.2f} {times.total:8.2f}")
    if explain:
        for name in ("100 targets, 2 h at 1m: metric_range", "100 targets, 12 h at 30m", "10 series, 30 d at 1h"):
            print(f"\n{name}\n{measured[name]}")
            for (line,) in rows(reading, f"EXPLAIN (ANALYZE, BUFFERS) {measured[name]}"):
                print(line)


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--directory", type=Path, help="where the database is, or is to be made, and stays")
    parser.add_argument("--days", type=int, default=30, help="how many days of samples are made")
    parser.add_argument("--explain", action="store_true", help="print the plans at three intervals, too")
    arguments = parser.parse_args()
    if arguments.directory is None:
        with temporary_home("aggregator-bench-") as home:
            _run(home, days=arguments.days, explain=arguments.explain)
    else:
        arguments.directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        _run(arguments.directory, days=arguments.days, explain=arguments.explain)


def _run(directory: Path, *, days: int, explain: bool) -> None:
    with (
        filled(directory, days=days) as made,
        connected(made.owner_url) as owner,
        connected(made.reader_url) as reading,
    ):
        report(owner, reading, made.until, explain=explain)


if __name__ == "__main__":
    main()
