"""The stage rollup: take what is due off the ledger, recompute it, replace it, mark what follows."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from aggregator import telemetry
from aggregator.errors import ServerUnreachableError
from aggregator.stages.rollup.spans import buckets_at_once
from aggregator.stages.rollup.transaction import Transaction
from aggregator.storage import blocks, catalog, ledger, registry, rules, runs
from aggregator.storage.blocks import Layout, LayoutCache
from aggregator.storage.engine import Connection, Database
from aggregator.storage.witness import Witness, holds, renew

log = structlog.get_logger(__name__)

Clock = Callable[[], datetime]


class Watch(Protocol):
    """Somebody who looks after shards that may do harm."""

    def begins(self, shard_id: int) -> bool:
        """A shard is about to be rolled up; False: leave it out."""
        ...

    def rolled_up(self, shard_id: int) -> None:
        """A transaction of a shard was committed."""
        ...


@dataclass
class Rollup:
    """The stage, with what its process may remember between runs."""

    database: Database
    node: str
    layouts: LayoutCache = field(default_factory=LayoutCache)

    def __post_init__(self) -> None:
        """Forget what was read where the connection had to be made anew."""
        self.database.on_reconnect.append(self.layouts.forget)

    def run(
        self, clock: Clock, *, budget: timedelta, only: Collection[int] | None = None, watch: Watch | None = None
    ) -> int:
        """Roll up what is due, shard after shard, until nothing is left or the budget is spent; gives rows written.

        `only`: these shards and no others. What one shard raises is raised again when the others are done.
        """
        deadline = time.monotonic() + budget.total_seconds()
        rows = 0
        left_out: set[int] = set()
        failure: Exception | None = None
        while time.monotonic() < deadline:
            due = self.database.run(lambda connection: ledger.due_shards(connection, now=clock(), only=only))
            shard_id = next((shard_id for shard_id in due if shard_id not in left_out), None)
            if shard_id is None:
                break
            if watch is not None and not watch.begins(shard_id):
                left_out.add(shard_id)
                continue
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
                if watch is not None:
                    watch.rolled_up(shard_id)
        if failure is not None:
            raise failure
        return rows

    def _roll_up(self, shard_id: int, *, clock: Clock) -> int | None:
        """One transaction for one shard; None where another worker has it, rules change, or nothing is due any more."""
        started = time.monotonic()
        step = self.database.run(lambda connection: self._step(connection, shard_id, clock=clock))
        if step is None:
            return None
        self.layouts.keep(step.layouts, step.witness)
        telemetry.count("rollup_rows_total", step.rows, tier=step.tier_name)
        telemetry.observe("rollup_duration_seconds", time.monotonic() - started, tier=step.tier_name)
        return step.rows

    def _step(self, connection: Connection, shard_id: int, *, clock: Clock) -> _Step | None:
        now = clock()
        if not rules.hold(connection) or not ledger.lock_shard(connection, shard_id):
            return None
        if not holds(connection, self.layouts.witness):
            log.warning("database_is_another_one")
            self.database.forget()
        cells = blocks.cells_of_shard(connection, shard_id)
        work = ledger.take(connection, shard_id, now=now, most_buckets=buckets_at_once(cells))
        if work is None:
            return None
        installation = catalog.read_installation(connection)
        tier = installation.tier(work.tier_id)
        if tier is None:  # the tier was taken out of the configuration: nobody reads it any more
            return _Step("removed", 0, {}, self.layouts.witness)
        slots = registry.slots_of_shard(connection, shard_id)
        rule = rules.rule_of_shard(connection, shard_id)
        transaction = Transaction(
            connection, installation, tier, shard_id, work.backfill, now, self.layouts, slots, cells, rule
        )
        rows = transaction.run(work)
        runs.record(
            connection,
            stage="rollup",
            subject=f"{tier.name}:{shard_id}",
            node=self.node,
            started_at=now,
            now=clock(),
            rows=rows,
            reach=runs.Reach(min(work.targets), max(work.targets), work.backfill),
        )
        witness = self.layouts.witness
        if not self.layouts.knows(transaction.complete_layouts):
            witness = renew(connection, witness, node=self.node, now=now)
        return _Step(tier.name, rows, transaction.complete_layouts, witness)


@dataclass(frozen=True)
class _Step:
    tier_name: str
    rows: int
    layouts: dict[int, Layout]
    witness: Witness | None
