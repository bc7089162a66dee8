"""Binary COPY to and from numpy: the one place that knows PostgreSQL's wire format of arrays.

Format: https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format"; an array is its dimensions, then each
element with its length before it. psycopg2 has no binary results, so the driver's own COPY carries the bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg2
from sqlalchemy import Connection, Select, Table
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import BigInteger, DateTime, Double, Integer, SmallInteger, TypeEngine

_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"
_HEADER_BYTES = 19
_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NULL_LENGTH = -1
#: The "width" of a column that is NULL.
_NULL = -1
_ARRAY_HEADER_BYTES = 20
_DIALECT: Dialect = PGDialect()  # type: ignore[no-untyped-call] # SQLAlchemy's own constructor


@dataclass(frozen=True)
class _Scalar:
    """How a type lies on the wire: its oid, and a big-endian numpy dtype."""

    oid: int
    dtype: str

    @property
    def size(self) -> int:
        return np.dtype(self.dtype).itemsize


def _scalar(column_type: TypeEngine[Any]) -> _Scalar:
    # SmallInteger and BigInteger are Integers too: the narrow cases come first.
    for python_type, scalar in (
        (SmallInteger, _Scalar(21, ">i2")),
        (BigInteger, _Scalar(20, ">i8")),
        (Integer, _Scalar(23, ">i4")),
        (Double, _Scalar(701, ">f8")),
        (DateTime, _Scalar(1184, ">i8")),
    ):
        if isinstance(column_type, python_type):
            return scalar
    raise TypeError(f"{column_type!r} is not copied in binary")


def wire_instants(instants: Sequence[datetime]) -> npt.NDArray[np.int64]:
    """Instants as PostgreSQL sends them: microseconds since 2000-01-01T00:00Z, int64 of shape (n,)."""
    return np.array([(instant - _POSTGRES_EPOCH) // _MICROSECOND for instant in instants], dtype=np.int64)


def from_wire_instant(value: int) -> datetime:
    """The instant (UTC) of a number of microseconds since 2000-01-01T00:00Z."""
    return _POSTGRES_EPOCH + timedelta(microseconds=int(value))


@lru_cache(maxsize=1_024)  # sketches have rows of thousands of widths, and each entry takes 7 kB
def _row_dtype(table: Table, names: tuple[str, ...], widths: tuple[int, ...]) -> np.dtype[np.void]:
    """The dtype of one row on the wire; `widths` run parallel to `names`: elements of an array, `_NULL` for a NULL."""
    fields: list[Any] = [("fields", ">i2")]
    for name, width in zip(names, widths, strict=True):
        column_type = table.c[name].type
        fields.append((f"{name}.length", ">i4"))
        if width == _NULL:
            continue
        if isinstance(column_type, ARRAY):
            element = _scalar(column_type.item_type)
            fields.append((f"{name}.header", ">i4", (5,)))
            fields.append((name, [("length", ">i4"), ("value", element.dtype)], (width,)))
        else:
            fields.append((name, _scalar(column_type).dtype))
    return np.dtype(fields)


@dataclass(frozen=True)
class Rows:
    """Rows of one shape: scalars of shape (n,), arrays of shape (n, width); a column that is absent is NULL."""

    columns: dict[str, npt.NDArray[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def width(self, name: str) -> int:
        """How many elements a column's arrays have; 0 for a scalar, -1 where the column is NULL."""
        if name not in self.columns:
            return _NULL
        values = self.columns[name]
        return values.shape[1] if values.ndim > 1 else 0


