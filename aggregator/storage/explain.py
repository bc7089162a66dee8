"""What is stored about one number: its rollup, the samples under it with their arrival, and the marks that wait."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, Row, select, text

from aggregator.config.selector import Selector
from aggregator.exposition.series import Kind
from aggregator.rollups.buckets import SlotGrid
from aggregator.storage import tables
from aggregator.storage.catalog import TierEntry
from aggregator.storage.sealed_columns import OWN, WHOLE, element
from aggregator.storage.selecting import selected
from aggregator.storage.stored_buckets import interval_of

STATISTICS = ("count", "last_at", "sum", "min", "max", "first", "last", "m2", "increase", "covered")


@dataclass(frozen=True)
class SeriesEntry:
    """A series with its place in the rollups, its target, and when that is collected.

    `block_id` None: no rollup has placed it yet. `intake_id`: the shard that a target belongs to before it has its own.
    """

    id: int
    metric: str
    labels: Mapping[str, str]
    kind: Kind
    block_id: int | None
    position: int | None
    target_id: int
    address: str
    source: str
    shard_id: int | None
    intake_id: int | None
    slots: SlotGrid

    @property
    def shard_ids(self) -> tuple[int, ...]:
        """The shards under which its target may have been collected."""
        return tuple(shard_id for shard_id in (self.shard_id, self.intake_id) if shard_id is not None)


def find_series(connection: Connection, selector: Selector, *, limit: int) -> list[SeriesEntry]:
    """The first series that a selector matches, by metric and labels. Uses indexes: series_metric_idx, targets_pkey."""
    series, targets, sources = tables.series, tables.targets, tables.sources
    intake = select(tables.shards.c.id).where(tables.shards.c.source_id == sources.c.id, tables.shards.c.is_intake)
    statement = (
        select(series, targets.c.address, targets.c.shard_id, sources.c.name.label("source"))
        .add_columns(sources.c.interval_seconds, sources.c.offset_seconds, intake.scalar_subquery().label("intake_id"))
        .join(targets, targets.c.id == series.c.target_id)
        .join(sources, sources.c.id == targets.c.source_id)
        .where(selected(selector, metric=series.c.metric, labels=series.c.labels))
        .order_by(series.c.metric, series.c.labels, series.c.id)
        .limit(limit)
    )
    return [_series_entry(row) for row in connection.execute(statement)]


def _series_entry(row: Row[tuple[object, ...]]) -> SeriesEntry:
    return SeriesEntry(
        id=row.id,
        metric=row.metric,
        labels=dict(sorted(row.labels.items())),
        kind=Kind(row.kind),
        block_id=row.block_id,
        position=row.position,
        target_id=row.target_id,
        address=row.address,
        source=row.source,
        shard_id=row.shard_id,
        intake_id=row.intake_id,
        slots=SlotGrid(timedelta(seconds=row.interval_seconds), timedelta(seconds=row.offset_seconds)),
    )


@dataclass(frozen=True)
class StoredRollup:
    """The rollup of one series in one bucket. `values`: by statistic, None where it is not known."""

    bucket: datetime
    slots_due: int
    values: Mapping[str, float | int | None]

    @property
    def count(self) -> int:
        """How many samples it counts."""
        return int(self.values["count"] or 0)


_OPEN = ", ".join(f'r."{name}"[:position] AS "{name}"' for name in STATISTICS)
_ELEMENTS = ", ".join(
    f'{element("r" if name in OWN else "c", name, "p.place")}{"::integer" if name in WHOLE else ""} AS "{name}"'
    for name in STATISTICS
)
_ROLLUPS = text(
    f"""
    SELECT * FROM (
        SELECT r.bucket, coalesce(r.slots[:position], r.slots_due) AS slots_due, {_OPEN}
        FROM aggregator.rollup AS r
        WHERE r.tier_id = :tier_id AND r.block_id = :block_id AND r.bucket >= :since AND r.bucket < :until
        UNION ALL
        SELECT p.bucket, {element("c", "slots_due", "p.place")}::integer, {_ELEMENTS}
        FROM aggregator.sealed AS r
        JOIN aggregator.clock AS c
            ON c.tier_id = r.tier_id AND c.block_id = r.block_id AND c.start = r.start AND c.clock = r.clock
        CROSS JOIN LATERAL (
            SELECT place, r.start + place * make_interval(secs => c.step_ms / 1000.0) AS bucket
            FROM generate_series(0, c.buckets - 1) AS place
        ) AS p
        WHERE r.tier_id = :tier_id AND r.block_id = :block_id AND r.position = :position
            AND r.start >= :first_span AND r.start < :until AND p.bucket >= :since AND p.bucket < :until
    ) AS both_forms
    WHERE count > 0 ORDER BY bucket
    """  # noqa: S608 - names of our own columns
)


def read_rollups(
    connection: Connection, series: SeriesEntry, tier: TierEntry, *, since: datetime, until: datetime
) -> list[StoredRollup]:
    """The rollups of a series in a tier whose buckets start in the half-open interval.

    Uses indexes: rollup_pkey, sealed_pkey, clock_pkey.
    """
    if series.block_id is None:
        return []
    where = {"block_id": series.block_id, "position": series.position, **interval_of(tier, since=since, until=until)}
    rows = connection.execute(_ROLLUPS, where)
    return [
        StoredRollup(row.bucket, row.slots_due, {name: _known(row._mapping[name]) for name in STATISTICS})  # noqa: SLF001 - SQLAlchemy's public name
        for row in rows
    ]


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


@dataclass(frozen=True)
class PendingMark:
    """A row of the ledger, without its shard. `target_id` None: all targets of the shard."""

    tier_id: int
    bucket: datetime
    target_id: int | None
    due: datetime
    marked: datetime
    backfill: bool


def pending_marks(
    connection: Connection, series: SeriesEntry, *, tier_ids: Sequence[int], since: datetime, until: datetime
) -> list[PendingMark]:
    """Marks of these tiers in the half-open interval: a view looks at those of the whole shard, and of what it reads.

    Uses indexes: dirty_shard_id_bucket_idx, rule_shards_pkey.
    """
    dirty, read = tables.dirty, tables.rule_shards
    shard_ids = connection.execute(select(read.c.input_shard_id).where(read.c.shard_id == series.shard_id)).scalars()
    columns = (dirty.c[name] for name in PendingMark.__dataclass_fields__)
    statement = select(*columns).where(
        dirty.c.shard_id.in_([series.shard_id, *shard_ids]),
        dirty.c.bucket >= since,
        dirty.c.bucket < until,
        dirty.c.tier_id.in_(tier_ids),
    )
    rows = connection.execute(statement.order_by(dirty.c.bucket, dirty.c.tier_id, dirty.c.due))
    return [PendingMark(*row) for row in rows]


@dataclass(frozen=True)
class StoredRun:
    """A run of the stage rollup that took a bucket off the ledger; `rows`: rollup rows of its shard that it changed."""

    started_at: datetime
    finished_at: datetime | None
    node: str
    rows: int | None
    backfill: bool


def runs_of(connection: Connection, *, subject: str, bucket: datetime) -> list[StoredRun]:
    """The runs of a tier and shard among whose buckets this one lay, oldest first.

    A run of backfill that skipped the bucket may be among them: only its first and last bucket are stored.
    Uses index: runs_subject_started_at_idx.
    """
    runs = tables.runs
    columns = (runs.c[name] for name in StoredRun.__dataclass_fields__)
    statement = select(*columns).where(
        runs.c.subject == subject,
        runs.c.stage == "rollup",
        runs.c.started_at >= bucket,
        runs.c.first_bucket <= bucket,
        runs.c.last_bucket >= bucket,
    )
    return [StoredRun(*row) for row in connection.execute(statement.order_by(runs.c.started_at, runs.c.id))]


@dataclass(frozen=True)
class StoredCollection:
    """What a collection did for one target. `outcome`: 0 pending, 1 ok, 2 failed (`claims`)."""

    slot: datetime
    node: str
    by_hand: bool
    claims: int
    started_at: datetime
    finished_at: datetime | None
    outcome: int
    duration_seconds: float
    samples: int


_COLLECTIONS = """
    SELECT c.slot, c.node, c.by_hand, c.claims, c.started_at, c.finished_at,
        c.outcome[own.place], c.duration_seconds[own.place], c.samples[own.place]
    FROM aggregator.collections AS c
    CROSS JOIN LATERAL (SELECT array_position(c.target_ids, :target_id) AS place OFFSET 0) AS own
    WHERE c.shard_id = ANY (:shard_ids) AND c.slot >= :since AND c.slot < :until AND own.place IS NOT NULL
        {and_more}
    ORDER BY c.slot, c.started_at
