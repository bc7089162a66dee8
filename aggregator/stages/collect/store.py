"""From what targets gave to stored frames: registration first, then one short transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt

from aggregator.collectors.protocol import Batch, Collected
from aggregator.exposition.series import SeriesKey
from aggregator.rollups.buckets import Ladder
from aggregator.storage import catalog, claims, frames, ledger, partitions, registry
from aggregator.storage.catalog import Installation
from aggregator.storage.claims import Claim, Ended
from aggregator.storage.copying import from_wire_instant, wire_instants
from aggregator.storage.engine import Connection, Database
from aggregator.storage.frame_columns import FrameColumns
from aggregator.storage.series import register

Clock = Callable[[], datetime]

#: A bucket is rolled up this long after its end: a scrape that began in it has been written by then.
SETTLE = timedelta(seconds=5)
#: Key tuples of a target that are remembered: a federating Prometheus has one for each target behind it.
MOST_TUPLES = 2_000


@dataclass(frozen=True)
class Places:
    """Where the values of a batch go: a frame map, and the place in a frame of each of the batch's keys."""

    keys: tuple[SeriesKey, ...]
    map_id: int
    places: npt.NDArray[np.int64]


@dataclass
class PlaceCache:
    """The places that this process has registered. Collectors hand out the same tuple while nothing changes."""

    by_target: dict[int, dict[int, Places]] = field(default_factory=dict)
    #: How often everything was dropped: what was found before the last time must not be used after it.
    times_forgotten: int = 0

    def find(self, target_id: int, keys: tuple[SeriesKey, ...]) -> Places | None:
        """The places of this very tuple; it is known by its identity, which is its own while it is kept here."""
        return self.by_target.get(target_id, {}).get(id(keys))

    def add(self, target_id: int, places: Places) -> None:
        """Remember committed places; the oldest ones make room."""
        known = self.by_target.setdefault(target_id, {})
        known[id(places.keys)] = places
        if len(known) > MOST_TUPLES:
            del known[next(iter(known))]

    def forget(self) -> None:
        """Drop everything: behind a new connection may be another database."""
        self.by_target.clear()
        self.times_forgotten += 1


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
    places: PlaceCache = field(default_factory=PlaceCache)

    def __post_init__(self) -> None:
        """Forget what was read where the connection had to be made anew."""
        self.database.on_reconnect.append(self.places.forget)

    def store(
        self, claimed: Claim, collected: Sequence[Collected], *, source_id: int, shard_id: int | None, clock: Clock
    ) -> list[Stored]:
        """Store collections in one transaction with their outcome and their marks in the ledger.

        `shard_id` None: the targets have no shard yet and are given one. Raises LeaseLostError.
        """
        while True:
            times_forgotten = self.places.times_forgotten
            shard_of = self._shards(collected, source_id=source_id, shard_id=shard_id)
            places = {one.target.id: self._places(one, now=clock()) for one in collected}
            registered = _Registered(shard_of, places, times_forgotten)
            stored = self._try_to_write(claimed, collected, registered, clock)
            if stored is not None:
                return stored

    def _try_to_write(
        self, claimed: Claim, collected: Sequence[Collected], registered: _Registered, clock: Clock
    ) -> list[Stored] | None:
        """Write; None where the connection had to be made anew meanwhile, for what was registered may not be there."""

        def work(connection: Connection) -> list[Stored] | None:
            if registered.times_forgotten != self.places.times_forgotten:
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

    def _places(self, collected: Collected, *, now: datetime) -> dict[int, Places]:
        """Where each batch goes, by the identity of its keys; their series are committed before any frame uses them.

        All batches of a collection use one frame map: two of one instant become one frame.
        """
        target_id = collected.target.id
        found = {id(batch.keys): self.places.find(target_id, batch.keys) for batch in collected.batches}
        known = {identity: places for identity, places in found.items() if places is not None}
        if len(known) == len(found) and len({places.map_id for places in known.values()}) <= 1:
            return known
        return self._register(collected, now=now)

    def _register(self, collected: Collected, *, now: datetime) -> dict[int, Places]:
        target_id = collected.target.id
        keys = list(dict.fromkeys(key for batch in collected.batches for key in batch.keys))
        mapped = self.database.run(lambda connection: register(connection, target_id, keys, now=now))
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
        oldest = _oldest_accepted(connection, installation, now=now)
        accepted = {one.target.id: [batch for batch in one.batches if batch.at >= oldest] for one in collected}
        ended = {one.target.id: Ended(one.error is None, one.duration_seconds, one.samples) for one in collected}
        frames.lock_targets(connection, registered.shard_of)
        rows, replaced = frames.joined(
            [
                _frame(target_id, batch, registered.places[target_id][id(batch.keys)])
                for target_id, batches in accepted.items()
                for batch in batches
            ]
        )
        _ensure_partitions(connection, rows)
        written = frames.write_frames(connection, rows, received_at=now)
        marks = _marks(written.changed, registered.shard_of, installation, now=now)
        ledger.mark(connection, marks, now=now)
        # Last, so that its time is the end; where the lease was lost, all of this is taken back.
        claims.record(connection, claimed, ended, now=clock())
        acceptance = _Acceptance(installation, oldest, now)
        for target_id, count in written.differing.items():
            replaced[target_id] = replaced.get(target_id, 0) + count
        return [acceptance.outcome(one, replaced=replaced.get(one.target.id, 0)) for one in collected]


