"""The health of sealing: since when what has closed waits to be made small."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aggregator.storage import catalog, forms
from aggregator.storage.sealed_spans import SAMPLE_SPANS, Spans

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from sqlalchemy import Connection

    from aggregator.storage.catalog import Installation

#: What stands for samples where tiers have their names.
SAMPLES_NAME = "samples"


def sealing_due(
    connection: Connection, newest_buckets: Mapping[int, datetime | None], *, first_slot: datetime | None
) -> dict[str, datetime | None]:
    """When the span after the newest sealed one fell or falls due, by tier; None where it holds nothing yet.

    Shards are sealed one after the other: this is told by the one that is furthest. A tier that is never sealed is
    left out. Raises SchemaOutdatedError where nothing was published yet. Uses index: sealings_pkey.
    """
    installation = catalog.read_installation(connection)
    found: dict[str, datetime | None] = {}
    for name, tier_id, spans in _sealed(installation):
        begin = forms.sealed_until(connection, tier_id) or first_slot
        newest = max(filter(None, _newest_of(installation, tier_id, newest_buckets)), default=None)
        if begin is None or newest is None or newest < spans.bounds(begin)[0]:
            found[name] = None
        else:
            found[name] = spans.bounds(begin)[1] + installation.lateness
    return found


def _sealed(installation: Installation) -> Iterator[tuple[str, int, Spans]]:
    yield SAMPLES_NAME, forms.SAMPLES_ID, SAMPLE_SPANS
    for tier in installation.tiers:
        if tier.spans is not None:
            yield tier.name, tier.id, tier.spans


def _newest_of(
    installation: Installation, tier_id: int, newest_buckets: Mapping[int, datetime | None]
) -> Iterator[datetime | None]:
    """The newest buckets of the tier, or of those that are built from samples."""
    tiers = [tier.id for tier in installation.finest] if tier_id == forms.SAMPLES_ID else [tier_id]
    return (newest_buckets.get(one) for one in tiers)
