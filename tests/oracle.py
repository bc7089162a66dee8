"""The brute-force computation that every rollup must equal: one series, all of its samples, plain Python."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from fractions import Fraction


def gauge(samples: Iterable[tuple[int, float]], start_ms: int, end_ms: int) -> dict[str, float]:
    """The statistics of a gauge in a half-open interval, from (milliseconds, value) pairs in any order."""
    inside = [value for at, value in sorted(samples) if start_ms <= at < end_ms]
    if not inside:
        return {"count": 0}
    exact = [Fraction(value) for value in inside]
    mean = sum(exact) / len(exact)
    return {
        "count": len(inside),
        "sum": float(sum(exact)),
        "min": min(inside),
        "max": max(inside),
        "first": inside[0],
        "last": inside[-1],
        "stddev": math.sqrt(sum((value - mean) ** 2 for value in exact) / len(exact)),
    }


def counter(samples: Iterable[tuple[int, float]], start_ms: int, end_ms: int, *, lookback_ms: int) -> dict[str, float]:
    """The statistics of a counter: deltas belong to the bucket of their later sample, the left edge included."""
    ordered = sorted(samples)
    inside = [(at, value) for at, value in ordered if start_ms <= at < end_ms]
    if not inside:
        return {"count": 0}
    increase, covered_ms = Fraction(0), 0
    for (before_at, before), (at, value) in itertools.pairwise(ordered):
        if start_ms <= at < end_ms and at - before_at <= lookback_ms:
            increase += Fraction(value) if value < before else Fraction(value) - Fraction(before)
            covered_ms += at - before_at
    return {
        "count": len(inside),
        "first": inside[0][1],
        "last": inside[-1][1],
        "increase": float(increase),
        "covered": covered_ms / 1_000,
    }
