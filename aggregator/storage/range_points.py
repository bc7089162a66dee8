"""SQL for the points of a range: read from a tier as they are, regrouped into longer intervals, or from samples.

A point is a row for a series in an interval. Each part is a branch of one UNION ALL, under conditions that hold the
arguments only, so that PostgreSQL executes no branch but the one that is meant. The arguments: $1 selector, $2 start,
$3 finish, $4 interval in milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from aggregator.storage.range_times import RAW_ID
from aggregator.storage.tables import SCHEMA

RAW = "raw"
_ROW_COLUMNS = (
    *("time", "series_id", "metric", "labels", "job", "instance", "count", "sum", "avg", "min", "max", "first", "last"),
    *("stddev", "increase", "rate", "completeness", "is_final", "tier", "m2"),
)
#: Sums stay clear of what PostgreSQL refuses: beyond it a double is divided by `_SCALE` before it is added.
_LARGE = "1e300"
_SCALE = "1e10"
_LARGEST_SCALED = "1.7e298"


@dataclass(frozen=True)
class RangeSettings:
    """What of the settings a range depends on."""

    lateness: timedelta
    lookback: timedelta


# Pairwise, Chan, Golub and LeVeque 1979, as `rollups.merge`: state is count, mean and m2. What would leave the range of
# doubles, or is unknown, makes the result so too.
COMBINED_M2 = (
    f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.combined_m2_add(state float8[], count bigint, sum float8, m2 float8)
RETURNS float8[] LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    mean float8;
    distance float8;
    together float8 := state[1] + count;
BEGIN
    IF sum IS NULL OR m2 IS NULL OR abs(sum) > 8e307 OR m2 > 1e300 OR state[3] = 'NaN' THEN
        RETURN ARRAY[together, 0, 'NaN'];
    END IF;
    mean := CASE WHEN abs(sum) < 1e-300 THEN 0 ELSE sum / count END;
    IF state[1] = 0 THEN
        RETURN ARRAY[count, mean, m2];
    END IF;
    distance := mean - state[2];
    IF abs(distance) > 1e140 THEN
        RETURN ARRAY[together, 0, 'NaN'];
    ELSIF abs(distance) < 1e-140 THEN
        RETURN ARRAY[together, state[2], state[3] + m2];
    END IF;
    RETURN ARRAY[
        together, state[2] + distance * (count / together),
        state[3] + m2 + distance * distance * (state[1] * (count / together))];
END
$$
""",
    f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.combined_m2_of(state float8[])
RETURNS float8 LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN state[1] > 0 THEN nullif(state[3], 'NaN') END
$$
""",
    f"""
