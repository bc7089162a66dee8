"""Sealed rows in plain PostgreSQL: their tables in a schema of the benchmark's own, and COPY data for them.

`sealed` has a row for each series and span, with the statistics that are a series' own. Those that all series of a
scrape share (`count`, `last_at`, `covered`) and `slots_due` lie in `clock`, once for each different set in a block.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from figures import Connection, value

from aggregator.rollups.packed import Form, Packed, Part

SCHEMA = "packed"
#: Where a repeated target's blocks begin.
BLOCKS_OF_A_TARGET = 1_000
OWN = ("sum", "min", "max", "first", "last", "m2", "increase")
SHARED = ("count", "last_at", "covered", "slots_due")
#: What offsets hold, whatever the data.
CLOCKED = (*SHARED, "at")
_NULL = struct.pack(">i", -1)
#: By form, the suffix of its column, its type, and the oid of its elements in an array.
COLUMNS = {
    Form.BYTES: ("bytes", "bytea", None),
    Form.SHORTS: ("shorts", "smallint[]", 21),
    Form.INTS: ("ints", "integer[]", 23),
    Form.SINGLES: ("singles", "real[]", 700),
    Form.DOUBLES: ("doubles", "float8[]", 701),
}
_OFFSET_PARTS = {"base": "float8", "divisor": "real", "bytes": "bytea", "shorts": "smallint[]", "ints": "integer[]"}
_FLOAT_PARTS = {"unit": "real", "corrections": "bytea", "singles": "real[]", "doubles": "float8[]"}


def is_variable(column_type: str) -> bool:
    """Whether values of the type differ in length, so that they may be compressed and moved out of the row."""
    return column_type.endswith(("bytea", "[]"))


def columns_of(statistics: Sequence[str]) -> dict[str, str]:
    """The columns that hold these statistics and their types: first those of fixed length, widest first.

    What a clock holds are whole numbers or milliseconds: offsets always reach.
    """
    named = {
        f"{name}_{part}": column_type
        for name in statistics
        for part, column_type in (_OFFSET_PARTS if name in CLOCKED else _OFFSET_PARTS | _FLOAT_PARTS).items()
    }
    return dict(sorted(named.items(), key=lambda item: (is_variable(item[1]), item[1] != "float8")))


@dataclass(frozen=True)
class Storage:
    """How arrays are compressed, and how long a row may be with them.

    PostgreSQL compresses in rows above 2,032 bytes only, and then, longest first, until the row is down to `row_bytes`;
    what is still too long goes out of the row. Six rows to a page waste less of it than two large ones.
    """

    compression: str = "pglz"
    row_bytes: int = 1_360


@dataclass(frozen=True)
class Kept:
    """A table of packed statistics: its other columns and their types, and which of those are its primary key."""

    others: dict[str, str]
    key: tuple[str, ...]
    statistics: tuple[str, ...]

    @property
    def columns(self) -> dict[str, str]:
        """All columns and their types, in the table's order."""
        return self.others | columns_of(self.statistics)


_PLACE = {"start": "timestamptz", "block_id": "integer"}
_SEALED = {**_PLACE, "position": "smallint", "clock": "smallint"}
_CLOCK = {**_PLACE, "clock": "smallint", "buckets": "smallint"}
SEALED = Kept(_SEALED, ("block_id", "position", "start"), OWN)
CLOCK = Kept(_CLOCK, ("block_id", "start", "clock"), SHARED)
SEALED_SAMPLES = Kept(_SEALED, SEALED.key, ("value",))
SAMPLES_CLOCK = Kept(_CLOCK, CLOCK.key, ("at",))


