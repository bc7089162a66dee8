"""All that is stored about one bucket of one series, read in one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain

from sqlalchemy import Connection

from aggregator.rollups.buckets import from_milliseconds, milliseconds
from aggregator.storage import catalog, explain, explain_rule, explain_samples
from aggregator.storage.catalog import Installation, TierEntry
from aggregator.storage.explain import PendingMark, SeriesEntry, StoredCollection, StoredRollup, StoredRun
from aggregator.storage.explain_rule import RuleFacts
from aggregator.storage.explain_samples import StoredSample

#: A collection whose slot lies longer before what it wrote is not looked for.
LONGEST_COLLECTION = timedelta(hours=1)
#: For so many arrivals outside the bucket's own slots the collection is looked up.
MOST_ARRIVALS = 20
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Level:
    """A finer tier under the bucket: what it holds of the series there, and from when on it is kept (None: all)."""

    tier: TierEntry
    kept_since: datetime | None
    rollups: tuple[StoredRollup, ...]


@dataclass(frozen=True)
class Facts:
    """What is stored about one bucket (UTC, half-open) of one series.

    `levels`: the tier that the bucket is built from, then the one that this is built from, down to the finest.
    `edge`: the series' last sample before the bucket, at most a lookback away; `edge_is_sample` False: its frame is
    gone, and a rollup of the finest tier still tells it. `arrivals`: collections that brought samples of the bucket but
    whose slots are not in it. `imports`: when samples of the bucket came while no collection went on, as far as
    collections are known. `marks_before`: marks of the finest tier within a lookback before the bucket, whose first
    difference may change with them. Instants up to which something was dropped are None where nothing was. `rule`: what
    made the series where no target has it; there are then no samples and no collections.
    """

    series: SeriesEntry
    tier: TierEntry
    finest: TierEntry
    installation: Installation
    start: datetime
    end: datetime
    now: datetime
    rollup: StoredRollup | None
    levels: tuple[Level, ...]
    samples: tuple[StoredSample, ...]
    samples_kept_since: datetime | None
    edge: StoredSample | None
    edge_is_sample: bool
    marks: tuple[PendingMark, ...]
    marks_before: tuple[PendingMark, ...]
    runs: tuple[StoredRun, ...]
    collections: tuple[StoredCollection, ...]
    arrivals: tuple[StoredCollection, ...]
    imports: frozenset[datetime]
    collections_kept_since: datetime | None
    first_slot: datetime | None
    rule: RuleFacts | None = None

    @property
    def slots_since(self) -> datetime:
        """The first instant whose slot is collected in the bucket: a slot is collected its offset after its time."""
        return self.start - self.series.slots.offset


def gather(connection: Connection, series: SeriesEntry, *, tier: TierEntry, at: datetime, now: datetime) -> Facts:
    """Read what is stored about the bucket of `tier` that holds the instant `at`."""
    installation = catalog.read_installation(connection)
    start = tier.ladder.start_of(at)
    end = tier.ladder.end_of(start)
    below = tuple(_below(installation, tier))
    finest = below[-1] if below else tier
    own = explain.read_rollups(connection, series, tier, since=start, until=start + _MICROSECOND)
    samples = explain_samples.read_samples(connection, series, since=start, until=end)
    edge, edge_is_sample = _edge(connection, series, installation, finest, start=start)
    collections = explain.collections_of(connection, series, since=start - series.slots.offset, until=end)
    collections_kept_since = catalog.dropped_before(connection, "collections")
    arrivals = _arrivals(connection, series, samples, collections)
    return Facts(
        series=series,
        tier=tier,
        finest=finest,
        installation=installation,
        start=start,
        end=end,
        now=now,
        rollup=own[0] if own else None,
        levels=tuple(_level(connection, series, one, start=start, end=end) for one in below),
        samples=tuple(samples),
        samples_kept_since=catalog.dropped_before(connection, "sample_frame"),
        edge=edge,
        edge_is_sample=edge_is_sample,
        marks=tuple(explain.pending_marks(connection, series, tier_ids=_ids(tier, *below), since=start, until=end)),
        marks_before=tuple(_marks_before(connection, series, installation, finest, start=start)),
        runs=tuple(explain.runs_of(connection, subject=f"{tier.name}:{series.shard_id}", bucket=start)),
        collections=tuple(collections),
        arrivals=tuple(_that_are_new(arrivals.values(), collections)),
        imports=frozenset(_imports(arrivals, collections_kept_since)),
        collections_kept_since=collections_kept_since,
        first_slot=explain.first_slot(connection, series),
        rule=explain_rule.rule_facts(connection, series, tier=tier, start=start),
    )


def _below(installation: Installation, tier: TierEntry) -> Iterator[TierEntry]:
    """The tiers under a tier, coarsest first."""
    parent = installation.tier(tier.parent_id) if tier.parent_id is not None else None
    while parent is not None:
        yield parent
        parent = installation.tier(parent.parent_id) if parent.parent_id is not None else None


def _level(connection: Connection, series: SeriesEntry, tier: TierEntry, *, start: datetime, end: datetime) -> Level:
    kept_since = catalog.dropped_before(connection, "rollup", tier_id=tier.id)
    rollups = explain.read_rollups(connection, series, tier, since=start, until=end)
    return Level(tier, kept_since, tuple(rollups))


def _edge(
    connection: Connection, series: SeriesEntry, installation: Installation, finest: TierEntry, *, start: datetime
) -> tuple[StoredSample | None, bool]:
    """The last sample before the bucket and whether its frame is there; else what the finest tier knows of it."""
    since = start - installation.lookback
    if (found := explain_samples.last_sample(connection, series, since=since, until=start)) is not None:
        return found, True
    first = finest.ladder.start_of(since)
    rollups = explain.read_rollups(connection, series, finest, since=first, until=start)
    if not rollups:
        return None, False
    last = rollups[-1]
    at = from_milliseconds(milliseconds(last.bucket) + int(last.values["last_at"] or 0))
    value = last.values["last"]
    return (StoredSample(at, float(value), at), False) if value is not None and at >= since else (None, False)


def _ids(*tiers: TierEntry) -> list[int]:
    return [tier.id for tier in tiers]


def _marks_before(
    connection: Connection, series: SeriesEntry, installation: Installation, finest: TierEntry, *, start: datetime
) -> Sequence[PendingMark]:
    since = finest.ladder.start_of(start - installation.lookback)
    return explain.pending_marks(connection, series, tier_ids=[finest.id], since=since, until=start)


def _arrivals(
    connection: Connection,
    series: SeriesEntry,
    samples: Sequence[StoredSample],
    collections: Sequence[StoredCollection],
) -> dict[datetime, list[StoredCollection]]:
    """When samples came outside of these collections, and the collections that went on then; only the first times."""
    times = sorted({sample.received_at for sample in samples if not _is_within(sample, collections)})
    return {
        at: explain.collections_that_wrote(connection, series, at, longest=LONGEST_COLLECTION)
        for at in times[:MOST_ARRIVALS]
    }


def _that_are_new(
    found: Iterable[Sequence[StoredCollection]], collections: Sequence[StoredCollection]
) -> Iterator[StoredCollection]:
    """The collections that are none of those listed already, once each."""
    known = {one.slot for one in collections}
    for one in chain.from_iterable(found):
        if one.slot not in known:
            known.add(one.slot)
            yield one


def _imports(
    arrivals: Mapping[datetime, Sequence[StoredCollection]], collections_kept_since: datetime | None
) -> Iterator[datetime]:
    """The times without a collection, where it would be known."""
    for at, found in arrivals.items():
        if not found and (collections_kept_since is None or at - LONGEST_COLLECTION >= collections_kept_since):
            yield at


def _is_within(sample: StoredSample, collections: Sequence[StoredCollection]) -> bool:
    return any(
        one.started_at <= sample.received_at and (one.finished_at is None or sample.received_at <= one.finished_at)
        for one in collections
    )
