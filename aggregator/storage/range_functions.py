"""The SQL functions that pick a tier by themselves: `metric_range`, `metric_range_by`, and what dashboards list.

They read views only, so that a reader's rights suffice, and are plain SQL, which PostgreSQL puts in the place of the
call: a range's conditions reach the indexes, and of the tiers only the one that was picked is executed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from aggregator.storage.range_points import (
    COMBINED_M2,
    RangeSettings,
    average,
    deviation,
    exact_points,
    raw_points,
    regrouped_points,
    total,
)
from aggregator.storage.range_times import INTERVALS, TierRange, tier_functions
from aggregator.storage.selector_functions import selected_series
from aggregator.storage.tables import SCHEMA

#: As in Prometheus.
MOST_POINTS = 11_000


@dataclass(frozen=True)
class _Column:
    name: str
    type: str


_STATISTICS = (
    _Column("count", "integer"),
    *(_Column(name, "float8") for name in ("sum", "avg", "min", "max", "first", "last", "stddev", "increase", "rate")),
    _Column("completeness", "float8"),
    _Column("is_final", "boolean"),
    _Column("tier", "text"),
)
_LABELS = (_Column("metric", "text"), _Column("labels", "jsonb"), _Column("job", "text"), _Column("instance", "text"))
_RANGE_COLUMNS = (_Column("time", "timestamptz"), *_LABELS, *_STATISTICS)
_BY_COLUMNS = (
    _Column("time", "timestamptz"),
    *_LABELS,
    _Column("series", "integer"),
    *(
        _Column("count", "bigint") if column.name == "count" else column
        for column in _STATISTICS
        if column.name not in ("first", "last")
    ),
)

_CHECK = f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.range_check(
    start timestamptz, finish timestamptz, interval_ms bigint) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    IF start IS NULL OR finish IS NULL OR interval_ms IS NULL THEN
        RAISE EXCEPTION 'start, finish and interval_ms cannot be NULL' USING ERRCODE = '22023';
    ELSIF interval_ms <= 0 THEN
        RAISE EXCEPTION 'interval_ms is %; write a positive number of milliseconds, such as 60000', interval_ms
            USING ERRCODE = '22023';
    ELSIF NOT isfinite(start) OR NOT isfinite(finish) OR finish < start THEN
        RAISE EXCEPTION 'the range ends at %, before it starts, at %; write start, then finish', finish, start
            USING ERRCODE = '22023';
    ELSIF extract(epoch FROM finish - start) * 1000 > {MOST_POINTS}::numeric * interval_ms THEN
        RAISE EXCEPTION 'more than {MOST_POINTS:,} points for a series; write an interval_ms of at least %',
            ceil(extract(epoch FROM finish - start) * 1000 / {MOST_POINTS}) USING ERRCODE = '22023';
    END IF;
    RETURN true;
END
$$
"""

# Called IMMUTABLE though it reads what is kept: so PostgreSQL knows the tier when it plans, and the plan has no other
# (2 ms; with all tiers in it 16). What a plan that is kept goes by changes when a partition of its tier is dropped, and
# then PostgreSQL plans anew. With arguments that it does not know yet, it leaves the other tiers out at execution.
# The coarsest tier that is no coarser than the interval, of those that are kept from the start on; where none of them
# is, the finest that is kept so far back; where no tier is, the one that reaches back furthest. Of two with the same
# step the one with a zone of its own, which somebody has asked for. 0 is samples.
_TIER = f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.range_tier(start timestamptz, interval_ms bigint) RETURNS smallint
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN (
        SELECT tier_id FROM {SCHEMA}.tiers_kept
        ORDER BY greatest(kept_since, start), step_seconds * 1000 <= interval_ms DESC,
            CASE WHEN step_seconds * 1000 <= interval_ms THEN -step_seconds ELSE step_seconds END,
            timezone = 'UTC', tier_id
        LIMIT 1
    );
