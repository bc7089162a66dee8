"""Whether stored statistics are the recomputed ones: which must be equal, and how far the others may be apart.

The tolerances are stated in docs/verify.md, "How equal".
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from aggregator.rollups.statistics import Floats, Statistics, names_of

Chosen = npt.NDArray[np.bool_]

EXACT = ("count", "first", "last", "last_at", "min", "max")
#: Of a sum's own size: two compensated sums of the same values differ by a few units in the last place.
SUM_TOLERANCE = 1e-14
#: Of the added sizes of what was summed, which matters where they cancel out.
CANCELLED_TOLERANCE = 1e-20
#: Of the squared deviations' own size.
M2_TOLERANCE = 1e-9
_EPSILON = float(np.finfo(np.float64).eps)
#: For each sample: squares of deviations below 1e-154 are rounded to a whole number of the least values there are.
_LEAST_SQUARE = 4 * float(np.finfo(np.float64).smallest_subnormal)


def differences(
    stored: Statistics, recomputed: Statistics, *, is_counter: Chosen, is_finest: bool
) -> Iterator[tuple[str, Chosen]]:
    """By column, where the stored value of a series (arrays of shape (n,)) is not the recomputed one.

    Where one of the two has no sample only `count` differs: nothing else has a meaning there.
    """
    with np.errstate(all="ignore"):
        both = (stored.count > 0) & (recomputed.count > 0)
        for name in Statistics.__dataclass_fields__:
            of_gauges = name in names_of(is_counter=False, is_finest=is_finest)
            of_counters = name in names_of(is_counter=True, is_finest=is_finest)
            has_column = np.where(is_counter, of_counters, of_gauges)
            if name == "count":
                yield name, stored.count != recomputed.count
            elif has_column.any():
                yield name, both & has_column & ~_is_equal(name, stored, recomputed)


def _is_equal(name: str, stored: Statistics, recomputed: Statistics) -> Chosen:
    mine, theirs = getattr(stored, name), getattr(recomputed, name)
    equal: Chosen = mine == theirs
    if mine.dtype.kind == "f":
        equal |= np.isnan(mine) & np.isnan(theirs)
    if name not in EXACT:
        equal |= np.abs(mine - theirs) <= _tolerance(name, recomputed)
    return equal


def _tolerance(name: str, recomputed: Statistics) -> Floats:
    """How far apart two right values may be; infinite or NaN values are equal or not (a tolerance of NaN)."""
    value = np.abs(getattr(recomputed, name))
    largest = np.fmax(np.abs(recomputed.min), np.abs(recomputed.max))
    if name == "sum":
        value = value * SUM_TOLERANCE + recomputed.count * largest * CANCELLED_TOLERANCE
    elif name == "m2":
        # The mean is rounded to a unit in the last place of the values, and each deviation is taken from it.
        rounded = 4 * (_EPSILON * largest) ** 2 + _LEAST_SQUARE
        value = value * M2_TOLERANCE + recomputed.count * rounded
    else:
        value = value * SUM_TOLERANCE
    return np.where(np.isfinite(value), value, np.nan)


def contradictions(stored: Statistics, *, is_counter: Chosen) -> Iterator[tuple[str, Chosen, str]]:
    """What no samples at all could give: by column where, and what would hold. Needs no input of the rollups.

    A mean lies between the extremes; the variance is at most a quarter of the squared range (Popoviciu 1935).
    """
    with np.errstate(all="ignore"):
        given = stored.count > 0
        gauge, counter = given & ~is_counter, given & is_counter
        slack = (np.abs(stored.min) + np.abs(stored.max)) * stored.count * _EPSILON * 4
        spread = stored.max - stored.min
        yield "count", stored.count < 0, "not below 0"
        yield "min", gauge & (stored.min > np.fmin(stored.first, stored.last)), "at most first and last"
        yield "max", gauge & (stored.max < np.fmax(stored.first, stored.last)), "at least first and last"
        low, high = stored.count * stored.min - slack, stored.count * stored.max + slack
        yield "sum", gauge & ((stored.sum < low) | (stored.sum > high)), "between count times min and max"
        most = stored.count * spread**2 / 4 * (1 + M2_TOLERANCE) + slack * slack + stored.count * _LEAST_SQUARE
        yield "m2", gauge & ((stored.m2 < 0) | (stored.m2 > most)), "from 0 to a quarter of the squared range a sample"
        # A counter that falls below 0 is none, but may have been sampled: its increase can be negative.
        yield "covered", counter & ~(stored.covered >= 0), "not below 0"
