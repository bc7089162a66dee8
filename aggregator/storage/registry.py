"""Who is there: nodes, targets and the shards that they belong to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, literal, select, update
from sqlalchemy.dialects.postgresql import insert

from aggregator.rollups.buckets import SlotGrid
from aggregator.storage import tables
from aggregator.storage.frames import lock_targets

#: A shard holds at most so many targets, or so many series, whichever comes first.
SHARD_TARGETS = 100
SHARD_SERIES = 50_000
#: A target that has never answered is assumed to have this many series.
ASSUMED_SERIES = 500


def see_node(
    connection: Connection,
    name: str,
    *,
    now: datetime,
    started_at: datetime,
    config_hash: str,
    version: str,
    exporter_url: str,
) -> int:
    """Record that a node lives; gives its id."""
    values = {
        "last_seen": now,
        "started_at": started_at,
        "config_hash": config_hash,
        "version": version,
        "exporter_url": exporter_url,
    }
    statement = insert(tables.nodes).values(name=name, **values)
    statement = statement.on_conflict_do_update(index_elements=["name"], set_=values)
    return int(connection.execute(statement.returning(tables.nodes.c.id)).scalar_one())


def live_nodes(connection: Connection, *, seen_since: datetime) -> dict[str, int]:
    """The ids of nodes that were seen since then, by name."""
    table = tables.nodes
    rows = connection.execute(
        select(table.c.name, table.c.id).where(table.c.last_seen >= seen_since).order_by(table.c.name)
    )
    return dict(rows.all())


@dataclass(frozen=True)
class TargetEntry:
    """A target as configuration and discovery know it."""

    address: str
    labels: tuple[tuple[str, str], ...]
    node_id: int | None = None


def sync_targets(connection: Connection, source_id: int, entries: Sequence[TargetEntry], *, now: datetime) -> None:
    """Make exactly these targets the active ones of a source; one that is right already is not touched, nor locked.

    Uses index: targets_source_id_address_labels_key.
    """
    table = tables.targets
    rows = connection.execute(select(table).where(table.c.source_id == source_id)).all()
    stored = {(row.address, tuple(sorted(row.labels.items()))): row for row in rows}
    wanted = {(entry.address, tuple(sorted(entry.labels))): entry for entry in entries}
    gone = [row.id for key, row in stored.items() if row.active and key not in wanted]
    changed = [
        entry
        for key, entry in wanted.items()
        if (row := stored.get(key)) is None or not row.active or row.node_id != entry.node_id
    ]
    if changed or gone:
        # As every writer of frames does: lock in the order of ids, so that two never wait for each other.
        ids = [row.id for key, row in stored.items() if row.id in gone or wanted.get(key) in changed]
        lock_targets(connection, ids)
    for entry in changed:
        _upsert(connection, source_id, entry, now=now)
    if gone:
        connection.execute(update(table).where(table.c.id.in_(gone)).values(active=False))


def _upsert(connection: Connection, source_id: int, entry: TargetEntry, *, now: datetime) -> None:
    """Uses index: targets_source_id_address_labels_key."""
    table = tables.targets
    values = {"active": True, "node_id": entry.node_id}
    statement = insert(table).values(
        source_id=source_id, address=entry.address, labels=dict(entry.labels), created_at=now, **values
    )
    connection.execute(statement.on_conflict_do_update(index_elements=["source_id", "address", "labels"], set_=values))


@dataclass(frozen=True)
class StoredTarget:
    """An active target of a shard."""

    id: int
    address: str
    labels: tuple[tuple[str, str], ...]
    shard_id: int | None
    is_up: bool | None
    last_error: str | None


def shard_targets(connection: Connection, *, source_id: int, shard_id: int | None) -> list[StoredTarget]:
    """The active targets of a shard, or with None those that have no shard yet. Uses index: targets_shard_id_idx."""
    table = tables.targets
    where = table.c.shard_id == shard_id if shard_id is not None else table.c.shard_id.is_(None)
    rows = connection.execute(
        select(table).where(table.c.source_id == source_id, table.c.active, where).order_by(table.c.id)
    )
    return [
        StoredTarget(row.id, row.address, tuple(sorted(row.labels.items())), row.shard_id, row.is_up, row.last_error)
        for row in rows
    ]


@dataclass(frozen=True)
class ShardEntry:
    """A shard that is to be collected; `node` names the machine that alone may do it."""

    id: int
    node: str | None
    is_intake: bool


def collectable_shards(connection: Connection, source_id: int, *, seen_since: datetime) -> list[ShardEntry]:
    """The shards of a source with active targets, without those of nodes that are gone."""
    shards, targets, nodes = tables.shards, tables.targets, tables.nodes
    has_targets = select(targets.c.id).where(
        targets.c.source_id == source_id,
        targets.c.active,
        (targets.c.shard_id == shards.c.id) | (shards.c.is_intake & targets.c.shard_id.is_(None)),
    )
    rows = connection.execute(
        select(shards.c.id, nodes.c.name, shards.c.is_intake)
        .outerjoin(nodes, nodes.c.id == shards.c.node_id)
        .where(
            shards.c.source_id == source_id,
            has_targets.exists(),
            shards.c.node_id.is_(None) | (nodes.c.last_seen >= seen_since),
        )
        .order_by(shards.c.id)
    )
    return [ShardEntry(row.id, row.name, row.is_intake) for row in rows]


def find_shard(connection: Connection, shard_id: int) -> ShardEntry | None:
    """A shard; None where there is no such one. Uses indexes: shards_pkey, nodes_pkey."""
    shards, nodes = tables.shards, tables.nodes
    statement = (
        select(shards.c.id, nodes.c.name, shards.c.is_intake)
        .outerjoin(nodes, nodes.c.id == shards.c.node_id)
        .where(shards.c.id == shard_id)
    )
    row = connection.execute(statement).one_or_none()
    return None if row is None else ShardEntry(row.id, row.name, row.is_intake)


def ensure_intake(connection: Connection, source_id: int) -> int:
    """The shard that holds the claims of targets that have no shard yet. Uses index: shards_intake_key."""
    table = tables.shards
    connection.execute(insert(table).values(source_id=source_id, is_intake=True).on_conflict_do_nothing())
    statement = select(table.c.id).where(table.c.source_id == source_id, table.c.is_intake)
    return int(connection.execute(statement).scalar_one())


def ensure_node_shard(connection: Connection, source_id: int, node_id: int) -> int:
    """The shard of a node's target, its own from the beginning. Uses index: shards_source_id_node_id_key."""
    table = tables.shards
    connection.execute(insert(table).values(source_id=source_id, node_id=node_id).on_conflict_do_nothing())
    statement = select(table.c.id).where(table.c.source_id == source_id, table.c.node_id == node_id)
    shard_id = int(connection.execute(statement).scalar_one())
    connection.execute(
        update(tables.targets)
        .where(
            tables.targets.c.source_id == source_id,
            tables.targets.c.node_id == node_id,
            tables.targets.c.shard_id.is_(None),
        )
        .values(shard_id=shard_id)
    )
    return shard_id


