"""From the statistics of consecutive buckets to those of the bucket that they fill."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aggregator.rollups.statistics import CompensatedSum, Floats, Integers, Statistics


def merge(children: Sequence[Statistics]) -> Statistics:
    """The statistics of consecutive buckets as one, oldest first; all of one shape.

    Squared deviations are merged pairwise (Chan, Golub, LeVeque: Updating formulae, 1979, eq. 2.1b). `last_at` has a
    meaning in the finest tier only and is 0 here.
    """
    with np.errstate(all="ignore"):
        shape = children[0].count.shape
        merged = Statistics.empty(shape)
        count, low, high, first, last = merged.count, merged.min, merged.max, merged.first, merged.last
        sums = {name: CompensatedSum(shape) for name in ("sum", "increase", "covered")}
        for child in children:
            given = child.count > 0
            np.copyto(first, child.first, where=given & (count == 0))
            np.copyto(last, child.last, where=given)
            np.fmin(low, child.min, out=low)
            np.fmax(high, child.max, out=high)
            for name, total in sums.items():
                total.add(getattr(child, name))
            count += child.count
        known = {name: _known(children, name) for name in sums}
        totals = {name: np.where(known[name], total.total, np.nan) for name, total in sums.items()}
        return Statistics(
            count, merged.last_at, totals["sum"], low, high, first, last, _squared_deviations(children),
            totals["increase"], totals["covered"],
        )  # fmt: skip


def _known(children: Sequence[Statistics], name: str) -> np.ndarray:
    """Where all children that have samples know this statistic: a gauge has no increase, nor inf - inf a sum."""
    known = np.zeros(children[0].count.shape, dtype=np.bool_)
    unknown = known.copy()
    for child in children:
        is_nan = np.isnan(getattr(child, name))
        known |= ~is_nan
        unknown |= is_nan & (child.count > 0)
    return known & ~unknown


def _squared_deviations(children: Sequence[Statistics]) -> Floats:
    shape = children[0].count.shape
    m2: Floats = np.full(shape, np.nan)
    mean: Floats = np.zeros(shape)
    count: Integers = np.zeros(shape, dtype=np.int64)
    for child in children:
        given = child.count > 0
        both = np.maximum(count + child.count, 1)
        distance = np.where(given & (count > 0), child.sum / np.maximum(child.count, 1) - mean, 0.0)
        joined = m2 + child.m2 + distance**2 * (count * child.count / both)
        m2 = np.where(given, np.where(count > 0, joined, child.m2), m2)
        child_mean = child.sum / np.maximum(child.count, 1)
        mean = np.where(given, np.where(count > 0, mean + distance * (child.count / both), child_mean), mean)
        count = count + child.count
    return m2
