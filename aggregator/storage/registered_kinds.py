"""Of which kind the series of a metric are that stand in the database already."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, select
from sqlalchemy.dialects.postgresql import distinct_on

from aggregator.exposition.series import Kind
from aggregator.storage import tables


def registered_kinds(connection: Connection, metrics: Collection[str]) -> dict[str, Kind]:
    """The kind of each of these metrics that has any series: that of the newest one. Uses index: series_metric_idx."""
    table = tables.series
    statement = (
        select(table.c.metric, table.c.kind)
        .ext(distinct_on(table.c.metric))
        .where(table.c.metric.in_(sorted(metrics)))
        .order_by(table.c.metric, table.c.id.desc())
    )
    return {row.metric: Kind(row.kind) for row in connection.execute(statement)}
