"""The brute-force computation that every rollup must equal: one series, all of its samples, plain Python.

Sums are exact rational numbers. How far a stored float may lie from them is said here once, for each column.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

#: Half the distance from 1.0 to the next double: the largest relative error of one operation.
ROUNDING = 2.0**-53
#: Where sums of squares leave the range of doubles, upwards and downwards.
MOST_RANGE = 1e150
LEAST_DEVIATION = 1e-150
#: What views show as 0, and rates beyond which they show as infinite.
LEAST_SHOWN = 1e-300
MOST_SHOWN = 1e300
_LARGEST = 1.7e308

Sample = tuple[int, float]


def gauge(samples: Iterable[Sample], start_ms: int, end_ms: int) -> dict[str, float]:
    """The statistics of a gauge in a half-open interval, from (milliseconds, value) pairs in any order."""
    inside = [value for at, value in sorted(samples) if start_ms <= at < end_ms]
    if not inside:
        return {"count": 0}
    exact = [Fraction(value) for value in inside]
    return {
        "count": len(inside),
        "sum": float(sum(exact)),
        "min": min(inside),
        "max": max(inside),
        "first": inside[0],
        "last": inside[-1],
        "stddev": _deviation(exact),
    }


def counter(samples: Iterable[Sample], start_ms: int, end_ms: int, *, lookback_ms: int) -> dict[str, float]:
    """The statistics of a counter: deltas belong to the bucket of their later sample, the left edge included."""
    ordered = sorted(samples)
    inside = [(at, value) for at, value in ordered if start_ms <= at < end_ms]
    if not inside:
        return {"count": 0}
    deltas = _deltas(ordered, start_ms, end_ms, lookback_ms=lookback_ms)
    return {
        "count": len(inside),
        "first": inside[0][1],
        "last": inside[-1][1],
        "increase": float(sum(delta for delta, _ in deltas)),
        "covered": sum(passed_ms for _, passed_ms in deltas) / 1_000,
    }


def _deltas(ordered: Sequence[Sample], start_ms: int, end_ms: int, *, lookback_ms: int) -> list[tuple[Fraction, int]]:
    """What each sample of the interval adds and the milliseconds that it covers; what is not finite adds nothing."""
    found = []
    for (before_at, before), (at, value) in itertools.pairwise(ordered):
        if start_ms <= at < end_ms and at - before_at <= lookback_ms:
            is_reset = value < before
            if math.isfinite(value if is_reset else value - before):
                found.append((Fraction(value) if is_reset else Fraction(value) - Fraction(before), at - before_at))
    return found


def _deviation(exact: Sequence[Fraction]) -> float:
    mean = sum(exact) / len(exact)
    variance = sum((value - mean) ** 2 for value in exact) / len(exact)
    try:
        return math.sqrt(variance)
    except OverflowError:
        return math.inf


@dataclass(frozen=True)
class Expected:
    """What a column may hold: `value` (None is NULL) within `tolerance`, and where `may_overflow` no number at all."""

    value: float | None
    tolerance: float = 0.0
    may_overflow: bool = False

    def accepts(self, found: float | None) -> bool:
        """Whether a column that holds `found` is right."""
        if self.may_overflow and (found is None or math.isinf(found)):
            return True
        if found is None or self.value is None or math.isinf(self.value):
            return found == self.value
        return abs(found - self.value) <= self.tolerance


def gauge_row(samples: Iterable[Sample], start_ms: int, end_ms: int, *, level: int) -> dict[str, Expected]:
    """Every column of a gauge's row; `level` counts the tiers from the finest, 0, and none is there without a sample.

    The tolerances, with u = 2^-53: a sum of samples 2 u of itself; each merge adds 2 u of the sum of magnitudes. A
    standard deviation 8 u of the range of the samples; each merge adds 4 u of the largest magnitude, for the means that
    it goes by are rounded.
    """
    inside = [value for at, value in sorted(samples) if start_ms <= at < end_ms]
    if not inside:
        return {}
    total, deviation = _sum(inside, level=level), _stddev(inside, level=level)
    count = len(inside)
    average = None if total.value is None else total.value / count
    tolerance = total.tolerance / count + 2 * ROUNDING * abs(average or 0.0) + LEAST_SHOWN
    return {
        "count": Expected(count),
        "sum": total,
        "avg": Expected(average, tolerance, total.may_overflow),
        "min": Expected(min(inside)),
        "max": Expected(max(inside)),
        "first": Expected(inside[0]),
        "last": Expected(inside[-1]),
        "stddev": deviation,
        "increase": Expected(None),
        "rate": Expected(None),
    }


def _sum(inside: Sequence[float], *, level: int) -> Expected:
    finite = [Fraction(value) for value in inside if math.isfinite(value)]
    exact, magnitude = sum(finite, Fraction()), sum(map(abs, finite), Fraction())
    overflows = magnitude > _LARGEST
    if len(finite) < len(inside):
        infinite = sum(value for value in inside if math.isinf(value))
        return Expected(None if math.isnan(infinite) else infinite, may_overflow=overflows)
    if overflows:
        return Expected(_as_float(exact), _LARGEST * ROUNDING * len(inside), may_overflow=True)
    # The compensation itself is rounded: far below the last bit unless nearly all cancels.
    compensated = 2 * ROUNDING * abs(float(exact)) + (len(inside) * ROUNDING) ** 2 * float(magnitude)
    return Expected(float(exact), compensated + level * 2 * ROUNDING * float(magnitude))


def _stddev(inside: Sequence[float], *, level: int) -> Expected:
    if not all(map(math.isfinite, inside)):
        return Expected(None)
    extent = Fraction(max(inside)) - Fraction(min(inside))
    largest = max(map(abs, inside))
    tolerance = 8 * ROUNDING * _as_float(extent) + level * 4 * ROUNDING * largest + LEAST_DEVIATION
    overflows = extent > MOST_RANGE or sum(abs(Fraction(value)) for value in inside) > _LARGEST
    # Merged means are rounded to the magnitude of the samples, and these errors are squared too.
    overflows = overflows or (level > 0 and largest * ROUNDING > MOST_RANGE)
    return Expected(_deviation([Fraction(value) for value in inside]), tolerance, may_overflow=overflows)


def counter_row(
    samples: Iterable[Sample], start_ms: int, end_ms: int, *, level: int, lookback_ms: int
) -> dict[str, Expected]:
    """Every column of a counter's row; none is there without a sample. Increases of whole numbers are exact.

    The tolerances, with u = 2^-53: u of each delta and of each tier's sum; a rate's is its increase's over its seconds.
    """
    ordered = sorted(samples)
    inside = [value for at, value in ordered if start_ms <= at < end_ms]
    if not inside:
        return {}
    deltas = _deltas(ordered, start_ms, end_ms, lookback_ms=lookback_ms)
    increase = _increase([delta for delta, _ in deltas], level=level)
    covered_seconds = sum(passed_ms for _, passed_ms in deltas) / 1_000
    rate = Expected(None)
    if covered_seconds and increase.value is not None:
        value = increase.value / covered_seconds
        # Shares of a second are no binary fractions: their sums are rounded in each tier as well.
        rounded = increase.tolerance + LEAST_SHOWN + (4 + 4 * level) * ROUNDING * abs(increase.value)
        rate = Expected(value, rounded / covered_seconds, increase.may_overflow or abs(increase.value) > MOST_SHOWN)
    return {
        "count": Expected(len(inside)),
        "first": Expected(inside[0]),
        "last": Expected(inside[-1]),
        "increase": increase,
        "rate": rate,
        **{name: Expected(None) for name in ("sum", "avg", "min", "max", "stddev")},
    }


def _increase(deltas: Sequence[Fraction], *, level: int) -> Expected:
    exact, magnitude = sum(deltas, Fraction()), sum(map(abs, deltas), Fraction())
    if magnitude > _LARGEST:
        return Expected(_as_float(exact), _LARGEST * ROUNDING * 4, may_overflow=True)
    if magnitude < 2**53 and all(delta.denominator == 1 for delta in deltas):
        return Expected(float(exact))
    return Expected(float(exact), (2 + level) * 2 * ROUNDING * float(magnitude))


def _as_float(exact: Fraction) -> float:
    try:
        return float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


def completeness(count: int, start_ms: int, end_ms: int, *, interval_ms: int, offset_ms: int) -> Expected:
    """Samples over the slots that lie in the interval, at most 1; NULL where none is due."""
    first_slot_ms = -((offset_ms - start_ms) // interval_ms) * interval_ms + offset_ms
    slots = len(range(first_slot_ms, end_ms, interval_ms))
    return Expected(min(1.0, count / slots) if slots else None)


def wrong_columns(row: Mapping[str, object], expected: Mapping[str, Expected]) -> dict[str, tuple[object, Expected]]:
    """The columns that do not hold what they should."""
    return {
        name: (row[name], one)
        for name, one in expected.items()
        if not one.accepts(row[name])  # type: ignore[arg-type]
    }
