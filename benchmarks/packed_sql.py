"""SQL that reads sealed rows: an element of a packed statistic, functions in the style of `metric_range`, and views.

Three rules make it fast. A row is unpacked once: a copy of an array is a plain one, where each subscript would unpack a
compressed one anew. What is not asked for is not unpacked: OFFSET 0 keeps the unpacked row apart, and
the planner leaves out its columns that nobody reads. And only the places in the range are made.
"""

from __future__ import annotations

from collections.abc import Sequence

from packed_tables import BLOCKS_OF_A_TARGET, CLOCKED, OWN, SCHEMA, SHARED, columns_of, is_variable

from aggregator.storage.statistic_columns import average, deviation, given, rate

#: The columns that the functions and views give.
STATISTICS = (
    *("count integer", "sum float8", "avg float8", "min float8", "max float8", "first float8", "last float8"),
    *("stddev float8", "increase float8", "rate float8", "completeness float8"),
)


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

    Short, because PostgreSQL parses and plans all of it for each query. Adding 0 changes no bit: no quotient is -0.
    """
    of = f"{row}.{statistic}_"
    offset = f"coalesce({of}shorts[{place} + 1], get_byte({of}bytes, {place}), {of}ints[{place} + 1])"
    quotient = f"({of}base + {offset}) / {of}divisor"
    if statistic in CLOCKED:
        return f"coalesce({quotient}, {of}base)"
    correction = f"coalesce((get_byte({of}corrections, {place}) - 128) * {of}unit, 0)"
    return f"coalesce({quotient} + {correction}, {of}doubles[{place} + 1], {of}singles[{place} + 1], {of}base)"


def elements_at(own: str, clock: str, place: str) -> str:
    """SQL: every statistic at a place; what is derived from them then repeats their names and not their cases."""
    found = {name: element(clock, name, place) for name in SHARED} | {name: element(own, name, place) for name in OWN}
    return ", ".join(f"{sql} AS {name}" for name, sql in found.items())


def statistics_of(row: str) -> str:
    """SQL: the columns that a view of a tier has, from the elements in `row`."""
    value = {name: f"nullif({row}.{name}, 'NaN')" for name in OWN}
    return ", ".join(
        (
            f"{row}.count::integer AS count",
            f"{value['sum']} AS sum",
            f"{average(value['sum'], f'{row}.count')} AS avg",
            *(f"{value[name]} AS {name}" for name in ("min", "max", "first", "last")),
            f"{deviation(value['m2'], f'{row}.count')} AS stddev",
            f"{value['increase']} AS increase",
            f"{rate(value['increase'], f'{row}.covered')} AS rate",
            f"least(1, {row}.count / nullif({row}.slots_due, 0)) AS completeness",
        )
    )


_OWN_SERIES = """
    WITH own AS MATERIALIZED (
        SELECT block_id, position, instance FROM {schema}.series
        WHERE metric = $1 AND ($2 IS NULL OR instance = $2)
    )"""
_SIGNATURE = (
    "(metric text, instance text, since timestamptz, until timestamptz)"
    f' RETURNS TABLE ("time" timestamptz, instance text, {", ".join(STATISTICS)})'
    " LANGUAGE sql STABLE PARALLEL SAFE AS $$"
)


def open_function(tier: str) -> str:
    """Statement: `range_open_<tier>`, which reads rollup rows as the service has them."""
    array = {name: given(f"r.{name}", "own.position") for name in ("sum", "min", "max", "first", "last", "m2")}
    count, increase, covered = "r.count[own.position]", given("r.increase", "own.position"), "r.covered[own.position]"
    return f"""
    CREATE OR REPLACE FUNCTION {SCHEMA}.range_open_{tier} {_SIGNATURE}
    {_OWN_SERIES.format(schema=SCHEMA)}
    SELECT r.bucket, own.instance, {count}, {array["sum"]}, {average(array["sum"], count)},
        {array["min"]}, {array["max"]}, {array["first"]}, {array["last"]}, {deviation(array["m2"], count)},
        {increase}, {rate(increase, covered)}, least(1, {count}::float8 / nullif(r.slots_due, 0))
    FROM (
        SELECT * FROM {SCHEMA}.open_{tier} WHERE tier_id = 1 AND bucket >= $3 AND bucket < $4
            AND block_id = ANY (ARRAY(SELECT DISTINCT block_id FROM own)) OFFSET 0
    ) AS r JOIN own ON own.block_id = r.block_id
    WHERE {count} > 0
    $$"""  # noqa: S608 - names of our own


def sealed_function(tier: str, *, step_seconds: int, span: int) -> str:
    """Statement: `range_sealed_<tier>`, which reads sealed rows, of which none holds more than `span` buckets.

    Uses the primary keys of both tables.
    """
    place = f"ceil(extract(epoch FROM {{instant}} - s.start) / {step_seconds})::integer"
    return f"""
    CREATE OR REPLACE FUNCTION {SCHEMA}.range_sealed_{tier} {_SIGNATURE}
    {_OWN_SERIES.format(schema=SCHEMA)}
    SELECT s.start + v.place * interval '{step_seconds} s', own.instance, {statistics_of("v")}
    FROM own
    CROSS JOIN LATERAL (
        SELECT s.start, s.clock, {unpacked("s", OWN)} FROM {SCHEMA}.sealed_{tier} AS s
        WHERE s.block_id = own.block_id AND s.position = own.position
            AND s.start > $3 - interval '{span * step_seconds} s' AND s.start < $4
        OFFSET 0
    ) AS s
    CROSS JOIN LATERAL (
        SELECT c.buckets, {unpacked("c", SHARED)} FROM {SCHEMA}.clock_{tier} AS c
        WHERE c.block_id = own.block_id AND c.start = s.start AND c.clock = s.clock
        OFFSET 0
    ) AS c
    CROSS JOIN LATERAL (
        SELECT place, {elements_at("s", "c", "place")}
        FROM generate_series(
            greatest(0, {place.format(instant="$3")}), least(c.buckets, {place.format(instant="$4")}) - 1
        ) AS place
        OFFSET 0
    ) AS v
    WHERE v.count > 0
    $$"""  # noqa: S608 - as above


def sealed_view(tier: str, *, step_seconds: int, of_calendar: bool = False) -> str:
    """Statement: a view with the columns of a tier's, and `span`, the start of the sealed row, to filter by.

    `of_calendar`: the times come from a table that has them all, so that a condition on `time` finds sealed rows.
    """
    name = f"metrics_{tier}_calendar" if of_calendar else f"metrics_{tier}"
    time = f"s.start + place * interval '{step_seconds} s'"
    places = (
        f"SELECT time, place FROM {SCHEMA}.calendar_{tier} WHERE start = s.start"  # noqa: S608 - as above
        if of_calendar
        else f"SELECT {time} AS time, place FROM generate_series(0, c.buckets - 1) AS place"  # noqa: S608 - as above
    )
    return f"""
    CREATE OR REPLACE VIEW {SCHEMA}.{name} AS
    SELECT p.time, s.start AS span, series.metric, series.instance, {statistics_of("v")}
    FROM {SCHEMA}.series
    CROSS JOIN LATERAL (
        SELECT s.start, s.clock, s.block_id, {unpacked("s", OWN)} FROM {SCHEMA}.sealed_{tier} AS s
        WHERE s.block_id = series.block_id AND s.position = series.position OFFSET 0
    ) AS s
    CROSS JOIN LATERAL (
        SELECT c.buckets, {unpacked("c", SHARED)} FROM {SCHEMA}.clock_{tier} AS c
        WHERE c.block_id = s.block_id AND c.start = s.start AND c.clock = s.clock OFFSET 0
    ) AS c
    CROSS JOIN LATERAL ({places}) AS p
    CROSS JOIN LATERAL (SELECT {elements_at("s", "c", "p.place")} OFFSET 0) AS v
    WHERE v.count > 0"""  # noqa: S608 - as above


def all_elements() -> str:
    """SQL: every number of the tables `sealed_rollups` and `clock_rollups` of the first target, in order."""
    return f"""
    SELECT v.* FROM {SCHEMA}.sealed_rollups AS s
    JOIN {SCHEMA}.clock_rollups AS c USING (block_id, start, clock)
    CROSS JOIN LATERAL generate_series(0, c.buckets - 1) AS place
    CROSS JOIN LATERAL (SELECT {elements_at("s", "c", "place")} OFFSET 0) AS v
    WHERE s.block_id < {BLOCKS_OF_A_TARGET} AND v.count > 0
    ORDER BY s.block_id, s.position, s.start, place"""  # noqa: S608 - as above
