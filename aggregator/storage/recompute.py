"""Recomputations: what was asked for and how far it got, which inputs are kept, and what still waits."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, text, update

from aggregator.config.selector import Selector
from aggregator.storage import tables
from aggregator.storage.catalog import TierEntry
from aggregator.storage.selecting import selected
from aggregator.storage.stored_buckets import STORED_BUCKETS, interval_of, newest_of

_TABLE = tables.recomputations


@dataclass(frozen=True)
class Kept:
    """Buckets of a tier that stay as they are because their inputs are gone: how many, the oldest and the newest."""

    count: int
    oldest: datetime
    newest: datetime

    def and_also(self, other: Kept) -> Kept:
        """Both together."""
        return Kept(self.count + other.count, min(self.oldest, other.oldest), max(self.newest, other.newest))


@dataclass(frozen=True)
class Request:
    """A recomputation of a half-open interval (UTC), marked from `until` down to `marked_down_to`. `kept`: by tier."""

    id: int
    selector: str
    since: datetime
    until: datetime
    marked_down_to: datetime
    started_at: datetime
    finished_at: datetime | None
    buckets_marked: int = 0
    kept: Mapping[str, Kept] = field(default_factory=dict)


def requests_of(connection: Connection, selector: str) -> list[Request]:
    """What was asked for of a selector, newest first. Reads the whole table: a row is typed by a person."""
    rows = connection.execute(select(_TABLE).where(_TABLE.c.selector == selector).order_by(_TABLE.c.id.desc()))
    return [_request(row) for row in rows]


def _request(row: Row[Any]) -> Request:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name
    stored = values.pop("kept")
    kept = {
        tier: Kept(int(count), datetime.fromisoformat(oldest), datetime.fromisoformat(newest))
        for tier, (count, oldest, newest) in stored.items()
    }
    return Request(**values, kept=kept)


def begin(connection: Connection, selector: str, *, since: datetime, until: datetime, now: datetime) -> Request:
    """Record a new recomputation."""
    statement = insert(_TABLE).values(selector=selector, since=since, until=until, marked_down_to=until, started_at=now)
    request_id = connection.execute(statement.returning(_TABLE.c.id)).scalar_one()
    return Request(request_id, selector, since, until, until, now, None)


def lock_request(connection: Connection, request_id: int) -> Request:
    """How far a recomputation is, and nobody else moves it until this transaction ends. Uses index: its key."""
    statement = select(_TABLE).where(_TABLE.c.id == request_id).with_for_update()
    return _request(connection.execute(statement).one())


def move_down(
    connection: Connection, request: Request, *, to: datetime, marked: int, kept: Mapping[str, Kept]
) -> Request:
    """Record in the transaction that marks them that all buckets down to an instant are marked. Uses index: its key."""
    together = dict(request.kept)
    for tier, more in kept.items():
        together[tier] = together[tier].and_also(more) if tier in together else more
    values = {
        "marked_down_to": to,
        "buckets_marked": request.buckets_marked + marked,
        "kept": {tier: [one.count, one.oldest.isoformat(), one.newest.isoformat()] for tier, one in together.items()},
    }
    statement = update(_TABLE).where(_TABLE.c.id == request.id).values(values).returning(*_TABLE.c)
    return _request(connection.execute(statement).one())


def finish(connection: Connection, request_id: int, *, now: datetime) -> None:
    """Record that nothing of it waits any more. Uses index: its key."""
    connection.execute(update(_TABLE).where(_TABLE.c.id == request_id).values(finished_at=now))


@dataclass(frozen=True)
class Scope:
    """What a selector means to the ledger: shard by target, shard by block, and shards that are meant as a whole."""

    shard_of_target: Mapping[int, int]
    shard_of_block: Mapping[int, int]
    whole_shards: frozenset[int]

    @property
    def shard_ids(self) -> frozenset[int]:
        """All shards that are touched."""
        return frozenset(self.shard_of_target.values())

    @property
    def marks_per_bucket(self) -> int:
        """How many marks a bucket of the finest tier takes."""
        return len(self.whole_shards) + sum(
            shard_id not in self.whole_shards for shard_id in self.shard_of_target.values()
        )


def scope_of(connection: Connection, selector: Selector) -> Scope:
    """The targets and blocks in which a selector has series. Uses indexes: series_metric_idx, targets_shard_id_idx."""
    series, targets = tables.series, tables.targets
    rows = connection.execute(
        select(targets.c.id, targets.c.shard_id, series.c.block_id)
        .join(series, series.c.target_id == targets.c.id)
        .where(selected(selector, metric=series.c.metric, labels=series.c.labels), targets.c.shard_id.is_not(None))
        .distinct()
    ).all()
    shard_of_target = {row.id: row.shard_id for row in rows}
    shard_of_block = {row.block_id: row.shard_id for row in rows if row.block_id is not None}
    of_shards = select(targets.c.id, targets.c.shard_id).where(targets.c.shard_id.in_(set(shard_of_target.values())))
    others = {row.shard_id for row in connection.execute(of_shards) if row.id not in shard_of_target}
    return Scope(shard_of_target, shard_of_block, frozenset(set(shard_of_target.values()) - others))


# Uses indexes rollup_pkey and clock_pkey, once for each block.
_NEWEST_ROLLUP = text(
    f"""
    SELECT max(newest.bucket)
    FROM unnest(CAST(:block_ids AS integer[])) AS asked (block_id)
    CROSS JOIN LATERAL ({newest_of("asked.block_id")}) AS newest
    """  # noqa: S608 - text of our own
)


def newest_rollup(
    connection: Connection, scope: Scope, *, tier: TierEntry, since: datetime, until: datetime
) -> datetime | None:
    """The newest bucket of any block in the half-open interval; None where there is none."""
    where = {"block_ids": list(scope.shard_of_block), **interval_of(tier, since=since, until=until)}
    newest: datetime | None = connection.execute(_NEWEST_ROLLUP, where).scalar_one()
    return newest


_ROLLUP_TIMES = text(
    f"""
    SELECT DISTINCT b.shard_id, stored.bucket
    FROM ({STORED_BUCKETS}) AS stored JOIN aggregator.blocks AS b ON b.id = stored.block_id
    WHERE stored.block_id = ANY (:block_ids)
    """  # noqa: S608 - as above
)


def rollup_times(
    connection: Connection, scope: Scope, *, tier: TierEntry, since: datetime, until: datetime
) -> set[tuple[int, datetime]]:
    """The shards and buckets of the half-open interval of which any block has rollups.

    Thousands of blocks have each of them, so the server counts them once. Uses indexes: rollup_pkey, clock_pkey,
    blocks_pkey.
    """
    where = {"block_ids": list(scope.shard_of_block), **interval_of(tier, since=since, until=until)}
    return {(row.shard_id, row.bucket) for row in connection.execute(_ROLLUP_TIMES, where)}


_INPUT_TIMES = text(
    f"""
    SELECT DISTINCT rule.shard_id, stored.bucket
    FROM aggregator.rules AS rule JOIN aggregator.rule_inputs AS i ON i.rule_id = rule.id
    JOIN ({STORED_BUCKETS}) AS stored ON stored.block_id = i.block_id
    WHERE rule.shard_id = ANY (:shard_ids)
    """  # noqa: S608 - as above
)


def input_times(
    connection: Connection, scope: Scope, *, tier: TierEntry, since: datetime, until: datetime
) -> set[tuple[int, datetime]]:
    """The shards of rules and the buckets of the half-open interval in which any block of their inputs has rollups.

    Uses indexes: rules_shard_id_key, rule_inputs_rule_id_idx, rollup_pkey, clock_pkey.
    """
    where = {"shard_ids": list(scope.shard_ids), **interval_of(tier, since=since, until=until)}
    return {(row.shard_id, row.bucket) for row in connection.execute(_INPUT_TIMES, where)}


# Uses indexes rules_shard_id_key, rule_inputs_rule_id_idx, and rollup_pkey and clock_pkey once for each block.
_NEWEST_INPUT = text(
    f"""
    SELECT max(newest.bucket)
    FROM aggregator.rules AS rule JOIN aggregator.rule_inputs AS i ON i.rule_id = rule.id
    CROSS JOIN LATERAL ({newest_of("i.block_id")}) AS newest
    WHERE rule.shard_id = ANY (:shard_ids)
    """  # noqa: S608 - as above
)


def newest_input(
    connection: Connection, scope: Scope, *, tier: TierEntry, since: datetime, until: datetime
) -> datetime | None:
    """The newest bucket of any input of the scope's rules in the half-open interval; None where there is none."""
    where = {"shard_ids": list(scope.shard_ids), **interval_of(tier, since=since, until=until)}
    newest: datetime | None = connection.execute(_NEWEST_INPUT, where).scalar_one()
    return newest


def waiting(
    connection: Connection, shard_ids: Collection[int], *, since: datetime, until: datetime, now: datetime
) -> int:
    """Due marks of backfill of these shards in the half-open interval. Uses index: dirty_shard_id_bucket_idx."""
    dirty = tables.dirty
    statement = select(func.count()).where(
        dirty.c.shard_id.in_(list(shard_ids)),
        dirty.c.bucket >= since,
        dirty.c.bucket < until,
        dirty.c.backfill,
        dirty.c.due <= now,
    )
    return connection.execute(statement).scalar_one()


def rows_changed(connection: Connection, subjects: Collection[str], *, since: datetime) -> int:
    """Rollup rows that runs of backfill have changed since then, whoever ran them.

    Uses index: runs_subject_started_at_idx.
    """
    runs = tables.runs
    statement = select(func.coalesce(func.sum(runs.c.rows), 0)).where(
        runs.c.subject.in_(list(subjects)), runs.c.stage == "rollup", runs.c.backfill, runs.c.started_at >= since
    )
    return int(connection.execute(statement).scalar_one())
