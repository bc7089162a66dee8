"""Which series keep sketches: gauges that a source's `quantiles` match, old ones and new ones alike."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, and_, false, func, or_, select, update

from aggregator.config.selector import Selector, parse_selector
from aggregator.exposition.series import Kind, SeriesKey
from aggregator.storage import tables
from aggregator.storage.selecting import selected

# Whoever registers series holds it shared, whoever changes what is asked for holds it alone: so a series that is
# registered meanwhile has either read what is new or is seen by the change.
_LOCK = func.hashtext("aggregator.quantiles")


def are_sketched(connection: Connection, target_id: int, keys: Sequence[SeriesKey]) -> list[bool]:
    """For each new series of a target whether it is to have a sketch; the answer holds to the end of the transaction.

    Uses indexes: targets_pkey, sources_pkey.
    """
    connection.execute(select(func.pg_advisory_xact_lock_shared(_LOCK)))
    sources, targets = tables.sources, tables.targets
    statement = select(sources.c.definition["quantiles"]).join(targets, targets.c.source_id == sources.c.id)
    written = connection.execute(statement.where(targets.c.id == target_id)).scalar_one_or_none()
    selectors = [parse_selector(text, anchored_name=True) for text in written or ()]
    return [key.kind is Kind.GAUGE and _matches(selectors, key) for key in keys]


def _matches(selectors: Sequence[Selector], key: SeriesKey) -> bool:
    labels = dict(key.labels)
    return any(selector.matches(key.metric, labels) for selector in selectors)


def choose_sketched(connection: Connection, source_id: int, selectors: Sequence[Selector]) -> None:
    """Say anew which of the registered series of a source are to have sketches; stored sketches stay.

    Uses indexes: series_sketched_idx, series_target_id_identity_hash_key.
    """
    connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
    series, targets = tables.series, tables.targets
    matched = [selected(selector, metric=series.c.metric, labels=series.c.labels) for selector in selectors]
    is_wanted = and_(series.c.kind == int(Kind.GAUGE), or_(*matched)) if matched else false()
    changed = series.c.has_sketch != is_wanted if matched else series.c.has_sketch
    connection.execute(
        update(series)
        .where(series.c.target_id == targets.c.id, targets.c.source_id == source_id, changed)
        .values(has_sketch=is_wanted)
    )
