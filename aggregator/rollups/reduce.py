"""From the samples of one bucket to its statistics: many series at once, one instant after the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aggregator.rollups.statistics import CompensatedSum, Floats, Integers, Statistics


@dataclass(frozen=True)
class Edge:
    """The last sample of each series before a bucket: its value (NaN where there is none), and when it was.

    `last_at`: milliseconds since the epoch; undefined where `last` is NaN. Shapes (n,).
    """

    last: Floats
    last_at: Integers

    @classmethod
    def unknown(cls, count: int) -> Edge:
        """No earlier sample of any series."""
        return cls(np.full(count, np.nan), np.zeros(count, dtype=np.int64))

    def after(self, statistics: Statistics, *, start_ms: int) -> Edge:
        """The edge behind a bucket that starts at `start_ms` and holds these statistics."""
        given = statistics.count > 0
        return Edge(
            np.where(given, statistics.last, self.last),
            np.where(given, statistics.last_at + start_ms, self.last_at),
        )


def reduce_samples(
    values: Floats, at_ms: Integers, *, start_ms: int, edge: Edge, lookback_ms: int, is_counter: np.ndarray
) -> Statistics:
    """Statistics of n series from up to t samples each.

    `values`: shape (t, n), NaN where a series has no sample; `at_ms`: shape (t, n), milliseconds since the epoch,
    ascending along t. `is_counter`: shape (n,), bool. A counter's first sample counts from the edge if that lies within
    the lookback; a fall is a reset, after which the counter began at 0 (as Prometheus takes it).
    """
    with np.errstate(all="ignore"):
        shape = values.shape[1:]
        total, statistics = CompensatedSum(shape), Statistics.empty(shape)
        count, last_at = statistics.count, statistics.last_at
        low, high, first, last = statistics.min, statistics.max, statistics.first, statistics.last
        for value, at in zip(values, at_ms, strict=True):
            given = ~np.isnan(value)
            total.add(value)
            np.copyto(first, value, where=given & (count == 0))
            np.copyto(last, value, where=given)
            np.copyto(last_at, at - start_ms, where=given)
            np.fmin(low, value, out=low)
            np.fmax(high, value, out=high)
            count += given
        increase, covered = _increase(values, at_ms, edge=edge, lookback_ms=lookback_ms)
        empty = count == 0
        gauge_only = empty | is_counter
        return Statistics(
            count=count,
            last_at=last_at,
            sum=np.where(gauge_only, np.nan, total.total),
            min=np.where(gauge_only, np.nan, low),
            max=np.where(gauge_only, np.nan, high),
            first=first,
            last=last,
            m2=np.where(gauge_only, np.nan, _squared_deviations(values, first, count)),
            increase=np.where(empty | ~is_counter, np.nan, increase),
            covered=np.where(empty | ~is_counter, np.nan, covered),
        )


def _squared_deviations(values: Floats, first: Floats, count: Integers) -> Floats:
    """The sum of squared deviations from the mean, of values shifted by the first one: exact at large offsets."""
    shifted_sum = CompensatedSum(first.shape)
    for value in values:
        shifted_sum.add(value - first)
    mean = shifted_sum.total / np.maximum(count, 1)
    squares = CompensatedSum(first.shape)
    for value in values:
        squares.add(((value - first) - mean) ** 2)
    # Between infinities there is no deviation to speak of; one minus another is NaN, which the sums leave out.
    is_finite = np.isfinite(mean) & ~np.isinf(values).any(axis=0)
    return np.where(is_finite, squares.total, np.nan)


def _increase(values: Floats, at_ms: Integers, *, edge: Edge, lookback_ms: int) -> tuple[Floats, Floats]:
    """The sum of deltas between consecutive samples and the seconds that they span; both of shape (n,)."""
    increase, covered_ms = CompensatedSum(edge.last.shape), np.zeros(edge.last.shape, dtype=np.int64)
    before, before_at = edge.last.copy(), edge.last_at.copy()
    for value, at in zip(values, at_ms, strict=True):
        given = ~np.isnan(value)
        passed = at - before_at
        delta = np.where(value < before, value, value - before)
        counts = given & np.isfinite(delta) & (passed <= lookback_ms) & (passed > 0)
        increase.add(np.where(counts, delta, np.nan))
        covered_ms += np.where(counts, passed, 0)
        np.copyto(before, value, where=given)
        np.copyto(before_at, at, where=given)
    return increase.total, covered_ms / 1_000.0
