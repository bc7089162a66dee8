"""The view `samples`: a row for each sample, of open and of sealed frames."""

from __future__ import annotations

from sqlalchemy import Connection, text

from aggregator.storage.reader_views import KIND_OF_SERIES
from aggregator.storage.sealed_sample_sql import VALUE, samples
from aggregator.storage.tables import SCHEMA

# A sparse frame lists the places that it has values of.
_PLACE_IN_FRAME = "CASE WHEN f.places IS NULL THEN place.position ELSE array_position(f.places, place.position) END"

_COLUMNS = """
    {{time}} AS time,
    s.metric,
    s.labels,
    s.labels ->> 'job' AS job,
    s.labels ->> 'instance' AS instance,
    {{value}} AS value,
    s.id AS series_id,
    {kind} AS kind,
    {{span}} AS span
"""
_PLACES = """
FROM {schema}.series AS s
JOIN {schema}.frame_maps AS m ON m.target_id = s.target_id
CROSS JOIN LATERAL (SELECT array_position(m.series_ids, s.id) AS position OFFSET 0) AS place
"""

# `span` is to filter by: a sealed row's start, for what a condition on `time` would unpack all of a series' rows.
# Uses indexes series_metric_idx, frame_maps_target_id_idx and the primary keys of frames and of sealed samples.
_VIEW = """
CREATE OR REPLACE VIEW {schema}.samples AS
SELECT {open_columns} {places}
JOIN {schema}.sample_frame AS f ON f.target_id = s.target_id AND f.map_id = m.id
WHERE place.position IS NOT NULL AND {open_value} <> 'NaN'
UNION ALL
SELECT {sealed_columns} {places}
JOIN {schema}.sample_sealed AS r ON r.target_id = s.target_id AND r.map_id = m.id AND r.place = place.position
{samples}
"""


def create_samples_view(connection: Connection) -> None:
    """Make or renew the view `samples`; its columns are a promise (docs/sql.md)."""
    columns = _COLUMNS.format(kind=KIND_OF_SERIES)
    open_value = f'f."values"[{_PLACE_IN_FRAME}]'
    view = _VIEW.format(
        schema=SCHEMA,
        places=_PLACES.format(schema=SCHEMA),
        open_columns=columns.format(time="f.at", value=open_value, span="f.at"),
        open_value=open_value,
        sealed_columns=columns.format(time="p.at", value=VALUE, span="r.start"),
        samples=samples("r"),
    )
    connection.execute(text(view.replace(":", "\\:")))
