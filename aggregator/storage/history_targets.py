"""Whose samples an import brings: the target of a source that has these labels, made where there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, Text, cast, func, select
from sqlalchemy.dialects.postgresql import insert

from aggregator.errors import UsageError
from aggregator.storage import registry, rules, tables

#: The kind of a source that only ever came from imports, and the address of its targets: nobody collects them.
KIND = "import"
ADDRESS = "import"
#: The labels that a target is known by.
IDENTIFYING = ("job", "instance")


@dataclass(frozen=True)
class HistoryTarget:
    """A target that old samples are stored for. `labels`: its own, which all of its series have."""

    id: int
    shard_id: int
    source_id: int
    labels: tuple[tuple[str, str], ...]


def find_or_make_target(
    connection: Connection, source: str, labels: Mapping[str, str], *, interval: timedelta, now: datetime
) -> HistoryTarget:
    """The target of a source whose job, instance and further labels are all in `labels`; of several the most specific.

    Without such a source or target, they are made: a source that nobody collects, with this interval and no offset,
    and a target with job and instance. Under the source's lock, so that all who ask at once get the same one.
    Uses indexes: sources_name_key, targets_source_id_address_labels_key.
    """
    source_id = _lock_source(connection, source, interval=interval, now=now)
    own = {name: labels[name] for name in IDENTIFYING}
    table = tables.targets
    found = connection.execute(
        select(table.c.id, table.c.shard_id, table.c.node_id, table.c.labels)
        .where(table.c.source_id == source_id, table.c.labels.contains(own), table.c.labels.contained_by(dict(labels)))
        .order_by(func.length(cast(table.c.labels, Text)).desc(), table.c.active.desc(), table.c.id)
    ).first()
    if found is None:
        values = {"source_id": source_id, "address": ADDRESS, "labels": own, "active": False, "created_at": now}
        target_id = int(connection.execute(insert(table).values(values).returning(table.c.id)).scalar_one())
        return HistoryTarget(target_id, _shard(connection, source_id, target_id), source_id, _sorted(own))
    if found.shard_id is not None:
        shard_id = found.shard_id
    elif found.node_id is not None:
        shard_id = registry.ensure_node_shard(connection, source_id, found.node_id)
    else:
        shard_id = _shard(connection, source_id, found.id)
    return HistoryTarget(found.id, shard_id, source_id, _sorted(found.labels))


def _shard(connection: Connection, source_id: int, target_id: int) -> int:
    return registry.assign_shards(connection, source_id, {target_id: registry.ASSUMED_SERIES})[target_id]


def _sorted(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(labels.items()))


def _lock_source(connection: Connection, name: str, *, interval: timedelta, now: datetime) -> int:
    table = tables.sources
    statement = insert(table).values(
        name=name,
        kind=KIND,
        definition={"kind": KIND, "name": name},
        interval_seconds=interval.total_seconds(),
        offset_seconds=0,
        active=False,
        published_at=now,
        published_by=KIND,
    )
    connection.execute(statement.on_conflict_do_nothing(index_elements=["name"]))
    locked = select(table.c.id, table.c.kind).where(table.c.name == name).with_for_update(key_share=True)
    source_id, kind = connection.execute(locked).one()
    if kind == rules.KIND:
        raise UsageError(f"samples of job {name} cannot be stored: a rule makes what has that name; name another job")
    return int(source_id)
