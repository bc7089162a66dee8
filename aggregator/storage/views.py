"""The views that people query: `samples`, and `metrics_<tier>` for every tier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from aggregator.rollups.buckets import Ladder
from aggregator.storage.bucket_ends import end_of_bucket
from aggregator.storage.reader_views import KIND_OF_SERIES
from aggregator.storage.tables import SCHEMA


@dataclass(frozen=True)
class TierView:
    """What the view of a tier needs to know. `built_from`: its own id and those of the tiers that it is built from."""

    tier_id: int
    name: str
    ladder: Ladder
    built_from: tuple[int, ...]
    lateness_seconds: float


# PostgreSQL raises where a quotient leaves the range of doubles, and one such series would blank a whole panel: what is
# that small counts as 0, a rate that large as infinite.
# How it is joined is for the planner (PostgreSQL 14 on), measured with 12,000 rows of one metric:
# - `nothing`, joined last, keeps the condition on `count` from the index scan, which for each series of a block would
#   read the block's rows anew; without it the planner remembers them (Memoize): 7.6 ms became 5.3.
# - An aggregate without GROUP BY gives one row, so the look-up of the ledger is left out unless `is_final` is asked for
#   (8 ms less), and else done once for a shard and bucket. Uses index dirty_shard_id_bucket_idx.
# - An output of a rule is not final before the shards of its inputs are: the ledger is asked about all of them at once.
#   Uses index rule_shards_pkey.
_ROWS = """
SELECT
    {first_columns}r.bucket AS time,
    s.metric,
    s.labels,
    s.labels ->> 'job' AS job,
    s.labels ->> 'instance' AS instance,
    r.count[s.position] AS count,
    nullif(r.sum[s.position], 'NaN') AS sum,
    CASE WHEN abs(r.sum[s.position]) < 1e-300 THEN 0
        ELSE nullif(r.sum[s.position], 'NaN') / r.count[s.position] END AS avg,
    nullif(r.min[s.position], 'NaN') AS min,
    nullif(r.max[s.position], 'NaN') AS max,
    nullif(r.first[s.position], 'NaN') AS first,
    nullif(r.last[s.position], 'NaN') AS last,
    sqrt(CASE WHEN r.m2[s.position] < 1e-300 THEN 0
        ELSE nullif(r.m2[s.position], 'NaN') / r.count[s.position] END) AS stddev,
    nullif(r.increase[s.position], 'NaN') AS increase,
    CASE WHEN abs(r.increase[s.position]) < 1e-300 THEN 0
        WHEN r.increase[s.position] = 'NaN' THEN NULL
        WHEN abs(r.increase[s.position]) > 1e300 THEN r.increase[s.position] * 'Infinity'
        ELSE r.increase[s.position] END / nullif(nullif(r.covered[s.position], 'NaN'), 0) AS rate,
    least(1, r.count[s.position]::float8 / nullif(coalesce(r.slots[s.position], r.slots_due), 0)) AS completeness,
    ledger.is_final{last_columns}
FROM {schema}.rollup AS r
JOIN {schema}.series AS s ON s.block_id = r.block_id
LEFT JOIN (SELECT min(0) AS none) AS nothing ON true
LEFT JOIN {schema}.blocks AS b ON b.id = s.block_id
LEFT JOIN LATERAL (
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
) AS ledger ON true
WHERE {of_tier}coalesce(r.count[s.position], nothing.none) > 0
"""

_MORE_COLUMNS = """,
    nullif(r.m2[s.position], 'NaN') AS m2,
    nullif(r.covered[s.position], 'NaN') AS covered,
    coalesce(r.slots[s.position], r.slots_due) AS slots_due,
    s.id AS series_id,
    b.shard_id,
    {built_from} AS built_from"""

# A sparse frame lists the places that it has values of.
_PLACE_IN_FRAME = "CASE WHEN f.places IS NULL THEN place.position ELSE array_position(f.places, place.position) END"

# Uses indexes series_metric_idx, frame_maps_target_id_idx and the primary key of sample_frame.
_SAMPLES_VIEW = """
CREATE OR REPLACE VIEW {schema}.samples AS
SELECT
    f.at AS time,
    s.metric,
    s.labels,
    s.labels ->> 'job' AS job,
    s.labels ->> 'instance' AS instance,
    f."values"[{place_in_frame}] AS value,
    s.id AS series_id,
    {kind} AS kind
FROM {schema}.series AS s
JOIN {schema}.frame_maps AS m ON m.target_id = s.target_id
CROSS JOIN LATERAL (SELECT array_position(m.series_ids, s.id) AS position OFFSET 0) AS place
JOIN {schema}.sample_frame AS f ON f.target_id = s.target_id AND f.map_id = m.id
WHERE place.position IS NOT NULL
    AND f."values"[{place_in_frame}] <> 'NaN'
"""


# A block's arrays are in the order of their positions, so those of one series are a slice of them. OFFSET 0 makes the
# slice where the row is at hand, before a sort would carry whole blocks about. `rollup` comes first, as for whoever
# drops partitions of both. Uses indexes series_metric_idx, sketch_pkey and rollup_pkey.
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
CROSS JOIN LATERAL (
    SELECT ROW(
        k.keys[among.places[1]:among.places[cardinality(among.places)]],
        k.counts[among.places[1]:among.places[cardinality(among.places)]],
        r.min[s.position],
        r.max[s.position]
    )::{schema}.series_sketch AS sketch
    OFFSET 0
) AS own
WHERE r.tier_id = {tier_id} AND k.tier_id = {tier_id} AND among.places <> '{{}}'
"""


def create_samples_view(connection: Connection) -> None:
    """Make or renew the view `samples`."""
    connection.execute(text(_SAMPLES_VIEW.format(schema=SCHEMA, place_in_frame=_PLACE_IN_FRAME, kind=KIND_OF_SERIES)))


def create_tier_view(connection: Connection, view: TierView) -> None:
    """Make or renew the view of a tier; its columns are a promise (docs/sql.md)."""
    rows = _ROWS.format(
        schema=SCHEMA,
        first_columns="",
        last_columns="",
        end_of_bucket=end_of_bucket(view.ladder, "r.bucket"),
        lateness=view.lateness_seconds,
        built_from=_ids(view.built_from),
        of_tier=f"r.tier_id = {view.tier_id} AND ",
    )
    _create_view(connection, f"metrics_{view.name}", rows)


def create_rollups_view(connection: Connection, tiers: Sequence[TierView]) -> None:
    """Make or renew the view `metric_rollups`, which has the rows of all tiers, and what it takes to merge them."""
    rows = _ROWS.format(
        schema=SCHEMA,
        first_columns="r.tier_id, " + _by_tier({tier.tier_id: f"'{tier.name}'" for tier in tiers}) + " AS tier, ",
        last_columns=_MORE_COLUMNS.format(built_from=_by_tier({tier.tier_id: _ids(tier.built_from) for tier in tiers})),
        end_of_bucket=_by_tier({tier.tier_id: end_of_bucket(tier.ladder, "r.bucket") for tier in tiers}),
        lateness=max(tier.lateness_seconds for tier in tiers),
        built_from=_by_tier({tier.tier_id: _ids(tier.built_from) for tier in tiers}),
        of_tier="",
    )
    _create_view(connection, "metric_rollups", rows)


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
    statement = _SKETCH_VIEW.format(schema=SCHEMA, name=name, tier_id=tier_id)
    connection.execute(text(statement.replace(":", "\\:")))
