"""Which dirty buckets are read and written together: one query for many, and never more than fits in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from aggregator.rollups.buckets import Ladder

#: Cells (series times buckets) that are held at once; one takes about 80 bytes, several times over.
MOST_CELLS = 150_000
#: Buckets that one transaction takes off the ledger.
MOST_BUCKETS = 240
#: Cells in a gap between two dirty buckets that are read for nothing rather than asking twice.
_MOST_IDLE_CELLS = 40_000


def buckets_at_once(cells: int) -> int:
    """How many buckets of a shard with so many cells one transaction may compute."""
    return max(1, min(MOST_BUCKETS, MOST_CELLS // max(cells, 1)))


@dataclass(frozen=True)
class Span:
    """Dirty buckets, ascending, and the half-open interval (UTC) that they and the gaps between them fill."""

    buckets: tuple[datetime, ...]
    until: datetime

    @property
    def since(self) -> datetime:
        """The start of the first bucket."""
        return self.buckets[0]


def spans(buckets: Iterable[datetime], ladder: Ladder, *, cells: int) -> Iterator[Span]:
    """The buckets in spans of at most `MOST_CELLS`, with small gaps within; `cells` is how many one bucket has."""
    most_gap = ladder.step * (_MOST_IDLE_CELLS // max(cells, 1))
    most_length = ladder.step * max(1, MOST_CELLS // max(cells, 1))
    held: list[datetime] = []
    end: datetime | None = None
    for bucket in sorted(buckets):
        if end is not None and (bucket - end > most_gap or ladder.end_of(bucket) - held[0] > most_length):
            yield Span(tuple(held), end)
            held = []
        held.append(bucket)
        end = ladder.end_of(bucket)
    if end is not None:
        yield Span(tuple(held), end)
