"""The SQL functions for quantiles over a range: of Prometheus' histograms, and of sketches; as `metric_range_by`."""

from __future__ import annotations

from aggregator.storage.range_points import (
    RangeSettings,
    end_of,
    ledger_until,
    own_blocks,
    own_series,
    start_of,
    start_of_row,
)
from aggregator.storage.range_times import LAST_INSTANT
from aggregator.storage.statistic_columns import sketch_of, slots_due_of
from aggregator.storage.tables import SCHEMA

_ARGUMENTS = "q float8, selector text, start timestamptz, finish timestamptz, interval_ms bigint, by text[]"
_RETURNED = (
    '"time" timestamptz, metric text, labels jsonb, job text, instance text, quantile float8, count bigint,'
    " completeness float8, is_final boolean, tier text"
)

# The increases of each bucket are added over series first, as Prometheus' sum by (..., le).
_HISTOGRAM_QUANTILE_RANGE = f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.histogram_quantile_range({_ARGUMENTS}) RETURNS TABLE ({_RETURNED})
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT
        time, metric, labels - 'le', min(job), min(instance),
        {SCHEMA}.histogram_quantile($1, labels ->> 'le', increase), sum(count)::bigint, min(completeness),
        bool_and(is_final), min(tier)
    FROM {SCHEMA}.metric_range_by($2, $3, $4, $5, array_append(coalesce($6, '{{}}'), 'le'))
    GROUP BY time, metric, labels - 'le'
$$
"""  # noqa: S608 - text of our own

_SKETCH_QUANTILE_RANGE = f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.sketch_quantile_range({_ARGUMENTS}) RETURNS TABLE ({_RETURNED})
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT
        time, min(metric), (array_agg(labels))[1], min(job), min(instance),
        {SCHEMA}.sketch_quantile($1, array_agg(sketch)), sum(count)::bigint,
        least(1, sum(count) / nullif(avg(slots_due)::float8 * count(DISTINCT series_id), 0)), bool_and(is_final),
        min(tier)
    FROM {SCHEMA}.range_sketches($2, $3, $4, $5, {SCHEMA}.range_rollup_tier($3, $5), coalesce($6, '{{}}'))
    WHERE {SCHEMA}.range_check($3, $4, $5)
    GROUP BY time, group_id
$$
"""  # noqa: S608 - as above


def quantile_functions(settings: RangeSettings) -> tuple[str, ...]:
    """Statements for the functions; those of `metric_range_by` and of sketches are there."""
    return _range_sketches(settings), _HISTOGRAM_QUANTILE_RANGE, _SKETCH_QUANTILE_RANGE


def _range_sketches(settings: RangeSettings) -> str:
    """A row for each series and bucket that has a sketch, with the start of its interval.

    `slots_due` is that of the interval: a bucket without samples is taken to have had as many as the others. Uses
    indexes rollup_pkey and sketch_pkey.
    """
    bounds = {"since": start_of("$2"), "until": end_of(LAST_INSTANT)}
    rows = own_blocks("block_rollups", f"*, {start_of_row()} AS start", **bounds)
    sketches = own_blocks("block_sketches", "*", **bounds)
    finish = end_of("r.start")
    return f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.range_sketches(
    selector text, start timestamptz, finish timestamptz, interval_ms bigint, tier_id smallint, by text[])
RETURNS TABLE (
    "time" timestamptz, series_id bigint, metric text, labels jsonb, job text, instance text, group_id bigint,
    count integer, sketch {SCHEMA}.series_sketch, slots_due float8, is_final boolean, tier text)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    {own_series()}
    SELECT
        r.start, own.series_id, own.metric, own.labels, own.job, own.instance, own.group_id, r.count[own.position],
        {sketch_of("own.position")},
        {slots_due_of("r", "own.position")}::float8 * {SCHEMA}.range_buckets($5, $4),
        r.is_final AND {finish} + interval '{settings.lateness.total_seconds()} seconds' <= now() AND ledger.is_clean,
        r.tier
    FROM ({rows}) AS r
    JOIN ({sketches}) AS k ON k.block_id = r.block_id AND k.time = r.time
    JOIN own ON own.block_id = r.block_id
    CROSS JOIN LATERAL (SELECT array_positions(k.positions, own.position) AS places OFFSET 0) AS among
    {ledger_until(finish, of="r")}
    WHERE among.places <> '{{}}'
$$
"""  # noqa: S608 - as above
