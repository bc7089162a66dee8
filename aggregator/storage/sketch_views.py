"""The views of sketches, one per tier: what is open and what is sealed, each sketch beside the count it was made of."""

from __future__ import annotations

from sqlalchemy import Connection, text

from aggregator.storage.sealed_columns import element
from aggregator.storage.sealed_views import length_of
from aggregator.storage.statistic_columns import sketch_of
from aggregator.storage.tables import SCHEMA
from aggregator.storage.views import TierView

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
    own.sketch,
    r.bucket AS span
FROM {schema}.rollup AS r
JOIN {schema}.sketch AS k ON k.block_id = r.block_id AND k.bucket = r.bucket
JOIN {schema}.series AS s ON s.block_id = r.block_id
CROSS JOIN LATERAL (SELECT array_positions(k.positions, s.position) AS places OFFSET 0) AS among
CROSS JOIN LATERAL (SELECT {sketch} AS sketch OFFSET 0) AS own
WHERE r.tier_id = {tier_id} AND k.tier_id = {tier_id} AND among.places <> '{{}}'
"""
# The same of what is sealed. Uses indexes series_metric_idx, sealed_pkey, clock_pkey and sketch_pkey.
_SEALED_SKETCHES = """
UNION ALL
SELECT
    k.bucket AS time,
    s.metric,
    s.labels,
    s.labels ->> 'job' AS job,
    s.labels ->> 'instance' AS instance,
    own.count,
    own.sketch,
    r.start AS span
FROM {schema}.sealed AS r
JOIN {schema}.series AS s ON s.block_id = r.block_id AND s.position = r.position
JOIN {schema}.clock AS c ON c.block_id = r.block_id AND c.start = r.start AND c.clock = r.clock
JOIN {schema}.sketch AS k ON k.block_id = r.block_id AND k.bucket >= r.start AND k.bucket < r.start + {length}
CROSS JOIN LATERAL (SELECT array_positions(k.positions, s.position) AS places OFFSET 0) AS among
CROSS JOIN LATERAL (
    SELECT (extract(epoch FROM k.bucket - r.start) * 1000 / c.step_ms)::integer AS place OFFSET 0
) AS p
CROSS JOIN LATERAL (SELECT {count}::integer AS count, {sketch} AS sketch OFFSET 0) AS own
WHERE r.tier_id = {tier_id} AND c.tier_id = {tier_id} AND k.tier_id = {tier_id} AND among.places <> '{{}}'
    AND own.count > 0
"""


def create_sketch_view(connection: Connection, view: TierView) -> None:
    """Make or renew the view of a tier's sketches; its columns are a promise (docs/sql.md)."""
    given = {"schema": SCHEMA, "name": view.name, "tier_id": view.tier_id}
    statement = _SKETCH_VIEW.format(**given, sketch=sketch_of("r.min[s.position]", "r.max[s.position]"))
    if view.span is not None:
        low, high = (f"nullif({element('r', name, 'p.place')}, 'NaN')" for name in ("min", "max"))
        statement += _SEALED_SKETCHES.format(
            **given,
            length=length_of(view.span),
            count=element("c", "count", "p.place"),
            sketch=sketch_of(low, high),
        )
    connection.execute(text(statement.replace(":", "\\:")))
