"""The stage rollup: take what is due off the ledger, recompute it, replace it, mark what follows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
import structlog

from aggregator import telemetry
from aggregator.errors import ServerUnreachableError
from aggregator.rollups.buckets import SlotGrid
from aggregator.stages.rollup import coarse, finest
from aggregator.stages.rollup.finest import Computed, Shape
from aggregator.storage import blocks, catalog, frames, ledger, partitions, registry, runs
from aggregator.storage.blocks import Layout, LayoutCache
from aggregator.storage.catalog import Installation, TierEntry
from aggregator.storage.engine import Connection, Database
from aggregator.storage.rollup_rows import Bucket, write_rollups

log = structlog.get_logger(__name__)

#: Buckets of one tier that one transaction computes: enough to catch up fast, few enough to stay short.
MOST_BUCKETS = 15


@dataclass
class Rollup:
    """The stage, with what its process may remember between runs."""

    database: Database
    node: str
    layouts: LayoutCache = field(default_factory=LayoutCache)

    def __post_init__(self) -> None:
        """Forget what was read where the connection had to be made anew."""
        self.database.on_reconnect.append(self.layouts.forget)

    def run(self, clock: Callable[[], datetime], *, budget: timedelta) -> int:
        """Roll up what is due, shard after shard, until nothing is left or the budget is spent; gives rows written.

        What one shard raises is raised again when the others are done.
        """
        deadline = time.monotonic() + budget.total_seconds()
        rows = 0
        left_out: set[int] = set()
        failure: Exception | None = None
        while time.monotonic() < deadline:
            due = self.database.run(lambda connection: ledger.due_shards(connection, now=clock()))
            shard_id = next((shard_id for shard_id in due if shard_id not in left_out), None)
            if shard_id is None:
                break
            try:
                written = self._roll_up(shard_id, clock=clock)
            except ServerUnreachableError:
                raise
            except Exception as error:
                # One shard that fails must not hold up the others; its marks are still in the ledger.
                log.exception("shard_failed", shard=shard_id)
                failure, written = error, None
            if written is None:
                left_out.add(shard_id)
            else:
                rows += written
        if failure is not None:
            raise failure
        return rows

    def _roll_up(self, shard_id: int, *, clock: Callable[[], datetime]) -> int | None:
        """One transaction for one shard; None where another worker has it or nothing is due any more."""
        started = time.monotonic()
        step = self.database.run(lambda connection: self._step(connection, shard_id, clock=clock))
        if step is None:
            return None
        self.layouts.keep(step.layouts)
        telemetry.count("rollup_rows_total", step.rows, tier=step.tier_name)
        telemetry.observe("rollup_duration_seconds", time.monotonic() - started, tier=step.tier_name)
        return step.rows

    def _step(self, connection: Connection, shard_id: int, *, clock: Callable[[], datetime]) -> _Step | None:
        now = clock()
        if not ledger.lock_shard(connection, shard_id):
            return None
        work = ledger.take(connection, shard_id, now=now, most_buckets=MOST_BUCKETS)
        if work is None:
            return None
        installation = catalog.read_installation(connection)
        tier = installation.tier(work.tier_id)
        if tier is None:  # the tier was taken out of the configuration: nobody reads it any more
            return _Step("removed", 0, {})
        slots = registry.slots_of_shard(connection, shard_id)
        transaction = _Transaction(connection, installation, tier, shard_id, work.backfill, now, self.layouts, slots)
        rows = transaction.finest(work) if tier.is_finest else transaction.coarse(work)
        runs.record(
            connection,
            stage="rollup",
            subject=f"{tier.name}:{shard_id}",
            node=self.node,
            started_at=now,
            now=clock(),
            rows=rows,
        )
        return _Step(tier.name, rows, transaction.complete_layouts)


@dataclass(frozen=True)
class _Step:
    tier_name: str
    rows: int
    layouts: dict[int, Layout]


@dataclass
class _Transaction:
    """The work of one tier on one locked shard."""

    connection: Connection
    installation: Installation
    tier: TierEntry
    shard_id: int
    backfill: bool
    now: datetime
    layouts: LayoutCache
    slots: SlotGrid
    complete_layouts: dict[int, Layout] = field(default_factory=dict)

    def finest(self, work: ledger.Work) -> int:
        """From samples. Frames first, then places: a series that a frame has is registered, so it is placed here."""
        kept_since = catalog.dropped_before(self.connection, "sample_frame")
        all_targets = registry.targets_of_shard(self.connection, self.shard_id)
        rows = 0
        for bucket, targets in work.targets.items():
            if kept_since is not None and bucket < kept_since:
                log.warning("bucket_kept_as_it_is", tier=self.tier.name, bucket=bucket, reason="samples are gone")
                continue
            read = frames.read_frames(
                self.connection,
                target_ids=sorted(targets) if targets is not None else all_targets,
                since=bucket,
                until=self.tier.ladder.end_of(bucket),
            )
            if read:
                rows += self._finest_bucket(bucket, read)
        return rows

    def _finest_bucket(self, bucket: datetime, read: list[frames.Frame]) -> int:
        shape = Shape.of(self._layouts(read))
        lookback = self.installation.lookback
        computed = finest.compute(
            self.connection, self.tier, bucket, frames=read, shape=shape, slots=self.slots, lookback=lookback
        )
        target_of = {frame.map_id: frame.target_id for frame in read}
        for after, cells in finest.successors(self.connection, self.tier, computed, lookback=lookback).items():
            touched = {
                target_of[map_id] for map_id, places in shape.cells_by_map.items() if cells.reshape(-1)[places].any()
            }
            self._mark(self.tier, after, due=self.now, target_ids=sorted(touched))
        return self._store(computed)

    def _layouts(self, read: Iterable[frames.Frame]) -> dict[int, Layout]:
        lengths: dict[int, int] = {}
        for frame in read:
            lengths[frame.map_id] = max(len(frame.values), lengths.get(frame.map_id, 0))
        layouts = self.layouts.read(self.connection, lengths)
        if not all(layout.is_placed for layout in layouts.values()):
            blocks.place_new_series(self.connection, self.shard_id)
            layouts = self.layouts.read(self.connection, lengths)
            if not all(layout.is_placed for layout in layouts.values()):
                raise AssertionError("a series that a frame has is placed by the shard of its target")
        self.complete_layouts.update(layouts)
        return layouts

    def coarse(self, work: ledger.Work) -> int:
        """From the rollups of the tier that this one is built from."""
        parent = self.installation.tier(self.tier.parent_id or 0)
        if parent is None:
            return 0
        kept_since = catalog.dropped_before(self.connection, "rollup", tier_id=parent.id)
        rows = 0
        for bucket in work.targets:
            if kept_since is not None and bucket < kept_since:
                log.warning("bucket_kept_as_it_is", tier=self.tier.name, bucket=bucket, reason="its inputs are gone")
                continue
            computed = coarse.compute(
                self.connection, self.tier, parent, bucket, shard_id=self.shard_id, slots=self.slots
            )
            if computed is not None:
                rows += self._store(computed)
        return rows

    def _store(self, computed: Computed) -> int:
        """Write the rows that changed, and mark the tiers that are built from this one."""
        lines = np.asarray(computed.changed.any(axis=1) & (computed.rollups.statistics.count > 0).any(axis=1))
        if not lines.any():
            return 0
        start, end = computed.bucket, self.tier.ladder.end_of(computed.bucket)
        partitions.ensure(self.connection, self.tier.partitions, since=start, until=end)
        bucket = Bucket(self.tier.id, self.tier.is_finest, start)
        rows = write_rollups(self.connection, bucket, grid=computed.grid, rollups=computed.rollups, lines=lines)
        for above in self.installation.built_from(self.tier.id):
            # A coarser bucket follows when its part has ended: an open hour is written at each 5m, not at each 1m.
            self._mark(above, above.ladder.start_of(start), due=max(self.now, end), target_ids=[None])
        return rows

    def _mark(self, tier: TierEntry, bucket: datetime, *, due: datetime, target_ids: Iterable[int | None]) -> None:
        marks: Iterator[ledger.Mark] = (
            ledger.Mark(tier.id, self.shard_id, bucket, due, target_id, self.backfill) for target_id in target_ids
        )
        ledger.mark(self.connection, marks, now=self.now)
