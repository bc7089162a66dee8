"""What counts as equal, and what no samples at all could give."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aggregator.rollups.merge import merge
from aggregator.rollups.reduce import Edge, reduce_samples
from aggregator.rollups.statistics import Statistics
from aggregator.stages.verify.compare import contradictions, differences

values = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e150, max_value=1e150)
#: Whose squares are no longer there, or hardly.
TINY = st.floats(min_value=-1e-153, max_value=1e-153)
ANY_VALUE = st.one_of(values, TINY, st.sampled_from([math.inf, -math.inf, 1e308, -1e308, 0.0, 5e-324]))
GAUGE, COUNTER = np.array([False]), np.array([True])


def of(samples: list[float], *, is_counter: bool = False) -> Statistics:
    """The statistics of one series that is sampled each second."""
    at_ms = np.arange(len(samples), dtype=np.int64)[:, None] * 1_000
    return reduce_samples(
        np.array(samples)[:, None],
        at_ms,
        start_ms=0,
        edge=Edge.unknown(1),
        lookback_ms=300_000,
        is_counter=COUNTER if is_counter else GAUGE,
    )


def different(stored: Statistics, recomputed: Statistics, *, is_counter: bool = False) -> set[str]:
    kinds = COUNTER if is_counter else GAUGE
    return {name for name, where in differences(stored, recomputed, is_counter=kinds, is_finest=True) if where.any()}


def contradicted(stored: Statistics, *, is_counter: bool = False) -> set[str]:
    kinds = COUNTER if is_counter else GAUGE
    return {name for name, where, _ in contradictions(stored, is_counter=kinds) if where.any()}


@example(samples=[0.0, 5.5e-162], is_counter=False)  # its square is rounded to one bit
@given(samples=st.lists(ANY_VALUE, min_size=1, max_size=20), is_counter=st.booleans())
def test_what_samples_give_equals_itself_and_contradicts_nothing(samples: list[float], is_counter: bool) -> None:  # noqa: FBT001 - hypothesis gives it
    statistics = of(samples, is_counter=is_counter)
    assert different(statistics, statistics, is_counter=is_counter) == set()
    assert contradicted(statistics, is_counter=is_counter) == set()


@given(parts=st.lists(st.lists(st.one_of(values, TINY), min_size=1, max_size=6), min_size=1, max_size=6))
def test_what_is_merged_contradicts_nothing(parts: list[list[float]]) -> None:
    assert contradicted(merge([of(part) for part in parts])) == set()


@pytest.mark.parametrize("column", ["count", "first", "last", "last_at", "min", "max"])
def test_what_must_be_equal_may_not_differ_in_one_bit(column: str) -> None:
    right = of([1e15, 1e15 + 3, 1e15 + 1])
    value = getattr(right, column)
    moved = value + 1 if value.dtype.kind == "i" else np.nextafter(value, np.inf)
    assert different(replace(right, **{column: moved}), right) == {column}


@pytest.mark.parametrize(("column", "factor"), [("sum", 1e-14), ("m2", 1e-9)])
def test_what_is_added_up_may_differ_by_its_tolerance_and_not_by_more(column: str, factor: float) -> None:
    right = of([1.25, 2.5, 7.75])
    value = getattr(right, column)
    assert different(replace(right, **{column: value * (1 + 0.5 * factor)}), right) == set()
    assert different(replace(right, **{column: value * (1 + 4 * factor)}), right) == {column}


def test_values_that_cancel_out_leave_the_sum_its_rounding() -> None:
    right = of([1e15, 1.0, -1e15])
    assert right.sum.tolist() == [1.0]
    assert different(replace(right, sum=right.sum + 1e-6), right) == set()
    assert different(replace(right, sum=right.sum + 1e-3), right) == {"sum"}


def test_a_number_is_no_infinity_and_no_nan() -> None:
    right = of([1.0, math.inf])
    assert different(replace(right, sum=np.array([1e308])), right) == {"sum"}
    assert different(replace(right, m2=np.array([0.0])), right) == {"m2"}


def test_where_one_has_no_sample_only_the_count_differs() -> None:
    assert different(Statistics.empty((1,)), of([1.0, 2.0])) == {"count"}
    assert different(of([1.0, 2.0]), Statistics.empty((1,))) == {"count"}


@pytest.mark.parametrize(
    ("column", "value"), [("min", 2.0), ("max", 2.0), ("sum", 100.0), ("sum", 2.9), ("m2", 100.0), ("m2", -1e-3)]
)
def test_what_no_samples_could_give_is_a_contradiction(column: str, value: float) -> None:
    assert column in contradicted(replace(of([1.0, 3.0, 2.5]), **{column: np.array([value])}))


def test_no_time_that_is_covered_is_negative() -> None:
    changed = replace(of([1.0, 3.0], is_counter=True), covered=np.array([-1.0]))
    assert contradicted(changed, is_counter=True) == {"covered"}
