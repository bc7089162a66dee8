"""Sealed rows on the wire: packed statistics to the columns of COPY data, and back.

Each column has a width of its own in each row, or is NULL, so rows are put together one by one; a row is hundreds of
numbers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aggregator.rollups.packed import DTYPES, OFFSETS, Form, Packed, Part
from aggregator.storage.sealed_columns import ELEMENTS, WHOLE

#: The columns of a row on the wire, each with its length before it; what is absent is NULL.
Row = dict[str, bytes]
_NULL = struct.pack(">i", -1)
_ELEMENT_OIDS = {Form.SHORTS: 21, Form.INTS: 23, Form.SINGLES: 700, Form.DOUBLES: 701}
_ARRAY_HEADER = struct.Struct(">5i")
_LENGTH = struct.Struct(">i")
_TRAILER_BYTES = 2


def scalar(layout: str, value: float) -> bytes:
    """A value of fixed length on the wire; `layout` as in `struct`, such as `q`, `i`, `h`, `d`, `f`."""
    return struct.pack(f">i{layout}", struct.calcsize(f">{layout}"), value)


def encode_rows(rows: Sequence[Row], names: Sequence[str]) -> bytes:
    """Rows as COPY data without signature and trailer, columns in the order of `names`; there are no others."""
    place = {name: number for number, name in enumerate(names, start=1)}
    nothing = [struct.pack(">h", len(names)), *(_NULL for _ in names)]
    parts: list[bytes] = []
    for row in rows:
        line = nothing.copy()
        for name, value in row.items():
            line[place[name]] = value
        parts += line
    return b"".join(parts)


def wire(packed: Packed, statistic: str) -> list[Row]:
    """The columns of each series, in their order."""
    lines: list[Row] = [{} for _ in range(packed.series)]
    for part in packed.parts:
        if part.form is not Form.NOTHING:
            _check(part, statistic)
            names = _names(part, statistic)
            for line, values in zip(part.lines.tolist(), zip(*_columns(part), strict=True), strict=True):
                lines[line] = dict(zip(names, values, strict=True))
    return lines


def _check(part: Part, statistic: str) -> None:
    if statistic in WHOLE and (part.shape[1] or part.form in (Form.SINGLES, Form.DOUBLES)):
        raise ValueError(f"{statistic} holds whole numbers only, less than 2^32 apart")


def _names(part: Part, statistic: str) -> list[str]:
    suffixes = ["base"] if part.form <= Form.INTS else []
    suffixes += ["divisor"] if part.form in OFFSETS else []
    suffixes += [ELEMENTS[part.form][0]] if part.form > Form.CONSTANT else []
    suffixes += ["unit", "corrections"] if part.shape[1] else []
    return [f"{statistic}_{suffix}" for suffix in suffixes]


def _columns(part: Part) -> Iterator[list[bytes]]:
    """The columns that a part has, in the order of `_names`; each as a list with a value for each series."""
    if part.form <= Form.INTS:
        yield _scalars("d", part.base)
    if part.form in OFFSETS:
        yield _scalars("f", part.divisor)
    if part.form > Form.CONSTANT:
        yield _arrays(part)
    if part.shape[1]:
        yield _scalars("f", part.unit)
        yield _bytes(part.corrections)


def _scalars(layout: str, values: npt.NDArray[np.float64]) -> list[bytes]:
    packer = struct.Struct(f">i{layout}")
    size = packer.size - _LENGTH.size
    return [packer.pack(size, value) for value in values.tolist()]


def _bytes(lines: npt.NDArray[np.generic]) -> list[bytes]:
    length = _LENGTH.pack(lines.shape[1])
    return [length + line.tobytes() for line in lines]


def _arrays(part: Part) -> list[bytes]:
    if part.form is Form.BYTES:
        return _bytes(part.elements)
    size, width = part.elements.dtype.itemsize, part.elements.shape[1]
    wired = np.zeros(part.elements.shape, dtype=_element_dtype(part.form))
    wired["length"], wired["value"] = size, part.elements
    header = _LENGTH.pack(20 + width * (4 + size)) + _ARRAY_HEADER.pack(1, 0, _ELEMENT_OIDS[part.form], width, 1)
    return [header + line.tobytes() for line in wired]


def _element_dtype(form: Form) -> np.dtype[np.void]:
    return np.dtype([("length", ">i4"), ("value", np.dtype(DTYPES[form]).newbyteorder(">"))])


@dataclass(frozen=True)
class Read:
    """Rows that were read: by column its values without their lengths, None for NULL; all lists are as long."""

    columns: Mapping[str, list[bytes | None]]
    count: int

    def integers(self, name: str) -> npt.NDArray[np.int64]:
        """A column of whole numbers of fixed length, none of them NULL; shape (n,)."""
        values = self.columns[name]
        size = len(values[0] or b"") if values else 8
        return np.frombuffer(b"".join(value or b"" for value in values), dtype=f">i{size}").astype(np.int64)

    def only(self, lines: Sequence[int]) -> Read:
        """Some of the rows."""
        return Read({name: [values[line] for line in lines] for name, values in self.columns.items()}, len(lines))


def decode_rows(data: memoryview, names: Sequence[str]) -> Read:
    """COPY data with these columns, without its signature."""
    raw = bytes(data)
    columns: dict[str, list[bytes | None]] = {name: [] for name in names}
    appends = [columns[name].append for name in names]
    unpack_length = _LENGTH.unpack_from
    offset, end, count = 0, len(raw) - _TRAILER_BYTES, 0
    while offset < end:
        offset += 2
        for append in appends:
            (length,) = unpack_length(raw, offset)
            offset += 4
            if length < 0:
                append(None)
            else:
                append(raw[offset : offset + length])
                offset += length
        count += 1
    return Read(columns, count)


def unwire(read: Read, statistic: str, *, buckets: int) -> Packed:
    """A statistic of rows that all have this many buckets, as it was packed."""
    has = {suffix: _given(read, f"{statistic}_{suffix}") for suffix in _SUFFIXES}
    form = np.where(has["base"], Form.CONSTANT, Form.NOTHING)
    for one, (suffix, _) in ELEMENTS.items():
        form[has[suffix]] = one
    parts = [
        _part(read, statistic, Form(one), lines=lines, buckets=buckets)
        for one in np.unique(form)
        for is_corrected in (False, True)
        if len(lines := np.flatnonzero((form == one) & (has["corrections"] == is_corrected)))
    ]
    return Packed(read.count, buckets, tuple(parts))


_SUFFIXES = ("base", "corrections", *(suffix for suffix, _ in ELEMENTS.values()))


def _given(read: Read, name: str) -> npt.NDArray[np.bool_]:
    values = read.columns.get(name)
    if values is None:
        return np.zeros(read.count, dtype=np.bool_)
    return np.fromiter((value is not None for value in values), dtype=np.bool_, count=read.count)


def _part(read: Read, statistic: str, form: Form, *, lines: npt.NDArray[np.int64], buckets: int) -> Part:
    def floats(suffix: str, dtype: str) -> npt.NDArray[np.float64]:
        values = read.columns.get(f"{statistic}_{suffix}")
        joined = b"".join(values[line] or b"" for line in lines.tolist()) if values else b""
        if not joined:
            return np.ones(len(lines))
        return np.frombuffer(joined, dtype=dtype).astype(np.float64)

    def raw(suffix: str) -> bytes:
        values = read.columns[f"{statistic}_{suffix}"]
        return b"".join(values[line] or b"" for line in lines.tolist())

    has_corrections = _given(read, f"{statistic}_corrections")[lines[0]]
    corrections = np.zeros((len(lines), 0), dtype=np.uint8)
    if has_corrections:
        corrections = np.frombuffer(raw("corrections"), dtype=np.uint8).reshape(len(lines), buckets)
    return Part(
        form,
        lines,
        floats("base", ">f8") if form <= Form.INTS and form is not Form.NOTHING else np.full(len(lines), np.nan),
        floats("divisor", ">f4"),
        floats("unit", ">f4"),
        _elements(raw(ELEMENTS[form][0]), form, len(lines), buckets) if form in ELEMENTS else _none(len(lines)),
        corrections,
    )


def _none(lines: int) -> npt.NDArray[np.generic]:
    return np.zeros((lines, 0))


def _elements(data: bytes, form: Form, lines: int, buckets: int) -> npt.NDArray[np.generic]:
    if form is Form.BYTES:
        return np.frombuffer(data, dtype=np.uint8).reshape(lines, buckets)
    row = np.dtype([("header", ">i4", (5,)), ("elements", _element_dtype(form), (buckets,))])
    values = np.frombuffer(data, dtype=row)["elements"]["value"]
    return values.astype(DTYPES[form])
