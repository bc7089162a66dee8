"""What publishing a configuration would do to this database, by the decisions that publishing takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, select

from aggregator.config.digest import config_hash
from aggregator.config.model import Settings
from aggregator.storage import catalog, partitions, plan_entries, plan_tiers, publish, tables
from aggregator.storage.announce import is_to_publish
from aggregator.storage.measured_bytes import Measured, measure
from aggregator.storage.plan_changes import Change, Drop


@dataclass(frozen=True)
class Plan:
    """All changes, settings first; what the next `maintain` would drop; and what is measured of this database.

    `published_by`: the node whose configuration is in force, None where none is. `is_to_publish`: whether a worker
    with this configuration would publish it. `partitions_made`: how many partitions that makes.
    """

    published_by: str | None
    is_to_publish: bool
    changes: tuple[Change, ...]
    partitions_made: int
    drops: tuple[Drop, ...]
    measured: Measured


def make_plan(connection: Connection, settings: Settings, *, now: datetime) -> Plan:
    """Compare a configuration with what is published; raises UsageError where publishing would refuse it."""
    row = connection.execute(select(tables.installation)).one_or_none()
    publish.refuse_other_buckets(connection, settings.tiers)
    measured = measure(connection)
    ladder = plan_tiers.planned(connection, settings)
    before = None if row is None else catalog.read_installation(connection)
    return Plan(
        published_by=None if row is None else row.published_by,
        is_to_publish=is_to_publish(connection, settings, config_hash=config_hash(settings)),
        changes=tuple(_changes(connection, settings, before, ladder, measured, now=now)),
        partitions_made=_partitions_made(connection, settings, ladder, now=now),
        drops=tuple(plan_tiers.drops(connection, ladder, now=now)),
        measured=measured,
    )


def _changes(
    connection: Connection,
    settings: Settings,
    before: catalog.Installation | None,
    after: catalog.Installation,
    measured: Measured,
    *,
    now: datetime,
) -> Iterator[Change]:
    if before is not None:
        yield from plan_tiers.setting_changes(before, after)
    yield from plan_entries.source_changes(connection, settings.sources, measured)
    yield from plan_tiers.tier_changes(connection, before, after, measured, now=now)
    yield from plan_entries.rule_changes(connection, settings.rules, after)
    yield from plan_entries.summary_changes(connection, settings.summaries)


def _partitions_made(connection: Connection, settings: Settings, after: catalog.Installation, *, now: datetime) -> int:
    finest = {tier.name for tier in after.finest}
    wanted: Sequence[tuple[partitions.Partitioned, datetime]]
    wanted = list(publish.wanted_partitions(settings, finest, now=now))
    return sum(
        len(partitions.missing(connection, partitioned, since=since, until=now + publish.AHEAD))
        for partitioned, since in wanted
    )
