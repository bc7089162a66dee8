"""What packing gives: one statistic of many series over a span of buckets, and how it is read back.

A packed series is nothing, a constant, plain singles or doubles, or offsets:

    value = (base + offset) / divisor [+ (correction - 128) x unit]

in doubles. Only the quotient is rounded: the first sum has few bits, the unit is a power of two, and the last sum is
the value itself. So numpy and PostgreSQL get the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Lines = npt.NDArray[np.int64]


class Form(IntEnum):
    """How a series is packed, from the fewest bytes to the most. `BYTES` to `INTS` are offsets."""

    NOTHING = 0
    CONSTANT = 1
    BYTES = 2
    SHORTS = 3
    INTS = 4
    SINGLES = 5
    DOUBLES = 6


#: The elements of each form. Bytes have no sign, as `get_byte` reads them from a bytea.
DTYPES: dict[Form, type[np.generic]] = {
    Form.BYTES: np.uint8,
    Form.SHORTS: np.int16,
    Form.INTS: np.int32,
    Form.SINGLES: np.float32,
    Form.DOUBLES: np.float64,
}
#: The largest offset of each form that holds offsets.
LARGEST_OFFSETS = {Form.BYTES: 2.0**8 - 1, Form.SHORTS: 2.0**15 - 1, Form.INTS: 2.0**31 - 1}
OFFSETS = (Form.BYTES, Form.SHORTS, Form.INTS)
#: What is taken from a correction, so that a byte without a sign holds both.
CORRECTION_BIAS = 128


@dataclass(frozen=True)
class Part:
    """Series of one form: `lines` says which, int64 of shape (m,).

    `base`, `divisor`, `unit`: float64 of shape (m,); a constant is its base, and the others have a meaning for offsets
    only, as has `base`. Divisor and unit are exact as float4, too. `elements`: of shape (m, buckets) and the form's
    dtype; of a constant, and where there is nothing, of shape (m, 0). `corrections`: uint8 of shape (m, buckets), or
    (m, 0) where none are needed.
    """

    form: Form
    lines: Lines
    base: Floats
    divisor: Floats
    unit: Floats
    elements: npt.NDArray[np.generic]
    corrections: npt.NDArray[np.uint8]

    @property
    def shape(self) -> tuple[Form, bool]:
        """The form, and whether there are corrections: parts of equal shape can be one."""
        return self.form, self.corrections.shape[1] > 0

    def values(self) -> Floats:
        """What the part stands for, of shape (m, buckets), by the operations that SQL does; (m, 1) for constants."""
        if self.form <= Form.CONSTANT:
            return self.base[:, None]
        elements = self.elements.astype(np.float64)
        if self.form not in OFFSETS:
            return elements
        quotients = np.asarray((self.base[:, None] + elements) / self.divisor[:, None])
        if not self.shape[1]:
            return quotients
        return quotients + (self.corrections.astype(np.float64) - CORRECTION_BIAS) * self.unit[:, None]


@dataclass(frozen=True)
class Packed:
    """One statistic of n series over a span: every series is in one part, and parts differ in their shape."""

    series: int
    buckets: int
    parts: tuple[Part, ...]


def part_of(form: Form, lines: Lines, *, base: Floats, elements: npt.NDArray[np.generic]) -> Part:
    """A part that needs no divisor and no corrections."""
    one = np.ones(len(lines))
    return Part(form, lines, base, one, one, elements, np.zeros((len(lines), 0), dtype=np.uint8))


def unpack(packed: Packed) -> Floats:
    """The values, of shape (n, buckets); NaN where there is nothing."""
    values = np.full((packed.series, packed.buckets), np.nan)
    for part in packed.parts:
        values[part.lines] = part.values()
    return values
