"""Doubles of every kind that a packed statistic may hold, for hypothesis: arrays of shape (series, buckets)."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from aggregator.rollups.decimals import MOST_PLACES

Floats = npt.NDArray[np.float64]
SPECIAL = (
    0.0,
    -0.0,
    math.inf,
    -math.inf,
    math.nan,
    5e-324,
    -5e-324,
    2.2e-308,
    1.7976931348623157e308,
    2.0**53,
    2.0**63,
)
SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 40))
ANY_BITS = st_numpy.arrays(np.uint64, SHAPES).map(lambda bits: bits.view(np.float64))
SPECIALS = st_numpy.arrays(np.float64, SHAPES, elements=st.sampled_from(SPECIAL))
SINGLES = st_numpy.arrays(np.float32, SHAPES, elements=st.floats(width=32)).map(
    lambda values: values.astype(np.float64)
)


@st.composite
def decimals(draw: st.DrawFn) -> Floats:
    """Numbers with up to nine places, as a text says them."""
    places = draw(st.integers(0, MOST_PLACES))
    reach = draw(st.sampled_from((3, 200, 300, 40_000, 70_000, 2**31, 2**33)))
    base = draw(st.integers(-(10**12), 10**12))
    whole = draw(st_numpy.arrays(np.int64, draw(SHAPES), elements=st.integers(base, base + reach)))
    return np.array([[float(f"{number}e-{places}") for number in line] for line in whole.tolist()])


@st.composite
def counters(draw: st.DrawFn) -> Floats:
    """Counters with resets, in steps of a size of their own."""
    steps = draw(st_numpy.arrays(np.int64, draw(SHAPES), elements=st.integers(0, 2**30)))
    resets = draw(st_numpy.arrays(np.bool_, steps.shape))
    step = draw(st.sampled_from((1, 512, 4096, 0.01)))
    return np.where(resets, 0.0, np.cumsum(steps, axis=1)) * step


@st.composite
def sums(draw: st.DrawFn) -> Floats:
    """Sums of decimals, which miss the nearest double of theirs."""
    parts = draw(st_numpy.arrays(np.int64, (4, *draw(SHAPES)), elements=st.integers(1, 10_000)))
    return np.asarray((parts / 100).sum(axis=0))


DATA = st.one_of(ANY_BITS, SPECIALS, SINGLES, decimals(), counters(), sums())


def have_equal_bits(values: Floats, others: Floats) -> bool:
    """Whether both hold the same bits; a NaN equals any other."""
    is_nan = np.isnan(values)
    return bool((is_nan == np.isnan(others)).all() and (values.view(np.int64) == others.view(np.int64))[~is_nan].all())
