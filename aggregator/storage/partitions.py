"""Partitions by time: made ahead of their time, found by their bounds, dropped whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

from aggregator.rollups.buckets import floor_to
from aggregator.storage.tables import SCHEMA

_ONE_DAY = timedelta(days=1)
#: Rows stay whole and inline up to a page (docs/pitfalls.md, "TOAST"): a subscript then costs nothing.
_INLINE = "toast_tuple_target = 8160"
#: Six rows to a page waste less of it than two large ones (docs/adr/0017-sealed-rows.md).
_PACKED = "toast_tuple_target = 1360"

#: A partition that cannot be locked at once can be dropped ten minutes later.
_DROP_LOCK_TIMEOUT = "250ms"

# One session makes partitions at a time: two would collide on the name.
_DDL_LOCK = text("SELECT pg_advisory_xact_lock(hashtext('aggregator.partitions'))")


@dataclass(frozen=True)
class Partitioned:
    """A table that is partitioned by time: how wide its partitions are and how they are stored.

    `beside`: tables whose partitions of the same interval are dropped with this one's.
    """

    table: str
    width: timedelta
    storage: str = ""
    beside: tuple[Partitioned, ...] = ()

    def bounds(self, instant: datetime) -> tuple[datetime, datetime]:
        """The half-open interval (UTC) of the partition that holds an instant."""
        start = floor_to(instant, self.width)
        return start, start + self.width

    def name(self, start: datetime) -> str:
        """The partition's name, such as `rollup_1m_20261123`."""
        return f"{self.table}_{start:%Y%m%d}"


#: The tables of sealed samples: packed values, and when they are.
SEALED_SAMPLES = tuple(Partitioned(name, _ONE_DAY, _PACKED) for name in ("sample_sealed", "sample_clock"))
SAMPLES = Partitioned("sample_frame", _ONE_DAY, _INLINE, beside=SEALED_SAMPLES)
COLLECTIONS = Partitioned("collections", _ONE_DAY, "fillfactor = 70")


def rollup_partitions(tier_name: str, step: timedelta, *, is_finest: bool) -> Partitioned:
    """The partitions of one tier of `rollup`: a day for 1m, weeks and months for coarser steps.

    The finest tier is written once; the open bucket of a coarser one is rewritten, and half a page of room lets
    PostgreSQL do that without touching the index (HOT).
    """
    storage = _INLINE if is_finest else f"{_INLINE}, fillfactor = 50"
    width = width_of(step)
    sealed = tuple(Partitioned(f"{table}_{tier_name}", width, _PACKED) for table in ("sealed", "clock"))
    return Partitioned(
        f"rollup_{tier_name}", width, storage, beside=(Partitioned(f"sketch_{tier_name}", width), *sealed)
    )


def width_of(step: timedelta) -> timedelta:
    """How wide the partitions of a tier with this step are."""
    if step <= timedelta(minutes=1):
        return _ONE_DAY
    if step <= timedelta(minutes=15):
        return timedelta(days=7)
    if step <= timedelta(hours=6):
        return timedelta(days=28)
    return timedelta(days=364)


def sketch_partitions(of_rollups: Partitioned) -> Partitioned:
    """The partitions of one tier of `sketch`: as wide as those of its rollups, beside which they stand."""
    return of_rollups.beside[0]


def sealed_beside(partitioned: Partitioned) -> tuple[Partitioned, ...]:
    """The two tables of sealed rows that stand beside those of a tier's rollups, or of samples."""
    return partitioned.beside[-2:]


def ensure_tier(connection: Connection, *, tier_id: int, tier_name: str) -> None:
    """Make the parts of `rollup` and of the tables beside it that hold one tier, where they are missing.

    LIKE and ATTACH take only SHARE UPDATE EXCLUSIVE on the parent: readers and writers go on.
    """
    for parent, column in _TIER_TABLES.items():
        name = f"{parent}_{tier_name}"
        if _exists(connection, name):
            continue
        connection.execute(_DDL_LOCK)
        if not _exists(connection, name):
            _make_tier(connection, parent, f'{SCHEMA}."{name}"', column=column, tier_id=tier_id)


#: What holds tiers, and the column by which their partitions are made.
_TIER_TABLES = {"rollup": "bucket", "sketch": "bucket", "sealed": "start", "clock": "start"}


def _make_tier(connection: Connection, parent: str, child: str, *, column: str, tier_id: int) -> None:
    made = f"CREATE TABLE {child} (LIKE {SCHEMA}.{parent} INCLUDING ALL) PARTITION BY RANGE ({column})"
    connection.execute(text(made))
    connection.execute(text(f"ALTER TABLE {SCHEMA}.{parent} ATTACH PARTITION {child} FOR VALUES IN ({int(tier_id)})"))


def ensure(connection: Connection, partitioned: Partitioned, *, since: datetime, until: datetime) -> int:
    """Make the partitions that hold the half-open interval; gives how many were missing."""
    starts = missing(connection, partitioned, since=since, until=until)
    if not starts:
        return 0
    connection.execute(_DDL_LOCK)
    made = 0
    for start in starts:
        if not _exists(connection, partitioned.name(start)):
            _make(connection, partitioned, start)
            made += 1
    return made


def missing(connection: Connection, partitioned: Partitioned, *, since: datetime, until: datetime) -> list[datetime]:
    """The starts of the partitions that the half-open interval lacks."""
    return [start for start in _starts(partitioned, since, until) if not _exists(connection, partitioned.name(start))]


def _starts(partitioned: Partitioned, since: datetime, until: datetime) -> Iterator[datetime]:
    start, end = partitioned.bounds(since)
    while start < until:
        yield start
        start, end = end, end + partitioned.width


