"""The series of a spooled file as they are to be registered: by target, each once, with its kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from aggregator.exposition.history_kinds import Names
from aggregator.exposition.series import Kind, SeriesKey
from aggregator.exposition.strict import Named
from aggregator.stages.collect.spool_targets import ImportedTarget, TargetNumbers

Labels = tuple[tuple[str, str], ...]
#: Job and instance: all series of a target have them.
_ALWAYS_COMMON = 2


@dataclass(frozen=True)
class TargetSeries:
    """A target with its series. `labels`: those that all of its series have, job and instance among them."""

    target: ImportedTarget
    labels: dict[str, str]
    keys: tuple[SeriesKey, ...]


@dataclass(frozen=True)
class FileSeries:
    """All series of a file.

    `target` and `place` (int64): for each series, as the file's reader counts them, the number of its target and its
    place in that target's keys. Several may have one place: labels in another order, or an empty one.
    """

    targets: tuple[TargetSeries, ...]
    target: npt.NDArray[np.int64]
    place: npt.NDArray[np.int64]


@dataclass
class _Gathered:
    """What is known of a target so far: its series without their kinds, in order, and the labels that all have."""

    places: dict[tuple[str, Labels], int] = field(default_factory=dict)
    common: dict[str, str] | None = None

    def place(self, metric: str, labels: Labels) -> int:
        return self.places.setdefault((metric, labels), len(self.places))

    def narrow(self, labels: Labels) -> None:
        if self.common is None:
            self.common = dict(labels)
        elif len(self.common) > _ALWAYS_COMMON:
            has = set(labels)
            self.common = {name: text for name, text in self.common.items() if (name, text) in has}


def gather_series(
    named: Iterable[Named], *, source: str | None, decide: Callable[[Names], Mapping[str, Kind]]
) -> FileSeries:
    """The series of a file, in the order of its reader; `decide` gives the kind of each metric of all the names."""
    numbers = TargetNumbers(source)
    gathered: list[_Gathered] = []
    targets: list[int] = []
    places: list[int] = []
    for metric, labels in _complete(named, numbers):
        number = numbers.numbers[numbers.target(dict(labels))]
        if number == len(gathered):
            gathered.append(_Gathered())
        targets.append(number)
        places.append(gathered[number].place(metric, labels))
        gathered[number].narrow(labels)
    kinds = decide(Names.of(series for one in gathered for series in one.places))
    return FileSeries(
        tuple(
            TargetSeries(target, one.common or {}, _keys(one.places, kinds))
            for target, one in zip(numbers.numbers, gathered, strict=True)
        ),
        np.array(targets, dtype=np.int64),
        np.array(places, dtype=np.int64),
    )


def _keys(places: Iterable[tuple[str, Labels]], kinds: Mapping[str, Kind]) -> tuple[SeriesKey, ...]:
    return tuple(SeriesKey(metric, labels, kinds[metric]) for metric, labels in places)


def _complete(named: Iterable[Named], numbers: TargetNumbers) -> Iterator[Named]:
    """The series with job and instance, and without empty labels. A label that many have is one object."""
    pairs: dict[tuple[str, str], tuple[str, str]] = {}
    metrics: dict[str, str] = {}
    for metric, labels in named:
        numbers.add([(metric, labels)])
        of_target = numbers.target(dict(labels)).labels
        whole = sorted({**{name: text for name, text in labels if text}, **dict(of_target)}.items())
        yield metrics.setdefault(metric, metric), tuple(pairs.setdefault(pair, pair) for pair in whole)
