"""Where in a target's frames the samples of a series go, remembered while collectors hand out the same keys."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from aggregator.exposition.series import SeriesKey
from aggregator.storage.witness import Witness

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
    #: Of all that is remembered here; None where nothing is.
    witness: Witness | None = None

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
        self.witness = None
        self.times_forgotten += 1
