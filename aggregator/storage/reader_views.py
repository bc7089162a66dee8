"""Views beside those of the tiers, for functions: series, how far back tiers are kept, dirty buckets, sketches."""

from __future__ import annotations

from sqlalchemy import Connection, text

from aggregator.exposition.series import Kind
from aggregator.storage.tables import SCHEMA

#: SQL (text): the kind of a series `s`, in a word.
KIND_OF_SERIES = f"CASE s.kind WHEN {Kind.COUNTER:d} THEN 'counter' ELSE 'gauge' END"

# Left joins: PostgreSQL drops them wherever nobody asks when a source is collected.
_METRIC_SERIES = f"""
CREATE OR REPLACE VIEW {SCHEMA}.metric_series AS
SELECT
    s.metric,
    s.labels,
    s.labels ->> 'job' AS job,
    s.labels ->> 'instance' AS instance,
    {KIND_OF_SERIES} AS kind,
    source.interval_seconds,
    source.offset_seconds,
    s.id AS series_id,
    s.block_id,
    s.position,
    EXISTS (SELECT FROM {SCHEMA}.rules AS rule WHERE rule.target_id = s.target_id) AS is_output
FROM {SCHEMA}.series AS s
LEFT JOIN {SCHEMA}.targets AS target ON target.id = s.target_id
LEFT JOIN {SCHEMA}.sources AS source ON source.id = target.source_id
"""  # noqa: S608 - our own schema

# Partitions are dropped whole and oldest first: behind the last one that was dropped everything is there. A tier that
# was added later has its buckets from then on.
_TIERS_KEPT = f"""
CREATE OR REPLACE VIEW {SCHEMA}.tiers_kept AS
SELECT 'raw' AS tier, 0::float8 AS step_seconds, coalesce(
    (SELECT dropped_before FROM {SCHEMA}.retained WHERE table_name = 'sample_frame' AND tier_id = 0), '-infinity'
) AS kept_since, 'UTC' AS timezone, 0::smallint AS tier_id
UNION ALL
SELECT tier.name, tier.step_seconds, coalesce(greatest(tier.complete_since, (
    SELECT dropped_before FROM {SCHEMA}.retained WHERE table_name = 'rollup' AND tier_id = tier.id
)), '-infinity'), tier.timezone, tier.id
FROM {SCHEMA}.tiers AS tier
WHERE tier.active
"""  # noqa: S608 - our own schema

# What a rule reads is dirty for its outputs too.
_BUCKETS_DIRTY = f"""
CREATE OR REPLACE VIEW {SCHEMA}.buckets_dirty AS
SELECT tier_id, shard_id, bucket AS time FROM {SCHEMA}.dirty
UNION ALL
SELECT d.tier_id, i.shard_id, d.bucket FROM {SCHEMA}.rule_shards AS i
JOIN {SCHEMA}.dirty AS d ON d.shard_id = i.input_shard_id
"""  # noqa: S608 - our own schema

_BLOCK_SKETCHES = f"""
CREATE OR REPLACE VIEW {SCHEMA}.block_sketches AS
SELECT tier_id, block_id, bucket AS time, positions, keys, counts FROM {SCHEMA}.sketch
"""  # noqa: S608 - our own schema


def create_reader_views(connection: Connection) -> None:
    """Make or renew the views; the caller holds the publisher's lock."""
    for statement in (_METRIC_SERIES, _TIERS_KEPT, _BUCKETS_DIRTY, _BLOCK_SKETCHES):
        connection.execute(text(statement.replace(":", "\\:")))
