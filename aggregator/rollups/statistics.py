"""The mergeable statistics of many series in one bucket, as arrays.

Formulas and edge cases: docs/statistics.md. NaN means "no sample" everywhere; infinities pass through.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

#: The arrays that a rollup row holds, by the kind of its block; a kind's other arrays are NULL as a whole.
GAUGE_STATISTICS = ("count", "last_at", "sum", "min", "max", "first", "last", "m2")
COUNTER_STATISTICS = ("count", "last_at", "first", "last", "increase", "covered")
#: What outputs of rules have of these: over many series there is no first and no last sample.
OUTPUT_GAUGE_STATISTICS = ("count", "sum", "min", "max", "m2")
OUTPUT_COUNTER_STATISTICS = ("count", "increase", "covered")


def names_of(*, is_counter: bool, is_finest: bool, is_output: bool = False) -> tuple[str, ...]:
    """The statistics that a kind's rollups have in a tier; `is_output`: of a rule."""
    if is_output:
        return OUTPUT_COUNTER_STATISTICS if is_counter else OUTPUT_GAUGE_STATISTICS
    names = COUNTER_STATISTICS if is_counter else GAUGE_STATISTICS
    return names if is_finest else tuple(name for name in names if name != "last_at")


@dataclass(frozen=True)
class Statistics:
    """Statistics of n series in one bucket; every array has the same shape, usually (n,) or (blocks, 64).

    `count`: samples. `last_at`: milliseconds from the bucket's start to the last sample (undefined where count is 0).
    `m2`: the sum of squared deviations from the mean. `increase`: the sum of a counter's deltas; `covered`: the seconds
    that those deltas span. A float64 that is not known is NaN.
    """

    count: Integers
    last_at: Integers
    sum: Floats
    min: Floats
    max: Floats
    first: Floats
    last: Floats
    m2: Floats
    increase: Floats
    covered: Floats

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> Statistics:
        """No sample anywhere."""
        values = {field.name: np.full(shape, np.nan) for field in fields(cls)}
        values["count"] = np.zeros(shape, dtype=np.int64)
        values["last_at"] = np.zeros(shape, dtype=np.int64)
        return cls(**values)

    @classmethod
    def joined(cls, parts: Sequence[Statistics]) -> Statistics:
        """The statistics of several lots of series behind one another."""
        return cls(**{field.name: np.concatenate([getattr(one, field.name) for one in parts]) for field in fields(cls)})

    def __getitem__(self, place: int) -> Statistics:
        """The statistics at a place of the first axis; no copy."""
        return Statistics(**{field.name: getattr(self, field.name)[place] for field in fields(self)})

    def at(self, cells: Integers) -> Statistics:
        """The statistics of some series: `cells` counts through the arrays as if each were one row; shape (n,)."""
        return Statistics(**{field.name: getattr(self, field.name).reshape(-1)[cells] for field in fields(self)})

    def replaced(self, cells: Integers, statistics: Statistics) -> Statistics:
        """A copy with other statistics (shape (n,)) of some series; `cells` as in `at`."""
        values = {field.name: getattr(self, field.name).copy() for field in fields(self)}
        for name, whole in values.items():
            whole.reshape(-1)[cells] = getattr(statistics, name)
        return Statistics(**values)

    def where(self, condition: npt.NDArray[np.bool_], other: Statistics) -> Statistics:
        """These statistics where the condition holds, the other ones elsewhere."""
        return Statistics(
            **{
                field.name: np.where(condition, getattr(self, field.name), getattr(other, field.name))
                for field in fields(self)
            }
        )

    def differs(self, other: Statistics) -> npt.NDArray[np.bool_]:
        """Where any statistic of a series differs, bit by bit but for NaN, which equals itself."""
        different = np.zeros(self.count.shape, dtype=np.bool_)
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            same = mine == theirs
            if mine.dtype.kind == "f":
                same |= np.isnan(mine) & np.isnan(theirs)
            different |= ~same
        # Without a sample nothing else has a meaning.
        return different & ((self.count > 0) | (other.count > 0))


class CompensatedSum:
    """Neumaier's compensated sum of vectors, in the order of the calls (ZAMM 54, 1974, p. 39).

    The order is fixed by the caller and not by an array's shape, so that equal samples give equal bits.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._sum = np.zeros(shape)
        self._lost = np.zeros(shape)

    def add(self, values: Floats) -> None:
        """Add one vector; a NaN adds nothing."""
        given = np.where(np.isnan(values), 0.0, values)
        total = self._sum + given
        larger = np.abs(self._sum) >= np.abs(given)
        lost = np.where(larger, (self._sum - total) + given, (given - total) + self._sum)
        # Infinity minus infinity is NaN: an infinite sum has nothing to compensate.
        self._lost += np.where(np.isfinite(total), lost, 0.0)
        self._sum = total

    @property
    def total(self) -> Floats:
        """The sum so far; NaN where infinities of both signs were added."""
        return self._sum + self._lost