def encode(table: Table, names: tuple[str, ...], rows: Rows) -> bytes:
    """The rows as COPY data without signature and trailer, columns in the order of `names`."""
    widths = tuple(rows.width(name) for name in names)
    wire = np.zeros(len(rows), dtype=_row_dtype(table, names, widths))
    wire["fields"] = len(names)
    for name, width in zip(names, widths, strict=True):
        column_type = table.c[name].type
        if width == _NULL:
            wire[f"{name}.length"] = _NULL_LENGTH
        elif isinstance(column_type, ARRAY):
            element = _scalar(column_type.item_type)
            wire[f"{name}.length"] = _ARRAY_HEADER_BYTES + width * (4 + element.size)
            wire[f"{name}.header"] = (1, 0, element.oid, width, 1)
            wire[name]["length"] = element.size
            wire[name]["value"] = rows.columns[name]
        else:
            wire[f"{name}.length"] = _scalar(column_type).size
            wire[name] = rows.columns[name]
    return wire.tobytes()


def copy_in(connection: Connection, target: str, names: tuple[str, ...], parts: Sequence[bytes]) -> None:
    """COPY encoded rows into `target` (a quoted table name) inside the transaction."""
    quoted = ", ".join(_DIALECT.identifier_preparer.quote(name) for name in names)
    data = io.BytesIO(_SIGNATURE + b"".join(parts) + _TRAILER)
    with _cursor(connection) as cursor:
        cursor.copy_expert(f"COPY {target} ({quoted}) FROM STDIN (FORMAT binary)", data)


def copy_out(connection: Connection, query: Select[Any]) -> memoryview:
    """The result of a query as COPY data, without the signature; `scalars` and `grouped` read it."""
    statement = query.compile(dialect=_DIALECT, compile_kwargs={"literal_binds": True})
    data = io.BytesIO()
    with _cursor(connection) as cursor:
        # The driver's own cursor takes no parameters here: a percent sign stays as it is.
        cursor.copy_expert(f"COPY ({str(statement).replace('%%', '%')}) TO STDOUT (FORMAT binary)", data)
    return data.getbuffer()[_HEADER_BYTES:]


@contextmanager
def _cursor(connection: Connection) -> Iterator[Any]:
    """The driver's own cursor. Its errors come out as SQLAlchemy's: only those are retried (`engine.Database`)."""
    driver = connection.connection.driver_connection
    if driver is None:
        raise AssertionError("a connection inside a transaction has its driver's connection")
    with driver.cursor() as cursor:
        try:
            yield cursor
        except psycopg2.Error as error:
            is_lost = connection.dialect.is_disconnect(error, driver, cursor)  # type: ignore[arg-type] # it is this driver
            if is_lost:
                connection.invalidate(error)
            raise _as_sqlalchemy(connection, error, is_lost=is_lost) from error


def _as_sqlalchemy(connection: Connection, error: psycopg2.Error, *, is_lost: bool) -> BaseException:
    return DBAPIError.instance(
        "COPY", None, error, psycopg2.Error, connection_invalidated=is_lost, dialect=connection.dialect
    )


