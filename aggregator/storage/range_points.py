"""SQL for the points of a range: read from a tier as they are, regrouped, or put together from samples.

A point is a row for a series in an interval. Arguments: $1 selector, $2 start, $3 finish, $4 interval in milliseconds,
$5 tier, $6 labels to group by, or NULL.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from aggregator.storage.range_sums import total
from aggregator.storage.range_times import LAST_INSTANT
from aggregator.storage.sealed_reading import sealed_points
from aggregator.storage.sealed_sample_sql import SPAN
from aggregator.storage.sealed_views import is_final
from aggregator.storage.selector_functions import selected_series
from aggregator.storage.statistic_columns import (
    average,
    deviation,
    given,
    rate,
    slots_due_of,
    statistics_at,
    statistics_of,
)
from aggregator.storage.tables import SCHEMA

RAW = "raw"
EXACT = "exact"
REGROUPED = "regrouped"
#: Outputs of rules have no samples: where samples are read, their rollups of the finest tier are.
OUTPUTS = "outputs"
# Beside what is open there is what is sealed: a function for what only a plan that is too old needs by itself, and one
# for both, in which the series are found once.
SEALED = "sealed"
SEALED_OUTPUTS = "sealed_outputs"
BOTH = "both"
BOTH_OUTPUTS = "both_outputs"
MIXED = "mixed"
#: Columns of a point and their types. `group_id`: equal where metric and labels are, if they are grouped.
COLUMNS = {
    "time": "timestamptz",
    "metric": "text",
    "labels": "jsonb",
    "job": "text",
    "instance": "text",
    "group_id": "bigint",
    "count": "integer",
    **dict.fromkeys(("sum", "avg", "min", "max", "first", "last", "stddev", "increase", "rate"), "float8"),
    "completeness": "float8",
    "is_final": "boolean",
    "tier": "text",
    "m2": "float8",
    "slots_due": "float8",
}
_OWN = ", ".join(f"own.{name}" for name in ("metric", "labels", "job", "instance", "group_id"))
_TIER = "$5"


@dataclass(frozen=True)
class RangeSettings:
    """What of the settings a range depends on."""

    lateness: timedelta
    lookback: timedelta


def point_functions(settings: RangeSettings) -> Mapping[str, str]:
    """The text of the functions, by the name that `range_` comes before."""
    return {
        EXACT: own_series() + _exact(),
        SEALED: own_series() + _sealed(settings),
        BOTH: own_series() + _both(settings),
        REGROUPED: own_series() + _regrouped(settings, _open_elements()),
        MIXED: own_series() + _regrouped(settings, _all_elements()),
        RAW: own_series() + _raw(settings),
        OUTPUTS: own_series(where="is_output") + _exact(),
        SEALED_OUTPUTS: own_series(where="is_output") + _sealed(settings),
        BOTH_OUTPUTS: own_series(where="is_output") + _both(settings),
    }


def own_series(*, where: str = "true") -> str:
    """SQL: `own`, the series that are meant, found once; `where`: a condition on rows of `metric_series`."""
    grouped = "(SELECT jsonb_object_agg(name, labels -> name) FROM unnest($6) AS name WHERE labels ? name)"
    return f"""
    WITH own AS MATERIALIZED (
        SELECT
            series_id, block_id, position, metric, labels, labels ->> 'job' AS job, labels ->> 'instance' AS instance,
            CASE WHEN $6 IS NULL THEN 0 ELSE dense_rank() OVER (ORDER BY metric, labels) END AS group_id
        FROM (
            SELECT series_id, block_id, position, metric,
                CASE WHEN $6 IS NULL THEN labels ELSE coalesce({grouped}, '{{}}') END AS labels
            FROM {SCHEMA}.metric_series WHERE {selected_series("$1")} AND {where}
            OFFSET 0
        ) AS found
    )
    """  # noqa: S608 - as above


def start_of(instant: str, *, tier: str = _TIER, interval_ms: str = "$4") -> str:
    """SQL (timestamptz): the start of the interval that holds an instant."""
    return f"{SCHEMA}.range_start({tier}, {instant}, {interval_ms})"


def end_of(instant: str, *, tier: str = _TIER) -> str:
    """SQL (timestamptz): the end of the interval that holds an instant."""
    return f"{SCHEMA}.range_end({tier}, {instant}, $4)"


def start_of_row(of: str = "") -> str:
    """SQL (timestamptz): the start of the interval that a row belongs to, without a call where lengths are fixed.

    `of`: the alias of the row and a dot.
    """
    length_ms = f"{SCHEMA}.range_length_ms({_TIER}, $4)"
    bins = f"make_interval(secs => {length_ms} / 1000.0), {of}time, {SCHEMA}.interval_origin({length_ms})"
    return f"CASE WHEN {length_ms} IS NULL THEN {start_of(f'{of}time')} ELSE date_bin({bins}) END"


def own_blocks(view: str, columns: str, *, since: str, until: str) -> str:
    """SQL: the rows of a view of blocks in which series of `own` lie, from `since` to before `until`.

    OFFSET 0: a block's row is read, and its interval and the ledger looked up, once and not for each of its series.
    Where there are no series, nothing is scanned.
    """
    return (
        f"SELECT {columns} FROM {SCHEMA}.{view} WHERE tier_id = {_TIER} AND time >= {since} AND time < {until}"  # noqa: S608 - as above
        " AND block_id = ANY (ARRAY(SELECT DISTINCT block_id FROM own)) AND EXISTS (SELECT FROM own) OFFSET 0"
    )


def ledger_until(finish: str, *, of: str) -> str:
    """SQL: a join that says, as `ledger.is_clean`, whether nothing from a row's `start` to before `finish` is dirty.

    `of`: the row's alias; it has `shard_id` and `built_from`. Left out by PostgreSQL where nobody asks.
    """
    return f"""LEFT JOIN LATERAL (
        SELECT count(*) = 0 AS is_clean FROM (
            SELECT FROM {SCHEMA}.buckets_dirty AS d
            WHERE d.shard_id = {of}.shard_id AND d.time >= {of}.start AND d.time < {finish}
                AND d.tier_id = ANY ({of}.built_from)
            LIMIT 1
        ) AS found
    ) AS ledger ON true"""  # noqa: S608 - as above


def _exact() -> str:
    """The rows of the tier, for intervals that are no longer than its step."""
    statistics = ", ".join(statistics_of("r", "own.position").values())
    rows = own_blocks("block_rollups", "*", since=start_of("$2", interval_ms="1"), until="$3")
    return f"""
    SELECT r.time, {_OWN}, {statistics}, r.is_final, r.tier, {given("r.m2", "own.position")},
        {slots_due_of("r", "own.position")}::float8
    FROM ({rows}) AS r JOIN own ON own.block_id = r.block_id
    WHERE r.count[own.position] > 0
    """  # noqa: S608 - as above


def _sealed(settings: RangeSettings) -> str:
    """The same of what is sealed."""
    statistics = ", ".join(statistics_at("v").values())
    final = is_final("v.time", step="v.step", dirty="v.dirty", lateness=settings.lateness)
    own = _OWN.replace("own.", "v.")
    found = sealed_points(f"{_OWN}, s.tier, s.dirty", tier=_TIER, since=start_of("$2", interval_ms="1"), until="$3")
    return f"""
    SELECT v.time, {own}, {statistics}, {final}, v.tier, v.m2, v.slots_due::float8
    FROM ({found}) AS v
    """  # noqa: S608 - as above


def _both(settings: RangeSettings) -> str:
    """The same of both forms. A UNION by itself would have all its columns computed, asked for or not."""
    return f"SELECT * FROM ({_exact()} UNION ALL {_sealed(settings)}) AS both_forms"  # noqa: S608 - as above


_MERGED = ("sum", "min", "max", "first", "last", "m2", "increase", "covered")


def _open_elements() -> str:
    """The numbers of each series in each bucket of the range, and the interval that it belongs to."""
    rows = own_blocks(
        "block_rollups", f"*, {start_of_row()} AS start", since=start_of("$2"), until=end_of(LAST_INSTANT)
    )
    elements = ", ".join(f"{given(f'r.{name}', 'own.position')} AS {name}" for name in _MERGED)
    return f"""
    SELECT r.start, r.time, own.series_id, r.count[own.position] AS count, {elements},
        {slots_due_of("r", "own.position")} AS slots_due, r.shard_id, r.built_from, r.tier
    FROM ({rows}) AS r JOIN own ON own.block_id = r.block_id
    WHERE r.count[own.position] > 0
    """  # noqa: S608 - as above


def _all_elements() -> str:
    """The same of both forms, in the order of time: the last bits of a sum depend on the order of its parts."""
    columns = "own.series_id, s.shard_id, s.built_from, s.tier"
    found = sealed_points(columns, tier=_TIER, since=start_of("$2"), until=end_of(LAST_INSTANT))
    elements = ", ".join(f"v.{name}" for name in _MERGED)
    return f"""
    SELECT * FROM (
        {_open_elements()}
        UNION ALL
        SELECT {start_of_row("v.")}, v.time, v.series_id, v.count, {elements},
            v.slots_due, v.shard_id, v.built_from, v.tier
        FROM ({found}) AS v
    ) AS both_forms
    ORDER BY start, series_id, time
    """  # noqa: S608 - as above


def _regrouped(settings: RangeSettings, elements: str) -> str:
    """The rows of the tier put together, for intervals of several buckets; none of them is cut.

    What is sorted are numbers (OFFSET 0), not whole blocks. An interval is final when its end is past lateness and
    nothing in it is dirty.
    """
    finish = end_of("g.start")
    return f"""
    SELECT g.start, {_OWN}, g.count::integer, g.sum, {average("g.sum", "g.count")}, g.min, g.max, g.first, g.last,
        {deviation("g.m2", "g.count")}, g.increase, {rate("g.increase", "g.covered")},
        least(1, g.count / nullif(g.slots_due, 0)),
        {finish} + interval '{settings.lateness.total_seconds()} seconds' <= now() AND ledger.is_clean,
        g.tier, g.m2, g.slots_due
    FROM (
        SELECT
            start, series_id, sum(count) AS count, {total("sum")} AS sum, min(min) AS min, max(max) AS max,
            (array_agg(first ORDER BY time))[1] AS first, (array_agg(last ORDER BY time DESC))[1] AS last,
            {SCHEMA}.combined_m2(count, sum, m2) AS m2, {total("increase")} AS increase, sum(covered) AS covered,
            sum(slots_due)::float8 / count(*) * {SCHEMA}.range_buckets({_TIER}, $4) AS slots_due,
            min(shard_id) AS shard_id, min(built_from) AS built_from, min(tier) AS tier
        FROM (
            {elements}
            OFFSET 0
        ) AS elements
        GROUP BY start, series_id
    ) AS g
    JOIN own ON own.series_id = g.series_id
    {ledger_until(finish, of="g")}
    """  # noqa: S608 - as above


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


def _raw(settings: RangeSettings) -> str:
    """Samples put together, for intervals that are shorter than the finest step."""
    lookback = f"interval '{settings.lookback.total_seconds()} seconds'"
    gauge = "g.kind = 'gauge'"
    return f"""
    SELECT
        g.start, {_OWN}, g.count::integer,
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
