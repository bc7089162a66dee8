"""The views that people query: `samples`, and `metrics_<tier>` for every tier."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text

from aggregator.storage.tables import SCHEMA


@dataclass(frozen=True)
class TierView:
    """What the view of a tier needs to know. `finer_ids`: the tier's own id and those of all finer tiers."""

    tier_id: int
    name: str
    step_seconds: float
    timezone: str
    is_local: bool
    finer_ids: tuple[int, ...]
    lateness_seconds: float

    @property
    def end_of_bucket(self) -> str:
        """SQL for the end of the bucket `r.bucket`; a local day ends at the next local midnight."""
        if not self.is_local:
            return f"r.bucket + interval '{self.step_seconds} seconds'"
        days = round(self.step_seconds / 86_400)
        zone = self.timezone.replace("'", "''")
        return f"((r.bucket AT TIME ZONE '{zone}') + interval '{days} days') AT TIME ZONE '{zone}'"


# OFFSET 0 keeps the look-up with the rollup row: once per block and bucket, where the planner would else do it for each
# series (155 ms became 67 for 25,000 series over three buckets). Uses index dirty_shard_id_bucket_idx.
_TIER_VIEW = """
CREATE OR REPLACE VIEW {schema}."metrics_{name}" AS
SELECT
    r.bucket AS time,
    s.metric,
    s.labels,
    s.labels ->> 'job' AS job,
    s.labels ->> 'instance' AS instance,
    r.count[s.position] AS count,
    nullif(r.sum[s.position], 'NaN') AS sum,
    nullif(r.sum[s.position], 'NaN') / r.count[s.position] AS avg,
    nullif(r.min[s.position], 'NaN') AS min,
    nullif(r.max[s.position], 'NaN') AS max,
    nullif(r.first[s.position], 'NaN') AS first,
    nullif(r.last[s.position], 'NaN') AS last,
    sqrt(nullif(r.m2[s.position], 'NaN') / r.count[s.position]) AS stddev,
    nullif(r.increase[s.position], 'NaN') AS increase,
    nullif(r.increase[s.position], 'NaN') / nullif(nullif(r.covered[s.position], 'NaN'), 0) AS rate,
    least(1, r.count[s.position]::float8 / nullif(r.slots_due, 0)) AS completeness,
    {end_of_bucket} + interval '{lateness} seconds' <= now() AND NOT ledger.is_dirty AS is_final
FROM {schema}.rollup AS r
JOIN {schema}.series AS s ON s.block_id = r.block_id
JOIN {schema}.blocks AS b ON b.id = r.block_id
CROSS JOIN LATERAL (
    SELECT EXISTS (
        SELECT FROM {schema}.dirty AS d
        WHERE d.shard_id = b.shard_id AND d.bucket >= r.bucket AND d.bucket < {end_of_bucket}
            AND d.tier_id IN ({finer_ids})
    ) AS is_dirty
    OFFSET 0
) AS ledger
WHERE r.tier_id = {tier_id} AND r.count[s.position] > 0
"""

# Uses indexes series_metric_idx, frame_maps_target_id_idx and the primary key of sample_frame.
_SAMPLES_VIEW = """
CREATE OR REPLACE VIEW {schema}.samples AS
SELECT
    f.at AS time,
    s.metric,
    s.labels,
    s.labels ->> 'job' AS job,
    s.labels ->> 'instance' AS instance,
    f."values"[place.position] AS value
FROM {schema}.series AS s
JOIN {schema}.frame_maps AS m ON m.target_id = s.target_id
CROSS JOIN LATERAL (SELECT array_position(m.series_ids, s.id) AS position OFFSET 0) AS place
JOIN {schema}.sample_frame AS f ON f.target_id = s.target_id AND f.map_id = m.id
WHERE place.position IS NOT NULL AND f."values"[place.position] <> 'NaN'
"""


def create_samples_view(connection: Connection) -> None:
    """Make or renew the view `samples`."""
    connection.execute(text(_SAMPLES_VIEW.format(schema=SCHEMA)))


def create_tier_view(connection: Connection, view: TierView) -> None:
    """Make or renew the view of a tier; its columns are a promise (docs/sql.md)."""
    statement = _TIER_VIEW.format(
        schema=SCHEMA,
        name=view.name,
        tier_id=view.tier_id,
        end_of_bucket=view.end_of_bucket,
        lateness=view.lateness_seconds,
        finer_ids=", ".join(str(tier_id) for tier_id in view.finer_ids),
    )
    connection.execute(text(statement.replace(":", "\\:")))
