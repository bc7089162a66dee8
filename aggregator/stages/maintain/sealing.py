"""Sealing: what has closed is made small, span by span and shard by shard, as long as there is time."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol, TypeVar

import structlog

from aggregator.storage import forms, partitions, readers, sealing
from aggregator.storage.catalog import Installation
from aggregator.storage.engine import Connection, Database, StorageError, is_lock_timeout
from aggregator.storage.partitions import Partition, Partitioned
from aggregator.storage.sample_sealing import SealedSamples
from aggregator.storage.sealing import SealedTier

log = structlog.get_logger(__name__)

Result = TypeVar("Result")

#: Below the task's soft limit (240 s): what is left is sealed at the next run.
BUDGET = timedelta(seconds=150)


#: So long a run waits for queries that began before a partition was there; they mostly take milliseconds.
READERS_END = timedelta(seconds=2)
_LOOK_AGAIN_SECONDS = 0.02
_MICROSECOND = timedelta(microseconds=1)


class Kind(Protocol):
    """What is sealed by the same rules: the rollups of a tier, or samples."""

    @property
    def name(self) -> str:
        """The tier's name, or what stands for one."""

    @property
    def tier_id(self) -> int:
        """The tier's id, or what stands for one."""

    @property
    def partitioned(self) -> Partitioned:
        """The open partitions, beside which the sealed ones stand."""

    def closed_spans(self, connection: Connection, *, now: datetime) -> Iterator[datetime]:
        """The starts of the spans of open partitions that have closed, oldest first."""

    def shards(self, connection: Connection, *, start: datetime) -> list[int]:
        """The shards that have open rows in a span for which the ledger waits for nothing."""

    def seal_some(self, connection: Connection, *, shard_id: int, start: datetime, now: datetime) -> int | None:
        """Seal a part of what a shard has open in a span; gives how many of them, None where none is left."""


@dataclass(frozen=True)
class Sealed:
    """What one run did: rollups and samples that were sealed, and open partitions that were dropped, being empty."""

    rollups: int
    samples: int
    partitions_dropped: tuple[str, ...]


@dataclass(frozen=True)
class Sealing:
    """One run."""

    database: Database
    installation: Installation
    clock: Callable[[], datetime]

    def run(self, *, budget: timedelta = BUDGET) -> Sealed:
        """Seal the closed spans of all tiers and of samples in turn, the oldest of each first, until time is up.

        Nothing at all while a node lives that would not see it: an upgrade goes from machine to machine.
        """
        if nodes := self.database.run(partial(forms.nodes_that_read_only_open, now=self.clock())):
            log.info("sealing_waits_for_upgrade", nodes=nodes)
            return Sealed(0, 0, ())
        deadline = time.monotonic() + budget.total_seconds()
        kinds = self._kinds()
        counts = dict.fromkeys((kind.tier_id for kind in kinds), 0)
        for kind, start in self._spans(kinds):
            counts[kind.tier_id] += self._span(kind, start, deadline)
        dropped = [one.name for kind in kinds for one in self._emptied(kind) if self._drop(kind.partitioned, one)]
        samples = counts.pop(forms.SAMPLES_ID)
        rollups = sum(counts.values())
        if rollups or samples or dropped:
            log.info("sealed", rollups=rollups, samples=samples, partitions_dropped=dropped)
        return Sealed(rollups, samples, tuple(dropped))

    def _kinds(self) -> list[Kind]:
        tiers = [SealedTier(self.installation, tier) for tier in self.installation.tiers if tier.spans is not None]
        return [*tiers, SealedSamples(self.installation)]

    def _spans(self, kinds: Sequence[Kind]) -> Iterator[tuple[Kind, datetime]]:
        """What may be sealed, one span of each kind after the other, so that none waits for all of another."""

        def spans_of(kind: Kind) -> list[tuple[Kind, datetime]]:
            found = self.database.run(lambda connection: list(kind.closed_spans(connection, now=self.clock())))
            return [(kind, start) for start in found]

        for row in itertools.zip_longest(*map(spans_of, kinds)):
            yield from (one for one in row if one is not None)

    def _span(self, kind: Kind, start: datetime, deadline: float) -> int:
        if time.monotonic() >= deadline:
            return 0
        shards = self._tried(partial(kind.shards, start=start), kind, start)
        if not shards or not self._has_partitions(kind, start):
            return 0
        return sum(self._shard(kind, shard_id, start, deadline) for shard_id in shards)

    def _has_partitions(self, kind: Kind, start: datetime) -> bool:
        """Make the partitions for a span's sealed rows, and let end whoever may have planned without them.

        A query plans and then looks. In between, rows may move where its plan does not know that there is anything.
        False where one goes on for long: at the next run, it has looked.
        """
        sealed = partitions.sealed_beside(kind.partitioned)
        made = self._tried(
            lambda connection: sum(
                partitions.ensure(connection, one, since=start, until=start + _MICROSECOND) for one in sealed
            ),
            kind,
            start,
        )
        if not made:
            return made is not None
        before = self.database.run(readers.running)
        deadline = time.monotonic() + READERS_END.total_seconds()
        while before & self.database.run(readers.running):
            if time.monotonic() >= deadline:
                return False
            time.sleep(_LOOK_AGAIN_SECONDS)
        return True

    def _shard(self, kind: Kind, shard_id: int, start: datetime, deadline: float) -> int:
        """Seal a part of what a shard has in each transaction; gives how many."""
        count = 0
        while time.monotonic() < deadline:
            work = partial(kind.seal_some, shard_id=shard_id, start=start, now=self.clock())
            sealed = self._tried(work, kind, start)
            if sealed is None:
                break
            count += sealed
        return count

    def _tried(self, work: Callable[[Connection], Result | None], kind: Kind, start: datetime) -> Result | None:
        """What a transaction gives, None where it failed: it stays open and is tried again, and the others go on."""
        try:
            return self.database.run(work)
        except (StorageError, ValueError) as error:
            if not is_lock_timeout(error):
                reason = str(getattr(error, "orig", error)).strip()
                log.warning("sealing_failed", kind=kind.name, span=start.isoformat(), error=reason)
            return None

    def _emptied(self, kind: Kind) -> list[Partition]:
        now = self.clock()
        sealed_at = self.database.run(partial(sealing.last_sealed, tier_id=kind.tier_id))
        if sealed_at is None or sealed_at > now - sealing.KEEP_EMPTY:
            return []
        ended = now - self.installation.lateness
        return self.database.run(partial(sealing.emptied, partitioned=kind.partitioned, ended_before=ended))

    def _drop(self, partitioned: Partitioned, partition: Partition) -> bool:
        work = partial(sealing.drop_if_empty, partitioned=partitioned, partition=partition)
        try:
            return self.database.run(work)
        except StorageError as error:
            if not is_lock_timeout(error):
                raise
            return False
