"""Server time of reading sealed rows beside the open form, with the same data in both."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from figures import Connection, rows, value
from packed_data import rolled_up
from packed_rows import BLOCK_SERIES, ORIGIN_US, sealed_rows, store
from packed_sql import open_function, sealed_function, sealed_view
from packed_tables import SCHEMA, Storage
from recorded import Recording
from sqlalchemy.dialects import postgresql

from aggregator.rollups.statistics import GAUGE_STATISTICS, Statistics
from aggregator.storage import tables
from aggregator.storage.copying import Rows, encode

#: Hosts with a block each; a metric has the same position in all of them.
HOSTS = 100
ORIGIN = datetime(2026, 1, 1, tzinfo=UTC)
#: Metrics by name, and the position that they have in each block.
METRICS = {"constant": 1, "places": 20, "doubles": 40}
_SLOTS = 4
_PANEL = "time, instance, avg"
_DIALECT = postgresql.dialect()


@dataclass(frozen=True)
class Tier:
    """A tier that is read: its buckets, how many a sealed row holds, and the fill factor of the open form."""

    name: str
    step: timedelta
    buckets: int
    span: int
    fillfactor: int

    @property
    def until(self) -> datetime:
        """The end of its data."""
        return ORIGIN + self.buckets * self.step


def block_of_gauges(buckets: int) -> Statistics:
    """The rollups of one block: a third constant, a third with two places, a third with full mantissas."""
    random = np.random.default_rng(1)
    walks = random.normal(size=(buckets * _SLOTS, BLOCK_SERIES)).cumsum(axis=0) + 500
    kind = np.arange(BLOCK_SERIES) * 3 // BLOCK_SERIES
    values = np.where(kind == 0, np.arange(BLOCK_SERIES), np.where(kind == 1, np.round(walks, 2), walks))
    delay = random.integers(2, 40, buckets * _SLOTS)
    return rolled_up(Recording(values, delay, np.zeros(BLOCK_SERIES, dtype=np.bool_)))


def make(connection: Connection, tier: Tier, *, storage: Storage) -> None:
    """Both forms of the tier's data, the functions and the views."""
    rollups = block_of_gauges(tier.buckets)
    step_seconds = tier.step // timedelta(seconds=1)
    _make_open(connection, tier, rollups)
    sealed = sealed_rows(rollups, span=tier.span, bucket_ms=1_000 * step_seconds)
    store(connection, sealed, name=tier.name, storage=storage)
    with connection.cursor() as cursor:
        for table in ("open", "sealed", "clock"):
            _copy_to_all_hosts(connection, f"{SCHEMA}.{table}_{tier.name}")
        cursor.execute(_CALENDAR.format(schema=SCHEMA, tier=tier.name, step=step_seconds, span=tier.span))
        cursor.execute(open_function(tier.name))
        cursor.execute(sealed_function(tier.name, step_seconds=step_seconds, span=tier.span))
        cursor.execute(sealed_view(tier.name, step_seconds=step_seconds))
        cursor.execute(sealed_view(tier.name, step_seconds=step_seconds, of_calendar=True))
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")


_CALENDAR = """
    CREATE TABLE {schema}.calendar_{tier} AS
    SELECT start + place * interval '{step} s' AS "time", start, place
    FROM (SELECT DISTINCT start, buckets FROM {schema}.clock_{tier}) AS spans,
        generate_series(0, buckets - 1) AS place;
    ALTER TABLE {schema}.calendar_{tier} ADD PRIMARY KEY ("time")
"""


def make_series(connection: Connection) -> None:
    """The metrics' series."""
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
        cursor.execute(
            f"CREATE TABLE {SCHEMA}.series (metric text, instance text, block_id integer, position smallint,"
            " PRIMARY KEY (metric, instance))"
        )
        for metric, position in METRICS.items():
            cursor.execute(
                f"INSERT INTO {SCHEMA}.series SELECT '{metric}', 'host' || host, host, {position}"  # noqa: S608 - our own words
                f" FROM generate_series(0, {HOSTS - 1}) AS host"
            )


