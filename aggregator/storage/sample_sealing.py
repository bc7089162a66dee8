"""Which samples may be sealed, and sealing some targets' of it: closed spans that still have open frames."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, select, text

from aggregator.storage import forms, frames, ledger, partition_writes, partitions, sample_forms, tables
from aggregator.storage.catalog import Installation
from aggregator.storage.health_glance import NEWEST_WITHIN
from aggregator.storage.partitions import SAMPLES, Partitioned
from aggregator.storage.sample_forms import parts, seal, unseal
from aggregator.storage.sealed_spans import SAMPLE_SPANS

#: What a backfill has written to lately may soon change again.
QUIET = timedelta(hours=1)
#: So long after its end a span stays open at least: whoever glances at the newest frames finds them as rows.
STAYS_OPEN = NEWEST_WITHIN
#: An average month is shorter than a long one, and a day than that on which the clock is put back.
_LONGEST_STEP = 1.05


def closed_spans(connection: Connection, installation: Installation, *, now: datetime) -> Iterator[datetime]:
    """The starts of the spans of open partitions that ended longer than lateness ago, oldest first."""
    closed = now - max(installation.lateness, STAYS_OPEN)
    for partition in partitions.existing(connection, SAMPLES):
        written = partition_writes.last_write(connection, table_name=SAMPLES.table, tier_id=0, start=partition.start)
        if written is not None and written > now - QUIET:
            continue
        start, end = SAMPLE_SPANS.bounds(partition.start)
        while end <= min(partition.end, closed):
            yield start
            start, end = SAMPLE_SPANS.bounds(end)


# Uses index sample_frame_pkey, once for each target.
_OPEN_SHARDS = text(
    """
    SELECT DISTINCT t.shard_id
    FROM aggregator.targets AS t
    WHERE t.shard_id IS NOT NULL AND EXISTS (
        SELECT FROM aggregator.sample_frame AS f WHERE f.target_id = t.id AND f.at >= :since AND f.at < :until
    )
    ORDER BY 1
    """
)


def open_shards(connection: Connection, installation: Installation, *, start: datetime) -> list[int]:
    """The shards that have open frames in a span which the ledger does not wait to read."""
    _, end = SAMPLE_SPANS.bounds(start)
    found = connection.execute(_OPEN_SHARDS, {"since": start, "until": end}).scalars().all()
    waiting = _waiting_shards(connection, installation, start=start, end=end) if found else set()
    return [shard_id for shard_id in found if shard_id not in waiting]


def _waiting_shards(connection: Connection, installation: Installation, *, start: datetime, end: datetime) -> set[int]:
    """The shards of whose finest tiers a bucket is to be made that reads the span, or looks back into it."""
    dirty = tables.dirty
    steps = [tier.ladder.step for tier in installation.finest]
    statement = select(dirty.c.shard_id).where(
        dirty.c.tier_id.in_([tier.id for tier in installation.finest]),
        dirty.c.bucket > start - max(steps, default=timedelta(0)) * _LONGEST_STEP,
        dirty.c.bucket < end + installation.lookback,
    )
    return set(connection.execute(statement.distinct()).scalars())


def seal_some(connection: Connection, *, shard_id: int, start: datetime, now: datetime) -> int | None:
    """Seal some of a shard's targets that have open frames in the span that begins at `start`; gives how many samples.

    None where nothing is left to do, or others have what is left. Raises ValueError where anything would not come back.
    """
    # As every writer of frames does: partitions first, then targets.
    frames.hold_partitions(connection)
    # Collections wait for the targets meanwhile: they are not to wait for whom we would wait for.
    partitions.limit_waiting(connection)
    _, end = SAMPLE_SPANS.bounds(start)
    chosen = _within(_open_targets(connection, shard_id, start=start, end=end))
    chosen = _lock(connection, chosen)
    if not chosen or not ledger.lock_shard(connection, shard_id):
        return None
    target_ids = [one.id for one in chosen]
    if chosen[0].samples > sample_forms.MOST_SAMPLES:
        sealed = _seal_in_parts(connection, chosen[0], start=start, end=end)
    else:
        sealed = seal(connection, target_ids, since=start, until=end)
    forms.note_sealed(connection, forms.SAMPLES_ID, shard_id, until=end, now=now)
    forms.changing(connection)
    return sealed


@dataclass(frozen=True)
class _Target:
    """A target, and about how many samples it has in the span."""

    id: int
    samples: int


# The newest frame tells how long all are. Uses indexes targets_shard_id_idx, sample_frame_pkey, sample_sealed_pkey and
# sample_clock_pkey.
_OPEN_TARGETS = text(
    """
    SELECT t.id, own.frames * newest.width + coalesce(sealed.rows * sealed.longest, 0) AS samples
    FROM aggregator.targets AS t
    CROSS JOIN LATERAL (
        SELECT count(*) AS frames FROM aggregator.sample_frame AS f
        WHERE f.target_id = t.id AND f.at >= :since AND f.at < :until
    ) AS own
    CROSS JOIN LATERAL (
        SELECT cardinality(f."values") AS width FROM aggregator.sample_frame AS f
        WHERE f.target_id = t.id AND f.at >= :since AND f.at < :until ORDER BY f.at DESC LIMIT 1
    ) AS newest
    CROSS JOIN LATERAL (
        SELECT
            (SELECT count(*) FROM aggregator.sample_sealed AS s
            WHERE s.target_id = t.id AND s.start >= :since AND s.start < :until) AS rows,
            (SELECT max(c.samples) FROM aggregator.sample_clock AS c
            WHERE c.target_id = t.id AND c.start >= :since AND c.start < :until) AS longest
    ) AS sealed
    WHERE t.shard_id = :shard_id
    ORDER BY t.id
    """
)


def _open_targets(connection: Connection, shard_id: int, *, start: datetime, end: datetime) -> list[_Target]:
    where = {"shard_id": shard_id, "since": start, "until": end}
    return [_Target(row.id, row.samples) for row in connection.execute(_OPEN_TARGETS, where)]


# Uses index: targets_pkey.
def _lock(connection: Connection, chosen: Collection[_Target]) -> list[_Target]:
    """Lock targets, those that nobody else has."""
    table = tables.targets
    statement = select(table.c.id).where(table.c.id.in_([one.id for one in chosen])).order_by(table.c.id)
    locked = set(connection.execute(statement.with_for_update(key_share=True, skip_locked=True)).scalars())
    return [one for one in chosen if one.id in locked]


def _within(targets: Collection[_Target]) -> list[_Target]:
    """The first targets, as many as are packed at once."""
    chosen: list[_Target] = []
    samples = 0
    for one in targets:
        samples += one.samples
        if chosen and samples > sample_forms.MOST_SAMPLES:
            break
        chosen.append(one)
    return chosen


def _seal_in_parts(connection: Connection, target: _Target, *, start: datetime, end: datetime) -> int:
    """Seal one large target in parts of a span, so that none takes too much memory."""
    unseal(connection, [target.id], since=start, until=end)
    edges = parts(target.samples, since=start, until=end)
    return sum(seal(connection, [target.id], since=since, until=until) for since, until in edges)


@dataclass(frozen=True)
class SealedSamples:
    """Samples, as what is sealed."""

    installation: Installation
    name: str = "samples"
    tier_id: int = forms.SAMPLES_ID
    partitioned: Partitioned = SAMPLES

    def closed_spans(self, connection: Connection, *, now: datetime) -> Iterator[datetime]:
        """As `closed_spans`."""
        return closed_spans(connection, self.installation, now=now)

    def shards(self, connection: Connection, *, start: datetime) -> list[int]:
        """As `open_shards`."""
        return open_shards(connection, self.installation, start=start)

    def seal_some(self, connection: Connection, *, shard_id: int, start: datetime, now: datetime) -> int | None:
        """As `seal_some`."""
        return seal_some(connection, shard_id=shard_id, start=start, now=now)
