"""Statistics from samples, and their merge: equal to exact arithmetic, whatever the values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.rollups.merge import merge
from aggregator.rollups.reduce import Edge, reduce_samples
from aggregator.rollups.statistics import Statistics
from tests import oracle

STEP_MS, LOOKBACK_MS = 60_000, 300_000
VALUES = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e15, max_value=1e15)
COUNTS = st.floats(allow_nan=False, allow_infinity=False, min_value=0, max_value=1e12)


def samples_of(values: st.SearchStrategy[float]) -> st.SearchStrategy[dict[int, float]]:
    return st.dictionaries(st.integers(0, 10 * STEP_MS - 1), values, max_size=40)


def buckets_of(samples: dict[int, float], *, counter: bool) -> list[Statistics]:
    """The ten buckets of one series, each with the edge that the ones before it leave."""
    edge, result = Edge.unknown(1), []
    for start in range(0, 10 * STEP_MS, STEP_MS):
        inside = sorted((at, value) for at, value in samples.items() if start <= at < start + STEP_MS)
        statistics = reduce_samples(
            np.array([[value] for _, value in inside]).reshape(-1, 1),
            np.array([[at] for at, _ in inside], dtype=np.int64).reshape(-1, 1),
            start_ms=start,
            edge=edge,
            lookback_ms=LOOKBACK_MS,
            is_counter=np.array([counter]),
        )
        edge = edge.after(statistics, start_ms=start)
        result.append(statistics)
    return result


def assert_is(statistics: Statistics, expected: dict[str, float], *, scale: float) -> None:
    assert statistics.count[0] == expected["count"]
    for name in expected.keys() - {"count", "stddev"}:
        tolerance = scale * 1e-12
        assert getattr(statistics, name)[0] == pytest.approx(expected[name], rel=1e-12, abs=tolerance), name
    if "stddev" in expected:
        stddev = math.sqrt(statistics.m2[0] / statistics.count[0])
        assert stddev == pytest.approx(expected["stddev"], rel=1e-9, abs=scale * 1e-9 + oracle.LEAST_DEVIATION)


@given(samples_of(VALUES))
def test_gauges_equal_exact_arithmetic_in_every_bucket_and_merged(samples: dict[int, float]) -> None:
    scale = max((abs(value) for value in samples.values()), default=1.0)
    buckets = buckets_of(samples, counter=False)
    for place, statistics in enumerate(buckets):
        expected = oracle.gauge(samples.items(), place * STEP_MS, (place + 1) * STEP_MS)
        assert_is(statistics, expected, scale=scale)
    assert_is(merge(buckets), oracle.gauge(samples.items(), 0, 10 * STEP_MS), scale=scale)


@given(samples_of(COUNTS))
def test_counters_equal_exact_arithmetic_and_increases_add_up(samples: dict[int, float]) -> None:
    scale = max((abs(value) for value in samples.values()), default=1.0)
    buckets = buckets_of(samples, counter=True)
    for place, statistics in enumerate(buckets):
        start, end = place * STEP_MS, (place + 1) * STEP_MS
        assert_is(statistics, oracle.counter(samples.items(), start, end, lookback_ms=LOOKBACK_MS), scale=scale)
    whole = oracle.counter(samples.items(), 0, 10 * STEP_MS, lookback_ms=LOOKBACK_MS)
    assert_is(merge(buckets), whole, scale=scale)


def test_the_deviation_is_right_at_a_large_offset() -> None:
    samples = {place * 1_000: 1e15 + value for place, value in enumerate([1.0, 4.0, 7.0, 3.0])}
    statistics = buckets_of(samples, counter=False)[0]
    assert math.sqrt(statistics.m2[0] / 4) == pytest.approx(np.std([1.0, 4.0, 7.0, 3.0]), rel=1e-12)


@given(st.lists(st.sampled_from([math.inf, -math.inf, 1e308, -1e308, 0.0, math.nan]), max_size=8))
def test_extreme_values_abort_nothing(values: list[float]) -> None:
    samples = {place * 1_000: value for place, value in enumerate(values)}
    for counter in (False, True):
        buckets = buckets_of(samples, counter=counter)
        assert buckets[0].count[0] == sum(not math.isnan(value) for value in values)
        assert merge(buckets).count[0] == buckets[0].count[0]


@given(st.integers(0, 2**32 - 1), st.integers(2, 9))
def test_equal_samples_give_equal_bits_whatever_lies_beside_them(seed: int, width: int) -> None:
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(7, width)) * 1e9
    at = np.repeat(np.arange(7, dtype=np.int64)[:, None] * 1_000, width, axis=1)

    def reduced(columns: slice) -> Statistics:
        count = values[:, columns].shape[1]
        return reduce_samples(
            values[:, columns],
            at[:, columns],
            start_ms=0,
            edge=Edge.unknown(count),
            lookback_ms=LOOKBACK_MS,
            is_counter=np.zeros(count, dtype=bool),
        )

    whole = reduced(slice(None))
    for place in range(width):
        alone = reduced(slice(place, place + 1))
        for name in ("sum", "m2", "min", "max"):
            assert getattr(alone, name)[0] == getattr(whole, name)[place]
