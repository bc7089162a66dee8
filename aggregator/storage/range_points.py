"""SQL for the points of a range: read from a tier as they are, regrouped, or put together from samples.

A point is a row for a series in an interval. Arguments: $1 selector, $2 start, $3 finish, $4 interval in milliseconds,
$5 tier, $6 labels to group by, or NULL.
"""

from __future__ import annotations

from collections.abc import Mapping

from aggregator.storage.range_parts import (
    OWN,
    TIER,
    RangeSettings,
    end_of,
    ledger_until,
    own_blocks,
    own_series,
    start_of,
    start_of_row,
)
from aggregator.storage.range_raw import RAW, raw_points
from aggregator.storage.range_sums import total
from aggregator.storage.range_times import LAST_INSTANT
from aggregator.storage.sealed_reading import sealed_points
from aggregator.storage.sealed_views import is_final
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


def point_functions(settings: RangeSettings) -> Mapping[str, str]:
    """The text of the functions, by the name that `range_` comes before."""
    return {
        EXACT: own_series() + _exact(),
        SEALED: own_series() + _sealed(settings),
        BOTH: own_series() + _both(settings),
        REGROUPED: own_series() + _regrouped(settings, _open_elements()),
        MIXED: own_series() + _regrouped(settings, _all_elements()),
        RAW: own_series() + raw_points(settings),
        OUTPUTS: own_series(where="is_output") + _exact(),
        SEALED_OUTPUTS: own_series(where="is_output") + _sealed(settings),
        BOTH_OUTPUTS: own_series(where="is_output") + _both(settings),
    }


def _exact() -> str:
    """The rows of the tier, for intervals that are no longer than its step."""
    statistics = ", ".join(statistics_of("r", "own.position").values())
    rows = own_blocks("block_rollups", "*", since=start_of("$2", interval_ms="1"), until="$3")
    return f"""
    SELECT r.time, {OWN}, {statistics}, r.is_final, r.tier, {given("r.m2", "own.position")},
        {slots_due_of("r", "own.position")}::float8
    FROM ({rows}) AS r JOIN own ON own.block_id = r.block_id
    WHERE r.count[own.position] > 0
    """  # noqa: S608 - as above


def _sealed(settings: RangeSettings) -> str:
    """The same of what is sealed."""
    statistics = ", ".join(statistics_at("v").values())
    final = is_final("v.time", step="v.step", dirty="v.dirty", lateness=settings.lateness)
    own = OWN.replace("own.", "v.")
    found = sealed_points(f"{OWN}, s.tier, s.dirty", tier=TIER, since=start_of("$2", interval_ms="1"), until="$3")
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
    found = sealed_points(columns, tier=TIER, since=start_of("$2"), until=end_of(LAST_INSTANT))
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
    SELECT g.start, {OWN}, g.count::integer, g.sum, {average("g.sum", "g.count")}, g.min, g.max, g.first, g.last,
        {deviation("g.m2", "g.count")}, g.increase, {rate("g.increase", "g.covered")},
        least(1, g.count / nullif(g.slots_due, 0)),
        {finish} + interval '{settings.lateness.total_seconds()} seconds' <= now() AND ledger.is_clean,
        g.tier, g.m2, g.slots_due
    FROM (
        SELECT
            start, series_id, sum(count) AS count, {total("sum")} AS sum, min(min) AS min, max(max) AS max,
            (array_agg(first ORDER BY time))[1] AS first, (array_agg(last ORDER BY time DESC))[1] AS last,
            {SCHEMA}.combined_m2(count, sum, m2) AS m2, {total("increase")} AS increase, sum(covered) AS covered,
            sum(slots_due)::float8 / count(*) * {SCHEMA}.range_buckets({TIER}, $4) AS slots_due,
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
