"""The views that people query: `metrics_<tier>` for every tier, and what functions read of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from aggregator.rollups.buckets import Ladder
from aggregator.storage.bucket_ends import end_of_bucket
from aggregator.storage.statistic_columns import given, sketch_of, slots_due_of, statistics_of
from aggregator.storage.tables import SCHEMA

_STATISTICS = ",\n    ".join(f"{sql} AS {name}" for name, sql in statistics_of("r", "s.position").items())


@dataclass(frozen=True)
class TierView:
    """What the view of a tier needs to know. `built_from`: its own id and those of the tiers that it is built from."""

    tier_id: int
    name: str
    ladder: Ladder
    built_from: tuple[int, ...]
    lateness_seconds: float


# How it is joined is for the planner (PostgreSQL 14 on), measured with 12,000 rows of one metric:
# - `nothing`, joined last, keeps the condition on `count` from the index scan, which for each series of a block would
#   read the block's rows anew; without it the planner remembers them (Memoize): 7.6 ms became 5.3.
# - An aggregate without GROUP BY gives one row, so the look-up of the ledger is left out unless `is_final` is asked for
#   (8 ms less), and else done once for a shard and bucket. Uses index dirty_shard_id_bucket_idx.
# - An output of a rule is not final before the shards of its inputs are: the ledger is asked about all of them at once.
#   Uses index rule_shards_pkey.
_ROWS = """
SELECT
    r.bucket AS time,
    s.metric,
    s.labels,
    s.labels ->> 'job' AS job,
    s.labels ->> 'instance' AS instance,
    {statistics},
    ledger.is_final
FROM {schema}.rollup AS r
JOIN {schema}.series AS s ON s.block_id = r.block_id
LEFT JOIN (SELECT min(0) AS none) AS nothing ON true
LEFT JOIN {schema}.blocks AS b ON b.id = s.block_id
LEFT JOIN LATERAL (
{ledger}
) AS ledger ON true
WHERE r.tier_id = {tier_id} AND coalesce(r.count[s.position], nothing.none) > 0
"""

_LEDGER = """
    SELECT {end_of_bucket} + interval '{lateness} seconds' <= now() AND count(*) = 0 AS is_final
    FROM (
        SELECT FROM {schema}.dirty AS d
        WHERE d.shard_id = ANY (ARRAY(
                SELECT b.shard_id UNION ALL SELECT i.input_shard_id FROM {schema}.rule_shards AS i
                WHERE i.shard_id = b.shard_id
            ))
            AND d.bucket >= r.bucket AND d.bucket < {end_of_bucket}
            AND d.tier_id = ANY ({built_from})
        LIMIT 1
    ) AS found
"""

# For functions: rollup rows as they lie, of all tiers. What is not asked for is not looked up, as above.
_BLOCKS = """
SELECT
    r.tier_id,
    {name} AS tier,
    r.block_id,
    r.bucket AS time,
    r.slots_due,
    r.slots,
    r.count,
    r.sum,
    r.min,
    r.max,
    r.first,
    r.last,
    r.m2,
    r.increase,
    r.covered,
    b.shard_id,
    {built_from} AS built_from,
    ledger.is_final
FROM {schema}.rollup AS r
LEFT JOIN {schema}.blocks AS b ON b.id = r.block_id
LEFT JOIN LATERAL (
{ledger}
) AS ledger ON true
"""

# For summaries: the same by series, with what it takes to merge them. Joined as the views of tiers are.
_ROLLUPS = """
SELECT
    r.tier_id,
    r.tier,
    r.time,
    s.metric,
    s.labels,
    s.labels ->> 'job' AS job,
    s.labels ->> 'instance' AS instance,
    {statistics},
    r.is_final,
    {m2} AS m2,
    {covered} AS covered,
    {slots_due} AS slots_due,
    s.id AS series_id,
    r.shard_id,
    r.built_from
