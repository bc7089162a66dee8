"""SQL for the points of a range that are put together from samples: intervals shorter than the finest step."""

from __future__ import annotations

from aggregator.storage.range_parts import OWN, RangeSettings, end_of, start_of, start_of_row
from aggregator.storage.range_sums import total
from aggregator.storage.range_times import LAST_INSTANT
from aggregator.storage.sealed_sample_sql import SPAN
from aggregator.storage.statistic_columns import average, deviation, rate
from aggregator.storage.tables import SCHEMA

#: The form of such a range, and what stands for a tier there.
RAW = "raw"

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


def raw_points(settings: RangeSettings) -> str:
    """Samples put together, for intervals that are shorter than the finest step."""
    lookback = f"interval '{settings.lookback.total_seconds()} seconds'"
    gauge = "g.kind = 'gauge'"
    return f"""
    SELECT
        g.start, {OWN}, g.count::integer,
        CASE WHEN {gauge} THEN g.sum END, CASE WHEN {gauge} THEN {average("g.sum", "g.count")} END,
        CASE WHEN {gauge} THEN g.min END, CASE WHEN {gauge} THEN g.max END, g.first, g.last,
        CASE WHEN {gauge} THEN {deviation("g.m2", "g.count")} END,
        CASE WHEN NOT {gauge} THEN coalesce(g.increase, 0) END,
        CASE WHEN NOT {gauge} THEN {rate("coalesce(g.increase, 0)", "g.covered")} END,
        least(1, g.count / nullif({_slots_due()}, 0)),
        {end_of("g.start")} + interval '{settings.lateness.total_seconds()} seconds' <= now(),
        '{RAW}', CASE WHEN {gauge} THEN g.m2 END, {_slots_due()}
    FROM (
        SELECT
            {start_of_row()} AS start, series_id, min(kind) AS kind, count(*) AS count,
            {total("value")} AS sum, min(value) AS min, max(value) AS max, (array_agg(value ORDER BY time))[1] AS first,
            (array_agg(value ORDER BY time DESC))[1] AS last,
            CASE WHEN max(abs(value)) < 1e140
                THEN var_pop(value) FILTER (WHERE abs(value) < 1e140) * count(*) END AS m2,
            {total("delta", where="delta IS NOT NULL")} AS increase,
            sum(extract(epoch FROM time - time_before)) FILTER (WHERE delta IS NOT NULL)::float8 AS covered
        FROM (
            SELECT *, {_DELTA.format(lookback=lookback)} AS delta
            FROM (
                SELECT time, series_id, kind, value,
                    lag(value) OVER before AS value_before, lag(time) OVER before AS time_before
                FROM {SCHEMA}.samples
                WHERE series_id = ANY (ARRAY(SELECT series_id FROM own))
                    AND time >= {start_of("$2")} - {lookback} AND time < {end_of(LAST_INSTANT)}
                    AND span > {start_of("$2")} - {lookback} - {SPAN} AND span < {end_of(LAST_INSTANT)}
                WINDOW before AS (PARTITION BY series_id ORDER BY time)
            ) AS ordered
            WHERE time >= {start_of("$2")}
        ) AS differences
        GROUP BY 1, series_id
    ) AS g
    JOIN own ON own.series_id = g.series_id
    LEFT JOIN {SCHEMA}.metric_series AS source ON source.series_id = g.series_id
    """  # noqa: S608 - as above


def _slots_due() -> str:
    """SQL (float8): slots of the series' source in an interval of samples, as `buckets.SlotGrid.due` counts them."""
    since = "(extract(epoch FROM g.start)::float8 - source.offset_seconds)"
    return f"(ceil(({since} + $4 / 1000.0) / source.interval_seconds) - ceil({since} / source.interval_seconds))"
