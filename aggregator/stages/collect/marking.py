"""What the samples that were stored change: the partitions that they need, and the buckets to be rolled up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt

from aggregator.rollups.buckets import Ladder
from aggregator.storage import ledger, partitions
from aggregator.storage.catalog import Installation
from aggregator.storage.copying import from_wire_instant, wire_instants
from aggregator.storage.engine import Connection
from aggregator.storage.frame_columns import FrameColumns

#: A bucket is rolled up this long after its end: a scrape that began in it has been written by then.
SETTLE = timedelta(seconds=5)

_DAY_MICROSECONDS = partitions.SAMPLES.width // timedelta(microseconds=1)


def days_of(at: npt.NDArray[np.int64]) -> list[datetime]:
    """The starts of the partitions of samples that hold these instants (as on the wire), ascending."""
    # Instants are counted from a midnight, as partitions are.
    days = np.unique(at // _DAY_MICROSECONDS)
    return [from_wire_instant(int(day) * _DAY_MICROSECONDS) for day in days]


def ensure_partitions(connection: Connection, frames: FrameColumns) -> None:
    """Days that `maintain` did not foresee: only an instant of a sample's own can lie in one."""
    for day in days_of(frames.at):
        partitions.ensure(connection, partitions.SAMPLES, since=day, until=day + partitions.SAMPLES.width)


@dataclass(frozen=True)
class Marking:
    """How buckets are marked. `shard_of`: by target."""

    installation: Installation
    shard_of: Mapping[int, int]
    now: datetime
    backfill: bool = False

    def marks(self, changed: FrameColumns) -> Iterator[ledger.Mark]:
        """Each bucket of each target that was touched; live ones wait until scrapes that began in them are written."""
        for tier in self.installation.finest:
            for target_id in np.unique(changed.target_id).tolist():
                for start, end in _buckets(tier.ladder, changed.at[changed.target_id == target_id]):
                    due = max(self.now, end + SETTLE)
                    yield ledger.Mark(tier.id, self.shard_of[target_id], start, due, target_id, self.backfill)


def _buckets(ladder: Ladder, at: npt.NDArray[np.int64]) -> Iterator[tuple[datetime, datetime]]:
    """The buckets that hold these instants, which ascend."""
    place = 0
    while place < len(at):
        start = ladder.start_of(from_wire_instant(at[place]))
        end = ladder.end_of(start)
        yield start, end
        place = int(np.searchsorted(at, wire_instants([end])[0]))
