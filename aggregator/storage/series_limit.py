"""A source's budget of series: counted where new ones are to be registered, one registration at a time."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from aggregator.errors import SeriesLimitError
from aggregator.storage import tables


def require_room(connection: Connection, target_id: int, new: int, limit: int) -> None:
    """Raise SeriesLimitError where `new` more series would be more than `limit` for the target's source.

    Two that register for one source at the same time take turns until the end of their transactions, and the second
    counts what the first has committed: the limit holds however many workers there are. The caller holds the target's
    lock; whoever holds this one waits for no lock of a target. Uses indexes: targets_pkey,
    targets_source_id_address_labels_key, series_target_id_identity_hash_key.
    """
    targets, series = tables.targets, tables.series
    source_id = connection.execute(select(targets.c.source_id).where(targets.c.id == target_id)).scalar_one()
    connection.execute(select(func.pg_advisory_xact_lock(func.hashtext("aggregator.series_limit"), source_id)))
    of_source = select(targets.c.id).where(targets.c.source_id == source_id)
    # No further than it matters: beyond the limit the exact number is of no use.
    counted = select(series.c.id).where(series.c.target_id.in_(of_source)).limit(limit + 1).subquery()
    registered = connection.execute(select(func.count()).select_from(counted)).scalar_one()
    if registered + new > limit:
        raise SeriesLimitError(registered=registered, new=new, limit=limit)
