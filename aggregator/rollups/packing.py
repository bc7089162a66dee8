"""One statistic of many series over a span of buckets, packed to the bit into the fewest bytes that plain SQL reads.

What is tried, in this order: nothing, one constant, decimals, singles, decimals with corrections, doubles. A series is
packed in a way only if that gives all its values back; so what fits none is as large as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from operator import attrgetter

import numpy as np

from aggregator.rollups.decimals import corrected_decimals, decimals, without
from aggregator.rollups.packed import Flags, Floats, Form, Lines, Packed, Part, part_of

_SHAPE = attrgetter("shape")


def pack(values: Floats | Lines, given: Flags) -> Packed:
    """Pack values of shape (n, buckets); what is not given (bool, same shape) comes back as whatever costs least.

    The values are doubles, or integers up to 2^53, which come back as doubles. What is given comes back with its bits,
    and a NaN as a NaN. It is fastest with several hundred series in a call.
    """
    series, buckets = values.shape
    with np.errstate(all="ignore"):
        found = _parts(_filled(values.astype(np.float64, copy=False), given))
        parts = sorted((part for part in found if len(part.lines)), key=_SHAPE)
    return Packed(series, buckets, tuple(_joined(tuple(group)) for _, group in groupby(parts, key=_SHAPE)))


def _filled(values: Floats, given: Flags) -> Floats:
    """The values, and where none is given the one before it or else the first one: repeating costs least."""
    lines = np.flatnonzero(~np.asarray(given.all(axis=1)))
    if not len(lines):
        return np.ascontiguousarray(values)
    filled, known = np.array(values), given[lines]
    place = np.maximum.accumulate(np.where(known, np.arange(values.shape[1]), 0), axis=1)
    place = np.maximum(place, np.argmax(known, axis=1)[:, None])
    filled[lines] = np.where(known.any(axis=1, keepdims=True), np.take_along_axis(values[lines], place, axis=1), np.nan)
    return filled


def _parts(filled: Floats) -> Iterator[Part]:
    """Parts, of which some are empty and several have one shape."""
    bits = filled.view(np.int64)
    is_nothing = np.asarray(np.isnan(filled).all(axis=1))
    is_constant = np.asarray((bits == bits[:, :1]).all(axis=1)) & ~is_nothing
    for form, chosen in ((Form.NOTHING, is_nothing), (Form.CONSTANT, is_constant)):
        lines = np.flatnonzero(chosen)
        yield part_of(form, lines, base=filled[lines, 0], elements=filled[lines, :0])
    rest = np.flatnonzero(~is_constant & ~is_nothing)
    for find in (decimals, _singles, corrected_decimals):
        found = list(find(filled, rest))
        yield from found
        rest = without(rest, found)
    yield part_of(Form.DOUBLES, rest, base=np.full(len(rest), np.nan), elements=filled[rest])


def _singles(filled: Floats, lines: Lines) -> Iterator[Part]:
    """Those of the lines that a float4 holds exactly."""
    values = filled[lines]
    singles = values.astype(np.float32)
    is_exact: Flags = (singles.astype(np.float64).view(np.int64) == values.view(np.int64)) | np.isnan(values)
    chosen = is_exact.all(axis=1)
    base = np.full(np.count_nonzero(chosen), np.nan)
    yield part_of(Form.SINGLES, lines[chosen], base=base, elements=singles[chosen])


def _joined(parts: tuple[Part, ...]) -> Part:
    """Parts of one shape as one."""
    names = ("lines", "base", "divisor", "unit", "elements", "corrections")
    return Part(parts[0].form, *(np.concatenate([getattr(part, name) for part in parts]) for name in names))
