"""The stage maintain: partitions ahead, retention (ledger rule 6), lost slots counted, what has closed sealed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import structlog

from aggregator.stages.maintain.sealing import Sealed, Sealing
from aggregator.storage import (
    catalog,
    claims,
    held_partitions,
    partition_writes,
    partitions,
    quarantine,
    retention,
    runs,
)
from aggregator.storage.catalog import Installation
from aggregator.storage.engine import Connection, Database, StorageError, is_lock_timeout
from aggregator.storage.held_partitions import HeldPartition
from aggregator.storage.losses import record_given_up
from aggregator.storage.partitions import COLLECTIONS, SAMPLES, Partition, Partitioned
from aggregator.storage.quarantine import Losses

log = structlog.get_logger(__name__)

INTERVAL = timedelta(minutes=10)
LEASE = timedelta(minutes=5)
#: How far ahead of their time partitions are made: a weekend and a day.
AHEAD = timedelta(days=3)
KEEP_COLLECTIONS = timedelta(days=14)
KEEP_RUNS = timedelta(days=14)
#: By a clock that shows a year too much all would be old. So what is old is dropped by a clock by which `maintain` has
#: run a day ago, and not much longer: a machine may be off over a weekend.
STEADY_SINCE, STEADY_WITHIN = timedelta(days=1), timedelta(days=4)
#: After so long, a write that was noted before its partition was made has failed.
FORGET_WRITES = timedelta(days=1)


@dataclass(frozen=True)
class Maintained:
    """What one run did."""

    partitions_made: int
    partitions_dropped: tuple[str, ...]
    #: The partitions past their retention that have to stay, each with the reason.
    partitions_held: tuple[tuple[str, str], ...]
    sealed: Sealed

    @property
    def changes(self) -> int:
        """How many partitions came or went."""
        return self.partitions_made + len(self.partitions_dropped)


@dataclass
class Maintain:
    """The stage."""

    database: Database
    node: str

    def run(self, *, clock: Callable[[], datetime], slot: datetime | None = None) -> Maintained | None:
        """One run; with a slot, None where another worker has claimed it."""
        run_id = self._claim(slot, clock()) if slot is not None else None
        if slot is not None and run_id is None:
            return None
        done = self._maintain(clock, is_by_hand=slot is None)
        if run_id is not None:
            self.database.run(
                lambda connection: runs.finish(connection, run_id, outcome="ok", rows=done.changes, now=clock())
            )
        return done

    def _claim(self, slot: datetime, now: datetime) -> int | None:
        return self.database.run(
            lambda connection: runs.claim_slot(
                connection, stage="maintain", subject="", slot=slot, node=self.node, now=now, lease=LEASE
            )
        )

    def _is_steady(self, now: datetime) -> bool:
        """Whether the clock has run on from a day ago, as far as the runs of this stage tell."""
        since, until = now - STEADY_WITHIN, now - STEADY_SINCE
        return self.database.run(partial(runs.ran_between, stage="maintain", since=since, until=until))

    def _maintain(self, clock: Callable[[], datetime], *, is_by_hand: bool) -> Maintained:
        now = clock()
        may_drop = is_by_hand or self._is_steady(now)
        installation = self.database.run(catalog.read_installation)
        made = self.database.run(lambda connection: _ensure_ahead(connection, installation, now=now))
        dropped: list[str] = []
        held: list[HeldPartition] = []
        locked: set[str] = set()
        for partitioned, old, needs in self._past_retention(installation, now):
            if partitioned.table in locked:
                continue  # its other partitions would be waited for in vain as well
            reason = self._drop(partitioned, old, needs) if may_drop else retention.CLOCK
            if reason is None:
                dropped.append(old.name)
                log.info("partition_dropped", partition=old.name)
            else:
                held.append(HeldPartition(old.name, partitioned.table, reason.cause, reason.reason))
            if reason is retention.LOCKED:
                locked.add(partitioned.table)
        self.database.run(lambda connection: held_partitions.record(connection, held, now=now))
        self._give_up_lost(now)
        self.database.run(lambda connection: runs.forget_before(connection, now - KEEP_RUNS))
        sealed = Sealing(self.database, installation, clock).run()
        return Maintained(made, tuple(dropped), tuple((one.name, one.reason) for one in held), sealed)

    def _give_up_lost(self, now: datetime) -> None:
        def work(connection: Connection) -> tuple[int, list[Losses]]:
            lost = claims.give_up_lost(connection, now=now)
            quarantine.forget_gone(connection, now=now)
            return len(lost), record_given_up(connection, lost, now=now)

        slots, losses = self.database.run(work)
        if slots:
            log.warning("collections_lost", slots=slots)
        for one in losses:
            if one.quarantined_at is not None:
                log.error("job_quarantined", job=str(one.job), losses=one.losses, reason=one.reason)

    def _drop(self, partitioned: Partitioned, partition: Partition, needs: retention.Needs) -> retention.Held | None:
        """Drop a partition; gives the reason where it has to stay for now."""
        # A look before the lock: nobody is to wait for a partition that stays.
        if held := self.database.run(partial(retention.why_held, partition=partition, needs=needs)):
            return held
        work = partial(retention.drop_unless_needed, partitioned=partitioned, partition=partition, needs=needs)
        try:
            return self.database.run(work)
        except StorageError as error:
            if not is_lock_timeout(error):
                raise
            return retention.LOCKED

    def _past_retention(
        self, installation: Installation, now: datetime
    ) -> list[tuple[Partitioned, Partition, retention.Needs]]:
        """All partitions whose whole interval lies past the retention of their table, with who may still need them."""
        tables = [
            (
                SAMPLES,
                installation.sample_retention,
                retention.needs_of_samples(installation, written_since=now - installation.sample_retention),
            ),
            (COLLECTIONS, KEEP_COLLECTIONS, retention.Needs(COLLECTIONS.table, 0, ())),
        ]
        tables += [
            (
                tier.partitions,
                tier.retention,
                retention.needs_of_rollups(installation, tier, written_since=now - tier.retention),
            )
            for tier in installation.tiers
        ]

        def read(connection: Connection) -> list[tuple[Partitioned, Partition, retention.Needs]]:
            past = []
            for partitioned, keep, needs in tables:
                found = partitions.intervals(connection, partitioned)
                partition_writes.forget_missing(
                    connection,
                    table_name=needs.table_name,
                    tier_id=needs.tier_id,
                    starts=[partition.start for partition in found],
                    before=now - FORGET_WRITES,
                )
                is_past = partial(retention.is_past, keep=keep, now=now)
                past += [(partitioned, partition, needs) for partition in filter(is_past, found)]
            return past

        return self.database.run(read)


def _ensure_ahead(connection: Connection, installation: Installation, *, now: datetime) -> int:
    made = partitions.ensure(connection, SAMPLES, since=now, until=now + AHEAD)
    made += partitions.ensure(connection, COLLECTIONS, since=now, until=now + AHEAD)
    for tier in installation.tiers:
        made += partitions.ensure(connection, tier.partitions, since=now, until=now + AHEAD)
        made += partitions.ensure(connection, tier.sketch_partitions, since=now, until=now + AHEAD)
    return made
