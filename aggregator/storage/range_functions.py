"""The SQL functions that pick a tier by themselves: `metric_range`, `metric_range_by`, and what dashboards list.

They read views only, so that a reader's rights suffice, and are plain SQL, which PostgreSQL puts in the place of the
call: a range's conditions reach the indexes, and of the tiers only the one that was picked is executed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from aggregator.storage.range_forms import form_functions, points
from aggregator.storage.range_parts import RangeSettings
from aggregator.storage.range_quantiles import quantile_functions
from aggregator.storage.range_sums import COMBINED_M2, total
from aggregator.storage.range_times import INTERVALS, RAW_ID, TierRange, tier_functions
from aggregator.storage.selector_functions import selected_series
from aggregator.storage.statistic_columns import average, deviation
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
# `range_rollup_tier` leaves samples out, which have no sketches.
# The coarsest tier that is no coarser than the interval, of those that are kept from the start on; where none of them
# is, the finest that is kept so far back; where no tier is, the one that reaches back furthest. Of two with the same
# step the one with a zone of its own, which somebody has asked for. 0 is samples.
_TIER = """
CREATE OR REPLACE FUNCTION {schema}.{name}(start timestamptz, interval_ms bigint) RETURNS smallint
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN (
        SELECT tier_id FROM {schema}.tiers_kept
        WHERE tier_id >= {least_id}
        ORDER BY greatest(kept_since, start), step_seconds * 1000 <= interval_ms DESC,
            CASE WHEN step_seconds * 1000 <= interval_ms THEN -step_seconds ELSE step_seconds END,
            timezone = 'UTC', tier_id
        LIMIT 1
    );
END
$$
"""
_TIERS = (
    _TIER.format(schema=SCHEMA, name="range_tier", least_id=RAW_ID),
    _TIER.format(schema=SCHEMA, name="range_rollup_tier", least_id=RAW_ID + 1),
)


def _signature(columns: Sequence[_Column]) -> str:
    return ", ".join(f'"{column.name}" {column.type}' for column in columns)


def _named(columns: Sequence[_Column]) -> str:
    return ", ".join(f'"{column.name}"' for column in columns)


_ARGUMENTS = "selector text, start timestamptz, finish timestamptz, interval_ms bigint"


_METRIC_RANGE = f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.metric_range({_ARGUMENTS}) RETURNS TABLE ({_signature(_RANGE_COLUMNS)})
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    {points(_named(_RANGE_COLUMNS), by="NULL")}
$$
"""

# Sums are added, and what follows from them is computed anew: nothing is an average of averages.
_METRIC_RANGE_BY = f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.metric_range_by({_ARGUMENTS}, by text[])
RETURNS TABLE ({_signature(_BY_COLUMNS)})
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT
        g.time, g.metric, g.labels, g.job, g.instance, g.series, g.count, g.sum,
        {average("g.sum", "g.count")}, g.min, g.max, {deviation("g.m2", "g.count")}, g.increase, g.rate,
        least(1, g.count / nullif(g.slots_due, 0)), g.is_final, g.tier
    FROM (
        SELECT
            time, min(metric) AS metric, (array_agg(labels))[1] AS labels, min(job) AS job, min(instance) AS instance,
            count(*)::integer AS series,
            sum(count) AS count, {total("sum")} AS sum, min(min) AS min, max(max) AS max,
            {SCHEMA}.combined_m2(count, sum, m2) AS m2, {total("increase")} AS increase,
            {total("rate", where="rate IS NOT NULL")} AS rate,
            sum(slots_due) AS slots_due, bool_and(is_final) AS is_final, min(tier) AS tier
        FROM ({points("*", by="coalesce($5, '{}')")}) AS points
        GROUP BY time, group_id
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
    helpers = (*INTERVALS, *COMBINED_M2, _CHECK, *_TIERS, *tier_functions(tiers))
    ranges = (_METRIC_RANGE, _METRIC_RANGE_BY, *quantile_functions(settings), _METRIC_NAMES, _LABEL_VALUES)
    for statement in (*helpers, *form_functions(settings), *ranges):
        connection.execute(text(statement.replace(":", "\\:")))
