"""SQL that tells in which buckets a block has rollups, in either form; clocks alone say so of what is sealed."""

from __future__ import annotations

from datetime import datetime

from aggregator.storage.catalog import TierEntry
from aggregator.storage.sealed_columns import element, unpacked

# The places of a clock `c` that have samples and lie in the half-open interval.
_PLACES = f"""
    FROM (
        SELECT make_interval(secs => c.step_ms / 1000.0) AS step, {unpacked("c", ("count",))} OFFSET 0
    ) AS u
    CROSS JOIN LATERAL (
        SELECT c.start + place * u.step AS bucket, {element("u", "count", "place")} AS count
        FROM generate_series(0, c.buckets - 1) AS place
    ) AS p
    WHERE p.count > 0 AND p.bucket >= :since AND p.bucket < :until
"""  # noqa: S608 - text of our own
#: SQL: `block_id` and `bucket` of what a tier has in the half-open interval; parameters as `interval_of` gives them.
#: Uses indexes rollup_pkey and clock_pkey, given blocks.
STORED_BUCKETS = f"""
    SELECT r.block_id, r.bucket FROM aggregator.rollup AS r
    WHERE r.tier_id = :tier_id AND r.bucket >= :since AND r.bucket < :until
    UNION ALL
    SELECT c.block_id, of_clock.bucket FROM aggregator.clock AS c
    CROSS JOIN LATERAL (SELECT p.bucket {_PLACES} OFFSET 0) AS of_clock
    WHERE c.tier_id = :tier_id AND c.start >= :first_span AND c.start < :until
"""  # noqa: S608 - as above


def newest_of(block_id: str) -> str:
    """SQL: `bucket`, the newest of an open row and of a sealed one of a block; parameters as above.

    Uses indexes rollup_pkey and clock_pkey, from their end.
    """
    return f"""
    (
        SELECT r.bucket FROM aggregator.rollup AS r
        WHERE r.tier_id = :tier_id AND r.block_id = {block_id} AND r.bucket >= :since AND r.bucket < :until
        ORDER BY r.bucket DESC LIMIT 1
    )
    UNION ALL
    (
        SELECT of_clock.bucket FROM aggregator.clock AS c
        CROSS JOIN LATERAL (SELECT max(p.bucket) AS bucket {_PLACES}) AS of_clock
        WHERE c.tier_id = :tier_id AND c.block_id = {block_id} AND c.start >= :first_span AND c.start < :until
            AND of_clock.bucket IS NOT NULL
        ORDER BY c.start DESC, of_clock.bucket DESC LIMIT 1
    )
    """  # noqa: S608 - as above


def interval_of(tier: TierEntry, *, since: datetime, until: datetime) -> dict[str, int | datetime]:
    """The parameters of a half-open interval (UTC): also from which span on sealed rows may reach into it."""
    return {"tier_id": tier.id, "since": since, "until": until, "first_span": first_span(tier, since)}


def first_span(tier: TierEntry, since: datetime) -> datetime:
    """The start of the oldest span (UTC) that reaches beyond an instant."""
    return since if tier.spans is None else tier.spans.bounds(since)[0]
