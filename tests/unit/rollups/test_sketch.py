"""Sketches keep their promise: 1 % of every quantile, whatever the doubles, and merging loses nothing."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.rollups.sketch import (
    KEY_OF_INFINITY,
    KEY_OF_ONE,
    LOG_GAMMA,
    RELATIVE_ERROR,
    Sketches,
    keys_of,
    merge,
    quantile,
    sketch_samples,
    values_of,
)

#: Subnormal doubles lie this far from each other, however small they are.
SUBNORMAL_STEP = 5e-324
ORDINARY = st.floats(-1e6, 1e6)
WILD = st.one_of(
    st.floats(allow_nan=False),
    ORDINARY,
    st.sampled_from([0.0, -0.0, 5e-324, -5e-324, 1e-308, -1e-308, 2.3e-308, 1e308, sys.float_info.max, math.inf]),
    st.integers(-37_220, 35_487).map(lambda k: min(math.exp(k * math.log(1.01 / 0.99)), sys.float_info.max)),
)
FRACTIONS = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]))


def nearest_rank(values: list[float], q: float) -> float:
    """The smallest value that at least q of the samples do not exceed."""
    return sorted(values)[max(1, math.ceil(q * len(values))) - 1]


def is_near(estimate: float, exact: float) -> bool:
    return estimate == exact or abs(estimate - exact) <= RELATIVE_ERROR * abs(exact) + SUBNORMAL_STEP


def sketch_of(values: list[float]) -> Sketches:
    return sketch_samples(np.array(values).reshape(-1, 1))


def quantile_of(values: list[float], q: float, sketch: Sketches) -> float:
    return quantile(q, sketch.keys, sketch.counts, low=min(values), high=max(values))


@given(st.lists(WILD, min_size=1, max_size=60), FRACTIONS)
def test_every_quantile_is_within_one_percent_of_the_exact_one(values: list[float], q: float) -> None:
    estimate = quantile_of(values, q, sketch_of(values))
    assert is_near(estimate, nearest_rank(values, q))
    assert min(values) <= estimate <= max(values)


@given(st.lists(WILD, min_size=1, max_size=60))
def test_a_key_stands_for_values_within_one_percent_and_keeps_their_order(values: list[float]) -> None:
    ordered = np.sort(np.array(values))
    keys = keys_of(ordered)
    # Two neighbouring doubles at the edge of two keys may change places: that is the last bit of a logarithm.
    assert all(
        low <= high or math.isclose(before, after, rel_tol=1e-11)
        for low, high, before, after in zip(keys, keys[1:], ordered, ordered[1:], strict=False)
    )
    assert all(is_near(estimate, exact) for estimate, exact in zip(values_of(keys), ordered, strict=True))
    assert (np.sign(keys) == np.sign(ordered)).all()
    assert (np.abs(keys) <= KEY_OF_INFINITY).all()


def test_at_the_edges_of_every_key_the_promise_holds() -> None:
    smallest, largest = keys_of(np.array([sys.float_info.min, sys.float_info.max]))
    edges = np.exp((np.arange(smallest, largest) - KEY_OF_ONE) * LOG_GAMMA)
    for values in (np.nextafter(edges, 0), edges, np.nextafter(edges, np.inf)):
        assert np.abs(values_of(keys_of(values)) / values - 1).max() <= RELATIVE_ERROR


def test_the_keys_of_all_doubles_are_those_that_the_comments_name() -> None:
    edges = np.array([5e-324, 1.0, sys.float_info.max, math.inf, 0.0, -0.0, -1.0, -math.inf])
    assert keys_of(edges).tolist() == [280, 37_500, 72_988, 100_000, 0, 0, -37_500, -100_000]
    assert values_of(keys_of(edges)) == pytest.approx(edges, rel=RELATIVE_ERROR)


@given(st.lists(st.lists(WILD, max_size=20), min_size=1, max_size=6), st.randoms())
def test_merged_in_any_order_sketches_are_those_of_all_samples(parts: list[list[float]], randomness: object) -> None:
    every = [value for part in parts for value in part]
    shuffled = [sketch_of(part) for part in parts]
    randomness.shuffle(shuffled)  # type: ignore[attr-defined] # hypothesis' own random.Random
    merged, whole = merge(shuffled), sketch_of(every)
    assert not merged.differs(whole, series=1).any()
    assert merged.counts.sum() == len(every)


def test_series_are_sketched_side_by_side_without_those_that_have_no_sample() -> None:
    values = np.array([[1.0, np.nan, -2.0], [1.0, np.nan, np.inf], [3.0, np.nan, np.nan]])
    sketches = sketch_samples(values)
    assert sketches.series.tolist() == [0, 0, 2, 2]
    assert sketches.totals(3).tolist() == [3, 0, 2]
    assert sketches.counts.tolist() == [2, 1, 1, 1]
    assert sketches.only(np.array([False, True, True])).keys.tolist() == [keys_of(np.array(-2.0)), KEY_OF_INFINITY]


def test_only_series_with_another_sketch_differ() -> None:
    one = sketch_samples(np.array([[1.0, 2.0, 3.0, np.nan]]))
    other = sketch_samples(np.array([[1.0, 2.5, np.nan, 4.0]]))
    assert one.differs(other, series=4).tolist() == [False, True, True, True]
    assert not one.differs(one, series=4).any()
    assert one.differs(Sketches.nothing(), series=4).tolist() == [True, True, True, False]
    assert not merge([]).differs(Sketches.nothing(), series=4).any()


@pytest.mark.parametrize("q", [-0.1, 1.1, math.nan])
def test_a_quantile_outside_of_zero_to_one_is_refused(q: float) -> None:
    with pytest.raises(ValueError, match="is not in"):
        quantile(q, np.array([1]), np.array([1]), low=0.0, high=1.0)
