"""One bucket's stored rollups against what they must be: every way in which a value can be wrong, as mismatches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from aggregator.rollups.buckets import from_milliseconds
from aggregator.rollups.statistics import Integers, Statistics
from aggregator.stages.verify import selftest
from aggregator.stages.verify.compare import Chosen, contradictions, differences
from aggregator.stages.verify.recompute import FromRollups, Given
from aggregator.stages.verify.report import Findings, Mismatch
from aggregator.storage import verify_inputs
from aggregator.storage.catalog import TierEntry
from aggregator.storage.engine import Connection
from aggregator.storage.rollup_matrix import Stored
from aggregator.storage.verify_inputs import ShardSeries

#: The shortest interval that a source can have: a bucket has at most one slot each second.
_SHORTEST_INTERVAL = timedelta(seconds=1)
#: As many as are stored of more: 31 bits.
_MOST_SLOTS = 2**31 - 1


@dataclass(frozen=True)
class _Wrong:
    """A value of one series (its place among the judged ones) that is not what it must be."""

    place: int
    column: str
    stored: float | None
    recomputed: float | None = None
    expected: str = ""


@dataclass(frozen=True)
class Gone:
    """What may no longer be kept: some of the bucket's input, or every trace of the sample before it."""

    input: bool
    edge: bool = False


@dataclass(frozen=True)
class Judge:
    """Judges rollups of one tier of some series of a shard.

    `members` are those of the source kind selftest; `interval`: the shortest that the shard may have been collected by;
    `kept_since`: from when on the tier has all its buckets (None: from ever on).
    """

    connection: Connection
    findings: Findings
    tier: TierEntry
    series: ShardSeries
    members: dict[int, selftest.Member]
    lookback: timedelta
    interval: timedelta
    kept_since: datetime | None

    def rollups(self, rows: Stored, recomputed: Statistics, *, bucket: datetime, gone: Gone) -> bool:
        """Compare one bucket; where input is gone, those series that still have all of theirs. False: it is empty.

        Nothing partial is ever taken in there: as many samples as are stored mean that all of them are there.
        """
        stored = self.series.statistics_of(rows)
        present = stored.count != 0
        if self.kept_since is None or bucket >= self.kept_since:
            present |= recomputed.count > 0
        if not present.any():
            return False
        unknown = present & (recomputed.count < stored.count) & gone.input
        unknown |= present & (recomputed.covered < stored.covered) & gone.edge
        self.findings.not_verifiable += int(np.count_nonzero(unknown))
        self.findings.rollups += int(np.count_nonzero(present & ~unknown))
        is_counter = self.series.is_counter
        wrong: list[_Wrong] = []
        for column, where in differences(stored, recomputed, is_counter=is_counter, is_finest=self.tier.is_finest):
            wrong += _of_column(column, where & present & ~unknown, stored, recomputed=recomputed)
        for column, where, expected in contradictions(stored, is_counter=is_counter):
            wrong += _of_column(column, where & unknown, stored, expected=expected)
        said = {(one.place, one.column) for one in wrong}
        laws = selftest.broken_laws(self.members, stored, tier=self.tier, bucket=bucket, lookback=self.lookback)
        wrong += [
            _Wrong(law.place, law.column, _value(stored, law.column, law.place), None, law.expected)
            for law in laws
            if (law.place, law.column) not in said
        ]
        self._add(bucket, wrong)
        return True

    def sketches(self, stored: dict[datetime, Statistics], *, since: datetime, until: datetime) -> None:
        """The sketches of an interval: each holds as many samples as the rollup of its series."""
        totals = verify_inputs.sketch_totals(
            self.connection,
            tier_id=self.tier.id,
            block_ids=self.series.grid.block_ids.tolist(),
            since=since,
            until=until,
        )
        place_of = {key: place for place, key in enumerate(self.series.keys)}
        for bucket, block_id, position, samples in totals:
            place = place_of.get((block_id, position))
            if place is None or bucket not in stored:
                continue
            count = int(stored[bucket].count[place])
            if samples != count:
                self._add(bucket, [_Wrong(place, "sketch", samples, count)])

    def slots(self, rows: Stored, *, bucket: datetime, finer: FromRollups | None = None) -> None:
        """The slots due in a bucket: what the shortest interval allows; in a coarser tier what its finer buckets have.

        At least that, where they do not fill it. An interval that has changed since is not known: no more can be said.
        """
        least = np.zeros(len(rows.slots_due), dtype=np.int64)
        most = np.full_like(least, (self.tier.ladder.end_of(bucket) - bucket) // self.interval + 1)
        if finer is not None:
            least, most = finer.slots_due, np.where(finer.is_whole, finer.slots_due, most)
        wrong = rows.has_row & ((rows.slots_due < least) | (rows.slots_due > most))
        for line in np.flatnonzero(wrong).tolist():
            place = int(np.flatnonzero(self.series.lines == line)[0])
            expected = f"from {least[line]} to {most[line]} in its row"
            self._add(bucket, [_Wrong(place, "slots_due", int(rows.slots_due[line]), None, expected)])

    def output_slots(self, rows: Stored, recomputed: Integers, *, bucket: datetime) -> None:
        """The slots due for each output of a rule, shape (n,), which its inputs or its parts say exactly."""
        stored = self.series.slots_of(rows)
        wrong = (self.series.statistics_of(rows).count > 0) & (stored != np.minimum(recomputed, _MOST_SLOTS))
        places = np.flatnonzero(wrong).tolist()
        self._add(bucket, [_Wrong(place, "slots", int(stored[place]), int(recomputed[place])) for place in places])

    def samples(self, samples: Sequence[Given], *, bucket: datetime) -> None:
        """Samples of the source kind selftest against their functions."""
        if not self.members:
            return
        known = list(self.members)
        self.findings.samples += sum(int(np.count_nonzero(np.isin(one.columns, known))) for one in samples)
        self._add(
            bucket,
            [
                _Wrong(place, "sample", value, right, f"{right!r} at {from_milliseconds(at_ms).isoformat()}")
                for place, at_ms, value, right in selftest.wrong_samples(self.members, samples)
            ],
        )

    def _add(self, bucket: datetime, wrong: Sequence[_Wrong]) -> None:
        if not wrong:
            return
        names = verify_inputs.names_of(self.connection, {int(self.series.ids[one.place]) for one in wrong})
        for one in wrong:
            metric, labels = names[int(self.series.ids[one.place])]
            self.findings.add(
                Mismatch(self.tier.name, bucket, metric, labels, one.column, one.stored, one.recomputed, one.expected)
            )


def _of_column(
    column: str, where: Chosen, stored: Statistics, *, recomputed: Statistics | None = None, expected: str = ""
) -> Iterator[_Wrong]:
    for place in np.flatnonzero(where).tolist():
        right = None if recomputed is None else _value(recomputed, column, place)
        yield _Wrong(place, column, _value(stored, column, place), right, expected)


def _value(statistics: Statistics, column: str, place: int) -> float:
    """A value as Python knows it; counts and times stay whole numbers."""
    value: float = getattr(statistics, column)[place].item()
    return value
