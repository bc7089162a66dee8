"""Collections of a scripted target at their slots, claimed, counted and stored as a worker does it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

import numpy as np
from sqlalchemy import select

from aggregator.collectors.protocol import Batch, Collected, Target
from aggregator.exposition.series import SeriesKey
from aggregator.storage import claims, registry, tables
from aggregator.storage.claims import Claim
from aggregator.storage.engine import Connection
from tests.installation import LONG, Installation

#: As `Installation` has it: two seconds after each slot.
OFFSET = timedelta(seconds=2)
#: How long after its sample a collection is stored.
TOOK = timedelta(milliseconds=200)


def shard_of(connection: Connection, target: Target) -> int | None:
    """The target's own shard; None before its first collection."""
    statement = select(tables.targets.c.shard_id).where(tables.targets.c.id == target.id)
    shard_id: int | None = connection.execute(statement).scalar_one()
    return shard_id


def claim_slot(
    installation: Installation,
    target: Target,
    slot: datetime,
    *,
    now: datetime,
    node: str,
    lease: timedelta = LONG,
    interval: timedelta = timedelta(seconds=15),
) -> Claim:
    """Claim a slot of the target's shard, and count it."""

    def work(connection: Connection) -> Claim | None:
        shard_id = shard_of(connection, target)
        claimed = claims.claim(
            connection,
            shard_id=shard_id or registry.ensure_intake(connection, installation.source_id),
            slot=slot,
            target_ids=[target.id],
            node=node,
            now=now,
            lease=lease,
            by_hand=False,
        )
        if claimed is not None and shard_id is not None and not claimed.is_taken_over:
            claims.count_slot(connection, shard_id=shard_id, slot=slot, interval=interval)
        return claimed

    claimed = installation.database.run(work)
    assert claimed is not None
    return claimed


def store(installation: Installation, target: Target, claimed: Claim, values: Mapping[SeriesKey, float]) -> None:
    """Store what a claimed collection found at the installation's time, a moment after it."""
    at = installation.now
    installation.now = at + TOOK
    batch = Batch(at, tuple(values), np.array(list(values.values()), dtype=np.float64))
    collected = [Collected(target, at, TOOK.total_seconds(), (batch,), samples=len(values))]
    shard_id = installation.database.run(lambda connection: shard_of(connection, target))
    installation.store.store(
        claimed, collected, source_id=installation.source_id, shard_id=shard_id, clock=lambda: installation.now
    )


def collect_slot(
    installation: Installation,
    target: Target,
    slot: datetime,
    values: Mapping[SeriesKey, float],
    *,
    interval: timedelta = timedelta(seconds=15),
) -> None:
    """Collect one slot on node `web1`, in time."""
    installation.now = slot + OFFSET
    claimed = claim_slot(installation, target, slot, now=installation.now, node="web1", interval=interval)
    store(installation, target, claimed, values)
