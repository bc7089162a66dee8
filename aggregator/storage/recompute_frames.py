"""At which times there are frames, open or sealed: what a recomputation can be made from."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Connection, bindparam, text

from aggregator.storage.recompute import Scope
from aggregator.storage.sealed_sample_sql import SPAN, instants

# Of sealed ones, the newest two spans have it, for the newest may begin its samples after `until`.
# Uses indexes sample_frame_pkey and sample_clock_pkey, once for each target.
_NEWEST_FRAME = text(
    f"""
    SELECT max(newest.at)
    FROM unnest(CAST(:target_ids AS integer[])) AS asked (target_id)
    CROSS JOIN LATERAL (
        (
            SELECT f.at FROM aggregator.sample_frame AS f
            WHERE f.target_id = asked.target_id AND f.at >= :since AND f.at < :until
            ORDER BY f.at DESC LIMIT 1
        )
        UNION ALL
        SELECT max(p.at) FROM (
            SELECT *, dense_rank() OVER (ORDER BY start DESC) AS age FROM aggregator.sample_clock
            WHERE target_id = asked.target_id AND start > CAST(:since AS timestamptz) - {SPAN} AND start < :until
        ) AS c {instants("c")}
        WHERE c.age <= 2 AND p.at >= :since AND p.at < :until
    ) AS newest
    """  # noqa: S608 - text of our own
)


def newest_frame(connection: Connection, scope: Scope, *, since: datetime, until: datetime) -> datetime | None:
    """When the newest frame of any target in the half-open interval is; None where there is none."""
    where = {"target_ids": list(scope.shard_of_target), "since": since, "until": until}
    newest: datetime | None = connection.execute(_NEWEST_FRAME, where).scalar_one()
    return newest


# Uses indexes sample_frame_pkey and sample_clock_pkey.
_FRAME_TIMES = text(
    f"""
    SELECT f.target_id, date_bin(:grain, f.at, CAST('1970-01-01T00:00Z' AS timestamptz)) AS at
    FROM aggregator.sample_frame AS f
    WHERE f.target_id = ANY (:target_ids) AND f.at >= :since AND f.at < :until
    UNION
    SELECT c.target_id, date_bin(:grain, p.at, CAST('1970-01-01T00:00Z' AS timestamptz))
    FROM aggregator.sample_clock AS c {instants("c")}
    WHERE c.target_id = ANY (:target_ids) AND p.at >= :since AND p.at < :until
        AND c.start > CAST(:since AS timestamptz) - {SPAN} AND c.start < :until
    """  # noqa: S608 - text of our own
).bindparams(bindparam("grain"))


def frame_times(
    connection: Connection, scope: Scope, *, grain: timedelta, since: datetime, until: datetime
) -> list[tuple[int, datetime]]:
    """Which targets have a frame at which times of the half-open interval, rounded down to multiples of `grain`."""
    where = {"target_ids": list(scope.shard_of_target), "grain": grain, "since": since, "until": until}
    return [(row.target_id, row.at) for row in connection.execute(_FRAME_TIMES, where)]
