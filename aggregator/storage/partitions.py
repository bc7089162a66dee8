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
    """A table that is partitioned by time: how wide its partitions are and how they are stored."""

    table: str
    width: timedelta
    storage: str = ""

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
    if step <= timedelta(minutes=1):
        width = _ONE_DAY
    elif step <= timedelta(minutes=15):
        width = timedelta(days=7)
    elif step <= timedelta(hours=6):
        width = timedelta(days=28)
    else:
        width = timedelta(days=364)
    return Partitioned(f"rollup_{tier_name}", width, _INLINE if is_finest else f"{_INLINE}, fillfactor = 50")


def ensure_tier(connection: Connection, *, tier_id: int, tier_name: str) -> None:
    """Make the part of `rollup` that holds one tier, where it is missing.

    LIKE and ATTACH take only SHARE UPDATE EXCLUSIVE on the parent: readers and writers go on.
    """
    if _exists(connection, f"rollup_{tier_name}"):
        return
    connection.execute(_DDL_LOCK)
    if _exists(connection, f"rollup_{tier_name}"):
        return
    child = f'{SCHEMA}."rollup_{tier_name}"'
    connection.execute(text(f"CREATE TABLE {child} (LIKE {SCHEMA}.rollup INCLUDING ALL) PARTITION BY RANGE (bucket)"))
    connection.execute(text(f"ALTER TABLE {SCHEMA}.rollup ATTACH PARTITION {child} FOR VALUES IN ({int(tier_id)})"))


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
    connection.execute(
        text(
            f"ALTER TABLE {parent} ATTACH PARTITION {child}"
            f" FOR VALUES FROM ('{start.isoformat()}') TO ('{end.isoformat()}')"
        )
    )


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
    """Drop a partition whose lock is held already; see `lock`."""
    connection.execute(text(f'ALTER TABLE {SCHEMA}."{partitioned.table}" DETACH PARTITION {SCHEMA}."{partition.name}"'))
    connection.execute(text(f'DROP TABLE {SCHEMA}."{partition.name}"'))


def lock(connection: Connection, partitioned: Partitioned, partition: Partition) -> None:
    """Keep everybody out of a partition, so that what the ledger says next stays true until the drop commits.

    The table comes first, as for everyone who reads it: the drop needs its lock too, and the other way round a reader
    and we would wait for each other. While we wait, all others queue behind us: so not for long.
    """
    connection.execute(text("SELECT set_config('lock_timeout', :limit, true)"), {"limit": _DROP_LOCK_TIMEOUT})
    connection.execute(text(f'LOCK TABLE ONLY {SCHEMA}."{partitioned.table}" IN ACCESS EXCLUSIVE MODE'))
    connection.execute(text(f'LOCK TABLE {SCHEMA}."{partition.name}" IN ACCESS EXCLUSIVE MODE'))
