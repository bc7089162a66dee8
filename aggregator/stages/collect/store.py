"""From what targets gave to stored frames: registration first, then one short transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import structlog

from aggregator.collectors.outcome import over_the_limit
from aggregator.collectors.protocol import Batch, Collected
from aggregator.errors import SeriesLimitError
from aggregator.stages.collect.marking import SETTLE, Marking, ensure_partitions
from aggregator.stages.collect.places import PlaceCache, Places
from aggregator.storage import catalog, claims, frames, ledger, registry
from aggregator.storage.acceptance import Window, live_window
from aggregator.storage.catalog import Installation
from aggregator.storage.claims import Claim, Ended
from aggregator.storage.engine import Connection, Database
from aggregator.storage.series import MappedTarget, register
from aggregator.storage.witness import Witness, holds, renew

log = structlog.get_logger(__name__)

Clock = Callable[[], datetime]


@dataclass(frozen=True)
class _Registered:
    """What is committed before the frames: each target's shard, and by target where each batch (by its keys) goes."""

    shard_of: Mapping[int, int]
    places: Mapping[int, Mapping[int, Places]]
    times_forgotten: int


@dataclass(frozen=True)
class Stored:
    """What became of one target's collection: samples kept, and those refused by reason."""

    collected: Collected
    samples: int
    late: int
    rejected: Mapping[str, int]


@dataclass
class FrameStore:
    """Writes what a shard's targets gave."""

    database: Database
    node: str = "unnamed"
    places: PlaceCache = field(default_factory=PlaceCache)

    def __post_init__(self) -> None:
        """Forget what was read where the connection had to be made anew."""
        self.database.on_reconnect.append(self.places.forget)

    def store(
        self,
        claimed: Claim,
        collected: Sequence[Collected],
        *,
        source_id: int,
        shard_id: int | None,
        clock: Clock,
        series_limit: int | None = None,
    ) -> list[Stored]:
        """Store collections in one transaction with their outcome and their marks in the ledger.

        `shard_id` None: the targets have no shard yet and are given one. A collection whose new series would be more
        than the source may have (`series_limit`) is stored as one that failed. Raises LeaseLostError.
        """
        while True:
            times_forgotten = self.places.times_forgotten
            shard_of = self._shards(collected, source_id=source_id, shard_id=shard_id)
            placed = [self._placed(one, now=clock(), series_limit=series_limit) for one in collected]
            collected = [one for one, _ in placed]
            places = {one.target.id: found for one, found in placed}
            registered = _Registered(shard_of, places, times_forgotten)
            stored = self._try_to_write(claimed, collected, registered, clock)
            if stored is not None:
                return stored

    def _try_to_write(
        self, claimed: Claim, collected: Sequence[Collected], registered: _Registered, clock: Clock
    ) -> list[Stored] | None:
        """Write; None where the database is another one than that in which was registered."""

        def work(connection: Connection) -> list[Stored] | None:
            if registered.times_forgotten != self.places.times_forgotten:
                return None
            # Before all else: what is read of the partitions next stays true.
            frames.hold_partitions(connection)
            if not holds(connection, self.places.witness):
                log.warning("database_is_another_one")
                self.database.forget()
                return None
            return self._write(connection, claimed, collected, registered, clock)

        return self.database.run(work)

    def _shards(self, collected: Sequence[Collected], *, source_id: int, shard_id: int | None) -> dict[int, int]:
        if shard_id is not None:
            return {one.target.id: shard_id for one in collected}
        weights = {
            one.target.id: len(one.batches[0].keys) if one.error is None else registry.ASSUMED_SERIES
            for one in collected
        }
        return self.database.run(lambda connection: registry.assign_shards(connection, source_id, weights))

    def _placed(
        self, collected: Collected, *, now: datetime, series_limit: int | None
    ) -> tuple[Collected, dict[int, Places]]:
        """A collection, or the failure that it becomes, and where its batches go."""
        try:
            # That a target is down must be told of every target: its three series of our own are beyond the budget.
            limit = series_limit if collected.error is None else None
            return collected, self._places(collected, now=now, series_limit=limit)
        except SeriesLimitError as error:
            refused = over_the_limit(collected, str(error))
            return refused, self._places(refused, now=now, series_limit=None)

    def _places(self, collected: Collected, *, now: datetime, series_limit: int | None) -> dict[int, Places]:
        """Where each batch goes, by the identity of its keys; their series are committed before any frame uses them.

        All batches of a collection use one frame map: two of one instant become one frame.
        """
        target_id = collected.target.id
        found = {id(batch.keys): self.places.find(target_id, batch.keys) for batch in collected.batches}
        known = {identity: places for identity, places in found.items() if places is not None}
        if len(known) == len(found) and len({places.map_id for places in known.values()}) <= 1:
            return known
        return self._register(collected, now=now, series_limit=series_limit)

    def _register(self, collected: Collected, *, now: datetime, series_limit: int | None) -> dict[int, Places]:
        target_id = collected.target.id
        keys = list(dict.fromkeys(key for batch in collected.batches for key in batch.keys))

        def work(connection: Connection) -> tuple[MappedTarget, Witness]:
            # A new witness must not vouch for what was remembered of another database.
            if not holds(connection, self.places.witness):
                log.warning("database_is_another_one")
                self.database.forget()
            mapped = register(connection, target_id, keys, now=now, series_limit=series_limit)
            return mapped, renew(connection, self.places.witness, node=self.node, now=now)

        mapped, self.places.witness = self.database.run(work)
        place_of = dict(zip(keys, mapped.places, strict=True))
        registered: dict[int, Places] = {}
        for batch in collected.batches:
            places = np.array([place_of[key] for key in batch.keys], dtype=np.int64)
            registered[id(batch.keys)] = Places(batch.keys, mapped.map_id, places)
            self.places.add(target_id, registered[id(batch.keys)])
        return registered

    def _write(
        self,
        connection: Connection,
        claimed: Claim,
        collected: Sequence[Collected],
        registered: _Registered,
        clock: Clock,
    ) -> list[Stored]:
        now = clock()
        installation = catalog.read_installation(connection)
        acceptance = _Acceptance(installation, live_window(connection, installation, now=now), now)
        frames.lock_targets(connection, registered.shard_of)
        rows, replaced = frames.joined(
            [
                _frame(one.target.id, batch, registered.places[one.target.id][id(batch.keys)])
                for one in collected
                for batch in acceptance.accepted(one)
            ]
        )
        columns = frames.columns_of(rows)
        ensure_partitions(connection, columns)
        written = frames.write_columns(connection, columns, received_at=now)
        marking = Marking(installation, registered.shard_of, now)
        ledger.mark(connection, marking.marks(written.changed), now=now)
        # Last, so that its time is the end; where the lease was lost, all of this is taken back.
        ended = {one.target.id: Ended(one.error is None, one.duration_seconds, one.samples) for one in collected}
        claims.record(connection, claimed, ended, now=clock())
        counts = Counter(replaced) + Counter(written.differing)
        return [acceptance.outcome(one, replaced=counts[one.target.id]) for one in collected]


