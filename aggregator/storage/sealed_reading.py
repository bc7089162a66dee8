"""SQL that reads sealed rollups in the ways of `metric_range`: the rows of a range, and the points in them."""

from __future__ import annotations

from collections.abc import Mapping

from aggregator.storage.sealed_columns import OWN, WHOLE, columns_of, element
from aggregator.storage.tables import SCHEMA

#: What a clock gives to those who read; when a sample was the last one is for others.
SHARED_READ = ("count", "slots_due", "covered")


def sealed_points(columns: str, *, tier: str, since: str, until: str) -> str:
    """SQL: what is sealed of series of `own` from the bucket `since` to before `until`, a row for each point.

    It has `columns`, of `own` and of the sealed row `s`; and `time`, `step` and the numbers. Buckets without samples
    are left out. OFFSET 0: a row is unpacked once, and what nobody asks for is not; the times in a span, and the counts
    there, are made once for all series whose clocks count the same (Memoize). Every place is BETWEEN 0 AND 32767, but
    without that PostgreSQL expects 1,000 in each row, and compiles what it would only do for millions (JIT). Uses
    indexes sealed_pkey and clock_pkey.
    """
    within = f"span >= {SCHEMA}.range_span({tier}, {since}) AND span < {until}"
    others = {name: "c" for name in SHARED_READ if name != "count"} | dict.fromkeys(OWN, "s")
    return f"""
    SELECT {columns}, p.time, c.step, p.count, {elements_at(others, "p.place")}
    FROM own
    CROSS JOIN LATERAL (
        SELECT * FROM {SCHEMA}.sealed_rollups
        WHERE tier_id = {tier} AND block_id = own.block_id AND position = own.position AND {within}
        OFFSET 0
    ) AS s
    CROSS JOIN LATERAL (
        SELECT * FROM {SCHEMA}.sealed_clocks
        WHERE tier_id = {tier} AND block_id = own.block_id AND span = s.span AND clock = s.clock AND {within}
        OFFSET 0
    ) AS c
    CROSS JOIN LATERAL (
        SELECT * FROM (
            SELECT place, s.span + place * c.step AS time, {elements_at({"count": "c"}, "place")}
            FROM generate_series({_places(since, until)}) AS place
            WHERE place BETWEEN 0 AND 32767
            OFFSET 0
        ) AS found
        WHERE count > 0
        OFFSET 0
    ) AS p
    OFFSET 0
    """  # noqa: S608 - text of our own


def _places(since: str, until: str) -> str:
    """SQL: the first and the last place in the range of a row whose clock is `c`."""
    step = "extract(epoch FROM c.step)"
    first, end = (f"ceil(extract(epoch FROM {at} - s.span) / {step})::integer" for at in (since, until))
    return f"greatest(0, {first}), least(c.buckets, {end}) - 1"


def elements_at(rows: Mapping[str, str], place: str) -> str:
    """SQL: numbers at a place from 0 of unpacked rows, each under its name; `rows`: by name, the alias of its row.

    A NaN is NULL, as everywhere for readers. PostgreSQL puts the text of these functions in the place of the calls that
    somebody asks for, and reads none of it for the others.
    """
    calls = {name: _call(row, name, place) for name, row in rows.items()}
    return ", ".join(
        f"{call}::integer AS {name}" if name in WHOLE else f"nullif({call}, 'NaN') AS {name}"
        for name, call in calls.items()
    )


def _call(row: str, statistic: str, place: str) -> str:
    columns = ", ".join(f"{row}.{name}" for name in columns_of((statistic,)))
    return f"{SCHEMA}.{_WHOLE if statistic in WHOLE else _VALUE}({columns}, {place})"


_WHOLE, _VALUE = "sealed_whole", "sealed_value"


def element_functions() -> tuple[str, ...]:
    """Statements for the functions that give an element of a statistic's columns."""
    return tuple(_element_function(name, statistic) for name, statistic in ((_WHOLE, "count"), (_VALUE, "sum")))


def _element_function(name: str, statistic: str) -> str:
    columns = columns_of((statistic,))
    body = element("the", statistic, "place")
    for column in columns:
        body = body.replace(f"the.{column}", column.removeprefix(f"{statistic}_"))
    arguments = ", ".join(f"{column.removeprefix(f'{statistic}_')} {type_}" for column, type_ in columns.items())
    return f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.{name}({arguments}, place integer) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT {body}
$$
"""