CREATE OR REPLACE AGGREGATE {SCHEMA}.combined_m2(count bigint, sum float8, m2 float8) (
    SFUNC = {SCHEMA}.combined_m2_add, STYPE = float8[], FINALFUNC = {SCHEMA}.combined_m2_of, INITCOND = '{{0,0,0}}',
    PARALLEL = SAFE
)
""",
)


def total(values: str, *, where: str = "true") -> str:
    """SQL: the sum of doubles without the errors that PostgreSQL raises for large ones.

    NULL where one of those that `where` means is NULL: a sum that lacks something is no sum.
    """
    small = f"coalesce(sum({values}) FILTER (WHERE abs({values}) < {_LARGE} AND {where}), 0)"
    large = f"sum({values} / {_SCALE}) FILTER (WHERE abs({values}) >= {_LARGE} AND {where})"
    return (
        f"CASE WHEN count(*) FILTER (WHERE {values} IS NULL AND {where}) > 0 OR count({values}) = 0 THEN NULL"
        f" WHEN {large} IS NULL THEN {small}"
        f" WHEN abs({large}) > {_LARGEST_SCALED} THEN nullif({large} * 'Infinity', 'NaN')"
        f" ELSE {large} * {_SCALE} + {small} END"
    )


def average(total_: str, count: str) -> str:
    """SQL: a quotient, 0 where PostgreSQL would raise because it is too small; as in the views."""
    return f"CASE WHEN abs({total_}) < 1e-300 THEN 0 ELSE {total_} / {count} END"


def deviation(m2: str, count: str) -> str:
    """SQL: the standard deviation."""
    return f"sqrt({average(m2, count)})"


def rate(increase: str, covered: str) -> str:
    """SQL: an increase over the seconds that it covers, infinite where PostgreSQL would raise; as in the views."""
    return (
        f"CASE WHEN abs({increase}) < 1e-300 THEN 0 WHEN abs({increase}) > 1e300 THEN {increase} * 'Infinity'"
        f" ELSE {increase} END / nullif({covered}, 0)"
    )


#: SQL (smallint): the id of the tier that is read. Each use is computed anew when PostgreSQL plans: few of them.
_TIER = f"{SCHEMA}.range_tier($2, $4)"
_RAW = f"{RAW_ID}::smallint"
_LAST_INSTANT = f"{SCHEMA}.instant_before($3)"
_IS_EXACT = f"$4 <= {SCHEMA}.range_step_ms({_TIER})"


def _start(tier: str, instant: str, interval_ms: str = "$4") -> str:
    return f"{SCHEMA}.range_start({tier}, {instant}, {interval_ms})"


def _end(tier: str, instant: str) -> str:
    return f"{SCHEMA}.range_end({tier}, {instant}, $4)"


def _start_of_row(tier: str) -> str:
    """SQL (timestamptz): the start of the interval that a row belongs to, without a call where lengths are fixed."""
    length_ms = f"{SCHEMA}.range_length_ms({tier}, $4)"
    return (
        f"CASE WHEN {length_ms} IS NULL THEN {_start(tier, 'time')}"
        f" ELSE date_bin(make_interval(secs => {length_ms} / 1000.0), time, {SCHEMA}.interval_origin({length_ms})) END"
    )


#: SQL: what is the same in all rows of a series; cheaper so than as a part of the key, and left out where nobody asks.
_IDENTITY = "min(metric) AS metric, (array_agg(labels))[1] AS labels, min(job) AS job, min(instance) AS instance"


def exact_points(*, selected: str) -> str:
    """SQL: the rows of the tier, for intervals that are no longer than its step."""
    return (
        f"SELECT {', '.join(_ROW_COLUMNS)}, slots_due::float8 FROM {SCHEMA}.metric_rollups"  # noqa: S608 - text of our own
        f" WHERE tier_id = {_TIER} AND {_IS_EXACT} AND time >= {_start(_TIER, '$2', '1')} AND time < $3 AND {selected}"
    )


def regrouped_points(settings: RangeSettings, *, selected: str) -> str:
    """SQL: the rows of the tier put together, for intervals of several buckets; none of them is cut."""
    finish = _end("g.tier_id", "g.start")
    return f"""
    SELECT
        g.start, g.series_id, g.metric, g.labels, g.job, g.instance, g.count::integer, g.sum,
        {average("g.sum", "g.count")}, g.min, g.max, g.first, g.last, {deviation("g.m2", "g.count")}, g.increase,
        {rate("g.increase", "g.covered")}, least(1, g.count / nullif(g.slots_due, 0)),
        g.is_final AND {finish} + interval '{settings.lateness.total_seconds()} seconds' <= now()
            AND ledger.is_clean, g.tier, g.m2, g.slots_due
    FROM (
        SELECT
            {_start_of_row(_TIER)} AS start, series_id, {_IDENTITY}, sum(count) AS count,
            {total("sum")} AS sum, min(min) AS min, max(max) AS max, (array_agg(first ORDER BY time))[1] AS first,
            (array_agg(last ORDER BY time DESC))[1] AS last, {SCHEMA}.combined_m2(count, sum, m2) AS m2,
            {total("increase")} AS increase, sum(covered) AS covered,
            sum(slots_due)::float8 / count(*) * {SCHEMA}.range_buckets(min(tier_id), $4) AS slots_due,
            bool_and(is_final) AS is_final, min(shard_id) AS shard_id, min(built_from) AS built_from, min(tier) AS tier,
            min(tier_id) AS tier_id
        FROM {SCHEMA}.metric_rollups
        WHERE tier_id = {_TIER} AND NOT {_IS_EXACT} AND time >= {_start(_TIER, "$2")}
            AND time < {_end(_TIER, _LAST_INSTANT)} AND {selected}
        GROUP BY 1, series_id
    ) AS g
    LEFT JOIN LATERAL (
        SELECT count(*) = 0 AS is_clean FROM (
            SELECT FROM {SCHEMA}.buckets_dirty AS d
            WHERE d.shard_id = g.shard_id AND d.time >= g.start AND d.time < {finish} AND d.tier_id = ANY (g.built_from)
            LIMIT 1
        ) AS found
    ) AS ledger ON true
    """  # noqa: S608 - text of our own


# A value below the one before it is a reset; a difference that is no finite number is not counted.
_DELTA = """
CASE
    WHEN time - time_before > {lookback} THEN NULL
    WHEN value < value_before THEN CASE WHEN abs(value) < 'Infinity' THEN value END
    WHEN greatest(abs(value), abs(value_before)) < 8.9e307 THEN value - value_before
    WHEN greatest(abs(value), abs(value_before)) = 'Infinity' THEN NULL
    WHEN value::numeric - value_before::numeric < 1.797e308::numeric THEN value - value_before
