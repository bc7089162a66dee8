"""Sealing of all rollups and samples, whatever the ledger still waits for: numbers must be right all the same."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial

from sqlalchemy import select, text

from aggregator.storage import catalog, partitions, sample_sealing, sealing, tables
from aggregator.storage.catalog import TierEntry
from aggregator.storage.engine import Connection, Database
from aggregator.storage.sealed_spans import SAMPLE_SPANS

_OPEN_BUCKETS = text(
    "SELECT DISTINCT r.bucket FROM aggregator.rollup AS r JOIN aggregator.blocks AS b ON b.id = r.block_id"
    " WHERE r.tier_id = :tier_id AND b.shard_id = :shard_id ORDER BY 1"
)
_OPEN_FRAMES = text(
    "SELECT DISTINCT f.at FROM aggregator.sample_frame AS f JOIN aggregator.targets AS t ON t.id = f.target_id"
    " WHERE t.shard_id = :shard_id ORDER BY 1"
)


def seal_everything(database: Database, source_ids: Sequence[int] | None = None, *, now: datetime) -> int:
    """Seal all that is open, of these sources or of all; gives how many rollups the sealed rows then have."""
    installation = database.run(catalog.read_installation)
    shards = database.run(partial(_shards, source_ids=source_ids))
    seal_samples(database, source_ids, now=now)
    return sum(
        _seal_shard(database, tier, shard_id, now=now)
        for tier in installation.tiers
        for shard_id in shards
        if tier.spans is not None
    )


def seal_samples(database: Database, source_ids: Sequence[int] | None = None, *, now: datetime) -> int:
    """Seal all open samples, of these sources or of all; gives how many samples the sealed rows then have."""
    shards = database.run(partial(_shards, source_ids=source_ids))
    return sum(_seal_samples(database, shard_id, now=now) for shard_id in shards)


def _seal_samples(database: Database, shard_id: int, *, now: datetime) -> int:
    where = {"shard_id": shard_id}
    instants = database.run(lambda connection: connection.execute(_OPEN_FRAMES, where).scalars().all())
    sealed = 0
    for start in sorted({SAMPLE_SPANS.bounds(at)[0] for at in instants}):
        work = partial(sample_sealing.seal_some, shard_id=shard_id, start=start, now=now)
        while (some := database.run(work)) is not None:
            sealed += some
    return sealed


def _shards(connection: Connection, source_ids: Sequence[int] | None) -> list[int]:
    table = tables.shards
    statement = select(table.c.id).order_by(table.c.id)
    if source_ids is not None:
        statement = statement.where(table.c.source_id.in_(source_ids))
    return list(connection.execute(statement).scalars())


def _seal_shard(database: Database, tier: TierEntry, shard_id: int, *, now: datetime) -> int:
    sealed = 0
    for start in database.run(partial(_spans, tier=tier, shard_id=shard_id)):
        work = partial(sealing.seal_some, tier=tier, shard_id=shard_id, start=start, now=now)
        while (some := database.run(work)) is not None:
            sealed += some
    return sealed


def _spans(connection: Connection, tier: TierEntry, shard_id: int) -> list[datetime]:
    """The spans in which a shard has open rows; the partitions of their sealed rows are made."""
    if tier.spans is None:
        return []
    buckets = connection.execute(_OPEN_BUCKETS, {"tier_id": tier.id, "shard_id": shard_id}).scalars()
    spans = sorted({tier.spans.bounds(bucket) for bucket in buckets})
    for start, end in spans:
        for one in tier.sealed_partitions:
            partitions.ensure(connection, one, since=start, until=end)
    return [start for start, _ in spans]
