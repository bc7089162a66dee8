"""Views of sealed rollups: plain ones for functions, and what the views of tiers add of them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from aggregator.storage.sealed_columns import OWN, SHARED, unpacked
from aggregator.storage.sealed_reading import SHARED_READ, elements_at
from aggregator.storage.tables import SCHEMA

# For functions: sealed rows of all tiers, unpacked as they are read, and clocks. `dirty`: which buckets of the span
# wait to be rolled up, in this tier or in one that it is built from, NULL for none; looked up once for a row, and not
# at all where nobody asks. Uses index dirty_shard_id_bucket_idx.
_SEALED_ROLLUPS = """
SELECT
    r.tier_id,
    {name} AS tier,
    r.block_id,
    r.position,
    r.start AS span,
    r.clock,
    b.shard_id,
    {built_from} AS built_from,
    {dirty} AS dirty,
    {unpacked}
FROM {schema}.sealed AS r
LEFT JOIN {schema}.blocks AS b ON b.id = r.block_id
"""
_SEALED_CLOCKS = """
SELECT
    c.tier_id,
    c.block_id,
    c.start AS span,
    c.clock,
    c.buckets,
    make_interval(secs => c.step_ms / 1000.0) AS step,
    {unpacked}
FROM {schema}.clock AS c
"""
#: For functions: from when on nothing of a tier and shard is sealed.
SEALED_UNTIL = f"SELECT tier_id, shard_id, until FROM {SCHEMA}.sealings"  # noqa: S608 - our own schema

# What views of open rows add: `r` is a sealed row, `c` its clock, `s` the series, `v` a point.
# - A condition on `span` is one on `r.start`, and reaches the index and the partitions; one on `time` reaches neither.
# - The row is unpacked once (OFFSET 0), and of it what is asked for.
# - `s.id` has no other use than to say that no two rows are alike: the planner would else remember unpacked rows.
_SEALED_ROWS = """
FROM {schema}.sealed AS r
JOIN {schema}.series AS s ON s.block_id = r.block_id AND s.position = r.position
JOIN {schema}.clock AS c
    ON c.tier_id = r.tier_id AND c.block_id = r.block_id AND c.start = r.start AND c.clock = r.clock
LEFT JOIN {schema}.blocks AS b ON b.id = r.block_id
LEFT JOIN LATERAL {dirty} AS waiting ON true
CROSS JOIN LATERAL (
    SELECT r.start + place * u.step AS time, u.step, s.id AS series_id, {elements}
    FROM (
        SELECT make_interval(secs => c.step_ms / 1000.0) AS step, {own}, {shared}
        OFFSET 0
    ) AS u
    CROSS JOIN LATERAL generate_series(0, c.buckets - 1) AS place
    OFFSET 0
) AS v
WHERE v.count > 0{condition}
"""

# An output of a rule is not final before the shards of its inputs are.
_DIRTY = """(
    SELECT array_agg(DISTINCT d.bucket) AS dirty FROM {schema}.dirty AS d
    WHERE d.shard_id = ANY (ARRAY(
            SELECT b.shard_id UNION ALL SELECT i.input_shard_id FROM {schema}.rule_shards AS i
            WHERE i.shard_id = b.shard_id
        ))
        AND d.bucket >= r.start AND d.bucket < r.start + {length} AND d.tier_id = ANY ({built_from})
)"""


def sealed_rollups(*, name: str, built_from: str, length: str) -> str:
    """SQL: the query of `sealed_rollups`; arguments are SQL of a sealed row `r`. `length`: of its span, an interval."""
    dirty = _dirty_buckets(built_from=built_from, length=length)
    return _SEALED_ROLLUPS.format(
        schema=SCHEMA, name=name, built_from=built_from, dirty=dirty, unpacked=unpacked("r", OWN)
    )


def sealed_clocks() -> str:
    """SQL: the query of `sealed_clocks`."""
    return _SEALED_CLOCKS.format(schema=SCHEMA, unpacked=unpacked("c", SHARED))


def sealed_rows(*, built_from: str, length: str, tier_id: int | None = None) -> str:
    """SQL: FROM and WHERE of what is sealed, of one tier or of all; arguments as of `sealed_rollups`."""
    return _SEALED_ROWS.format(
        schema=SCHEMA,
        dirty=_dirty_buckets(built_from=built_from, length=length),
        elements=elements_at(dict.fromkeys((*SHARED_READ, *OWN), "u"), "place"),
        own=unpacked("r", OWN),
        shared=unpacked("c", SHARED_READ),
        condition="" if tier_id is None else f" AND r.tier_id = {tier_id} AND c.tier_id = {tier_id}",
    )


def _dirty_buckets(*, built_from: str, length: str) -> str:
    """SQL (timestamptz[]): the dirty buckets in the span of a sealed row `r` of a block `b`; NULL: there are none."""
    return _DIRTY.format(schema=SCHEMA, built_from=built_from, length=length)


def is_final(time: str, *, step: str, dirty: str, lateness: timedelta) -> str:
    """SQL (boolean): whether a bucket of a sealed row with these dirty buckets is final."""
    return (
        f"{time} + {step} + interval '{lateness.total_seconds()} seconds' <= now() AND ({dirty} IS NULL OR NOT EXISTS"
        f" (SELECT FROM unnest({dirty}) AS d WHERE d >= {time} AND d < {time} + {step}))"
    )


def interval_of(lengths: Mapping[int, timedelta]) -> str:
    """SQL (interval): the length of the span of a sealed row `r`, by tier."""
    cases = " ".join(f"WHEN {tier} THEN {length_of(one)}" for tier, one in lengths.items())
    return f"CASE r.tier_id {cases} END" if cases else "NULL::interval"


def length_of(length: timedelta) -> str:
    """SQL: an interval."""
    return f"interval '{length.total_seconds()} seconds'"