END
"""


def raw_points(settings: RangeSettings, *, selected: str) -> str:
    """SQL: samples put together, for intervals that are shorter than the finest step."""
    lookback = f"interval '{settings.lookback.total_seconds()} seconds'"
    gauge = "g.kind = 'gauge'"
    return f"""
    SELECT
        g.start, g.series_id, g.metric, g.labels, g.job, g.instance, g.count::integer,
        CASE WHEN {gauge} THEN g.sum END, CASE WHEN {gauge} THEN {average("g.sum", "g.count")} END,
        CASE WHEN {gauge} THEN g.min END, CASE WHEN {gauge} THEN g.max END, g.first, g.last,
        CASE WHEN {gauge} THEN {deviation("g.m2", "g.count")} END,
        CASE WHEN NOT {gauge} THEN coalesce(g.increase, 0) END,
        CASE WHEN NOT {gauge} THEN {rate("coalesce(g.increase, 0)", "g.covered")} END,
        least(1, g.count / nullif({_slots_due()}, 0)),
        {_end(_RAW, "g.start")} + interval '{settings.lateness.total_seconds()} seconds' <= now(),
        '{RAW}'::text, CASE WHEN {gauge} THEN g.m2 END, {_slots_due()}
    FROM (
        SELECT
            {_start_of_row(_RAW)} AS start, series_id, {_IDENTITY}, min(kind) AS kind, count(*) AS count,
            {total("value")} AS sum, min(value) AS min, max(value) AS max, (array_agg(value ORDER BY time))[1] AS first,
            (array_agg(value ORDER BY time DESC))[1] AS last,
            CASE WHEN max(abs(value)) < 1e140
                THEN var_pop(value) FILTER (WHERE abs(value) < 1e140) * count(*) END AS m2,
            {total("delta", where="delta IS NOT NULL")} AS increase,
            sum(extract(epoch FROM time - time_before)) FILTER (WHERE delta IS NOT NULL)::float8 AS covered
        FROM (
            SELECT *, {_DELTA.format(lookback=lookback)} AS delta
            FROM (
                SELECT time, series_id, metric, labels, job, instance, kind, value,
                    lag(value) OVER before AS value_before, lag(time) OVER before AS time_before
                FROM {SCHEMA}.samples
                WHERE {_TIER} = {RAW_ID} AND {selected}
                    AND time >= {_start(_RAW, "$2")} - {lookback} AND time < {_end(_RAW, _LAST_INSTANT)}
                WINDOW before AS (PARTITION BY series_id ORDER BY time)
            ) AS ordered
            WHERE time >= {_start(_RAW, "$2")}
        ) AS differences
        GROUP BY 1, series_id
    ) AS g
    LEFT JOIN {SCHEMA}.metric_series AS own ON own.series_id = g.series_id
    """  # noqa: S608 - text of our own


def _slots_due() -> str:
    """SQL (float8): slots of the series' source in an interval of samples, as `buckets.SlotGrid.due` counts them."""
    since = "(extract(epoch FROM g.start)::float8 - own.offset_seconds)"
    return f"(ceil(({since} + $4 / 1000.0) / own.interval_seconds) - ceil({since} / own.interval_seconds))"
