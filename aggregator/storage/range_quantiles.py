"""The SQL functions for quantiles over a range: of Prometheus' histograms, and of sketches; as `metric_range_by`."""

from __future__ import annotations

from aggregator.storage.range_forms import function, late_function
from aggregator.storage.range_parts import (
    RangeSettings,
    end_of,
    ledger_until,
    own_blocks,
    own_series,
    start_of,
    start_of_row,
)
from aggregator.storage.range_times import LAST_INSTANT
from aggregator.storage.sealed_reading import sealed_points
from aggregator.storage.sealed_views import is_final
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

_EXPECTS_SEALED, _HAS_SEALED = (f"{SCHEMA}.range_{word}_sealed($3, $5)" for word in ("expects", "has"))


def _sketches(name: str, condition: str) -> str:
    call = f"{SCHEMA}.range_{name}($2, $3, $4, $5, {SCHEMA}.range_rollup_tier($3, $5), coalesce($6, '{{}}'))"
    return f"SELECT * FROM (SELECT * FROM {call} OFFSET 0) AS f WHERE {condition}"  # noqa: S608 - text of our own


_SKETCH_QUANTILE_RANGE = f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.sketch_quantile_range({_ARGUMENTS}) RETURNS TABLE ({_RETURNED})
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT
        time, min(metric), (array_agg(labels))[1], min(job), min(instance),
        {SCHEMA}.sketch_quantile($1, array_agg(sketch)), sum(count)::bigint,
        least(1, sum(count) / nullif(avg(slots_due)::float8 * count(DISTINCT series_id), 0)), bool_and(is_final),
        min(tier)
    FROM ({_sketches("sketches", "true")}
        UNION ALL {_sketches("sealed_sketches", _EXPECTS_SEALED)}
        UNION ALL {_sketches("sealed_sketches_late", f"NOT {_EXPECTS_SEALED} AND {_HAS_SEALED}")}) AS sketches
    WHERE {SCHEMA}.range_check($3, $4, $5)
    GROUP BY time, group_id
$$
"""  # noqa: S608 - as above


def quantile_functions(settings: RangeSettings) -> tuple[str, ...]:
    """Statements for the functions; those of `metric_range_by` and of sketches are there."""
    sketches = (
        function("sketches", "sql", own_series() + _of_intervals(_open_sketches(), settings), _SKETCH_COLUMNS),
        function(
            "sealed_sketches",
            "sql",
            own_series() + _of_intervals(_sealed_sketches(settings), settings),
            _SKETCH_COLUMNS,
        ),
        late_function("sealed_sketches", _SKETCH_COLUMNS),
    )
    return *sketches, _HISTOGRAM_QUANTILE_RANGE, _SKETCH_QUANTILE_RANGE


_SKETCH_COLUMNS = (
    '"time" timestamptz, series_id bigint, metric text, labels jsonb, job text, instance text, group_id bigint,'
    f" count integer, sketch {SCHEMA}.series_sketch, slots_due float8, is_final boolean, tier text"
)
_BOUNDS = {"since": start_of("$2"), "until": end_of(LAST_INSTANT)}
_SKETCHES = own_blocks("block_sketches", "*", **_BOUNDS)
_OWN = ("series_id", "metric", "labels", "job", "instance", "group_id")


def _of_intervals(rows: str, settings: RangeSettings) -> str:
    """A row for each series and bucket that has a sketch, with the start of its interval.

    `slots_due` is that of the interval: a bucket without samples is taken to have had as many as the others.
    """
    finish = end_of("r.start")
    return f"""
    SELECT
        r.start, {", ".join(f"r.{name}" for name in _OWN)}, r.count, r.sketch,
        r.slots_due::float8 * {SCHEMA}.range_buckets($5, $4),
        r.is_final AND {finish} + interval '{settings.lateness.total_seconds()} seconds' <= now() AND ledger.is_clean,
        r.tier
    FROM ({rows}) AS r
    {ledger_until(finish, of="r")}
    """  # noqa: S608 - as above


def _open_sketches() -> str:
    """Uses indexes rollup_pkey and sketch_pkey."""
    rows = own_blocks("block_rollups", f"*, {start_of_row()} AS start", **_BOUNDS)
    sketch = sketch_of("r.min[own.position]", "r.max[own.position]")
    return f"""
    SELECT r.start, {", ".join(f"own.{name}" for name in _OWN)}, r.count[own.position] AS count, {sketch} AS sketch,
        {slots_due_of("r", "own.position")} AS slots_due, r.is_final, r.tier, r.shard_id, r.built_from
    FROM ({rows}) AS r
    JOIN ({_SKETCHES}) AS k ON k.block_id = r.block_id AND k.time = r.time
    JOIN own ON own.block_id = r.block_id
    CROSS JOIN LATERAL (SELECT array_positions(k.positions, own.position) AS places OFFSET 0) AS among
    WHERE among.places <> '{{}}'
    """  # noqa: S608 - as above


def _sealed_sketches(settings: RangeSettings) -> str:
    """The same of what is sealed. Uses indexes sealed_pkey, clock_pkey and sketch_pkey."""
    columns = ", ".join(f"own.{name}" for name in (*_OWN, "block_id", "position"))
    found = sealed_points(f"{columns}, s.tier, s.dirty, s.shard_id, s.built_from", tier="$5", **_BOUNDS)
    final = is_final("v.time", step="v.step", dirty="v.dirty", lateness=settings.lateness)
    return f"""
    SELECT {start_of_row("v.")} AS start, {", ".join(f"v.{name}" for name in _OWN)}, v.count,
        {sketch_of("v.min", "v.max")} AS sketch, v.slots_due, {final} AS is_final, v.tier, v.shard_id, v.built_from
    FROM ({found}) AS v
    JOIN ({_SKETCHES}) AS k ON k.block_id = v.block_id AND k.time = v.time
    CROSS JOIN LATERAL (SELECT array_positions(k.positions, v.position) AS places OFFSET 0) AS among
    WHERE among.places <> '{{}}'
    """  # noqa: S608 - as above
