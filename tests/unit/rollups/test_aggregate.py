"""Series of a group added up: exact sums, whatever their order, and what is not known."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.rollups.aggregate import aggregate, slots_of_whole, totals
from aggregator.rollups.statistics import Statistics

SIZE = 3
VALUES = st.floats(allow_nan=False, allow_infinity=False)


def gauges(sums: list[float], counts: list[int] | None = None) -> Statistics:
    """Series with these sums, each of one sample unless `counts` says more."""
    statistics = Statistics.empty((len(sums),))
    statistics.count[:] = counts or [1] * len(sums)
    for values in (statistics.sum, statistics.min, statistics.max):
        values[:] = sums
    statistics.m2[:] = 0.0
    return statistics


def counters(increases: list[float], covered: list[float]) -> Statistics:
    statistics = Statistics.empty((len(increases),))
    statistics.count[:] = 1
    statistics.increase[:] = increases
    statistics.covered[:] = covered
    return statistics


@given(st.lists(st.tuples(VALUES, st.integers(0, SIZE - 1)), max_size=40), st.randoms(use_true_random=False))
def test_sums_are_exact_to_the_last_bit_in_every_order(members: list[tuple[float, int]], randomness: object) -> None:
    groups = np.array([group for _, group in members], dtype=np.int64)
    found = aggregate(gauges([value for value, _ in members]), groups, size=SIZE)
    shuffled = list(members)
    randomness.shuffle(shuffled)  # type: ignore[attr-defined] # a Random
    again = aggregate(
        gauges([value for value, _ in shuffled]), np.array([group for _, group in shuffled], dtype=np.int64), size=SIZE
    )
    assert not found.differs(again).any()
    for group in range(SIZE):
        own = [Fraction(value) for value, one in members if one == group]
        assert found.count[group] == len(own)
        if not own:
            assert math.isnan(found.sum[group])
            continue
        exact = sum(own)
        if abs(exact) > Fraction(1.797e308):
            continue
        tolerance = abs(exact) * Fraction(2.0**-52) + sum(map(abs, own)) * Fraction(2.0**-100) + Fraction(1e-320)
        assert abs(Fraction(float(found.sum[group])) - exact) <= tolerance


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.integers(1, 9)), min_size=1, max_size=30))
def test_squared_deviations_are_those_of_all_samples(series: list[tuple[float, int]]) -> None:
    found = aggregate(
        gauges([mean * count for mean, count in series], [count for _, count in series]),
        np.zeros(len(series), dtype=np.int64),
        size=1,
    )
    samples = [Fraction(mean * count) / count for mean, count in series for _ in range(count)]
    mean = sum(samples) / len(samples)
    exact = float(sum((sample - mean) ** 2 for sample in samples))
    assert found.m2[0] == pytest.approx(exact, rel=1e-9, abs=1e-15 * max(abs(one) for one in samples) ** 2 + 1e-18)


def test_too_large_a_sum_is_infinite_and_a_sum_that_cancels_is_not() -> None:
    groups = np.array([0, 0, 1, 1, 1, 1])
    found = aggregate(gauges([1e308, 1e308, 1.7e308, 1.7e308, -1.7e308, -1.7e308]), groups, size=2)
    assert found.sum.tolist() == [math.inf, 0.0]
    assert found.m2.tolist() == [0.0, math.inf]


def test_what_one_series_does_not_know_its_group_does_not_know() -> None:
    found = aggregate(gauges([math.nan, 1.0, 2.0]), np.array([0, 0, 1]), size=2)
    assert found.count.tolist() == [2, 1]
    assert np.isnan(found.sum).tolist() == [True, False]
    found = aggregate(gauges([math.inf, -math.inf, math.inf]), np.array([0, 0, 1]), size=2)
    assert (math.isnan(found.sum[0]), found.sum[1]) == (True, math.inf)
    assert np.isnan(found.m2).all()


def test_series_without_samples_do_not_count() -> None:
    found = aggregate(gauges([5.0, 7.0], [1, 0]), np.zeros(2, dtype=np.int64), size=1)
    assert (found.count[0], found.sum[0], found.max[0]) == (1, 5.0, 5.0)


def test_a_rate_is_that_of_all_counters_together() -> None:
    found = aggregate(counters([60.0, 120.0, 0.0], [60.0, 60.0, 0.0]), np.zeros(3, dtype=np.int64), size=1)
    assert (found.increase[0], found.covered[0]) == (180.0, 60.0)
    assert np.isnan([found.sum[0], found.first[0], found.last[0]]).all()
    nothing = aggregate(counters([0.0], [0.0]), np.zeros(1, dtype=np.int64), size=1)
    assert (nothing.increase[0], nothing.covered[0]) == (0.0, 0.0)


def test_a_part_without_samples_is_taken_to_have_had_as_many_slots_as_the_others() -> None:
    parts = [(np.array([4, 0]), np.array([4, 9])), (np.array([3, 1]), np.array([5, 8]))]
    assert slots_of_whole(parts, of=10).tolist() == [45, 80]


def test_totals_of_groups() -> None:
    assert totals(np.array([1, 2, 3]), np.array([0, 2, 2]), size=3).tolist() == [1, 0, 5]
