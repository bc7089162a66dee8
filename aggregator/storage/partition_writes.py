"""When backfill last wrote to a partition whose time had passed: its retention counts from then."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from aggregator.storage import tables
from aggregator.storage.partitions import Partitioned

_TABLE = tables.partition_writes
#: A partition is noted at most so often: it is kept for days.
EVERY = timedelta(minutes=1)


def note(
    connection: Connection,
    partitioned: Partitioned,
    instants: Iterable[datetime],
    *,
    table_name: str,
    tier_id: int = 0,
    now: datetime,
) -> None:
    """Note that the partitions that hold these instants (UTC) are written to, those that have ended by now.

    `table_name` is the whole table's (`sample_frame`, `rollup`). Safe in a transaction that goes on for long: where
    another one is noting the same partition it is left to that one, which comes back if it fails. Uses index:
    partition_writes_pkey.
    """
    ended = {start for start, end in map(partitioned.bounds, instants) if end <= now}
    if not ended:
        return
    # Not from memory: what a transaction has noted that was rolled back is not noted.
    lately = select(_TABLE.c.start).where(
        _TABLE.c.table_name == table_name,
        _TABLE.c.tier_id == tier_id,
        _TABLE.c.start.in_(sorted(ended)),
        _TABLE.c.last_written > now - EVERY,
    )
    for start in sorted(ended.difference(connection.execute(lately).scalars())):
        _note(connection, (table_name, tier_id, start), now=now)


def _note(connection: Connection, key: tuple[str, int, datetime], *, now: datetime) -> None:
    table_name, tier_id, start = key
    name = f"aggregator.partition_writes:{table_name}:{tier_id}:{start.isoformat()}"
    if not connection.execute(select(func.pg_try_advisory_xact_lock(func.hashtextextended(name, 0)))).scalar_one():
        return
    statement = insert(_TABLE).values(table_name=table_name, tier_id=tier_id, start=start, last_written=now)
    latest = func.greatest(_TABLE.c.last_written, now)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["table_name", "tier_id", "start"], set_={"last_written": latest}
        )
    )


def last_write(connection: Connection, *, table_name: str, tier_id: int, start: datetime) -> datetime | None:
    """When backfill last wrote to a partition; None where it never did. Uses index: partition_writes_pkey."""
    statement = select(_TABLE.c.last_written).where(
        _TABLE.c.table_name == table_name, _TABLE.c.tier_id == tier_id, _TABLE.c.start == start
    )
    return connection.execute(statement).scalar_one_or_none()


def forget_missing(
    connection: Connection, *, table_name: str, tier_id: int, starts: Collection[datetime], before: datetime
) -> None:
    """Delete what was noted before an instant of partitions other than these: all of their samples were refused."""
    connection.execute(
        delete(_TABLE).where(
            _TABLE.c.table_name == table_name,
            _TABLE.c.tier_id == tier_id,
            _TABLE.c.start.not_in(list(starts)),
            _TABLE.c.last_written < before,
        )
    )


def forget(
    connection: Connection, *, table_name: str, tier_id: int, start: datetime, before: datetime | None = None
) -> None:
    """Delete what was noted of a partition that is dropped, all of it or only what is older than `before`.

    What was noted later is of somebody who waits for the drop and then makes the partition anew. Uses index:
    partition_writes_pkey.
    """
    older = [_TABLE.c.last_written < before] if before is not None else []
    connection.execute(
        delete(_TABLE).where(
            _TABLE.c.table_name == table_name, _TABLE.c.tier_id == tier_id, _TABLE.c.start == start, *older
        )
    )
