"""PostgreSQL computes packed values to the bit as numpy does: what is checked when packing holds when SQL reads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import psycopg2
import pytest
from hypothesis import example, given, settings

from aggregator.embedded.postgres import EmbeddedPostgres
from aggregator.rollups.packed import CORRECTION_BIAS, OFFSETS, Form, Part
from aggregator.rollups.packing import pack
from tests.effort import examples
from tests.packable import DATA, Floats, have_equal_bits

Cursor = psycopg2.extensions.cursor
#: The expression of docs/adr/0017-sealed-rows.md, for one series; an array that a form lacks is NULL.
_VALUES = f"""
    SELECT float8send(coalesce(
        (base + offsets[place]) / divisor + coalesce((corrections[place] - {CORRECTION_BIAS}) * unit, 0),
        doubles[place], singles[place], base))
    FROM (SELECT %(base)s::float8, %(divisor)s::real, %(unit)s::real, %(offsets)s::integer[],
        %(corrections)s::integer[], %(doubles)s::float8[], %(singles)s::real[]
    ) AS part (base, divisor, unit, offsets, corrections, doubles, singles), generate_series(1, %(buckets)s) AS place
    ORDER BY place
"""  # noqa: S608 - text of our own


@pytest.fixture(scope="module")
def cursor(postgres_server: EmbeddedPostgres) -> Iterator[Cursor]:
    connection = psycopg2.connect(postgres_server.url)
    try:
        with connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()


def array(values: np.ndarray) -> str:
    return f"{{{','.join(repr(value) for value in values.tolist())}}}"


def in_sql(cursor: Cursor, part: Part, series: int, *, buckets: int) -> Floats:
    elements = array(part.elements[series])
    scalars = {name: repr(float(getattr(part, name)[series])) for name in ("base", "divisor", "unit")}
    cursor.execute(
        _VALUES,
        {
            **scalars,
            "offsets": elements if part.form in OFFSETS else None,
            "corrections": array(part.corrections[series]) if part.shape[1] else None,
            "doubles": elements if part.form is Form.DOUBLES else None,
            "singles": elements if part.form is Form.SINGLES else None,
            "buckets": buckets,
        },
    )
    return np.array([np.frombuffer(sent, dtype=">f8")[0] for (sent,) in cursor.fetchall()], dtype=np.float64)


@given(values=DATA)
@example(values=np.array([[0.1 + 0.2, 0.3, 0.7 + 0.1 + 0.1, 0.25]]))
@example(values=np.array([[4096.0 * 3, 4096.0 * 70_000, 0.0]]))
@settings(max_examples=examples(60))
def test_sql_gives_back_every_bit(cursor: Cursor, values: Floats) -> None:
    for part in pack(values, np.ones(values.shape, dtype=np.bool_)).parts:
        for series, line in enumerate(part.lines):
            assert have_equal_bits(values[line], in_sql(cursor, part, series, buckets=values.shape[1]))
