"""What the database says about a load: slots, lag, rows and bytes. Times are UTC, sizes are bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg2
import psycopg2.extensions

Connection = psycopg2.extensions.connection


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    """A connection of the benchmark's own; each statement is a transaction."""
    connection = psycopg2.connect(url, application_name="benchmark")
    connection.autocommit = True
    try:
        yield connection
    finally:
        connection.close()


def rows(connection: Connection, statement: str, **values: object) -> list[tuple[Any, ...]]:
    """All rows of a statement."""
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return cursor.fetchall()


def value(connection: Connection, statement: str, **values: object) -> Any:  # noqa: ANN401 - whatever SQL gives
    """The only value of a statement."""
    return rows(connection, statement, **values)[0][0]


@dataclass(frozen=True)
class Counters:
    """What only grows, at one moment."""

    at: datetime
    wal_bytes: int
    finest_rows_written: int
    finest_rows: int
    slots_missed: int


def counters(connection: Connection) -> Counters:
    """The counters now."""
    return Counters(
        *rows(
            connection,
            """
            SELECT now(), pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint,
                   (SELECT coalesce(sum(rows), 0)::bigint FROM aggregator.runs
                    WHERE stage = 'rollup' AND subject LIKE '1m:%%'),
                   (SELECT count(*) FROM aggregator.rollup_1m),
                   (SELECT coalesce(sum(slots_missed), 0)::bigint FROM aggregator.shard_slots)
            """,
        )[0]
    )


def lag_seconds(connection: Connection) -> float:
    """The age of the oldest work that has fallen due; 0 where there is none. Uses index: dirty_due_idx."""
    return float(
        value(
            connection,
            "SELECT coalesce(extract(epoch FROM now() - min(due)), 0) FROM aggregator.dirty WHERE due <= now()",
        )
    )


def newest_complete_bucket(connection: Connection) -> datetime | None:
    """The newest 1m bucket of the shard that is furthest behind; None before the first. Uses index: rollup_pkey."""
    found: datetime | None = value(
        connection,
        """
        SELECT CASE WHEN bool_and(newest IS NOT NULL) THEN min(newest) END
        FROM (
            SELECT DISTINCT ON (shard_id, kind) id FROM aggregator.blocks ORDER BY shard_id, kind, id DESC
        ) AS newest_block, LATERAL (
            SELECT max(bucket) AS newest FROM aggregator.rollup_1m WHERE block_id = newest_block.id
        ) AS of_block
        """,
    )
    return found


def has_tiers(connection: Connection) -> bool:
    """Whether the schema is there, and a worker has made the tiers' tables."""
    return bool(value(connection, "SELECT to_regclass('aggregator.rollup_1m') IS NOT NULL"))


def is_settled(connection: Connection) -> bool:
    """Whether every target has its shard, every series its place, and nothing is behind."""
    return bool(
        value(
            connection,
            """
            SELECT NOT EXISTS (SELECT FROM aggregator.targets WHERE active AND shard_id IS NULL)
               AND EXISTS (SELECT FROM aggregator.series)
               AND NOT EXISTS (SELECT FROM aggregator.series WHERE block_id IS NULL)
               AND NOT EXISTS (SELECT FROM aggregator.dirty WHERE due <= now())
            """,
        )
    )


@dataclass(frozen=True)
class Slots:
    """Slots of the shards in a span: due by the clock, collected with every target up, and begun at all."""

    due: int
    collected: int
    begun: int
    longest: timedelta
    latest_start: timedelta


def slots(connection: Connection, *, since: datetime, until: datetime, interval: timedelta) -> Slots:
    """The slots of the half-open span, whose ends are slots."""
    shards = value(connection, "SELECT count(*) FROM aggregator.shards WHERE NOT is_intake")
    counted = rows(
        connection,
        """
        SELECT count(*) FILTER (WHERE finished_at IS NOT NULL AND 1 = ALL(outcome)), count(*),
               coalesce(max(finished_at - started_at), '0'),
               coalesce(max(started_at - slot - offset_seconds * interval '1 s'), '0')
        FROM aggregator.collections JOIN aggregator.shards ON shards.id = shard_id
        JOIN aggregator.sources ON sources.id = source_id
        WHERE NOT is_intake AND slot >= %(since)s AND slot < %(until)s
        """,
        since=since,
        until=until,
    )[0]
    return Slots(shards * ((until - since) // interval), *counted)


def samples_between(connection: Connection, since: datetime, until: datetime) -> int:
    """Samples that were received in the half-open span."""
    return int(
        value(
            connection,
            "SELECT coalesce(sum(cardinality(values)), 0) FROM aggregator.sample_frame"
            " WHERE received_at >= %(since)s AND received_at < %(until)s",
            since=since,
            until=until,
        )
    )


@dataclass(frozen=True)
class Stored:
    """A table with its indexes: how many things it holds (samples, rollups), in how many rows and bytes."""

    name: str
    things: int
    rows: int
    total_bytes: int


def stored(connection: Connection) -> Iterator[Stored]:
    """Sample frames, then the tiers that have rows, finest first."""
    tiers = rows(connection, "SELECT name FROM aggregator.tiers WHERE active ORDER BY step_seconds")
    for table, column in (("sample_frame", "values"), *((f"rollup_{name}", "count") for (name,) in tiers)):
        count, things = rows(
            connection,
            f'SELECT count(*), coalesce(sum(cardinality("{column}")), 0)::bigint FROM aggregator."{table}"',  # noqa: S608 - our own names
        )[0]
        size = value(
            connection,
            "SELECT sum(pg_total_relation_size(relid))::bigint FROM pg_partition_tree(%(table)s::regclass)",
            table=f'aggregator."{table}"',
        )
        if count:
            yield Stored(table, things, count, size)
