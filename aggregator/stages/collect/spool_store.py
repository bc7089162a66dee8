"""The second phase of an import: a complete spool is stored, oldest samples first, and rolled up as it goes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np

from aggregator.exposition.history_kinds import Names, decide_kinds
from aggregator.exposition.series import Kind
from aggregator.stages.collect.history import History, HistoryStore, HistoryStored
from aggregator.stages.collect.spool import SpoolReader, added
from aggregator.stages.collect.spool_distances import median_interval
from aggregator.stages.collect.spool_parts import Samples, State, read_series, read_state, write_json
from aggregator.stages.collect.spool_series import FileSeries, gather_series
from aggregator.storage.history_targets import HistoryTarget
from aggregator.storage.registered_kinds import registered_kinds

#: Once so many samples are stored, their days are rolled up before more are: the ledger stays short.
ROLL_UP_SAMPLES = 1_000_000
_STORED = "stored.json"


@dataclass(frozen=True)
class Stored:
    """What became of a spool's samples so far, and from which key on there is more to be stored."""

    since: int = 0
    samples: int = 0
    replaced: int = 0
    unchanged: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    shard_ids: tuple[int, ...] = ()

    @property
    def handled(self) -> int:
        """How many samples have been stored or refused."""
        return self.samples + sum(self.refused.values())

    def plus(self, one: HistoryStored, *, shard_id: int) -> Stored:
        """This and one more call's samples, which went to a shard."""
        return replace(
            self,
            samples=self.samples + one.samples,
            replaced=self.replaced + one.replaced,
            unchanged=self.unchanged + one.unchanged,
            refused=added(self.refused, dict(one.refused)),
            shard_ids=tuple(sorted({*self.shard_ids, shard_id})),
        )


@dataclass(frozen=True)
class _File:
    """What a spool says of its file as a whole."""

    series: FileSeries
    distances: Mapping[str, Mapping[str, int]]


@dataclass
class SpoolStore:
    """Stores one spool.

    `interval` is that of sources that do not exist yet (None: as the file shows). `roll_up` is called with the ids of
    all shards that were written to, in the end and now and then; it returns when nothing of theirs is due. `progress`
    is told after each target.
    """

    root: Path
    history: HistoryStore
    source: str | None
    interval: timedelta | None
    clock: Callable[[], datetime]
    roll_up: Callable[[frozenset[int]], None]
    progress: Callable[[Stored], None]
    _targets: dict[int, HistoryTarget] = field(default_factory=dict)

    def run(self) -> Stored:
        """Store what has not been stored; gives what became of all samples."""
        file = self._read_file()
        reader = SpoolReader.open(self.root)
        stored = self._read_progress()
        rolled_up, day = stored.handled, 0
        for window in reader.windows(stored.since):
            if window.day > day and stored.handled - rolled_up >= ROLL_UP_SAMPLES:
                self.roll_up(frozenset(stored.shard_ids))
                rolled_up = stored.handled
            day = window.day
            stored = replace(self._store(stored, reader.read(window), file), since=window.until)
            write_json(self.root / _STORED, asdict(stored))
        self.roll_up(frozenset(stored.shard_ids))
        return stored

    def _read_file(self) -> _File:
        state = read_state(self.root)
        series = gather_series(read_series(self.root), source=self.source, decide=partial(self._decide_kinds, state))
        return _File(series, state.distances)

    def _decide_kinds(self, state: State, names: Names) -> dict[str, Kind]:
        registered = self.history.database.run(partial(registered_kinds, metrics=names.metrics))
        return decide_kinds(names, types=state.types, registered=registered)

    def _read_progress(self) -> Stored:
        path = self.root / _STORED
        if not path.exists():
            return Stored()
        document = json.loads(path.read_text(encoding="utf-8"))
        return Stored(**{**document, "shard_ids": tuple(document["shard_ids"])})

    def _store(self, stored: Stored, samples: Samples, file: _File) -> Stored:
        for number, of_target in _by_target(samples, file.series):
            target = self._target(number, file)
            keys, places = file.series.targets[number].keys, file.series.place[of_target.series]
            history = History(keys, places, of_target.at_ms, of_target.values)
            stored = stored.plus(self.history.store(target, history, now=self.clock()), shard_id=target.shard_id)
            self.progress(stored)
        return stored

    def _target(self, number: int, file: _File) -> HistoryTarget:
        if number not in self._targets:
            target = file.series.targets[number]
            source = target.target.source
            interval = self.interval or median_interval(file.distances.get(source, {}))
            self._targets[number] = self.history.target(source, target.labels, interval=interval, now=self.clock())
        return self._targets[number]


def _by_target(samples: Samples, series: FileSeries) -> Iterator[tuple[int, Samples]]:
    """The samples of each target, in their order, by the target's number."""
    targets = series.target[samples.series]
    order = np.argsort(targets, kind="stable")
    numbers, starts = np.unique(targets[order], return_index=True)
    for number, places in zip(numbers.tolist(), np.split(order, starts[1:]), strict=True):
        yield number, samples.chosen(places)
