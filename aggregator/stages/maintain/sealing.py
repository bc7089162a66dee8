"""Sealing: what has closed is made small, span by span and shard by shard, as long as there is time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import structlog

from aggregator.storage import partitions, sealing
from aggregator.storage.catalog import Installation, TierEntry
from aggregator.storage.engine import Database, StorageError, is_lock_timeout
from aggregator.storage.partitions import Partition

log = structlog.get_logger(__name__)

#: Below the task's soft limit (240 s): what is left is sealed at the next run.
BUDGET = timedelta(seconds=180)


@dataclass(frozen=True)
class Sealed:
    """What one run did: rollups that were sealed, and open partitions that were dropped because they were empty."""

    rollups: int
    partitions_dropped: tuple[str, ...]


@dataclass(frozen=True)
class Sealing:
    """One run."""

    database: Database
    installation: Installation
    clock: Callable[[], datetime]

    def run(self, *, budget: timedelta = BUDGET) -> Sealed:
        """Seal the closed spans of all tiers, the oldest first, until the budget is spent."""
        deadline = time.monotonic() + budget.total_seconds()
        rollups = sum(self._tier(tier, deadline) for tier in self.installation.tiers)
        dropped = [one.name for tier in self.installation.tiers for one in self._emptied(tier) if self._drop(tier, one)]
        if rollups or dropped:
            log.info("sealed", rollups=rollups, partitions_dropped=dropped)
        return Sealed(rollups, tuple(dropped))

    def _tier(self, tier: TierEntry, deadline: float) -> int:
        spans = self.database.run(
            lambda connection: list(sealing.closed_spans(connection, self.installation, tier, now=self.clock()))
        )
        return sum(self._span(tier, start, deadline) for start in spans if time.monotonic() < deadline)

    def _span(self, tier: TierEntry, start: datetime, deadline: float) -> int:
        if tier.spans is None:
            return 0
        _, end = tier.spans.bounds(start)
        find = partial(sealing.open_shards, installation=self.installation, tier=tier, start=start, end=end)
        shards = self.database.run(find)
        if shards:
            self.database.run(
                lambda connection: [
                    partitions.ensure(connection, one, since=start, until=end) for one in tier.sealed_partitions
                ]
            )
        return sum(self._shard(tier, shard_id, start, deadline) for shard_id in shards)

    def _shard(self, tier: TierEntry, shard_id: int, start: datetime, deadline: float) -> int:
        """Seal a shard's blocks, some in each transaction; one that fails does not hold up the others."""
        rollups = 0
        while time.monotonic() < deadline:
            work = partial(sealing.seal_some, tier=tier, shard_id=shard_id, start=start, now=self.clock())
            try:
                sealed = self.database.run(work)
            except (StorageError, ValueError) as error:
                log.exception(
                    "sealing_failed", tier=tier.name, shard=shard_id, span=start.isoformat(), error=str(error)
                )
                break
            if sealed is None:
                break
            rollups += sealed
        return rollups

    def _emptied(self, tier: TierEntry) -> list[Partition]:
        now = self.clock()
        sealed_at = self.database.run(partial(sealing.last_sealed, tier_id=tier.id))
        if tier.spans is None or sealed_at is None or sealed_at > now - sealing.KEEP_EMPTY:
            return []
        ended = now - self.installation.lateness
        return self.database.run(partial(sealing.emptied, partitioned=tier.partitions, ended_before=ended))

    def _drop(self, tier: TierEntry, partition: Partition) -> bool:
        work = partial(sealing.drop_if_empty, partitioned=tier.partitions, partition=partition)
        try:
            return self.database.run(work)
        except StorageError as error:
            if not is_lock_timeout(error):
                raise
            return False
