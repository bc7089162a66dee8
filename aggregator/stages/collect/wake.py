"""Waking a source: find its targets, and say which shards are to be collected, and where."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from aggregator.collectors import selftest
from aggregator.collectors.discovery import Discoverer
from aggregator.config.source_model import BaseSource, CommandSource, HostSource, PrometheusSource, SelftestSource
from aggregator.storage import registry, runs
from aggregator.storage.engine import Connection, Database
from aggregator.storage.future import free_slots
from aggregator.storage.registry import ShardEntry, TargetEntry

log = structlog.get_logger(__name__)

#: A node that was not seen for so long gets no slots of its own: nobody would read them.
NODE_GONE = timedelta(seconds=90)
#: How often targets are brought up to date even though nothing seems to have changed.
SYNC_AGAIN = timedelta(minutes=5)


@dataclass
class Wake:
    """Finds the shards of a source, with what its process remembers of the targets."""

    database: Database
    discoverer: Discoverer = field(default_factory=Discoverer)
    synced: dict[int, tuple[datetime, tuple[TargetEntry, ...]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Forget what was synced where the connection had to be made anew."""
        self.database.on_reconnect.append(self.synced.clear)

    def shards(self, source_id: int, source: BaseSource, *, slot: datetime | None, now: datetime) -> list[ShardEntry]:
        """The shards to be collected in a slot (None: by hand), after the source's targets were brought up to date."""

        def work(connection: Connection) -> tuple[tuple[TargetEntry, ...] | None, list[ShardEntry]]:
            if slot is not None:
                freed = free_slots(connection, now=now)
                if freed is not None:
                    log.warning("slots_of_the_future_freed", collections=freed)
                runs.woken(connection, f"collect:{source.name}", slot=slot, interval=source.interval, now=now)
            seen_since = now - NODE_GONE
            entries = self._entries(connection, source, seen_since=seen_since)
            is_due = self._is_due(source_id, entries, now=now)
            if is_due:
                _sync(connection, source_id, entries, now=now)
            return entries if is_due else None, registry.collectable_shards(
                connection, source_id, seen_since=seen_since
            )

        synced, shards = self.database.run(work)
        if synced is not None:
            self.synced[source_id] = (now, synced)
        return shards

    def _is_due(self, source_id: int, entries: tuple[TargetEntry, ...], *, now: datetime) -> bool:
        """Whether the targets changed; now and then all the same, for another process may have changed them back."""
        at, synced = self.synced.get(source_id, (now - SYNC_AGAIN, ()))
        return synced != entries or now - at >= SYNC_AGAIN

    def _entries(self, connection: Connection, source: BaseSource, *, seen_since: datetime) -> tuple[TargetEntry, ...]:
        if isinstance(source, PrometheusSource):
            found = self.discoverer.discover(source)
            for fault in found.faults:
                log.warning("discovery_fault", source=source.name, fault=fault)
            return tuple(TargetEntry(target.address, target.labels) for target in found.targets)
        if isinstance(source, HostSource | CommandSource):
            nodes = registry.live_nodes(connection, seen_since=seen_since)
            chosen = {name: node_id for name, node_id in nodes.items() if not source.nodes or name in source.nodes}
            return tuple(TargetEntry(name, _labels(source, name), node_id) for name, node_id in chosen.items())
        if isinstance(source, SelftestSource):
            return (TargetEntry(selftest.ADDRESS, _labels(source, selftest.ADDRESS)),)
        raise AssertionError(f"a source of kind {type(source).__name__} has no way to find its targets")


def _labels(source: BaseSource, instance: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted({**source.labels, "job": source.name, "instance": instance}.items()))


def _sync(connection: Connection, source_id: int, entries: tuple[TargetEntry, ...], *, now: datetime) -> None:
    registry.sync_targets(connection, source_id, entries, now=now)
    for node_id in sorted({entry.node_id for entry in entries if entry.node_id is not None}):
        registry.ensure_node_shard(connection, source_id, node_id)
    if any(entry.node_id is None for entry in entries):
        registry.ensure_intake(connection, source_id)