def scalars(data: memoryview, table: Table, names: tuple[str, ...]) -> Rows:
    """Rows without NULLs and arrays, in their order."""
    dtype = _row_dtype(table, names, (0,) * len(names))
    wire = np.frombuffer(data, dtype=dtype, count=(len(data) - len(_TRAILER)) // dtype.itemsize)
    return Rows({name: _native(wire, table, name) for name in names})


def grouped(
    data: memoryview, table: Table, names: tuple[str, ...], *, optional: tuple[str, ...] = ()
) -> Iterator[Rows]:
    """Rows grouped by shape: by the width that all their arrays have, and by that of each array in `optional`.

    An array in `optional` has a width of its own in each row, or is NULL: it is then absent from the group's columns.
    Optional arrays come before all others in `names`. No other column may be NULL, and no array empty. Where the
    lengths stand in a row is known, so one look per row and optional array is enough; the rest is numpy.
    """
    layout = _Layout(table, names, optional)
    for widths, offsets in layout.offsets_by_widths(data).items():
        dtype = _row_dtype(table, names, widths)
        wire = _gathered(data, offsets, dtype)
        present = (name for name, width in zip(names, widths, strict=True) if width != _NULL)
        yield Rows({name: _native(wire, table, name) for name in present})


def _gathered(data: memoryview, offsets: list[int], dtype: np.dtype[np.void]) -> npt.NDArray[np.void]:
    """The rows of one layout that begin at ascending offsets. Neighbours are taken as they lie: mostly, all of them."""
    starts = np.array(offsets)
    ends_run = np.append(np.flatnonzero(np.diff(starts) != dtype.itemsize), len(starts) - 1)
    if len(ends_run) == 1:
        return np.frombuffer(data, dtype=dtype, count=len(starts), offset=offsets[0])
    first = np.insert(ends_run[:-1] + 1, 0, 0)
    runs = zip(starts[first], starts[ends_run] + dtype.itemsize, strict=True)
    return np.frombuffer(b"".join(data[start:end] for start, end in runs), dtype=dtype)


@dataclass(frozen=True)
class _Layout:
    """Where in a row of COPY data its lengths stand."""

    table: Table
    names: tuple[str, ...]
    optional: tuple[str, ...]

    def _bytes(self, names: tuple[str, ...], width: int) -> int:
        """Bytes of consecutive columns whose arrays have that width."""
        dtype = _row_dtype(self.table, names, tuple(width if self._is_array(name) else 0 for name in names))
        return dtype.itemsize - 2

    def _is_array(self, name: str) -> bool:
        return isinstance(self.table.c[name].type, ARRAY)

    def _gaps(self) -> tuple[list[int], tuple[str, ...]]:
        """Bytes of what lies before each optional array and after the one before it, and the columns after them all."""
        gaps: list[int] = []
        before = 0
        for name in self.optional:
            place = self.names.index(name)
            gaps.append(self._bytes(self.names[before:place], 0))
            before = place + 1
        return gaps, self.names[before:]

    def offsets_by_widths(self, data: memoryview) -> dict[tuple[int, ...], list[int]]:
        """By the widths of a row's columns, where in the data the rows begin that have them."""
        gaps, rest = self._gaps()
        fixed = self._bytes(rest, 0)
        per_element = self._bytes(rest, 1) - fixed
        first_array = next(name for name in rest if self._is_array(name))
        # The lengths of columns before it, its own, and three words of its header.
        dimension_at = self._bytes(rest[: rest.index(first_array)], 0) + 16
        found: dict[tuple[int, ...], list[int]] = {}
        offset, end = 0, len(data) - len(_TRAILER)
        while offset < end:
            at, lengths = offset + 2, []
            for gap in gaps:
                at += gap + 4
                length = int.from_bytes(data[at - 4 : at], "big", signed=True)
                lengths.append(length)
                at += max(length, 0)
            width = int.from_bytes(data[at + dimension_at : at + dimension_at + 4], "big")
            found.setdefault((*lengths, width), []).append(offset)
            offset = at + fixed + width * per_element
        if offset != end:
            raise ValueError(f"{self.table.name}: a row holds a NULL, or arrays of unequal length")
        return {self._widths(key): offsets for key, offsets in found.items()}

    def _widths(self, key: tuple[int, ...]) -> tuple[int, ...]:
        """The width of each column, from the bytes of each optional array and the width of all others."""
        own = dict(zip(self.optional, key[:-1], strict=True))
        return tuple(
            self._width(name, own[name]) if name in own else (key[-1] if self._is_array(name) else 0)
            for name in self.names
        )

    def _width(self, name: str, length: int) -> int:
        if length == _NULL_LENGTH:
            return _NULL
        element = _scalar(self.table.c[name].type.item_type)  # type: ignore[attr-defined] # it is an array
        return (length - _ARRAY_HEADER_BYTES) // (4 + element.size)


def _native(wire: npt.NDArray[np.void], table: Table, name: str) -> npt.NDArray[Any]:
    values = wire[name]["value"] if isinstance(table.c[name].type, ARRAY) else wire[name]
    return values.astype(values.dtype.newbyteorder("="), order="C")
