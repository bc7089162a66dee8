"""The samples of one series with their arrival, in either form, as an explanation shows them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from aggregator.storage.explain import SeriesEntry
from aggregator.storage.sealed_sample_sql import SPAN, VALUE, received_at, samples


@dataclass(frozen=True)
class StoredSample:
    """A sample, and when the frame that it is in was first written (both UTC)."""

    at: datetime
    value: float
    received_at: datetime


# The server takes the one value out of each frame: a frame of a large target is thousands of them.
_SAMPLES = f"""
    WITH own AS MATERIALIZED (
        SELECT m.id AS map_id, array_position(m.series_ids, CAST(:series_id AS bigint)) AS place
        FROM aggregator.frame_maps AS m WHERE m.target_id = :target_id
    )
    SELECT f.at, sample.value, f.received_at
    FROM own
    JOIN aggregator.sample_frame AS f
        ON f.target_id = :target_id AND f.map_id = own.map_id AND f.at >= :since AND f.at < :until
    CROSS JOIN LATERAL (
        SELECT f."values"[CASE WHEN f.places IS NULL THEN own.place ELSE array_position(f.places, own.place) END]
            AS value
    ) AS sample
    WHERE own.place IS NOT NULL AND sample.value <> 'NaN'
    UNION ALL
    SELECT p.at, {VALUE}, {received_at()}
    FROM own
    JOIN aggregator.sample_sealed AS r
        ON r.target_id = :target_id AND r.map_id = own.map_id AND r.place = own.place
        AND r.start > CAST(:since AS timestamptz) - {SPAN} AND r.start < :until
    {samples("r")}
    WHERE p.at >= :since AND p.at < :until
    ORDER BY at {{order}}
"""  # noqa: S608 - text of our own
_ALL_SAMPLES = text(_SAMPLES.format(order=""))
_LAST_SAMPLE = text(_SAMPLES.format(order="DESC LIMIT 1"))


def read_samples(
    connection: Connection, series: SeriesEntry, *, since: datetime, until: datetime
) -> list[StoredSample]:
    """The samples of a series in the half-open interval, oldest first.

    Uses indexes: frame_maps_target_id_idx, sample_frame_pkey, sample_sealed_pkey, sample_clock_pkey.
    """
    where = {"series_id": series.id, "target_id": series.target_id, "since": since, "until": until}
    return [StoredSample(*row) for row in connection.execute(_ALL_SAMPLES, where)]


def last_sample(
    connection: Connection, series: SeriesEntry, *, since: datetime, until: datetime
) -> StoredSample | None:
    """The newest sample of a series in the half-open interval.

    Uses indexes: frame_maps_target_id_idx, sample_frame_pkey, sample_sealed_pkey, sample_clock_pkey.
    """
    where = {"series_id": series.id, "target_id": series.target_id, "since": since, "until": until}
    row = connection.execute(_LAST_SAMPLE, where).one_or_none()
    return None if row is None else StoredSample(*row)