def create(connection: Connection, name: str, *, kept: Kept, storage: Storage) -> None:
    """Make a table of packed statistics, anew where it is there."""
    listed = ", ".join(f"{column} {column_type}" for column, column_type in kept.columns.items())
    changes = [
        f"ALTER {column} SET COMPRESSION {storage.compression}"
        for column, column_type in kept.columns.items()
        if is_variable(column_type)
    ]
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}; DROP TABLE IF EXISTS {SCHEMA}.{name}")
        cursor.execute(
            f"CREATE TABLE {SCHEMA}.{name} ({listed}, PRIMARY KEY ({', '.join(kept.key)}))"
            f" WITH (toast_tuple_target = {storage.row_bytes})"
        )
        cursor.execute(f"ALTER TABLE {SCHEMA}.{name} {', '.join(changes)}")


def wire(packed: Packed, statistic: str) -> list[dict[str, bytes]]:
    """The columns of each series on the wire; those that are absent are NULL."""
    lines: list[dict[str, bytes]] = [{} for _ in range(packed.series)]
    for part in packed.parts:
        for line, found in zip(part.lines.tolist(), _wire_of_part(part), strict=True):
            lines[line] = {f"{statistic}_{name}": value for name, value in found.items()}
    return lines


def _wire_of_part(part: Part) -> Iterator[dict[str, bytes]]:
    if part.form is Form.NOTHING:
        yield from ({} for _ in part.lines)
        return
    has_base, is_offset = part.form <= Form.INTS, part.form in (Form.BYTES, Form.SHORTS, Form.INTS)
    arrays = _arrays(part) if part.form > Form.CONSTANT else []
    for line in range(len(part.lines)):
        found = {"base": struct.pack(">id", 8, part.base[line])} if has_base else {}
        if is_offset:
            found["divisor"] = struct.pack(">if", 4, part.divisor[line])
        if arrays:
            found[COLUMNS[part.form][0]] = arrays[line]
        if part.shape[1]:
            found["unit"] = struct.pack(">if", 4, part.unit[line])
            found["corrections"] = _bytea(part.corrections[line])
        yield found


def _bytea(values: npt.NDArray[np.uint8]) -> bytes:
    return struct.pack(">i", len(values)) + values.tobytes()


def _arrays(part: Part) -> list[bytes]:
    """Each series' elements as a value on the wire."""
    oid = COLUMNS[part.form][2]
    if oid is None:
        return [_bytea(line) for line in part.elements]
    size, buckets = part.elements.dtype.itemsize, part.elements.shape[1]
    wired = np.zeros(part.elements.shape, dtype=[("length", ">i4"), ("value", part.elements.dtype.newbyteorder(">"))])
    wired["length"], wired["value"] = size, part.elements
    header = struct.pack(">6i", 20 + buckets * (4 + size), 1, 0, oid, buckets, 1)
    return [header + line.tobytes() for line in wired]


def scalar(layout: str, value: int) -> bytes:
    """A value of fixed length on the wire; `layout` as in `struct`."""
    return struct.pack(f">i{layout}", struct.calcsize(f">{layout}"), value)


def fill(connection: Connection, name: str, rows: Sequence[dict[str, bytes]], *, kept: Kept, storage: Storage) -> None:
    """Make a table of packed statistics, and COPY rows of columns on the wire into it; absent columns are NULL."""
    create(connection, name, kept=kept, storage=storage)
    columns = list(kept.columns)
    data = io.BytesIO()
    data.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
    fields = struct.pack(">h", len(columns))
    for row in rows:
        data.write(fields)
        data.writelines(row.get(column, _NULL) for column in columns)
    data.write(b"\xff\xff")
    data.seek(0)
    with connection.cursor() as cursor:
        cursor.copy_expert(f"COPY {SCHEMA}.{name} ({', '.join(columns)}) FROM STDIN (FORMAT binary)", data)


def total_bytes(connection: Connection, name: str) -> int:
    """A table with its index and TOAST, without the pages that newer versions of PostgreSQL have ahead of their use."""
    with connection.cursor() as cursor:
        cursor.execute(f"VACUUM FULL {SCHEMA}.{name}")
    return int(value(connection, f"SELECT pg_total_relation_size('{SCHEMA}.{name}')"))
