"""The columns of packed statistics (docs/adr/0017-sealed-rows.md), and SQL that reads an element of them.

Three rules make reading fast. A row is unpacked once: a copy of an array is a plain one, where each subscript would
unpack a compressed one anew. What nobody asks for is not unpacked: OFFSET 0 keeps the unpacked row apart, and
PostgreSQL leaves out its columns that nobody reads. And only the places that are asked for are made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aggregator.rollups.packed import CORRECTION_BIAS, Form

#: What each series has of its own in a sealed row of rollups.
OWN = ("sum", "min", "max", "first", "last", "m2", "increase")
#: What a clock holds: the same for all series of a block that were scraped together.
SHARED = ("count", "last_at", "slots_due", "covered")
#: What a series has of its own in a sealed row of samples, and what a clock of samples holds: milliseconds from the
#: row's start to each sample, and from each sample to when its frame was received.
SAMPLE_OWN = ("value",)
SAMPLE_SHARED = ("at", "received")
#: Whole numbers less than 2^32 apart: offsets always reach.
WHOLE = frozenset({"count", "last_at", "slots_due"})

#: By form, the suffix of the column that holds its elements, and PostgreSQL's type.
ELEMENTS: Mapping[Form, tuple[str, str]] = {
    Form.BYTES: ("bytes", "bytea"),
    Form.SHORTS: ("shorts", "smallint[]"),
    Form.INTS: ("ints", "integer[]"),
    Form.SINGLES: ("singles", "real[]"),
    Form.DOUBLES: ("doubles", "float8[]"),
}
_OFFSETS = {"base": "float8", "divisor": "real", "bytes": "bytea", "shorts": "smallint[]", "ints": "integer[]"}
_OTHERS = {"unit": "real", "corrections": "bytea", "singles": "real[]", "doubles": "float8[]"}


def is_variable(column_type: str) -> bool:
    """Whether values of the type differ in length, so that they may be compressed and moved out of the row."""
    return column_type.endswith(("bytea", "[]"))


def columns_of(statistics: Sequence[str]) -> dict[str, str]:
    """The columns that hold these statistics and their types: first those of fixed length, widest first."""
    named = {
        f"{name}_{part}": column_type
        for name in statistics
        for part, column_type in (_OFFSETS if name in WHOLE else _OFFSETS | _OTHERS).items()
    }
    return dict(sorted(named.items(), key=lambda item: (is_variable(item[1]), item[1] != "float8")))


def unpacked(row: str, statistics: Sequence[str]) -> str:
    """SQL: the columns of packed statistics, arrays in one piece and in memory: both functions copy what there is."""
    call = {True: "substring({} FROM 1)", False: "trim_array({}, 0)"}
    return ", ".join(
        f"{call[column_type == 'bytea'].format(f'{row}.{name}')} AS {name}"
        if is_variable(column_type)
        else f"{row}.{name}"
        for name, column_type in columns_of(statistics).items()
    )


def element(row: str, statistic: str, place: str) -> str:
    """SQL (float8): a statistic's value at a place from 0 of an unpacked row; NULL where there is nothing.

    Short, because PostgreSQL parses and plans all of it for each query. Only offsets have a divisor, and only what has
    corrections has a unit: what is NULL is asked for once, and not once for each array.
    """
    of = f"{row}.{statistic}_"
    offset = f"coalesce({of}shorts[{place} + 1], get_byte({of}bytes, {place}), {of}ints[{place} + 1])"
    quotient = f"({of}base + {offset}) / {of}divisor"
    if statistic in WHOLE:
        return f"CASE WHEN {of}divisor IS NULL THEN {of}base ELSE {quotient} END"
    correction = f"(get_byte({of}corrections, {place}) - {CORRECTION_BIAS}) * {of}unit"
    return (
        f"CASE WHEN {of}divisor IS NULL THEN coalesce({of}doubles[{place} + 1], {of}singles[{place} + 1], {of}base)"
        f" WHEN {of}unit IS NULL THEN {quotient} ELSE {quotient} + {correction} END"
    )


def elements(row: str, statistics: Sequence[str], place: str) -> str:
    """SQL: statistics at a place, each under its own name."""
    return ", ".join(f"{element(row, name, place)} AS {name}" for name in statistics)
