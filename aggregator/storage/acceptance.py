"""Which samples may be taken: only those from which every rollup can still be made whole (ledger rule 5)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection

from aggregator.rollups.buckets import EPOCH, Ladder, from_milliseconds, milliseconds
from aggregator.storage import catalog
from aggregator.storage.catalog import Installation
from aggregator.storage.reproducible import lost_buckets

#: A sample may be so far ahead of our clock: that of its target may be wrong by as much.
AHEAD_OF_NOW = timedelta(minutes=10)

_ONE_DAY = timedelta(days=1)

_Integers = npt.NDArray[np.int64]
_Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Window:
    """The instants (UTC) from which live samples are taken."""

    oldest: datetime
    newest: datetime

    def refusal(self, at: datetime) -> str | None:
        """Why a sample of this instant is refused; None where it is taken."""
        if at < EPOCH:
            return "before_1970"
        if at > self.newest:
            return "future"
        return "too_old" if at < self.oldest else None


def live_window(connection: Connection, installation: Installation, *, now: datetime) -> Window:
    """From when on live samples are taken: within their retention, and above everything that was dropped.

    The caller holds the partitions of samples, or the answer is old before it is used.
    """
    aged = now - installation.sample_retention
    # A whole bucket, or nothing: who comes later for the first part of it is refused.
    edges = [_first_start(tier.ladder, aged) for tier in installation.finest]
    whole = complete_since(connection, installation)
    return Window(max(edges if whole is None else [*edges, whole], default=aged), now + AHEAD_OF_NOW)


def complete_since(connection: Connection, installation: Installation) -> datetime | None:
    """From when on all is kept that a sample's rollups are made of; None where nothing was ever dropped."""
    edges = [*_edges_of_samples(connection, installation), *_edges_of_rollups(connection, installation)]
    return max(edges, default=None)


def _edges_of_samples(connection: Connection, installation: Installation) -> Iterator[datetime]:
    dropped = catalog.dropped_before(connection, "sample_frame")
    if dropped is not None:
        for tier in installation.finest:
            yield _first_start(tier.ladder, dropped)


def _edges_of_rollups(connection: Connection, installation: Installation) -> Iterator[datetime]:
    """From when on a late sample still finds what its rollups are made with: every part of a bucket, and a left edge.

    Only where a tier is kept for a shorter time than samples are.
    """
    for tier_id, dropped in catalog.dropped_rollups(connection).items():
        if installation.tier(tier_id) is not None:
            yield dropped + installation.lookback
            for above in installation.built_from(tier_id):
                yield _first_start(above.ladder, dropped)


def _first_start(ladder: Ladder, instant: datetime) -> datetime:
    """The start of the first bucket that does not begin before an instant."""
    start = ladder.start_of(instant)
    return start if start == instant else ladder.end_of(start)


def refused_by_time(at_ms: _Integers, *, now: datetime) -> dict[str, _Flags]:
    """Which old samples are refused whatever is stored, by reason; `at_ms` and the answers have shape (m,)."""
    return {"before_1970": at_ms < 0, "future": at_ms > milliseconds(now + AHEAD_OF_NOW)}


def have_lost_inputs(connection: Connection, installation: Installation, at_ms: _Integers, *, target_id: int) -> _Flags:
    """Which old samples of one target have to be refused; `at_ms` and the answer have shape (m,).

    There is no limit of age: a sample is taken where nothing was ever dropped, or where all of the target's rollups
    that it could change, and those within the lookback around them, can still be made from their inputs. So an import
    may fill what was empty, and go on with what it has begun; but where a rollup has outlived its inputs nothing is
    added to it. The caller holds the partitions of samples and the target's lock.
    """
    whole = complete_since(connection, installation)
    below = np.zeros(len(at_ms), dtype=np.bool_) if whole is None else at_ms < milliseconds(whole)
    return below & _reach_lost(connection, installation, at_ms, below, target_id) if below.any() else below


def _reach_lost(
    connection: Connection, installation: Installation, at_ms: _Integers, below: _Flags, target_id: int
) -> _Flags:
    """Which samples reach, with the lookback to both sides of their bucket, into one whose inputs are gone."""
    lookback = installation.lookback
    flags = np.zeros(len(at_ms), dtype=np.bool_)
    for tier in installation.finest:
        buckets = _buckets(tier.ladder, np.unique(at_ms[below]))
        # Day by day: what is stored of a large target in a month does not fit in memory.
        for _, of_day in groupby(buckets, key=lambda bucket: (bucket[0] - EPOCH) // _ONE_DAY):
            starts, ends = zip(*of_day, strict=True)
            reach = (starts[0] - lookback, ends[-1] + lookback)
            lost = lost_buckets(connection, installation, target_id=target_id, since=reach[0], until=reach[1])
            flags |= _are_near(at_ms, lost, starts=starts, ends=ends, lookback=lookback)
    return flags


def _are_near(
    at_ms: _Integers,
    lost: Sequence[tuple[datetime, datetime]],
    *,
    starts: Sequence[datetime],
    ends: Sequence[datetime],
    lookback: timedelta,
) -> _Flags:
    """Which instants lie in the buckets (ascending) that are less than the lookback away from any of the intervals."""
    start, end = (np.array([milliseconds(edge) for edge in edges]) for edges in (starts, ends))
    is_near = np.zeros(len(start), dtype=np.bool_)
    for first, last in lost:
        begin = np.searchsorted(end, milliseconds(first - lookback), side="right")
        is_near[begin : np.searchsorted(start, milliseconds(last + lookback))] = True
    line = np.searchsorted(start, at_ms, side="right") - 1
    return np.asarray((line >= 0) & (at_ms < end[line]) & is_near[line])


def _buckets(ladder: Ladder, at_ms: _Integers) -> Iterator[tuple[datetime, datetime]]:
    """The buckets that hold these instants, which ascend."""
    place = 0
    while place < len(at_ms):
        start = ladder.start_of(from_milliseconds(int(at_ms[place])))
        end = ladder.end_of(start)
        yield start, end
        place = int(np.searchsorted(at_ms, milliseconds(end)))