def _frame(target_id: int, batch: Batch, places: Places) -> frames.Frame:
    values = np.full(int(places.places.max()) + 1, np.nan)
    values[places.places] = batch.values
    return frames.Frame(target_id, places.map_id, batch.at, values)


@dataclass(frozen=True)
class _Acceptance:
    """Which samples were taken, and which of those came after their bucket had been rolled up."""

    installation: Installation
    oldest: datetime
    now: datetime

    def outcome(self, collected: Collected, *, replaced: int) -> Stored:
        accepted = [batch for batch in collected.batches if batch.at >= self.oldest]
        refused = sum(_samples(batch) for batch in collected.batches if batch.at < self.oldest)
        late = sum(_samples(batch) for batch in accepted if self._is_late(batch.at))
        rejected = dict(collected.rejected)
        for reason, count in (("too_old", refused), ("replaced", replaced)):
            if count:
                rejected[reason] = rejected.get(reason, 0) + count
        return Stored(collected, sum(_samples(batch) for batch in accepted), late, rejected)

    def _is_late(self, at: datetime) -> bool:
        return any(
            tier.ladder.end_of(tier.ladder.start_of(at)) + SETTLE < self.now for tier in self.installation.finest
        )


def _samples(batch: Batch) -> int:
    return int(np.count_nonzero(~np.isnan(batch.values)))


def _oldest_accepted(connection: Connection, installation: Installation, *, now: datetime) -> datetime:
    """Samples before this are refused: their bucket could not be recomputed from all of its input."""
    oldest = now - installation.sample_retention
    dropped = catalog.dropped_before(connection, "sample_frame")
    if dropped is not None and dropped > oldest:
        oldest = dropped
    # A whole bucket, or nothing: the one that holds the edge may have lost its first samples.
    whole = [tier.ladder.end_of(tier.ladder.start_of(oldest)) for tier in installation.finest]
    return max((*whole, *_edges_of_rollups(connection, installation)), default=oldest)


def _edges_of_rollups(connection: Connection, installation: Installation) -> Iterator[datetime]:
    """From when on a late sample still finds what its rollups are made with: every part of a bucket, and a left edge.

    Only where a tier is kept for a shorter time than samples are.
    """
    for tier_id, dropped in catalog.dropped_rollups(connection).items():
        if installation.tier(tier_id) is not None:
            yield dropped + installation.lookback
            for above in installation.built_from(tier_id):
                start = above.ladder.start_of(dropped)
                yield start if start == dropped else above.ladder.end_of(start)


def _ensure_partitions(connection: Connection, rows: Sequence[frames.Frame]) -> None:
    """Days that `maintain` did not foresee: only an instant of a sample's own can lie in one."""
    for day in sorted({partitions.SAMPLES.bounds(row.at)[0] for row in rows}):
        partitions.ensure(connection, partitions.SAMPLES, since=day, until=day + partitions.SAMPLES.width)


def _marks(
    changed: FrameColumns, shard_of: Mapping[int, int], installation: Installation, *, now: datetime
) -> Iterator[ledger.Mark]:
    """What is to be rolled up: each bucket of each target that was touched."""
    for tier in installation.finest:
        for target_id in np.unique(changed.target_id).tolist():
            for bucket in _buckets(tier.ladder, changed.at[changed.target_id == target_id]):
                due = max(now, tier.ladder.end_of(bucket) + SETTLE)
                yield ledger.Mark(tier.id, shard_of[target_id], bucket, due, target_id)


def _buckets(ladder: Ladder, at: npt.NDArray[np.int64]) -> Iterator[datetime]:
    """The starts of the buckets that hold these instants, which ascend."""
    place = 0
    while place < len(at):
        start = ladder.start_of(from_wire_instant(at[place]))
        yield start
        place = int(np.searchsorted(at, wire_instants([ladder.end_of(start)])[0]))
