"""The views that people query: `metrics_<tier>` for every tier, and what functions read of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Connection, text

from aggregator.rollups.buckets import Ladder
from aggregator.storage.bucket_ends import end_of_bucket
from aggregator.storage.sealed_views import (
    SEALED_UNTIL,
    interval_of,
    is_final,
    length_of,
    sealed_clocks,
    sealed_rollups,
    sealed_rows,
)
from aggregator.storage.statistic_columns import given, slots_due_of, statistics_at, statistics_of
from aggregator.storage.tables import SCHEMA

_SEALED_STATISTICS = ",\n    ".join(f"{sql} AS {name}" for name, sql in statistics_at("v").items())
_STATISTICS = ",\n    ".join(f"{sql} AS {name}" for name, sql in statistics_of("r", "s.position").items())


@dataclass(frozen=True)
class TierView:
    """What the view of a tier needs to know. `built_from`: its own id and those of the tiers that it is built from.

    `span`: the length of its sealed rows; None where it is not sealed.
    """

    tier_id: int
    name: str
    ladder: Ladder
    built_from: tuple[int, ...]
    lateness: timedelta
    span: timedelta | None = None


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
    ledger.is_final,
    r.bucket AS span
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
    r.built_from,
    r.time AS span
FROM {schema}.block_rollups AS r
JOIN {schema}.series AS s ON s.block_id = r.block_id
LEFT JOIN (SELECT min(0) AS none) AS nothing ON true
WHERE coalesce(r.count[s.position], nothing.none) > 0
"""

# The same columns of what is sealed.
_SEALED = """
UNION ALL
SELECT
    v.time,
    s.metric,
    s.labels,
    s.labels ->> 'job' AS job,
    s.labels ->> 'instance' AS instance,
    {statistics},
    {is_final} AS is_final,
    r.start AS span
"""
_SEALED_OF_ALL = """
UNION ALL
SELECT
    r.tier_id,
    {name} AS tier,
    v.time,
    s.metric,
    s.labels,
    s.labels ->> 'job' AS job,
    s.labels ->> 'instance' AS instance,
    {statistics},
    {is_final} AS is_final,
    v.m2,
    v.covered,
    v.slots_due,
    s.id AS series_id,
    b.shard_id,
    {built_from} AS built_from,
    r.start AS span
"""


def create_tier_view(connection: Connection, view: TierView) -> None:
    """Make or renew the view of a tier; its columns are a promise (docs/sql.md)."""
    ledger = _ledger(end_of_bucket(view.ladder, "r.bucket"), _ids(view.built_from), view.lateness)
    rows = _ROWS.format(schema=SCHEMA, tier_id=view.tier_id, ledger=ledger, statistics=_STATISTICS)
    _create_view(connection, f"metrics_{view.name}", rows + _sealed(view))


def _sealed(view: TierView) -> str:
    """SQL: what the view of a tier adds of sealed rows."""
    if view.span is None:
        return ""
    columns = _SEALED.format(statistics=_SEALED_STATISTICS, is_final=_final_when_sealed(view.lateness))
    return columns + sealed_rows(built_from=_ids(view.built_from), length=length_of(view.span), tier_id=view.tier_id)


def _final_when_sealed(lateness: timedelta) -> str:
    return is_final("v.time", step="v.step", dirty="waiting.dirty", lateness=lateness)


def create_rollup_views(connection: Connection, tiers: Sequence[TierView]) -> None:
    """Make or renew the views `block_rollups` and `metric_rollups`, which have all tiers, by block and by series."""
    ends = _by_tier({tier.tier_id: end_of_bucket(tier.ladder, "r.bucket") for tier in tiers})
    built_from = _by_tier({tier.tier_id: _ids(tier.built_from) for tier in tiers})
    name = _by_tier({tier.tier_id: f"'{tier.name}'" for tier in tiers})
    lengths = {tier.tier_id: tier.span for tier in tiers if tier.span is not None}
    sealed = sealed_rollups(name=name, built_from=built_from, length=interval_of(lengths))
    _create_view(connection, "sealed_rollups", sealed)
    _create_view(connection, "sealed_clocks", sealed_clocks())
    _create_view(connection, "sealed_until", SEALED_UNTIL)
    lateness = max(tier.lateness for tier in tiers)
    rows = _BLOCKS.format(
        schema=SCHEMA,
        name=name,
        built_from=built_from,
        ledger=_ledger(ends, built_from, lateness),
    )
    _create_view(connection, "block_rollups", rows)
    by_series = _ROLLUPS.format(
        schema=SCHEMA,
        statistics=_STATISTICS,
        m2=given("r.m2", "s.position"),
        covered=given("r.covered", "s.position"),
        slots_due=slots_due_of("r", "s.position"),
    )
    by_series += _SEALED_OF_ALL.format(
        name=name, statistics=_SEALED_STATISTICS, is_final=_final_when_sealed(lateness), built_from=built_from
    ) + sealed_rows(built_from=built_from, length=interval_of(lengths))
    _create_view(connection, "metric_rollups", by_series)


def _ledger(ends: str, built_from: str, lateness: timedelta) -> str:
    """SQL: whether the bucket of a rollup row `r` of a block `b` is final."""
    return _LEDGER.format(schema=SCHEMA, end_of_bucket=ends, lateness=lateness.total_seconds(), built_from=built_from)


def _ids(tier_ids: Sequence[int]) -> str:
    return f"'{{{','.join(map(str, tier_ids))}}}'::smallint[]"


def _by_tier(expressions: Mapping[int, str]) -> str:
    cases = " ".join(f"WHEN {tier_id} THEN {expression}" for tier_id, expression in expressions.items())
    return f"CASE r.tier_id {cases} END"


def _create_view(connection: Connection, name: str, rows: str) -> None:
    statement = f'CREATE OR REPLACE VIEW {SCHEMA}."{name}" AS {rows}'
    connection.execute(text(statement.replace(":", "\\:")))