def assign_shards(connection: Connection, source_id: int, weights: dict[int, int]) -> dict[int, int]:
    """Give targets that have none their shard, for good; `weights` are their series. Gives target id -> shard id."""
    sources, shards, targets = tables.sources, tables.shards, tables.targets
    connection.execute(select(sources.c.id).where(sources.c.id == source_id).with_for_update(key_share=True))
    placed = dict(
        connection.execute(
            select(targets.c.id, targets.c.shard_id).where(
                targets.c.id.in_(list(weights)), targets.c.shard_id.is_not(None)
            )
        ).all()
    )
    loads = {
        row.id: [row.targets, row.series]
        for row in connection.execute(
            select(
                shards.c.id,
                func.count(targets.c.id).label("targets"),
                func.coalesce(func.sum(targets.c.weight), literal(0)).label("series"),
            )
            .outerjoin(targets, targets.c.shard_id == shards.c.id)
            .where(shards.c.source_id == source_id, ~shards.c.is_intake, shards.c.node_id.is_(None))
            .group_by(shards.c.id)
            .order_by(shards.c.id)
        )
    }
    for target_id, weight in sorted(weights.items()):
        if target_id not in placed:
            placed[target_id] = _roomy_shard(connection, source_id, loads, weight)
            connection.execute(
                update(targets).where(targets.c.id == target_id).values(shard_id=placed[target_id], weight=weight)
            )
    return placed


def _roomy_shard(connection: Connection, source_id: int, loads: dict[int, list[int]], weight: int) -> int:
    """The first shard with room, or a new one; `loads` is kept up to date."""
    for shard_id, load in loads.items():
        if load[0] < SHARD_TARGETS and load[1] + weight <= SHARD_SERIES:
            load[0] += 1
            load[1] += weight
            return shard_id
    statement = insert(tables.shards).values(source_id=source_id).returning(tables.shards.c.id)
    shard_id = int(connection.execute(statement).scalar_one())
    loads[shard_id] = [1, weight]
    return shard_id


@dataclass(frozen=True)
class StateChange:
    """A target that went up or down, or is down for another reason than before."""

    target_id: int
    is_up: bool
    error: str | None
    at: datetime


def record_states(connection: Connection, changes: Iterable[StateChange]) -> None:
    """Store how targets are now; the last error stays readable after a target is up again.

    In the order of their ids, as `lock_targets`.
    """
    for change in sorted(changes, key=lambda change: change.target_id):
        values = {"is_up": change.is_up, "state_since": change.at}
        if change.error is not None:
            values |= {"last_error": change.error, "last_error_at": change.at}
        connection.execute(update(tables.targets).where(tables.targets.c.id == change.target_id).values(values))


def targets_of_shard(connection: Connection, shard_id: int) -> list[int]:
    """All targets of a shard, active or not. Uses index: targets_shard_id_idx."""
    table = tables.targets
    return list(
        connection.execute(select(table.c.id).where(table.c.shard_id == shard_id).order_by(table.c.id)).scalars()
    )


def slots_of_shard(connection: Connection, shard_id: int) -> SlotGrid:
    """When the targets of a shard are collected now.

    Uses indexes: shards_pkey, sources_pkey.
    """
    statement = (
        select(tables.sources.c.interval_seconds, tables.sources.c.offset_seconds)
        .join(tables.shards, tables.shards.c.source_id == tables.sources.c.id)
        .where(tables.shards.c.id == shard_id)
    )
    interval, offset = connection.execute(statement).one()
    return SlotGrid(timedelta(seconds=interval), timedelta(seconds=offset))
