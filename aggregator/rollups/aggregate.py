"""From the statistics of many series in one bucket to those of the groups that they belong to.

The order of the series makes no difference, not even in the last bit: what is added is sorted by its size first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from aggregator.rollups.statistics import Floats, Integers, Statistics

#: Where a group has larger numbers, parts of them are added: only what is too large in the end is infinite.
_LARGE = 2.0**960
_PART = 2.0**-60


def aggregate(statistics: Statistics, groups: Integers, *, size: int) -> Statistics:
    """The statistics of `size` groups, shape (size,), from those of n series; `groups`, shape (n,): the group of each.

    Nothing is known of `first`, `last` and `last_at` (NaN, 0). `covered` is the mean of the series that have any, so
    that an increase over it is what all of them grow by in a second. What one series with samples does not know, as
    inf - inf, its group does not know either; so it is with the statistics of the other kind.
    """
    with np.errstate(all="ignore"):
        given = statistics.count > 0
        inputs, group = statistics.at(np.flatnonzero(given)), groups[given]
        result = Statistics.empty((size,))
        np.copyto(result.count, totals(inputs.count, group, size=size))
        np.copyto(result.sum, _sums(inputs.sum, group, size=size))
        np.copyto(result.increase, _sums(inputs.increase, group, size=size))
        np.copyto(result.covered, _mean_of_positive(inputs.covered, group, size=size))
        for name, extreme in (("min", np.fmin), ("max", np.fmax)):
            _reduce(extreme, getattr(inputs, name), group, out=getattr(result, name))
        np.copyto(result.m2, _squared_deviations(inputs, group, size=size))
        return result


def totals(values: Integers, groups: Integers, *, size: int) -> Integers:
    """The sum of whole numbers of each group, shape (size,), exact up to 2^53."""
    return np.bincount(groups, weights=values, minlength=size).astype(np.int64)


def slots_of_whole(parts: Sequence[tuple[Integers, Integers]], *, of: int) -> Integers:
    """The slots due in a bucket of `of` parts, from the counts and slots of those that are there; all of one shape.

    A part without samples is taken to have had as many slots as the others.
    """
    total, given = (np.zeros(parts[0][0].shape, dtype=np.int64) for _ in range(2))
    for count, slots in parts:
        total += np.where(count > 0, slots, 0)
        given += count > 0
    return np.rint(total / np.maximum(given, 1) * of).astype(np.int64)


def _reduce(extreme: np.ufunc, values: Floats, groups: Integers, *, out: Floats) -> None:
    """Put the smallest or largest value of each group that has any into `out`."""
    order = np.argsort(groups, kind="stable")
    present, starts = np.unique(groups[order], return_index=True)
    if len(present):
        out[present] = extreme.reduceat(values[order], starts)


def _sums(values: Floats, groups: Integers, *, size: int) -> Floats:
    """The sum of each group as if it was added exactly and rounded once or twice; NaN for none, or where one is NaN."""
    result: Floats = np.full(size, np.nan)
    unknown = np.zeros(size, dtype=np.bool_)
    unknown[groups[np.isnan(values)]] = True
    chosen = ~unknown[groups]
    values, groups = values[chosen], groups[chosen]
    order = np.lexsort((values, groups))
    values, groups = values[order], groups[order]
    largest = np.zeros(size)
    np.maximum.at(largest, groups, np.where(np.isfinite(values), np.abs(values), 0.0))
    part = np.where(largest > _LARGE, _PART, 1.0)
    present, sums = _added(values * part[groups], groups)
    result[present] = sums / part[present]
    return result


def _added(values: Floats, groups: Integers) -> tuple[Integers, Floats]:
    """The groups (ascending; values lie by group) and their sums: neighbours are added until each has one value left.

    What an addition rounds off is known exactly (Knuth, TAOCP 2, 4.2.2, theorem B) and added at the end.
    """
    lost: Floats = np.zeros(len(values))
    while True:
        place = np.arange(len(groups)) - np.searchsorted(groups, groups)
        left = np.flatnonzero(place % 2 == 0)
        right = np.minimum(left + 1, len(groups) - 1)
        has_right = (right > left) & (groups[right] == groups[left])
        if not has_right.any():
            return groups, values + lost
        first, second = values[left], np.where(has_right, values[right], 0.0)
        total = first + second
        back = total - first
        rounded = (first - (total - back)) + (second - back)
        lost = lost[left] + np.where(has_right, lost[right], 0.0) + np.where(np.isfinite(total), rounded, 0.0)
        values, groups = total, groups[left]


def _mean_of_positive(values: Floats, groups: Integers, *, size: int) -> Floats:
    """The mean of what is above 0 in each group; 0 where nothing is, NaN where a value is."""
    positive = values > 0
    count = np.bincount(groups[positive], minlength=size)
    total = _sums(np.where(positive | np.isnan(values), values, 0.0), groups, size=size)
    return np.asarray(total / np.maximum(count, 1))


def _squared_deviations(inputs: Statistics, groups: Integers, *, size: int) -> Floats:
    """Those within each series, and of the series' means from the group's, which is taken from the smallest of them."""
    mean = inputs.sum / inputs.count
    lowest: Floats = np.full(size, np.nan)
    _reduce(np.fmin, mean, groups, out=lowest)
    above = mean - lowest[groups]
    count = totals(inputs.count, groups, size=size)
    distance = above - (_sums(above * inputs.count, groups, size=size) / np.maximum(count, 1))[groups]
    within_and_between = np.concatenate([inputs.m2, inputs.count * distance**2])
    m2 = _sums(within_and_between, np.concatenate([groups, groups]), size=size)
    is_finite = _all_of(np.isfinite(mean) & ~np.isnan(inputs.m2), groups, size=size)
    return np.where(is_finite & np.isnan(m2) & (count > 0), np.inf, m2)


def _all_of(holds: npt.NDArray[np.bool_], groups: Integers, *, size: int) -> npt.NDArray[np.bool_]:
    result = np.ones(size, dtype=np.bool_)
    result[groups[~holds]] = False
    return result