END
$$
"""  # noqa: S608 - our own schema


def _signature(columns: Sequence[_Column]) -> str:
    return ", ".join(f'"{column.name}" {column.type}' for column in columns)


def _named(columns: Sequence[_Column]) -> str:
    return ", ".join(f'"{column.name}"' for column in columns)


_ARGUMENTS = "selector text, start timestamptz, finish timestamptz, interval_ms bigint"


def _points(settings: RangeSettings) -> str:
    """SQL: a row for each series and interval, of the columns `POINT_COLUMNS`."""
    selected = selected_series("$1")
    return " UNION ALL ".join(
        (
            exact_points(selected=selected),
            regrouped_points(settings, selected=selected),
            raw_points(settings, selected=selected),
        )
    )


def _metric_range(points: str) -> str:
    return f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.metric_range({_ARGUMENTS}) RETURNS TABLE ({_signature(_RANGE_COLUMNS)})
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT {_named(_RANGE_COLUMNS)} FROM ({points}) AS points WHERE {SCHEMA}.range_check($2, $3, $4)
$$
"""  # noqa: S608 - text of our own


def _metric_range_by(points: str) -> str:
    """Sums are added, and what follows from them is computed anew: nothing is an average of averages."""
    return f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.metric_range_by({_ARGUMENTS}, by text[])
RETURNS TABLE ({_signature(_BY_COLUMNS)})
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT
        g.time, g.metric, g.labels, g.labels ->> 'job', g.labels ->> 'instance', g.series, g.count, g.sum,
        {average("g.sum", "g.count")}, g.min, g.max, {deviation("g.m2", "g.count")}, g.increase, g.rate,
        least(1, g.count / nullif(g.slots_due, 0)), g.is_final, g.tier
    FROM (
        SELECT
            points.time, own.metric, own.labels, count(*)::integer AS series, sum(points.count) AS count,
            {total("points.sum")} AS sum, min(points.min) AS min, max(points.max) AS max,
            {SCHEMA}.combined_m2(points.count, points.sum, points.m2) AS m2,
            {total("points.increase")} AS increase, {total("points.rate", where="points.rate IS NOT NULL")} AS rate,
            sum(points.slots_due) AS slots_due, bool_and(points.is_final) AS is_final, min(points.tier) AS tier
        FROM ({points}) AS points
        JOIN (
            SELECT series_id, metric, coalesce(
                (SELECT jsonb_object_agg(name, labels -> name) FROM unnest($5) AS name WHERE labels ? name), '{{}}'
            ) AS labels
            FROM {SCHEMA}.metric_series WHERE {selected_series("$1")} OFFSET 0
        ) AS own ON own.series_id = points.series_id
        WHERE {SCHEMA}.range_check($2, $3, $4)
        GROUP BY points.time, own.metric, own.labels
    ) AS g
$$
"""  # noqa: S608 - text of our own


# By index, from name to name: there are far fewer metrics than series.
_METRIC_NAMES = f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.metric_names() RETURNS SETOF text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    WITH RECURSIVE found AS (
        (SELECT metric FROM {SCHEMA}.metric_series ORDER BY metric LIMIT 1)
        UNION ALL
        SELECT (
            SELECT s.metric FROM {SCHEMA}.metric_series AS s WHERE s.metric > found.metric ORDER BY s.metric LIMIT 1
        ) FROM found WHERE found.metric IS NOT NULL
    )
    SELECT metric FROM found WHERE metric IS NOT NULL
$$
"""  # noqa: S608 - our own schema

_LABEL_VALUES = f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.label_values(metric text, label text) RETURNS SETOF text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT DISTINCT s.labels ->> $2 FROM {SCHEMA}.metric_series AS s
    WHERE {selected_series("$1", of="s.")} AND s.labels ? $2
    ORDER BY 1
$$
"""  # noqa: S608 - text of our own


def create_range_functions(connection: Connection, tiers: Sequence[TierRange], settings: RangeSettings) -> None:
    """Make or renew the functions for these tiers, whose views are there; the caller holds the publisher's lock."""
    points = _points(settings)
    helpers = (*INTERVALS, *COMBINED_M2, _CHECK, _TIER, *tier_functions(tiers))
    ranges = (_metric_range(points), _metric_range_by(points), _METRIC_NAMES, _LABEL_VALUES)
    for statement in (*helpers, *ranges):
        connection.execute(text(statement.replace(":", "\\:")))
