"""The stage collect: wake a source, claim a shard's slot, read its targets, store what they gave (ledger rule 1)."""

from __future__ import annotations

import contextvars
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import structlog

from aggregator import telemetry
from aggregator.collectors.protocol import Collected, Collector, Target
from aggregator.config.source_model import BaseSource
from aggregator.errors import LeaseLostError
from aggregator.stages.collect.store import FrameStore, Stored
from aggregator.storage import claims, registry
from aggregator.storage.claims import Claim
from aggregator.storage.engine import Connection, Database
from aggregator.storage.registry import ShardEntry, StoredTarget

log = structlog.get_logger(__name__)

#: What has been collected is stored at least so often while targets still answer.
FLUSH_SECONDS = 0.5
#: Targets stored in one transaction at the most.
FLUSH_TARGETS = 100
#: How much longer than its deadline a collection may take before another worker takes it over.
LEASE_MARGIN = timedelta(seconds=20)
#: No task runs for longer (celeryconfig.py), so no lease that began earlier has anybody behind it.
LONGEST_COLLECTION = timedelta(minutes=6)
#: Targets that a collector asks at once; the others wait until one of these has ended.
TURN_TARGETS = 256


@dataclass(frozen=True)
class TargetReport:
    """How the collection of one target ended, for whoever asked for it."""

    instance: str
    up: bool
    samples: int
    duration_seconds: float
    error: str | None
    output: str | None

    def as_json(self) -> dict[str, Any]:
        """Plain values, as a task's result."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass
class Collect:
    """The stage, with what its process may remember between runs."""

    database: Database
    node: str
    collectors: Mapping[str, Collector]
    store: FrameStore = field(init=False)

    def __post_init__(self) -> None:
        """Make the store on the same connection."""
        self.store = FrameStore(self.database, self.node)

    def run(
        self,
        source_id: int,
        source: BaseSource,
        shard_id: int,
        *,
        slot: datetime | None,
        clock: Callable[[], datetime],
    ) -> list[TargetReport] | None:
        """Collect one shard's slot; None where another worker has it, or has done it.

        Without a slot it is a collection asked for by hand: it always runs, and is stored at its own time.
        """
        found = self._claim(source_id, source, shard_id, slot, clock())
        if found is None:
            return None
        shard, targets, claimed = found
        chosen = [target for target in targets if target.id in claimed.target_ids]
        reports: list[TargetReport] = []
        plain = [Target(target.id, target.address, target.labels) for target in chosen]
        with _read_ahead(self.collectors[_kind(source)], source, plain) as arriving:
            for part in _parts(arriving):
                try:
                    stored = self.store.store(
                        claimed,
                        part,
                        source_id=source_id,
                        shard_id=None if shard.is_intake else shard_id,
                        clock=clock,
                        series_limit=source.series_limit,
                    )
                except LeaseLostError:
                    log.warning("lease_lost", source=source.name, shard=shard_id, slot=slot)
                    return None
                self._record_states(chosen, stored)
                reports += [_report(one) for one in stored]
                for one in stored:
                    _count(source.name, one)
        return reports

    def _claim(
        self, source_id: int, source: BaseSource, shard_id: int, slot: datetime | None, now: datetime
    ) -> tuple[ShardEntry, list[StoredTarget], Claim] | None:
        """Claim in one committed transaction, in which the targets are read too; the loser returns at once."""
        token = uuid.uuid4()

        def work(connection: Connection) -> tuple[ShardEntry, list[StoredTarget], Claim] | None:
            shard = registry.find_shard(connection, shard_id)
            if shard is None or shard.node not in (None, self.node):
                log.warning("slot_of_another_node", source=source.name, shard=shard_id, node=shard and shard.node)
                return None
            of_shard = None if shard.is_intake else shard_id
            targets = registry.shard_targets(connection, source_id=source_id, shard_id=of_shard)
            if not targets or (slot is not None and shard.is_intake and _is_busy(connection, shard.id, slot, now)):
                return None
            claimed = claims.claim(
                connection,
                shard_id=shard.id,
                slot=slot or now,
                target_ids=[target.id for target in targets],
                node=self.node,
                now=now,
                lease=_lease(source, len(targets)),
                by_hand=slot is None,
                token=token,
            )
            if claimed is None:
                return None
            # An intake is collected now and then, and what it missed the shards of its targets count.
            is_counted = slot is not None and not shard.is_intake
            if is_counted and not claimed.is_taken_over and not claimed.is_known:
                claims.count_slot(connection, shard_id=shard.id, slot=claimed.slot, interval=source.interval)
            return shard, targets, claimed

        return self.database.run(work)

    def _record_states(self, targets: Sequence[StoredTarget], stored: Sequence[Stored]) -> None:
        """Say of a target that it went up or down, or is down for another reason; nothing where nothing changed."""
        before = {target.id: target for target in targets}
        changes = []
        for one in stored:
            was, error = before[one.collected.target.id], one.collected.error
            if was.is_up != (error is None) or (error is not None and error != was.last_error):
                changes.append(registry.StateChange(was.id, error is None, error, one.collected.started_at))
        if changes:
            self.database.run(lambda connection: registry.record_states(connection, changes))


def _is_busy(connection: Connection, shard_id: int, slot: datetime, now: datetime) -> bool:
    """Whether an earlier slot of an intake is still being collected.

    Thousands of new targets that hang take many slots, and would take all workers. Other shards are done in time.
    """
    return claims.is_running(connection, shard_id=shard_id, before=slot, within=LONGEST_COLLECTION, now=now)


def _lease(source: BaseSource, targets: int) -> timedelta:
    """How long a collection may take at the most: targets that hang are asked in turns of `TURN_TARGETS`."""
    turns = -(-targets // TURN_TARGETS)
    return source.deadline * turns + LEASE_MARGIN


def _kind(source: BaseSource) -> str:
    return str(source.kind)  # type: ignore[attr-defined] # every concrete source has its kind


@contextmanager
def _read_ahead(
    collector: Collector, source: BaseSource, targets: Sequence[Target]
) -> Iterator[queue.SimpleQueue[Collected | BaseException | None]]:
    """Run a collector in a thread of its own, so that what has arrived can be stored while a slow target is awaited."""
    arriving: queue.SimpleQueue[Collected | BaseException | None] = queue.SimpleQueue()
    abandoned = threading.Event()

    def read() -> None:
        try:
            for one in collector.collect(source, targets):
                arriving.put(one)
                if abandoned.is_set():
                    break
            arriving.put(None)
        except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that waits
            arriving.put(error)

    # Log lines of the collector have the fields of the task that waits for it.
    reader = threading.Thread(
        target=contextvars.copy_context().run, args=(read,), name=f"collect-{source.name}", daemon=True
    )
    reader.start()
    try:
        yield arriving
    finally:
        abandoned.set()


def _parts(arriving: queue.SimpleQueue[Collected | BaseException | None]) -> Iterator[list[Collected]]:
    """What arrives, in parts: whatever came within half a second of the first, or as many as one transaction takes."""
    while (first := arriving.get()) is not None:
        part = [_collected(first)]
        deadline = time.monotonic() + FLUSH_SECONDS
        ended = False
        while len(part) < FLUSH_TARGETS and (left := deadline - time.monotonic()) > 0:
            try:
                following = arriving.get(timeout=left)
            except queue.Empty:
                break
            if following is None:
                ended = True
                break
            part.append(_collected(following))
        yield part
        if ended:
            return


def _collected(item: Collected | BaseException) -> Collected:
    if isinstance(item, BaseException):
        raise item
    return item


def _report(stored: Stored) -> TargetReport:
    one = stored.collected
    instance = dict(one.target.labels).get("instance", one.target.address)
    return TargetReport(instance, one.error is None, stored.samples, one.duration_seconds, one.error, one.output)


def _count(source: str, stored: Stored) -> None:
    one = stored.collected
    telemetry.count("collections_total", source=source, outcome=one.reason or "ok")
    telemetry.observe("collect_duration_seconds", one.duration_seconds, source=source)
    telemetry.count("samples_total", stored.samples, source=source)
    if stored.late:
        telemetry.count("late_samples_total", stored.late, source=source)
    for reason, count in stored.rejected.items():
        telemetry.count("samples_rejected_total", count, source=source, reason=reason)