FROM {schema}.block_rollups AS r
JOIN {schema}.series AS s ON s.block_id = r.block_id
LEFT JOIN (SELECT min(0) AS none) AS nothing ON true
WHERE coalesce(r.count[s.position], nothing.none) > 0
"""


# OFFSET 0 makes the slice where the row is at hand, before a sort would carry whole blocks about. `rollup` comes first,
# as for whoever drops partitions of both. Uses indexes series_metric_idx, sketch_pkey and rollup_pkey.
_SKETCH_VIEW = """
CREATE OR REPLACE VIEW {schema}."sketches_{name}" AS
SELECT
    r.bucket AS time,
    s.metric,
    s.labels,
    s.labels ->> 'job' AS job,
    s.labels ->> 'instance' AS instance,
    r.count[s.position] AS count,
    own.sketch
FROM {schema}.rollup AS r
JOIN {schema}.sketch AS k ON k.block_id = r.block_id AND k.bucket = r.bucket
JOIN {schema}.series AS s ON s.block_id = r.block_id
CROSS JOIN LATERAL (SELECT array_positions(k.positions, s.position) AS places OFFSET 0) AS among
CROSS JOIN LATERAL (SELECT {sketch} AS sketch OFFSET 0) AS own
WHERE r.tier_id = {tier_id} AND k.tier_id = {tier_id} AND among.places <> '{{}}'
"""


def create_tier_view(connection: Connection, view: TierView) -> None:
    """Make or renew the view of a tier; its columns are a promise (docs/sql.md)."""
    ledger = _ledger(end_of_bucket(view.ladder, "r.bucket"), _ids(view.built_from), view.lateness_seconds)
    rows = _ROWS.format(schema=SCHEMA, tier_id=view.tier_id, ledger=ledger, statistics=_STATISTICS)
    _create_view(connection, f"metrics_{view.name}", rows)


def create_rollup_views(connection: Connection, tiers: Sequence[TierView]) -> None:
    """Make or renew the views `block_rollups` and `metric_rollups`, which have all tiers, by block and by series."""
    ends = _by_tier({tier.tier_id: end_of_bucket(tier.ladder, "r.bucket") for tier in tiers})
    built_from = _by_tier({tier.tier_id: _ids(tier.built_from) for tier in tiers})
    rows = _BLOCKS.format(
        schema=SCHEMA,
        name=_by_tier({tier.tier_id: f"'{tier.name}'" for tier in tiers}),
        built_from=built_from,
        ledger=_ledger(ends, built_from, max(tier.lateness_seconds for tier in tiers)),
    )
    _create_view(connection, "block_rollups", rows)
    by_series = _ROLLUPS.format(
        schema=SCHEMA,
        statistics=_STATISTICS,
        m2=given("r.m2", "s.position"),
        covered=given("r.covered", "s.position"),
        slots_due=slots_due_of("r", "s.position"),
    )
    _create_view(connection, "metric_rollups", by_series)


def _ledger(ends: str, built_from: str, lateness_seconds: float) -> str:
    """SQL: whether the bucket of a rollup row `r` of a block `b` is final."""
    return _LEDGER.format(schema=SCHEMA, end_of_bucket=ends, lateness=lateness_seconds, built_from=built_from)


def _ids(tier_ids: Sequence[int]) -> str:
    return f"'{{{','.join(map(str, tier_ids))}}}'::smallint[]"


def _by_tier(expressions: Mapping[int, str]) -> str:
    cases = " ".join(f"WHEN {tier_id} THEN {expression}" for tier_id, expression in expressions.items())
    return f"CASE r.tier_id {cases} END"


def _create_view(connection: Connection, name: str, rows: str) -> None:
    statement = f'CREATE OR REPLACE VIEW {SCHEMA}."{name}" AS {rows}'
    connection.execute(text(statement.replace(":", "\\:")))


def create_sketch_view(connection: Connection, *, tier_id: int, name: str) -> None:
    """Make or renew the view of a tier's sketches; its columns are a promise (docs/sql.md)."""
    statement = _SKETCH_VIEW.format(schema=SCHEMA, name=name, tier_id=tier_id, sketch=sketch_of("s.position"))
    connection.execute(text(statement.replace(":", "\\:")))
