"""Sketches: how the samples of many series are distributed, to 1 % of each value, and mergeable without loss.

A value falls into the interval (gamma^(k-1), gamma^k], and only k and how many samples fell there are kept (Masson,
Rim, Lee: DDSketch, VLDB 2019, section 2). Keys keep the order of the values, negative ones included. Nothing is ever
collapsed: all doubles together have 145,421 keys, and what a series takes in practice are dozens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

#: How far an estimate may lie from the value that it stands for, as a share of that value.
RELATIVE_ERROR = 0.01
# A hair less, so that rounding in the last bits carries no estimate over the promise.
_ACCURACY = RELATIVE_ERROR * (1 - 1e-9)
#: The natural logarithm of gamma = (1 + accuracy) / (1 - accuracy).
LOG_GAMMA = math.log1p(_ACCURACY) - math.log1p(-_ACCURACY)
#: What lies this far (as a logarithm) below gamma^k is as near to both ends of k's interval, relatively.
LOG_CENTRE = -math.log1p(-_ACCURACY)
#: The key of 1.0. The smallest double, 4.9e-324, has key 280: all positive values have positive keys.
KEY_OF_ONE = 37_500
#: The key of infinity; the largest double has key 72,988.
KEY_OF_INFINITY = 100_000
#: The logarithms of the smallest double and, within 0.002 %, of the largest: beyond them is none.
SMALLEST_LOG = -744.4400719213812
LARGEST_LOG = 709.7827

# Keys lie between minus and plus 2^17, so (series, key) fits one integer that sorts as the pair does.
_KEY_BITS = 18
_KEY_BIAS = 1 << (_KEY_BITS - 1)


@dataclass(frozen=True)
class Sketches:
    """The sketches of many series as entries in the order of (series, key), each pair at most once.

    `series`: a number from 0 that the caller gives a meaning; `counts`: samples, at least 1. All int64 of shape (n,).
    """

    series: Integers
    keys: Integers
    counts: Integers

    @classmethod
    def nothing(cls) -> Sketches:
        """No entry."""
        none = np.zeros(0, dtype=np.int64)
        return cls(none, none, none)

    def __len__(self) -> int:
        return len(self.series)

    def totals(self, series: int) -> Integers:
        """The samples of each of the first `series` series; shape (series,)."""
        totals = np.zeros(series, dtype=np.int64)
        np.add.at(totals, self.series, self.counts)
        return totals

    def only(self, chosen: npt.NDArray[np.bool_]) -> Sketches:
        """The sketches of the chosen series; `chosen` has a place for every series."""
        kept = chosen[self.series]
        return Sketches(self.series[kept], self.keys[kept], self.counts[kept])

    def differs(self, other: Sketches, *, series: int) -> npt.NDArray[np.bool_]:
        """Which of the first `series` series have another sketch there; shape (series,)."""
        different = np.zeros(series, dtype=np.bool_)
        for one, another in ((self, other), (other, self)):
            different[one.series[~_are_in(one, another)]] = True
        return different


def keys_of(values: Floats) -> Integers:
    """The keys of values, of the same shape, int64; NaN is refused by the caller, for it has none."""
    with np.errstate(divide="ignore"):
        logarithms = np.log(np.abs(values)) / LOG_GAMMA
    finite = np.where(np.isfinite(logarithms), logarithms, 0.0)
    sizes = np.ceil(finite).astype(np.int64) + KEY_OF_ONE
    sizes = np.where(np.isinf(values), KEY_OF_INFINITY, sizes)
    return np.where(values == 0, 0, np.where(values < 0, -sizes, sizes))


def values_of(keys: Integers) -> Floats:
    """For each key the value that lies within 1 % of all that have the key; float64 of the same shape.

    Among subnormal numbers, below 2.3e-308, a double itself may be that much coarser: half of 4.9e-324.
    """
    sizes = np.abs(keys)
    logarithms = np.clip((sizes - KEY_OF_ONE) * LOG_GAMMA - LOG_CENTRE, SMALLEST_LOG, LARGEST_LOG)
    halves = np.exp(np.where(sizes >= KEY_OF_INFINITY, 0.0, logarithms) / 2)
    return np.sign(keys) * np.where(sizes >= KEY_OF_INFINITY, np.inf, halves * halves)


def sketch_samples(values: Floats) -> Sketches:
    """The sketches of n series from up to t samples each: `values` of shape (t, n), NaN where there is no sample."""
    lines, series = np.nonzero(~np.isnan(values))
    pairs, counts = np.unique(_packed(series, keys_of(values[lines, series])), return_counts=True)
    return Sketches(*_unpacked(pairs), counts.astype(np.int64))


def merge(parts: Sequence[Sketches]) -> Sketches:
    """The sketches of all samples of all parts: counts of equal keys are added, so the order has no say."""
    if not parts:
        return Sketches.nothing()
    series, keys, counts = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("series", "keys", "counts")
    )
    pairs, places = np.unique(_packed(series, keys), return_inverse=True)
    totals = np.zeros(len(pairs), dtype=np.int64)
    np.add.at(totals, places, counts)
    return Sketches(*_unpacked(pairs), totals)


def quantile(q: float, keys: Integers, counts: Integers, *, low: float, high: float) -> float:
    """The q-quantile by nearest rank: the smallest value that at least q of the samples do not exceed.

    `keys` ascend and `counts` are at least 1, both of shape (n,), n > 0; `low` and `high` are the smallest and largest
    sample, between which the answer is kept. Raises ValueError where q is not in [0, 1].
    """
    if not 0 <= q <= 1:
        raise ValueError(f"{q} is not in [0, 1]")
    up_to = np.cumsum(counts)
    rank = max(1, math.ceil(q * float(up_to[-1])))
    key = keys[np.searchsorted(up_to, rank)]
    return float(min(max(values_of(np.array([key]))[0], low), high))


def _are_in(sketches: Sketches, other: Sketches) -> npt.NDArray[np.bool_]:
    """Which of the entries are in another one's too; shape (n,)."""
    if not len(other):
        return np.zeros(len(sketches), dtype=np.bool_)
    mine, theirs = _packed(sketches.series, sketches.keys), _packed(other.series, other.keys)
    places = np.minimum(np.searchsorted(theirs, mine), len(theirs) - 1)
    return np.asarray((theirs[places] == mine) & (other.counts[places] == sketches.counts))


def _packed(series: Integers, keys: Integers) -> Integers:
    return (series << _KEY_BITS) | (keys + _KEY_BIAS)


def _unpacked(pairs: Integers) -> tuple[Integers, Integers]:
    return pairs >> _KEY_BITS, (pairs & ((1 << _KEY_BITS) - 1)) - _KEY_BIAS
