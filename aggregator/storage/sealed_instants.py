"""The clocks of sealed samples as they were read: at which instants there are samples, and which of them are meant."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aggregator.rollups.packed import unpack
from aggregator.storage.sealed_samples import Integers, microseconds_of
from aggregator.storage.sealed_wire import Read, unwire

KEYS = ("target_id", "map_id", "start", "clock")
Key = tuple[int, int, int, int]
#: For the instants of a target (as on the wire, ascending) whether each is meant.
Meant = Callable[[int, Integers], npt.NDArray[np.bool_]]


def keys_of(read: Read) -> Iterator[Key]:
    """The key of the clock that each row has, or is."""
    return zip(*(read.integers(name).tolist() for name in KEYS), strict=True)


@dataclass(frozen=True)
class Instants:
    """What is meant of one clock: its key, how many `samples` its rows have, and of those that are meant the `places`.

    `at`, `received_at`: of those, as on the wire. `places` (from 0) ascend; int64, all of one shape.
    """

    key: Key
    samples: int
    places: Integers
    at: Integers
    received_at: Integers

    @property
    def target_id(self) -> int:
        """Whose samples they are."""
        return self.key[0]

    @property
    def map_id(self) -> int:
        """By which frame map."""
        return self.key[1]


def instants_of(clocks: Read, meant: Meant) -> dict[Key, Instants]:
    """The clocks that have any instant that is meant."""
    found: dict[Key, Instants] = {}
    keys, lengths = list(keys_of(clocks)), clocks.integers("samples")
    for samples in np.unique(lengths).tolist():
        lines = np.flatnonzero(lengths == samples).tolist()
        read = clocks.only(lines)
        at = read.integers("start")[:, None] + microseconds_of(unpack(unwire(read, "at", buckets=samples)))
        received_at = at + microseconds_of(unpack(unwire(read, "received", buckets=samples)))
        for place, line in enumerate(lines):
            chosen = np.flatnonzero(meant(keys[line][0], at[place]))
            if len(chosen):
                found[keys[line]] = Instants(keys[line], samples, chosen, at[place][chosen], received_at[place][chosen])
    return found
