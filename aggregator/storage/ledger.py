"""The dirty ledger: inputs that changed since they were last rolled up. Writers only append (docs/adr/0002)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, literal, select, text, union_all

from aggregator.storage import tables

_DIRTY = tables.dirty


@dataclass(frozen=True)
class Mark:
    """A bucket of a shard whose input changed; `target_id` None means any target of the shard."""

    tier_id: int
    shard_id: int
    bucket: datetime
    due: datetime
    target_id: int | None = None
    backfill: bool = False


def mark(connection: Connection, marks: Iterable[Mark], *, now: datetime) -> None:
    """Append marks, once each."""
    rows = [
        {
            "tier_id": one.tier_id,
            "shard_id": one.shard_id,
            "target_id": one.target_id,
            "bucket": one.bucket,
            "due": one.due,
            "marked": now,
            "backfill": one.backfill,
        }
        for one in dict.fromkeys(marks)
    ]
    if rows:
        connection.execute(insert(_DIRTY), rows)


# Uses no index: it only appends.
_MARK_BUCKETS = text(
    """
    INSERT INTO aggregator.dirty (tier_id, shard_id, bucket, due, marked, backfill)
    SELECT :tier_id, :shard_id, one.bucket, :now, :now, true
    FROM unnest(CAST(:buckets AS timestamptz[])) AS one (bucket)
    """
)


def mark_past(
    connection: Connection, buckets: Sequence[datetime], *, tier_id: int, shard_id: int, now: datetime
) -> None:
    """Append a backfill mark of each of these buckets, for all of the shard: months of them in one statement."""
    values = {"tier_id": tier_id, "shard_id": shard_id, "buckets": list(buckets), "now": now}
    connection.execute(_MARK_BUCKETS, values)


def due_backfill(
    connection: Connection,
    shard_id: int,
    *,
    tier_ids: Collection[int],
    since: datetime,
    until: datetime,
    now: datetime,
) -> list[datetime]:
    """The buckets of these tiers in the half-open interval that wait as backfill and are due.

    Uses index: dirty_shard_id_bucket_idx.
    """
    statement = select(_DIRTY.c.bucket).where(
        _DIRTY.c.shard_id == shard_id,
        _DIRTY.c.bucket >= since,
        _DIRTY.c.bucket < until,
        _DIRTY.c.tier_id.in_(tier_ids),
        _DIRTY.c.due <= now,
        _DIRTY.c.backfill,
    )
    return list(connection.execute(statement.distinct()).scalars())


#: So many of the longest due backfill marks are looked at to find shards: a large backfill has millions.
_BACKFILL_LOOKED_AT = 5_000


def due_shards(
    connection: Connection, *, now: datetime, only: Collection[int] | None = None, limit: int = 1_000
) -> list[int]:
    """Shards with due ledger rows, live before backfill, longest due first; `only` leaves out all other shards.

    Uses index: dirty_due_idx.
    """
    live, backfill = (
        select(_DIRTY.c.shard_id, _DIRTY.c.due).where(
            _DIRTY.c.backfill.is_(is_backfill),
            _DIRTY.c.due <= now,
            *([_DIRTY.c.shard_id.in_(sorted(only))] if only is not None else []),
        )
        for is_backfill in (False, True)
    )
    marks = union_all(
        live.add_columns(literal(0).label("urgency")),
        select(backfill.order_by(_DIRTY.c.due).limit(_BACKFILL_LOOKED_AT).subquery(), literal(1)),
    ).subquery()
    first = func.min(marks.c.urgency), func.min(marks.c.due)
    return list(
        connection.execute(select(marks.c.shard_id).group_by("shard_id").order_by(*first).limit(limit)).scalars()
    )


def lock_shard(connection: Connection, shard_id: int) -> bool:
    """Lock a shard for its rollups; False where another worker has it.

    NO KEY UPDATE: plain FOR UPDATE would block, and be skipped for, inserts of rows that refer to the shard.
    """
    table = tables.shards
    statement = select(table.c.id).where(table.c.id == shard_id).with_for_update(key_share=True, skip_locked=True)
    return connection.execute(statement).first() is not None


@dataclass(frozen=True)
class Work:
    """Ledger rows taken off for one tier of a shard. `targets`: per bucket the dirty targets, None for all of them."""

    tier_id: int
    backfill: bool
    targets: dict[datetime, frozenset[int] | None]


def take(connection: Connection, shard_id: int, *, now: datetime, most_buckets: int) -> Work | None:
    """Take off what is due next for a locked shard: live before backfill, finer tiers first.

    Live marks go oldest first, backfill newest first: what people look at most is right first. The caller reads its
    inputs in later statements: whatever is committed by then is in them, and a row that is not visible here stays in
    the ledger. Uses index: dirty_shard_id_bucket_idx.
    """
    tier_id, buckets = _due_live(connection, shard_id, now=now, most_buckets=most_buckets)
    if buckets:
        return Work(tier_id, backfill=False, targets=_delete(connection, shard_id, tier_id, buckets))
    tier_id, buckets = _due_backfill(connection, shard_id, now=now, most_buckets=most_buckets)
    if buckets:
        # A live mark that was committed meanwhile stays: what follows from it must not wait behind a backfill.
        targets = _delete(connection, shard_id, tier_id, buckets, _DIRTY.c.backfill)
        return Work(tier_id, backfill=True, targets=targets)
    return None


def _due_live(connection: Connection, shard_id: int, *, now: datetime, most_buckets: int) -> tuple[int, list[datetime]]:
    """The finest tier that has due live marks, and its oldest buckets; none where nothing is due."""
    tiers = tables.tiers
    due = connection.execute(
        select(_DIRTY.c.tier_id, _DIRTY.c.bucket)
        .join(tiers, tiers.c.id == _DIRTY.c.tier_id)
        .where(_DIRTY.c.shard_id == shard_id, _DIRTY.c.due <= now, _DIRTY.c.backfill.is_(False))
        .group_by(_DIRTY.c.tier_id, _DIRTY.c.bucket, tiers.c.step_seconds)
        .order_by(tiers.c.step_seconds, _DIRTY.c.bucket)
        .limit(most_buckets)
    ).all()
    tier_id = due[0].tier_id if due else 0
    return tier_id, [row.bucket for row in due if row.tier_id == tier_id]


def _due_backfill(
    connection: Connection, shard_id: int, *, now: datetime, most_buckets: int
) -> tuple[int, list[datetime]]:
    """The finest tier that has due backfill marks, and its newest buckets; none where nothing is due.

    Tier by tier, so that the index gives the newest buckets: a backfill has a million marks, and sorting all of them
    for each transaction took longer than the transaction.
    """
    tier_ids = connection.execute(select(tables.tiers.c.id).order_by(tables.tiers.c.step_seconds, tables.tiers.c.id))
    for tier_id in tier_ids.scalars().all():
        buckets = connection.execute(
            select(_DIRTY.c.bucket)
            .where(_DIRTY.c.shard_id == shard_id, _DIRTY.c.tier_id == tier_id, _DIRTY.c.due <= now, _DIRTY.c.backfill)
            .group_by(_DIRTY.c.bucket)
            .order_by(_DIRTY.c.bucket.desc())
            .limit(most_buckets)
        )
        if found := list(buckets.scalars()):
            return tier_id, found
    return 0, []


def _delete(
    connection: Connection, shard_id: int, tier_id: int, buckets: list[datetime], *conditions: ColumnElement[bool]
) -> dict[datetime, frozenset[int] | None]:
    statement = (
        delete(_DIRTY)
        .where(
            and_(_DIRTY.c.shard_id == shard_id, _DIRTY.c.tier_id == tier_id, _DIRTY.c.bucket.in_(buckets), *conditions)
        )
        .returning(_DIRTY.c.bucket, _DIRTY.c.target_id)
    )
    found: dict[datetime, set[int | None]] = {bucket: set() for bucket in buckets}
    for row in connection.execute(statement):
        found[row.bucket].add(row.target_id)
    return {
        bucket: None if None in targets else frozenset(target for target in targets if target is not None)
        for bucket, targets in sorted(found.items())
    }
