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

#: A partition that cannot be locked at once can be dropped ten minutes later.
_DROP_LOCK_TIMEOUT = "250ms"

# One session makes partitions at a time: two would collide on the name.
_DDL_LOCK = text("SELECT pg_advisory_xact_lock(hashtext('aggregator.partitions'))")


@dataclass(frozen=True)
class Partitioned:
    """A table that is partitioned by time: how wide its partitions are and how they are stored.

    `beside`: a table whose partition of the same interval is dropped with this one's.
    """

    table: str
    width: timedelta
    storage: str = ""
    beside: str | None = None

    def bounds(self, instant: datetime) -> tuple[datetime, datetime]:
        """The half-open interval (UTC) of the partition that holds an instant."""
        start = floor_to(instant, self.width)
        return start, start + self.width

    def name(self, start: datetime) -> str:
        """The partition's name, such as `rollup_1m_20261123`."""
        return f"{self.table}_{start:%Y%m%d}"


SAMPLES = Partitioned("sample_frame", _ONE_DAY, _INLINE)
COLLECTIONS = Partitioned("collections", _ONE_DAY, "fillfactor = 70")


def rollup_partitions(tier_name: str, step: timedelta, *, is_finest: bool) -> Partitioned:
    """The partitions of one tier of `rollup`: a day for 1m, weeks and months for coarser steps.

    The finest tier is written once; the open bucket of a coarser one is rewritten, and half a page of room lets
    PostgreSQL do that without touching the index (HOT).
    """
    storage = _INLINE if is_finest else f"{_INLINE}, fillfactor = 50"
    return Partitioned(f"rollup_{tier_name}", width_of(step), storage, beside=f"sketch_{tier_name}")


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
    if of_rollups.beside is None:
        raise ValueError(f"{of_rollups.table} has no sketches")
    return Partitioned(of_rollups.beside, of_rollups.width)


def ensure_tier(connection: Connection, *, tier_id: int, tier_name: str) -> None:
    """Make the parts of `rollup` and of `sketch` that hold one tier, where they are missing.

    LIKE and ATTACH take only SHARE UPDATE EXCLUSIVE on the parent: readers and writers go on.
    """
    for parent in ("rollup", "sketch"):
        name = f"{parent}_{tier_name}"
        if _exists(connection, name):
            continue
        connection.execute(_DDL_LOCK)
        if not _exists(connection, name):
            _make_tier(connection, parent, f'{SCHEMA}."{name}"', tier_id=tier_id)


def _make_tier(connection: Connection, parent: str, child: str, *, tier_id: int) -> None:
    connection.execute(text(f"CREATE TABLE {child} (LIKE {SCHEMA}.{parent} INCLUDING ALL) PARTITION BY RANGE (bucket)"))
    connection.execute(text(f"ALTER TABLE {SCHEMA}.{parent} ATTACH PARTITION {child} FOR VALUES IN ({int(tier_id)})"))


def ensure(connection: Connection, partitioned: Partitioned, *, since: datetime, until: datetime) -> int:
    """Make the partitions that hold the half-open interval; gives how many were missing."""
    missing = [
        start for start in _starts(partitioned, since, until) if not _exists(connection, partitioned.name(start))
    ]
    if not missing:
        return 0
    connection.execute(_DDL_LOCK)
    made = 0
    for start in missing:
        if not _exists(connection, partitioned.name(start)):
            _make(connection, partitioned, start)
            made += 1
    return made


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
    WHERE attribute.attrelid = CAST(:child AS regclass) AND attribute.attnum > 0 AND pg_type.typcategory = 'A'
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


def _parse(name: str, bound: str) -> Partition:
    start, end = (datetime.fromisoformat(part) for part in bound.split("'")[1::2])
    return Partition(name, start, end)


def drop(connection: Connection, partitioned: Partitioned, partition: Partition) -> None:
    """Drop a partition whose lock is held already, and the one beside it; see `lock`."""
    for table, name in _with_beside(connection, partitioned, partition):
        connection.execute(text(f'ALTER TABLE {SCHEMA}."{table}" DETACH PARTITION {SCHEMA}."{name}"'))
        connection.execute(text(f'DROP TABLE {SCHEMA}."{name}"'))


def limit_waiting(connection: Connection) -> None:
    """Wait for locks only briefly in this transaction: while we wait for all others to leave, they queue behind us."""
    connection.execute(text("SELECT set_config('lock_timeout', :limit, true)"), {"limit": _DROP_LOCK_TIMEOUT})


def lock(connection: Connection, partitioned: Partitioned, partition: Partition) -> None:
    """Keep everybody out of a partition, so that what the ledger says next stays true until the drop commits.

    The table comes first, as for everyone who reads it: the drop needs its lock too, and the other way round a reader
    and we would wait for each other. `limit_waiting` comes before.
    """
    for table, name in _with_beside(connection, partitioned, partition):
        connection.execute(text(f'LOCK TABLE ONLY {SCHEMA}."{table}" IN ACCESS EXCLUSIVE MODE'))
        connection.execute(text(f'LOCK TABLE {SCHEMA}."{name}" IN ACCESS EXCLUSIVE MODE'))


def _with_beside(connection: Connection, partitioned: Partitioned, partition: Partition) -> Iterator[tuple[str, str]]:
    """The table and the name of a partition, and of the one beside it where there is one."""
    yield partitioned.table, partition.name
    if partitioned.beside is not None:
        name = Partitioned(partitioned.beside, partitioned.width).name(partition.start)
        if _exists(connection, name):
            yield partitioned.beside, name
