"""Spans: the stretches of time of which a sealed row holds one series."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from aggregator.rollups.buckets import Ladder
from aggregator.storage.partitions import SAMPLES, Partitioned

#: A row has at most so many buckets: longer ones take less, but a short range would unpack more than it reads.
MOST_BUCKETS = 256
#: Samples are sealed by so many hours, whatever their interval: all targets have the same spans.
SAMPLES_LENGTH = timedelta(hours=4)


@dataclass(frozen=True)
class Spans:
    """The spans of a tier, or of samples: all of one length, which divides a partition, and so within one."""

    partitioned: Partitioned
    length: timedelta

    def bounds(self, instant: datetime) -> tuple[datetime, datetime]:
        """The half-open interval (UTC) of the span that holds an instant."""
        first, _ = self.partitioned.bounds(instant)
        start = first + (instant - first) // self.length * self.length
        return start, start + self.length


SAMPLE_SPANS = Spans(SAMPLES, SAMPLES_LENGTH)


def spans_of(ladder: Ladder, partitioned: Partitioned) -> Spans | None:
    """The spans of a tier; None for one whose buckets differ in length or straddle partitions: it is not sealed.

    They have the most buckets, up to `MOST_BUCKETS`, of which some fill a partition.
    """
    buckets, rest = divmod(partitioned.width, ladder.step)
    first, _ = partitioned.bounds(ladder.start_of(_ANY))
    if ladder.is_calendar or rest or ladder.start_of(first) != first:
        return None
    parts = -(-buckets // MOST_BUCKETS)
    while buckets % parts:
        parts += 1
    return Spans(partitioned, buckets // parts * ladder.step)


_ANY = datetime.fromisoformat("2026-01-01T00:00:00+00:00")
