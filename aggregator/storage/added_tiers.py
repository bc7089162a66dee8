"""Tiers that were added later, and recomputations that give them what was there before them."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Connection, func, select, true, update

from aggregator.config.selector import Selector
from aggregator.storage import catalog, tables
from aggregator.storage.catalog import Installation, TierEntry
from aggregator.storage.recompute import Request
from aggregator.storage.selecting import selected
from aggregator.storage.verify_inputs import rollups_kept_since

_MICROSECOND = timedelta(microseconds=1)


def is_whole(connection: Connection, selector: Selector) -> bool:
    """Whether a selector matches every series. Reads the whole table of series."""
    series = tables.series
    matches = selected(selector, metric=series.c.metric, labels=series.c.labels)
    return connection.execute(select(series.c.id).where(matches.is_not(true())).limit(1)).first() is None


def complete(connection: Connection, installation: Installation, request: Request) -> list[str]:
    """Record that tiers have all buckets of a recomputation of every series which has come to its end.

    A tier counts from where both the recomputation and what it is made of begin. Nothing is recorded where a gap would
    stay between the recomputation and when the tier was added, or where it was added in the meantime. Gives the names
    of the tiers. Uses index: tiers_pkey.
    """
    table, found = tables.tiers, []
    for tier in sorted(installation.tiers, key=lambda tier: tier.ladder.step):  # what it is built from comes first
        since = _whole_since(connection, installation, tier, request)
        statement = update(table).where(
            table.c.id == tier.id,
            table.c.complete_since > since,
            table.c.complete_since <= func.least(request.until, request.started_at),
        )
        if connection.execute(statement.values(complete_since=since)).rowcount:
            found.append(tier.name)
    return found


def _whole_since(connection: Connection, installation: Installation, tier: TierEntry, request: Request) -> datetime:
    """The start of the first bucket whose input is there as a whole."""
    start = tier.ladder.start_of(request.since)  # a bucket that begins before the interval is made too
    if tier.parent_id is None:
        kept = catalog.dropped_before(connection, "sample_frame")
        kept = None if kept is None else kept + installation.lookback
    else:
        kept = rollups_kept_since(connection, tier.parent_id)
    if kept is None:
        return start
    return max(start, tier.ladder.end_of(tier.ladder.start_of(kept - _MICROSECOND)))
