"""Collections: who may collect a shard's slot, and how each of its targets ended."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, case, func, literal, select, update
from sqlalchemy.dialects.postgresql import insert

from aggregator.errors import LeaseLostError
from aggregator.storage import partitions, tables

PENDING, OK, FAILED = 0, 1, 2
#: A collection that was lost with its worker so often is given up: it may be what kills them.
MOST_CLAIMS = 3
#: After a lease has ended, whoever may take it over is woken within a minute; then it is lost for good.
GIVE_UP_AFTER = timedelta(minutes=5)
#: How old lost collections are looked for: the longest interval of a source, and a day.
LOST_WITHIN = timedelta(days=2)

_TABLE = tables.collections


@dataclass(frozen=True)
class Claim:
    """The right to collect a slot of a shard until the lease ends; `target_ids` are those that are still to be done."""

    shard_id: int
    slot: datetime
    token: uuid.UUID
    target_ids: tuple[int, ...]
    is_taken_over: bool
    #: This very claim had been committed before.
    is_known: bool = False


@dataclass(frozen=True)
class Ended:
    """How the collection of one target ended."""

    is_ok: bool
    duration_seconds: float
    samples: int


def claim(
    connection: Connection,
    *,
    shard_id: int,
    slot: datetime,
    target_ids: Sequence[int],
    node: str,
    now: datetime,
    lease: timedelta,
    by_hand: bool,
    token: uuid.UUID | None = None,
) -> Claim | None:
    """Claim a slot, or take over one whose lease has expired; None where somebody else has it or had it.

    With a `token` of the caller's it may be repeated where the outcome of its COMMIT is unknown: what was claimed by
    this token is given again, as `is_known`. Uses index: collections_pkey.
    """
    # After days of standstill no partition was made ahead, and `maintain` comes only once work goes on.
    partitions.ensure(connection, partitions.COLLECTIONS, since=slot, until=slot + timedelta(microseconds=1))
    count = len(target_ids)
    statement = insert(_TABLE).values(
        shard_id=shard_id,
        slot=slot,
        token=token or uuid.uuid4(),
        lease_until=now + lease,
        node=node,
        by_hand=by_hand,
        started_at=now,
        target_ids=list(target_ids),
        outcome=[PENDING] * count,
        duration_seconds=[0.0] * count,
        samples=[0] * count,
    )
    new = statement.excluded
    statement = statement.on_conflict_do_update(
        index_elements=["shard_id", "slot"],
        set_={"token": new.token, "lease_until": new.lease_until, "node": new.node, "claims": _TABLE.c.claims + 1},
        where=_TABLE.c.finished_at.is_(None) & (_TABLE.c.lease_until < now) & (_TABLE.c.claims < MOST_CLAIMS),
    )
    returned = (_TABLE.c.token, _TABLE.c.target_ids, _TABLE.c.outcome, _TABLE.c.claims)
    row = connection.execute(statement.returning(*returned)).one_or_none()
    is_known = row is None and token is not None
    if is_known:
        mine = (_TABLE.c.shard_id == shard_id) & (_TABLE.c.slot == slot) & (_TABLE.c.token == token)
        row = connection.execute(select(*returned).where(mine)).one_or_none()
    if row is None:
        return None
    left = tuple(target for target, outcome in zip(row.target_ids, row.outcome, strict=True) if outcome == PENDING)
    return Claim(shard_id, slot, row.token, left, is_taken_over=row.claims > 1, is_known=is_known)


def is_running(connection: Connection, *, shard_id: int, before: datetime, within: timedelta, now: datetime) -> bool:
    """Whether somebody still collects an earlier slot of a shard, of those `within` so long.

    Uses index: collections_pkey.
    """
    earlier = select(_TABLE.c.slot).where(
        _TABLE.c.shard_id == shard_id,
        _TABLE.c.slot < before,
        _TABLE.c.slot > before - within,
        ~_TABLE.c.by_hand,
        _TABLE.c.finished_at.is_(None),
        _TABLE.c.lease_until > now,
    )
    return connection.execute(earlier.limit(1)).first() is not None


def count_slot(connection: Connection, *, shard_id: int, slot: datetime, interval: timedelta) -> None:
    """Move a shard's newest slot on, and count the slots in between that nobody claimed.

    A slot that is claimed after a later one had been counted as missed and is taken off again.
    Uses index: shard_slots_pkey.
    """
    table = tables.shard_slots
    seconds = interval.total_seconds()
    statement = insert(table).values(shard_id=shard_id, first_slot=slot, last_slot=slot)
    gap = func.round(func.extract("epoch", literal(slot) - table.c.last_slot) / seconds)
    statement = statement.on_conflict_do_update(
        index_elements=["shard_id"],
        set_={
            "first_slot": func.least(table.c.first_slot, slot),
            "last_slot": func.greatest(table.c.last_slot, slot),
            "slots_missed": table.c.slots_missed
            + case(
                (literal(slot) > table.c.last_slot, func.greatest(gap - 1, 0)),
                (literal(slot) >= table.c.first_slot, func.greatest(-1, -table.c.slots_missed)),
                else_=0,
            ),
        },
    )
    connection.execute(statement)


@dataclass(frozen=True)
class GivenUp:
    """A collection that was lost with its worker and that nobody took over."""

    shard_id: int
    slot: datetime
    started_at: datetime
    by_hand: bool


def give_up_lost(connection: Connection, *, now: datetime) -> list[GivenUp]:
    """End collections that were lost with their worker and that nobody took over, and count their slots as missed.

    Their pending targets stay pending. Reads the newest partitions whole; for `maintain`.
    """
    lost = connection.execute(
        update(_TABLE)
        .where(
            _TABLE.c.finished_at.is_(None),
            _TABLE.c.lease_until < now - GIVE_UP_AFTER,
            _TABLE.c.slot > now - LOST_WITHIN,
        )
        .values(finished_at=now)
        .returning(*(_TABLE.c[name] for name in GivenUp.__dataclass_fields__))
    ).all()
    table = tables.shard_slots
    # In the order of their ids, as everybody who counts slots of more than one shard.
    for shard_id, count in sorted(Counter(row.shard_id for row in lost if not row.by_hand).items()):
        missed = table.c.slots_missed + count
        connection.execute(update(table).where(table.c.shard_id == shard_id).values(slots_missed=missed))
    return [GivenUp(*row) for row in lost]


def move_slots(connection: Connection, source_id: int, *, now: datetime) -> None:
    """Count slots from now on only: a changed interval has another grid, on which the past missed nothing."""
    job = select(func.concat("collect:", tables.sources.c.name)).where(tables.sources.c.id == source_id)
    connection.execute(update(tables.wakes).where(tables.wakes.c.job.in_(job)).values(slot=now))
    shards = select(tables.shards.c.id).where(tables.shards.c.source_id == source_id)
    table = tables.shard_slots
    of_source = table.c.shard_id.in_(shards)
    connection.execute(select(table.c.shard_id).where(of_source).order_by(table.c.shard_id).with_for_update())
    connection.execute(update(table).where(of_source).values(last_slot=now))


def record(connection: Connection, claimed: Claim, ended: Mapping[int, Ended], *, now: datetime) -> bool:
    """Record how targets ended, in the transaction that stores their frames; True when the collection is complete.

    Raises LeaseLostError where another worker has taken the collection over. Uses index: collections_pkey.
    """
    here = (_TABLE.c.shard_id == claimed.shard_id) & (_TABLE.c.slot == claimed.slot)
    row = connection.execute(select(_TABLE).where(here).with_for_update(key_share=True)).one_or_none()
    if row is None or row.token != claimed.token:
        raise LeaseLostError
    outcome, durations, samples = list(row.outcome), list(row.duration_seconds), list(row.samples)
    for place, target_id in enumerate(row.target_ids):
        if (one := ended.get(target_id)) is not None:
            outcome[place] = OK if one.is_ok else FAILED
            durations[place] = one.duration_seconds
            samples[place] = one.samples
    complete = PENDING not in outcome
    connection.execute(
        update(_TABLE)
        .where(here)
        .values(outcome=outcome, duration_seconds=durations, samples=samples, finished_at=now if complete else None)
    )
    return complete
