"""Tiers and retention of a plan: what is created empty and could be filled, and what the next `maintain` drops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, select, text

from aggregator.config.duration import format_duration
from aggregator.config.model import Settings
from aggregator.storage import catalog, partitions, publish, retention, rule_inputs, tables
from aggregator.storage.catalog import Installation, TierEntry
from aggregator.storage.costs import SAMPLES_NAME
from aggregator.storage.measured_bytes import Measured
from aggregator.storage.partitions import SAMPLES, Partition, Partitioned
from aggregator.storage.plan_changes import Change, Drop
from aggregator.storage.retention import Needs, needs_of_rollups, needs_of_samples
from aggregator.storage.sealed_columns import element

_NAMES = {"lateness": "lateness", "lookback": "lookback", "sample_retention": "sample_retention"}


def planned(connection: Connection, settings: Settings) -> Installation:
    """The installation as it would be published; a tier that is not stored yet has a negative id."""
    parent_of = publish.parents_of(connection, settings.tiers)
    ids = dict(connection.execute(select(tables.tiers.c.name, tables.tiers.c.id)).all())
    ordered = sorted(settings.tiers, key=lambda tier: tier.step)
    for place, tier in enumerate(ordered, start=1):
        ids.setdefault(tier.name, -place)
    entries = []
    for tier in ordered:
        parent = parent_of[tier.name]
        parent_id = None if parent is None else ids[parent.name]
        entries.append(TierEntry(ids[tier.name], tier.name, publish.ladder_of(tier), tier.retention, parent_id))
    return Installation(tuple(entries), settings.lateness, settings.lookback, settings.sample_retention)


def setting_changes(before: Installation, after: Installation) -> Iterator[Change]:
    """The installation's lengths of time that change."""
    for name in _NAMES:
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            effect = f"{format_duration(old)} becomes {format_duration(new)}"
            yield Change("setting", name, "changed", effect + _retained(old, new, name))


def _retained(old: timedelta, new: timedelta, name: str) -> str:
    if "retention" not in name:
        return ""
    return "; what is older goes" if new < old else "; what is gone stays gone"


def tier_changes(
    connection: Connection, before: Installation | None, after: Installation, measured: Measured, *, now: datetime
) -> Iterator[Change]:
    """Tiers that come, change or go."""
    known = {tier.name: tier for tier in before.tiers} if before else {}
    for tier in after.tiers:
        old = known.get(tier.name)
        if old is None:
            yield _added(connection, tier, after, now=now)
        elif effects := list(_effects(old, tier, before, after)):
            yield Change("tier", tier.name, "changed", "; ".join(effects))
    for name in known.keys() - {tier.name for tier in after.tiers}:
        size = sum(one.size_bytes for one in measured.stored if one.layer == name)
        yield Change("tier", name, "removed", "is no longer computed; what it has stays, for ever", size_bytes=size)


def _effects(old: TierEntry, new: TierEntry, before: Installation | None, after: Installation) -> Iterator[str]:
    if old.ladder != new.ladder:
        yield "other buckets, of which there are none yet"
    if old.retention != new.retention:
        lengths = f"{format_duration(old.retention)} becomes {format_duration(new.retention)}"
        yield f"retention {lengths}{_retained(old.retention, new.retention, 'retention')}"
    was, becomes = _parent_name(old, before), _parent_name(new, after)
    if was != becomes:
        yield f"built from {becomes} instead of {was}"


def _parent_name(tier: TierEntry, installation: Installation | None) -> str:
    parent = installation.tier(tier.parent_id) if installation and tier.parent_id is not None else None
    return parent.name if parent else SAMPLES_NAME