def _make_open(connection: Connection, tier: Tier, rollups: Statistics) -> None:
    """The first host's rollup rows, in a table like a partition of the service's."""
    names = ("bucket", "block_id", "slots_due", "tier_id", *GAUGE_STATISTICS)
    step_us = tier.step // timedelta(microseconds=1)
    columns = {
        "bucket": ORIGIN_US + np.arange(tier.buckets) * step_us,
        "block_id": np.zeros(tier.buckets, dtype=np.int64),
        "slots_due": np.full(tier.buckets, _SLOTS),
        "tier_id": np.ones(tier.buckets, dtype=np.int64),
        **{name: getattr(rollups, name).T for name in GAUGE_STATISTICS},
    }
    types = ", ".join(f'"{column.name}" {column.type.compile(_DIALECT)}' for column in tables.rollup.columns)
    data = io.BytesIO(b"PGCOPY\n\xff\r\n\0" + bytes(8) + encode(tables.rollup, names, Rows(columns)) + b"\xff\xff")
    with connection.cursor() as cursor:
        cursor.execute(
            f"CREATE UNLOGGED TABLE {SCHEMA}.open_{tier.name} ({types}, PRIMARY KEY (tier_id, block_id, bucket))"
            f" WITH (toast_tuple_target = 8160, fillfactor = {tier.fillfactor})"
        )
        listed = ", ".join(f'"{name}"' for name in names)
        cursor.copy_expert(f"COPY {SCHEMA}.open_{tier.name} ({listed}) FROM STDIN (FORMAT binary)", data)


def _copy_to_all_hosts(connection: Connection, table: str) -> None:
    columns = rows(
        connection,
        "SELECT attname FROM pg_attribute WHERE attrelid = %(table)s::regclass AND attnum > 0 ORDER BY attnum",
        table=table,
    )
    listed = ", ".join("host" if name == "block_id" else f'"{name}"' for (name,) in columns)
    with connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO {table} SELECT {listed} FROM {table}, generate_series(1, {HOSTS - 1}) AS host")  # noqa: S608 - our own words


def queries(tier: Tier, span: timedelta) -> Mapping[str, str]:
    """What is measured over the last `span` of the tier's data, by its name."""
    since, middle, until = tier.until - span, tier.until - span / 2, tier.until
    found = {
        f"{metric}, {who}, {form}": ranged(form, tier, f"'{metric}'", instance, ends=(since, until))
        for metric in METRICS
        for who, instance in (("100 series", "NULL"), ("one series", "'host7'"))
        for form in ("open", "sealed")
    }
    halves = (
        ranged("sealed", tier, "'places'", "NULL", ends=(since, middle)),
        ranged("open", tier, "'places'", "NULL", ends=(middle, until)),
    )
    found["places, 100 series, half of it sealed"] = " UNION ALL ".join(halves)
    for form in ("open", "sealed"):
        every = ranged(form, tier, "'places'", "NULL", ends=(since, until), columns="*")
        found[f"places, 100 series, {form}, every column"] = every
    return found


def ranged(form: str, tier: Tier, *arguments: str, ends: tuple[datetime, datetime], columns: str = _PANEL) -> str:
    """SQL: a range by the function of a form; `arguments`: the metric and the instance, quoted or NULL."""
    return (
        f"SELECT {columns} FROM {SCHEMA}.range_{form}_{tier.name}({', '.join(arguments)},"  # noqa: S608 - our own words
        f" '{ends[0].isoformat()}', '{ends[1].isoformat()}')"
    )


def view_queries(tier: Tier, span: timedelta) -> Mapping[str, str]:
    """The same over the views of sealed rows: with a condition on `time` alone, on `span` too, and over a calendar."""
    since, until = tier.until - span, tier.until
    inside = f"time >= '{since.isoformat()}' AND time < '{until.isoformat()}'"
    spans = f"span > '{(since - tier.span * tier.step).isoformat()}' AND span < '{until.isoformat()}'"
    view, calendar = f"{SCHEMA}.metrics_{tier.name}", f"{SCHEMA}.metrics_{tier.name}_calendar"
    found = {}
    for who, series in (("100 series", ""), ("one series", " AND instance = 'host7'")):
        panel = f"SELECT time, instance, avg FROM {{}} WHERE metric = 'places'{series} AND {inside}"  # noqa: S608 - our own words
        found[f"view of sealed rows, {who}"] = panel.format(view)
        found[f"view of sealed rows, {who}, by span"] = f"{panel.format(view)} AND {spans}"
        found[f"view of sealed rows, {who}, calendar"] = panel.format(calendar)
    return found


def differing_points(connection: Connection, tier: Tier) -> int:
    """How many points the two forms do not have in common, over all data of the metrics."""
    return sum(
        value(connection, f"SELECT count(*) FROM ({one} EXCEPT {other}) AS different")  # noqa: S608 - as above
        for metric in METRICS
        for one, other in itertools.permutations(
            ranged(form, tier, f"'{metric}'", "NULL", ends=(ORIGIN, tier.until), columns="*")
            for form in ("open", "sealed")
        )
    )
