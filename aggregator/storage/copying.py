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
from functools import cache
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


@cache
def _row_dtype(table: Table, names: tuple[str, ...], present: frozenset[str], width: int) -> np.dtype[np.void]:
    """The dtype of one row on the wire; `width` elements in every array, columns outside `present` are NULL."""
    fields: list[Any] = [("fields", ">i2")]
    for name in names:
        column_type = table.c[name].type
        fields.append((f"{name}.length", ">i4"))
        if name not in present:
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
    """Rows of one width: scalars of shape (n,), arrays of shape (n, width); a column that is absent is NULL."""

    columns: dict[str, npt.NDArray[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0


def encode(table: Table, names: tuple[str, ...], rows: Rows) -> bytes:
    """The rows as COPY data without signature and trailer, columns in the order of `names`."""
    width = next((values.shape[1] for values in rows.columns.values() if values.ndim > 1), 0)
    present = frozenset(rows.columns)
    wire = np.zeros(len(rows), dtype=_row_dtype(table, names, present, width))
    wire["fields"] = len(names)
    for name in names:
        if name not in present:
            wire[f"{name}.length"] = _NULL_LENGTH
            continue
        column_type = table.c[name].type
        if isinstance(column_type, ARRAY):
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
    """The result of a query as COPY data, without the signature; `scan` and `grouped` read it."""
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


def grouped(data: memoryview, table: Table, names: tuple[str, ...]) -> Iterator[Rows]:
    """Rows without NULLs whose arrays are all equally long within a row, grouped by that length.

    The first array's place in a row is fixed, so one look per row gives its length; the rest is numpy.
    """
    present = frozenset(names)
    empty = _row_dtype(table, names, present, 0)
    per_element = _row_dtype(table, names, present, 1).itemsize - empty.itemsize
    first_array = next(name for name in names if isinstance(table.c[name].type, ARRAY))
    dimension_at = empty.fields[f"{first_array}.header"][1] + 12  # type: ignore[index] # the dtype has fields
    offsets_by_width: dict[int, list[int]] = {}
    offset, end = 0, len(data) - len(_TRAILER)
    while offset < end:
        width = int.from_bytes(data[offset + dimension_at : offset + dimension_at + 4], "big")
        offsets_by_width.setdefault(width, []).append(offset)
        offset += empty.itemsize + width * per_element
    if offset != end:
        raise ValueError(f"{table.name}: a row holds a NULL, or arrays of unequal length")
    buffer = np.frombuffer(data, dtype=np.uint8)
    for width, offsets in offsets_by_width.items():
        dtype = _row_dtype(table, names, present, width)
        places = np.array(offsets)[:, None] + np.arange(dtype.itemsize)
        wire = buffer[places].view(dtype)[:, 0]
        yield Rows({name: _native(wire, table, name) for name in names})


def _native(wire: npt.NDArray[np.void], table: Table, name: str) -> npt.NDArray[Any]:
    values = wire[name]["value"] if isinstance(table.c[name].type, ARRAY) else wire[name]
    return np.ascontiguousarray(values).astype(values.dtype.newbyteorder("="))