def _added(connection: Connection, tier: TierEntry, after: Installation, *, now: datetime) -> Change:
    """A tier that comes is empty; a recomputation of every series fills it as far back as its input reaches."""
    origin, reach = _reach(connection, tier, after)
    since, until = reach or (now, now)
    buckets = [start for start in tier.ladder.starts(since, until) if tier.ladder.end_of(start) <= now]
    effect = f"is created empty, built from {_parent_name(tier, after)}"
    if buckets:
        effect += f"; recompute could fill up to {len(buckets):,} buckets from {origin}"
    return Change("tier", tier.name, "added", effect, buckets=len(buckets), since=buckets[0] if buckets else None)


def _reach(
    connection: Connection, tier: TierEntry, after: Installation
) -> tuple[str, tuple[datetime, datetime] | None]:
    """What a tier could be made of, through tiers that come with it, and from when to when there is any of it."""
    parent = None if tier.parent_id is None else after.tier(tier.parent_id)
    if parent is None:
        return SAMPLES_NAME, _reach_of_samples(connection, after)
    if parent.id < 0:
        return _reach(connection, parent, after)
    blocks = list(connection.execute(select(tables.blocks.c.id)).scalars())
    found = rule_inputs.reach_of(connection, blocks, tier_id=parent.id)
    return parent.name, None if found is None else (found[0], parent.ladder.end_of(found[1]))


# Uses index sample_frame_pkey at both ends of each target; clocks are few.
_SAMPLES = text(
    f"""
    SELECT min(reach.first) AS first, max(reach.last) AS last
    FROM (
        SELECT ends.first, ends.last FROM aggregator.targets AS t CROSS JOIN LATERAL (
            SELECT min(f.at) AS first, max(f.at) AS last FROM aggregator.sample_frame AS f WHERE f.target_id = t.id
        ) AS ends
        UNION ALL
        SELECT c.start + {element("c", "at", "0")} * interval '1 millisecond',
            c.start + {element("c", "at", "c.samples - 1")} * interval '1 millisecond'
        FROM aggregator.sample_clock AS c
    ) AS reach
    """  # noqa: S608 - our own columns
)


def _reach_of_samples(connection: Connection, after: Installation) -> tuple[datetime, datetime] | None:
    row = connection.execute(_SAMPLES).one()
    if row.first is None:
        return None
    dropped = catalog.dropped_before(connection, SAMPLES.table)
    first = row.first if dropped is None else max(row.first, dropped + after.lookback)
    return first, row.last + timedelta(microseconds=1)


def drops(connection: Connection, after: Installation, *, now: datetime) -> Iterator[Drop]:
    """Every interval that is past its retention, and whether the next `maintain` drops it."""
    yield from _drops(
        connection,
        SAMPLES_NAME,
        SAMPLES,
        needs_of_samples(after, written_since=now - after.sample_retention),
        keep=after.sample_retention,
        now=now,
    )
    for tier in after.tiers:
        needs = needs_of_rollups(after, tier, written_since=now - tier.retention)
        yield from _drops(connection, tier.name, tier.partitions, needs, keep=tier.retention, now=now)


def _drops(
    connection: Connection, layer: str, partitioned: Partitioned, needs: Needs, *, keep: timedelta, now: datetime
) -> Iterator[Drop]:
    found = [one for one in partitions.intervals(connection, partitioned) if retention.is_past(one, keep=keep, now=now)]
    for partition in found:
        held = retention.why_held(connection, partition, needs)
        size = _size(connection, [table.name(partition.start) for table in (partitioned, *partitioned.beside)])
        yield _drop(layer, partition, size, held)


def _drop(layer: str, partition: Partition, size: int, held: retention.Held | None) -> Drop:
    return Drop(layer, partition.name, partition.start, partition.end, size, held.reason if held else None)


_SIZE = text(
    """
    SELECT CAST(coalesce(sum(pg_total_relation_size(oid)), 0) AS bigint) FROM pg_class
    WHERE relnamespace = to_regnamespace('aggregator') AND relname = ANY (:names)
    """
)


def _size(connection: Connection, names: Sequence[str]) -> int:
    return int(connection.execute(_SIZE, {"names": list(names)}).scalar_one())
