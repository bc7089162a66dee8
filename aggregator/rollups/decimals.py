"""Series that are decimals: whole numbers over a power of ten, exactly or but for a few units in the last place.

A decimal m / 10^k with |m| <= 2^53 and k <= 22 has one nearest double, and dividing m by 10^k gives that double: both
are exact, and IEEE 754 rounds a quotient correctly (Clinger: How to read floating point numbers accurately, PLDI 1990).
That is how a number that was exposed with some places was read. Sums and differences of such numbers miss the nearest
double of their own decimal by a few units in the last place; the difference of the two is exact (Sterbenz).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from aggregator.rollups.packed import (
    CORRECTION_BIAS,
    DTYPES,
    LARGEST_OFFSETS,
    OFFSETS,
    Flags,
    Floats,
    Form,
    Lines,
    Part,
    part_of,
)

#: Nanoseconds in seconds, as programs in Go expose them. A divisor up to 10^10 is exact as a float4, too.
MOST_PLACES = 9
#: Integers up to here are exact doubles.
_LARGEST_WHOLE = 2.0**53
#: On so many values a number of places is tried before it is tried on all.
_PROBES = 8
#: Units in the last place that a probe may be off.
_MOST_UNITS = 64


def decimals(filled: Floats, lines: Lines) -> Iterator[Part]:
    """Those of the lines (of `filled`, shape (n, buckets)) that are decimals, each with as few places as it needs."""
    for divisor in _divisors():
        if not len(lines):
            return
        probes = _probes(filled, lines)
        is_likely = (np.rint(probes * divisor) / divisor == probes).all(axis=1)
        found = [
            _only(part, _has_bits(part, filled[part.lines]))
            for part in _offsets(filled, lines[is_likely], divisor=divisor)
        ]
        yield from found
        lines = without(lines, found)


def corrected_decimals(filled: Floats, lines: Lines) -> Iterator[Part]:
    """Those of the lines that are decimals but for a few units in the last place.

    Each is tried with the fewest places that its probes have: with more, it would hardly ever fit either.
    """
    for divisor in _divisors():
        if not len(lines):
            return
        probes = _probes(filled, lines)
        off = np.abs(np.rint(probes * divisor) / divisor - probes)
        is_likely = (off <= _MOST_UNITS * np.spacing(np.abs(probes))).all(axis=1)
        for part in _offsets(filled, lines[is_likely], divisor=divisor):
            values = filled[part.lines]
            corrected = _corrected(part, values)
            yield _only(corrected, _has_bits(corrected, values))
        lines = lines[~is_likely]


def without(lines: Lines, parts: Sequence[Part]) -> Lines:
    """The lines that are in none of the parts."""
    taken = np.concatenate([lines[:0], *(part.lines for part in parts)])
    return lines[~np.isin(lines, taken, assume_unique=True, kind="sort")] if len(taken) else lines


def _divisors() -> Iterator[float]:
    return (10.0**places for places in range(MOST_PLACES + 1))


def _probes(filled: Floats, lines: Lines) -> Floats:
    places = np.linspace(0, filled.shape[1] - 1, _PROBES).astype(np.int64)
    return filled[np.ix_(lines, places)]


def _offsets(filled: Floats, lines: Lines, *, divisor: float) -> Iterator[Part]:
    """The lines as the narrowest offsets that reach; lines that none does are left out."""
    whole = np.rint(filled[lines] * divisor)
    low, high = whole.min(axis=1), whole.max(axis=1)
    is_left = (low >= -_LARGEST_WHOLE) & (high <= _LARGEST_WHOLE)  # never where there is a NaN
    lines, whole, low, high = lines[is_left], whole[is_left], low[is_left], high[is_left]
    step = _steps(whole, low)
    reach = (high - low) / step
    is_left = np.ones(len(lines), dtype=np.bool_)
    for form in OFFSETS:
        chosen = np.flatnonzero(is_left & (reach < 2.0 ** (8 * np.dtype(DTYPES[form]).itemsize)))
        is_left[chosen] = False
        if len(chosen):
            scaled = whole[chosen] / step[chosen, None]
            part = _part(form, lines[chosen], whole=scaled, low=low[chosen] / step[chosen], reach=reach[chosen])
            yield replace(part, divisor=divisor / step[chosen])


def _steps(whole: Floats, low: Floats) -> Floats:
    """The largest power of two that all numbers of a line are apart, as bytes in pages are; shape (m,)."""
    apart = np.bitwise_or.reduce((whole - low[:, None]).astype(np.int64), axis=1, initial=0)
    return np.asarray(np.maximum(apart & -apart, 1.0))


def _part(form: Form, lines: Lines, *, whole: Floats, low: Floats, reach: Floats) -> Part:
    """Offsets from the lowest number, which compress better than signed ones, or from the middle where they must."""
    largest = LARGEST_OFFSETS[form]
    base = np.where(reach <= largest, low, low + largest + 1)
    return part_of(form, lines, base=base, elements=(whole - base[:, None]).astype(DTYPES[form]))


def _corrected(part: Part, values: Floats) -> Part:
    """The part with what its quotients lack, in the smallest unit of those that lack something."""
    lacking = values - part.values()
    unit = np.where(lacking != 0, np.spacing(np.abs(values)), np.inf).min(axis=1)
    unit = np.where(np.isfinite(unit), unit, 1.0).astype(np.float32).astype(np.float64)
    corrections = np.clip(lacking / unit[:, None] + CORRECTION_BIAS, 0, 2 * CORRECTION_BIAS - 1)
    return replace(part, unit=unit, corrections=np.nan_to_num(corrections).astype(np.uint8))


def _has_bits(part: Part, values: Floats) -> Flags:
    """Which series the part gives back to the bit; shape (m,). A negative zero is never given back."""
    return np.asarray((part.values().view(np.int64) == values.view(np.int64)).all(axis=1))


def _only(part: Part, chosen: Flags) -> Part:
    if chosen.all():
        return part
    names = ("lines", "base", "divisor", "unit", "elements", "corrections")
    return Part(part.form, *(getattr(part, name)[chosen] for name in names))
