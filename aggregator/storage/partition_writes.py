"""When backfill last wrote to a partition whose time had passed: its retention counts from then."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from aggregator.storage import tables
from aggregator.storage.partitions import Partitioned

_TABLE = tables.partition_writes
#: One process notes a partition at most so often: it is kept for days.
EVERY = timedelta(minutes=1)


@dataclass
class WriteLog:
    """Notes writes, as seldom as will do; one for each process that writes what is old."""

    noted: dict[tuple[str, int, datetime], datetime] = field(default_factory=dict)

    def note(
        self,
        connection: Connection,
        partitioned: Partitioned,
        instants: Iterable[datetime],
        *,
        table_name: str,
        tier_id: int = 0,
        now: datetime,
    ) -> None:
        """Note that the partitions that hold these instants (UTC) are being written to, those that have ended by now.

        `table_name` is the whole table's (`sample_frame`, `rollup`). Safe in a transaction that goes on for long: where
        another session is noting the same partition it is left to that one. Uses index: partition_writes_pkey.
        """
        for start in self.due(partitioned, instants, table_name=table_name, tier_id=tier_id, now=now):
            key = (table_name, tier_id, start)
            _note(connection, key, now=now)
            self.noted[key] = now

    def due(
        self,
        partitioned: Partitioned,
        instants: Iterable[datetime],
        *,
        table_name: str,
        tier_id: int = 0,
        now: datetime,
    ) -> list[datetime]:
        """The starts of those partitions that have ended and were not noted by this process lately; see `note`."""
        bounds = sorted({partitioned.bounds(instant) for instant in instants})
        noted = [self.noted.get((table_name, tier_id, start)) for start, _ in bounds]
        return [
            start
            for (start, end), before in zip(bounds, noted, strict=True)
            if end <= now and (before is None or now - before >= EVERY)
        ]

    def forget(self) -> None:
        """Drop everything: behind a new connection may be another database."""
        self.noted.clear()


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


def forget(connection: Connection, *, table_name: str, tier_id: int, start: datetime) -> None:
    """Delete what was noted of a partition that is dropped. Uses index: partition_writes_pkey."""
    connection.execute(
        delete(_TABLE).where(_TABLE.c.table_name == table_name, _TABLE.c.tier_id == tier_id, _TABLE.c.start == start)
    )
