"""From what a collector read to a batch: the registered series of each value, as a tuple that stays one object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from aggregator.collectors.labels import Labelling
from aggregator.exposition.series import Kind, SeriesKey

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aggregator.collectors.protocol import Target
    from aggregator.config.source_model import BaseSource


class Sample(NamedTuple):
    """One value, under the name and labels that the target itself gives (no target labels yet)."""

    series: SeriesKey
    value: float


def gauge(metric: str, value: float, **labels: str) -> Sample:
    """A sample of a value that goes up and down; give the labels sorted by name."""
    return Sample(SeriesKey(metric, tuple(labels.items()), Kind.GAUGE), value)


def counter(metric: str, value: float, **labels: str) -> Sample:
    """A sample of a value that only grows until it is reset; give the labels sorted by name."""
    return Sample(SeriesKey(metric, tuple(labels.items()), Kind.COUNTER), value)


@dataclass(frozen=True)
class Placement:
    """Where the values of a list of exposed series go.

    `keys` are what is registered: first the reported series, then the kept ones. `kept` (intp) are the kept ones'
    indices in the exposed list; `duplicates` counts exposed series that another one before them had become already.
    """

    keys: tuple[SeriesKey, ...]
    kept: npt.NDArray[np.intp]
    duplicates: int

    def values(self, reported: Sequence[float], exposed: Sequence[float]) -> npt.NDArray[np.float64]:
        """The values (float64) in the order of `keys`."""
        own = np.array(exposed, dtype=np.float64)[self.kept]
        return np.concatenate((np.array(reported, dtype=np.float64), own))


@dataclass(frozen=True)
class _Known:
    source: BaseSource
    target: Target
    exposed: tuple[SeriesKey, ...]
    placement: Placement

    def holds_for(self, source: BaseSource, target: Target, exposed: tuple[SeriesKey, ...]) -> bool:
        same_source = self.source is source or self.source == source  # comparing settings costs more than all the rest
        return same_source and self.target == target and self.exposed == exposed


class Placer:
    """Remembers the last placement of each target, so that the `keys` of an unchanged target stay one object."""

    def __init__(self, reported: tuple[str, ...]) -> None:
        self._reported = reported
        self._known: dict[int, _Known] = {}

    def place(self, source: BaseSource, target: Target, exposed: tuple[SeriesKey, ...]) -> Placement:
        """Apply the source's labels, `keep` and `drop`; the reported series (gauges) are always kept."""
        known = self._known.get(target.id)
        if known and known.holds_for(source, target, exposed):
            return known.placement
        placement = self._placed(Labelling.of(source), target, exposed)
        self._known[target.id] = _Known(source, target, exposed, placement)
        return placement

    def _placed(self, labelling: Labelling, target: Target, exposed: tuple[SeriesKey, ...]) -> Placement:
        labels = tuple(sorted(target.labels))
        keys = {SeriesKey(metric, labels, Kind.GAUGE): -1 for metric in self._reported}
        duplicates = 0
        for index, (metric, own_labels, kind) in enumerate(exposed):
            key = labelling.series(metric, dict(own_labels), kind, target_labels=target.labels)
            duplicates += key is not None and keys.setdefault(key, index) != index
        kept = np.array([index for index in keys.values() if index >= 0], dtype=np.intp)
        return Placement(tuple(keys), kept, duplicates)