"""
_COLLECTIONS_BY_SLOT = text(_COLLECTIONS.format(and_more=""))
_COLLECTIONS_BY_TIME = text(
    _COLLECTIONS.format(and_more="AND c.started_at <= :at AND (c.finished_at IS NULL OR c.finished_at >= :at)")
)


def collections_of(
    connection: Connection, series: SeriesEntry, *, since: datetime, until: datetime
) -> list[StoredCollection]:
    """The collections of a series' target whose slots lie in the half-open interval. Uses index: collections_pkey."""
    where = {"target_id": series.target_id, "shard_ids": list(series.shard_ids), "since": since, "until": until}
    return [StoredCollection(*row) for row in connection.execute(_COLLECTIONS_BY_SLOT, where)]


def collections_that_wrote(
    connection: Connection, series: SeriesEntry, at: datetime, *, longest: timedelta
) -> list[StoredCollection]:
    """The collections of a series' target that were going on at an instant and began at most `longest` before it.

    Uses index: collections_pkey.
    """
    where = {"target_id": series.target_id, "shard_ids": list(series.shard_ids)}
    where |= {"since": at - longest, "until": at + timedelta(microseconds=1), "at": at}
    return [StoredCollection(*row) for row in connection.execute(_COLLECTIONS_BY_TIME, where)]


def first_slot(connection: Connection, series: SeriesEntry) -> datetime | None:
    """The first slot that the target's own shard ever claimed. Uses index: shard_slots_pkey."""
    table = tables.shard_slots
    return connection.execute(
        select(table.c.first_slot).where(table.c.shard_id == series.shard_id)
    ).scalar_one_or_none()