def _make(connection: Connection, partitioned: Partitioned, start: datetime) -> None:
    parent = f'{SCHEMA}."{partitioned.table}"'
    child = f'{SCHEMA}."{partitioned.name(start)}"'
    storage = f" WITH ({partitioned.storage})" if partitioned.storage else ""
    end = start + partitioned.width
    connection.execute(text(f"CREATE TABLE {child} (LIKE {parent} INCLUDING ALL){storage}"))
    _analyze_no_arrays(connection, child)
    connection.execute(
        text(
            f"ALTER TABLE {parent} ATTACH PARTITION {child}"
            f" FOR VALUES FROM ('{start.isoformat()}') TO ('{end.isoformat()}')"
        )
    )


_ARRAYS = text(
    """
    SELECT quote_ident(attribute.attname)
    FROM pg_attribute AS attribute JOIN pg_type ON pg_type.oid = attribute.atttypid
    WHERE attribute.attrelid = CAST(:child AS regclass) AND attribute.attnum > 0
        AND (pg_type.typcategory = 'A' OR pg_type.typname = 'bytea')
    """
)


def _analyze_no_arrays(connection: Connection, child: str) -> None:
    """Gather no statistics about arrays of numbers: no plan needs them, and under load they cost more than writing."""
    columns = connection.execute(_ARRAYS, {"child": child}).scalars().all()
    changes = ", ".join(f"ALTER COLUMN {column} SET STATISTICS 0" for column in columns)
    connection.execute(text(f"ALTER TABLE {child} {changes}"))


def _exists(connection: Connection, name: str) -> bool:
    # Not to_regclass: it may answer from a cache that does not know yet what another session has just committed.
    statement = text(
        f"SELECT EXISTS (SELECT FROM pg_class WHERE relname = :name AND relnamespace = '{SCHEMA}'::regnamespace)"  # noqa: S608 - our own schema
    )
    return bool(connection.execute(statement, {"name": name}).scalar_one())


@dataclass(frozen=True)
class Partition:
    """One existing partition and its half-open interval (UTC)."""

    name: str
    start: datetime
    end: datetime


_LIST = text(
    """
    SELECT child.relname, pg_get_expr(child.relpartbound, child.oid) AS bound
    FROM pg_inherits JOIN pg_class AS child ON child.oid = pg_inherits.inhrelid
    WHERE pg_inherits.inhparent = to_regclass(:parent)
    ORDER BY child.relname
    """
)


def existing(connection: Connection, partitioned: Partitioned) -> list[Partition]:
    """The partitions that a table has, oldest first."""
    rows = connection.execute(_LIST, {"parent": f'{SCHEMA}."{partitioned.table}"'})
    found = (_parse(row.relname, row.bound) for row in rows)
    return sorted(found, key=lambda partition: partition.start)


def intervals(connection: Connection, partitioned: Partitioned) -> list[Partition]:
    """The intervals for which the table or one beside it has a partition, under its own name, oldest first."""
    found = {
        one.start: Partition(partitioned.name(one.start), one.start, one.end)
        for table in (partitioned, *partitioned.beside)
        for one in existing(connection, table)
    }
    return [found[start] for start in sorted(found)]


def _parse(name: str, bound: str) -> Partition:
    start, end = (datetime.fromisoformat(part) for part in bound.split("'")[1::2])
    return Partition(name, start, end)


def drop(connection: Connection, partitioned: Partitioned, partition: Partition) -> None:
    """Drop the partitions of an interval, here and beside, whose locks are held already; see `lock`."""
    for table in _with_beside(connection, partitioned, partition):
        drop_one(connection, table, partition)


def drop_one(connection: Connection, partitioned: Partitioned, partition: Partition) -> None:
    """Drop a partition whose lock is held already, and none beside it."""
    name = partitioned.name(partition.start)
    connection.execute(text(f'ALTER TABLE {SCHEMA}."{partitioned.table}" DETACH PARTITION {SCHEMA}."{name}"'))
    connection.execute(text(f'DROP TABLE {SCHEMA}."{name}"'))


def limit_waiting(connection: Connection) -> None:
    """Wait for locks only briefly in this transaction: while we wait for all others to leave, they queue behind us."""
    connection.execute(text("SELECT set_config('lock_timeout', :limit, true)"), {"limit": _DROP_LOCK_TIMEOUT})


def lock(connection: Connection, partitioned: Partitioned, partition: Partition) -> None:
    """Keep everybody out of an interval, so that what the ledger says next stays true until the drop commits."""
    for table in _with_beside(connection, partitioned, partition):
        lock_one(connection, table, partition)


def lock_one(connection: Connection, partitioned: Partitioned, partition: Partition) -> None:
    """Keep everybody out of a partition.

    The table comes first, as for everyone who reads it: the drop needs its lock too, and the other way round a reader
    and we would wait for each other. `limit_waiting` comes before.
    """
    name = partitioned.name(partition.start)
    connection.execute(text(f'LOCK TABLE ONLY {SCHEMA}."{partitioned.table}" IN ACCESS EXCLUSIVE MODE'))
    connection.execute(text(f'LOCK TABLE {SCHEMA}."{name}" IN ACCESS EXCLUSIVE MODE'))


def _with_beside(connection: Connection, partitioned: Partitioned, partition: Partition) -> list[Partitioned]:
    """The table and those beside it that have a partition of the interval."""
    tables = (partitioned, *partitioned.beside)
    return [table for table in tables if _exists(connection, table.name(partition.start))]