def _frame(target_id: int, batch: Batch, places: Places) -> frames.Frame:
    values = np.full(int(places.places.max()) + 1, np.nan)
    values[places.places] = batch.values
    return frames.Frame(target_id, places.map_id, batch.at, values)


@dataclass(frozen=True)
class _Acceptance:
    """Which samples were taken, and which of those came after their bucket had been rolled up."""

    installation: Installation
    window: Window
    now: datetime

    def accepted(self, collected: Collected) -> list[Batch]:
        return [batch for batch in collected.batches if self.window.refusal(batch.at) is None]

    def outcome(self, collected: Collected, *, replaced: int) -> Stored:
        rejected = Counter(collected.rejected)
        for batch in collected.batches:
            if (reason := self.window.refusal(batch.at)) is not None:
                rejected[reason] += _samples(batch)
        if replaced:
            rejected["replaced"] += replaced
        accepted = self.accepted(collected)
        late = sum(_samples(batch) for batch in accepted if self._is_late(batch.at))
        return Stored(collected, sum(_samples(batch) for batch in accepted), late, dict(rejected))

    def _is_late(self, at: datetime) -> bool:
        return any(
            tier.ladder.end_of(tier.ladder.start_of(at)) + SETTLE < self.now for tier in self.installation.finest
        )


def _samples(batch: Batch) -> int:
    return int(np.count_nonzero(~np.isnan(batch.values)))
