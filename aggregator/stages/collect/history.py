"""Old samples, as an import brings them: of any age, in any order, once or many times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
import structlog

from aggregator.exposition.series import SeriesKey
from aggregator.rollups.buckets import EPOCH, from_milliseconds
from aggregator.stages.collect.marking import Marking, ensure_partitions
from aggregator.stages.collect.places import PlaceCache, Places
from aggregator.storage import catalog, frames, ledger, partition_writes
from aggregator.storage.acceptance import have_lost_inputs, refused_by_time
from aggregator.storage.copying import wire_instants
from aggregator.storage.engine import Connection, Database
from aggregator.storage.frame_columns import FrameColumns
from aggregator.storage.history_targets import HistoryTarget, find_or_make_target
from aggregator.storage.partitions import SAMPLES
from aggregator.storage.series import MappedTarget, register
from aggregator.storage.witness import Witness, holds, renew

log = structlog.get_logger(__name__)

#: Days that one transaction writes to: each takes locks, of which the server has a few thousand for all sessions.
MOST_DAYS = 30

_MICROSECONDS_PER_MILLISECOND = 1_000
_DAY_MS = SAMPLES.width // timedelta(milliseconds=1)


@dataclass(frozen=True)
class History:
    """Samples of one target, in any order: of two of a series and an instant the later in the arrays counts.

    `series`: int64 (m,), which of `keys` each belongs to; `at_ms`: int64 (m,), milliseconds since the epoch; `values`:
    float64 (m,), NaN is no sample. Hand out the same tuple `keys` while it does not change: it is known by identity.
    """

    keys: tuple[SeriesKey, ...]
    series: npt.NDArray[np.int64]
    at_ms: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]

    def only(self, chosen: npt.NDArray[np.bool_]) -> History:
        """The chosen samples; `chosen` has shape (m,)."""
        return History(self.keys, self.series[chosen], self.at_ms[chosen], self.values[chosen])


@dataclass(frozen=True)
class HistoryStored:
    """What became of samples: all that were given are in `samples` or in `refused`, by reason.

    Of the samples that were taken, `unchanged` stood there already with the same value, and `replaced` took the place
    of another value (a stored one, or an earlier one of the same call).
    """

    samples: int
    replaced: int
    refused: Mapping[str, int]
    unchanged: int = 0

    def plus(self, other: HistoryStored) -> HistoryStored:
        """Both in one."""
        return HistoryStored(
            self.samples + other.samples,
            self.replaced + other.replaced,
            dict(Counter(self.refused) + Counter(other.refused)),
            self.unchanged + other.unchanged,
        )


@dataclass
class HistoryStore:
    """Stores old samples, with what its process may remember between calls."""

    database: Database
    node: str = "unnamed"
    places: PlaceCache = field(default_factory=PlaceCache)

    def __post_init__(self) -> None:
        """Forget what was read where the connection had to be made anew."""
        self.database.on_reconnect.append(self.places.forget)

    def target(self, source: str, labels: Mapping[str, str], *, interval: timedelta, now: datetime) -> HistoryTarget:
        """The target of a source that has these labels (`job` and `instance` among them), made where there is none."""
        return self.database.run(
            lambda connection: find_or_make_target(connection, source, labels, interval=interval, now=now)
        )

    def store(self, target: HistoryTarget, history: History, *, now: datetime) -> HistoryStored:
        """Store samples of any age and mark the buckets that they change, as backfill; what changes nothing marks none.

        One transaction for each `MOST_DAYS` days. A call that was interrupted may be repeated as a whole.
        """
        given = history.only(~np.isnan(history.values))
        refused = refused_by_time(given.at_ms, now=now)
        counts = {reason: int(np.count_nonzero(flags)) for reason, flags in refused.items() if flags.any()}
        stored = HistoryStored(0, 0, counts)
        for part in _parts(given.only(~np.logical_or.reduce(list(refused.values())))):
            stored = stored.plus(self._store(target, part, now=now))
        return stored

    def _store(self, target: HistoryTarget, history: History, *, now: datetime) -> HistoryStored:
        while True:
            times_forgotten = self.places.times_forgotten
            places = self.places.find(target.id, history.keys) or self._register(target, history.keys, now=now)
            self._note(history, now=now)
            stored = self._try_to_write(target, history, places, times_forgotten, now)
            if stored is not None:
                return stored

    def _try_to_write(
        self, target: HistoryTarget, history: History, places: Places, times_forgotten: int, now: datetime
    ) -> HistoryStored | None:
        """Write; None where the database is another one than that in which was registered."""

        def work(connection: Connection) -> HistoryStored | None:
            if times_forgotten != self.places.times_forgotten:
                return None
            # Before all else: what is read of the partitions next stays true.
            frames.hold_partitions(connection)
            if not holds(connection, self.places.witness):
                log.warning("database_is_another_one")
                self.database.forget()
                return None
            return _write(connection, target, history, places, now=now)

        return self.database.run(work)

    def _register(self, target: HistoryTarget, keys: tuple[SeriesKey, ...], *, now: datetime) -> Places:
        def work(connection: Connection) -> tuple[MappedTarget, Witness]:
            # A new witness must not vouch for what was remembered of another database.
            if not holds(connection, self.places.witness):
                log.warning("database_is_another_one")
                self.database.forget()
            mapped = register(connection, target.id, keys, now=now, keep_map=True)
            return mapped, renew(connection, self.places.witness, node=self.node, now=now)

        mapped, self.places.witness = self.database.run(work)
        places = Places(keys, mapped.map_id, np.array(mapped.places, dtype=np.int64))
        self.places.add(target.id, places)
        return places

    def _note(self, history: History, *, now: datetime) -> None:
        """In a transaction of its own, for it may wait for that of another importer."""
        days = [from_milliseconds(day) for day in (np.unique(history.at_ms // _DAY_MS) * _DAY_MS).tolist()]
        self.database.run(
            lambda connection: partition_writes.note(connection, SAMPLES, days, table_name=SAMPLES.table, now=now)
        )


def _parts(history: History) -> Iterator[History]:
    """The samples of `MOST_DAYS` days each."""
    day = history.at_ms // _DAY_MS
    days = np.unique(day)
    if len(days) <= MOST_DAYS:
        yield from [history] if len(days) else []
        return
    for begin in range(0, len(days), MOST_DAYS):
        here = days[begin : begin + MOST_DAYS]
        yield history.only((day >= here[0]) & (day <= here[-1]))


def _write(
    connection: Connection, target: HistoryTarget, history: History, places: Places, *, now: datetime
) -> HistoryStored:
    frames.lock_targets(connection, [target.id])
    installation = catalog.read_installation(connection)
    gone = have_lost_inputs(connection, installation, history.at_ms, target_id=target.id)
    kept = history.only(~gone)
    gathered = FrameColumns.of_samples(
        target_id=target.id,
        map_id=places.map_id,
        at=kept.at_ms * _MICROSECONDS_PER_MILLISECOND + wire_instants([EPOCH])[0],
        place=places.places[kept.series],
        value=kept.values,
    )
    ensure_partitions(connection, gathered.frames)
    written = frames.write_columns(connection, gathered.frames, received_at=now)
    marking = Marking(installation, {target.id: target.shard_id}, now, backfill=True)
    ledger.mark(connection, marking.marks(written.changed), now=now)
    replaced = gathered.replaced + sum(written.differing.values())
    refused = {"samples_gone": int(np.count_nonzero(gone))} if gone.any() else {}
    return HistoryStored(len(kept.values), replaced, refused, len(kept.values) - written.added - replaced)
