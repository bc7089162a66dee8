"""The configuration in the database: what every worker, view and reader goes by (docs/adr/0007)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta

from pydantic import TypeAdapter
from sqlalchemy import Connection, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from aggregator.config.duration import format_duration
from aggregator.config.ladder import longest_bucket, parents
from aggregator.config.model import Settings, Tier
from aggregator.config.source_model import Source
from aggregator.errors import UsageError
from aggregator.rollups.buckets import Ladder, offset_of
from aggregator.storage import (
    catalog,
    functions,
    partitions,
    range_functions,
    reader_role,
    reader_views,
    rules,
    sample_view,
    sketch_views,
    tables,
    views,
)
from aggregator.storage.catalog import Installation, TierEntry
from aggregator.storage.claims import move_slots
from aggregator.storage.partitions import Partitioned
from aggregator.storage.publish_summaries import publish_summaries
from aggregator.storage.quantiles import choose_sketched
from aggregator.storage.range_parts import RangeSettings
from aggregator.storage.range_times import TierRange
from aggregator.storage.rule_changes import publish_rules
from aggregator.storage.selector_functions import create_selector_functions

#: How far ahead of their time partitions are made.
AHEAD = timedelta(days=3)

_SOURCE: TypeAdapter[Source] = TypeAdapter(Source)


def lock(connection: Connection) -> None:
    """One publisher at a time, from asking what is published to the end of the transaction."""
    connection.execute(select(func.pg_advisory_xact_lock(func.hashtext("aggregator.publish"))))


def publish(connection: Connection, settings: Settings, *, config_hash: str, now: datetime) -> None:
    """Store the settings as the installation's: sources, tiers with views and partitions, summaries, rules.

    What the settings no longer name becomes inactive; nothing that was collected is touched.
    """
    lock(connection)
    rules.hold_alone(connection)
    _publish_installation(connection, settings, config_hash=config_hash, now=now)
    _publish_sources(connection, settings.sources, by=settings.node, now=now)
    _publish_tiers(connection, settings.tiers, now=now)
    publish_summaries(connection, settings.summaries, now=now)
    publish_rules(connection, settings.rules, by=settings.node, now=now)
    create_views(connection)
    ensure_partitions(connection, settings, now=now)


def published_hash(connection: Connection) -> str | None:
    """The hash of the published configuration; None where nothing was published yet."""
    return connection.execute(select(tables.installation.c.config_hash)).scalar_one_or_none()


def _publish_installation(connection: Connection, settings: Settings, *, config_hash: str, now: datetime) -> None:
    values = {
        "namespace": settings.namespace,
        "lateness_seconds": settings.lateness.total_seconds(),
        "lookback_seconds": settings.lookback.total_seconds(),
        "sample_retention_seconds": settings.sample_retention.total_seconds(),
        "config_hash": config_hash,
        "published_at": now,
        "published_by": settings.node,
    }
    statement = insert(tables.installation).values(is_only=True, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["is_only"], set_=values))


def _publish_sources(connection: Connection, sources: Sequence[Source], *, by: str, now: datetime) -> None:
    names = [source.name for source in sources]
    connection.execute(update(tables.sources).where(tables.sources.c.name.not_in(names)).values(active=False))
    intervals = dict(connection.execute(select(tables.sources.c.name, tables.sources.c.interval_seconds)).all())
    for source in sources:
        values = {
            "kind": source.kind,
            "definition": definition_of(source),
            "interval_seconds": source.interval.total_seconds(),
            "offset_seconds": offset_of(source.name, source.interval).total_seconds(),
            "active": True,
            "published_at": now,
            "published_by": by,
        }
        statement = insert(tables.sources).values(name=source.name, **values)
        statement = statement.on_conflict_do_update(index_elements=["name"], set_=values)
        source_id = connection.execute(statement.returning(tables.sources.c.id)).scalar_one()
        if intervals.get(source.name, values["interval_seconds"]) != values["interval_seconds"]:
            move_slots(connection, source_id, now=now)
        choose_sketched(connection, source_id, source.quantile_selectors())


def definition_of(source: Source) -> dict[str, object]:
    """What is stored of a source. What was not set stays unset: a default may be a better one in a later version."""
    return {"kind": source.kind, **source.model_dump(mode="json", exclude_unset=True)}


def _publish_tiers(connection: Connection, tiers: Sequence[Tier], *, now: datetime) -> None:
    names = [tier.name for tier in tiers]
    complete_since = _incomplete(connection, names, now=now)
    connection.execute(update(tables.tiers).where(tables.tiers.c.name.not_in(names)).values(active=False))
    parent_of = parents_of(connection, tiers)
    ids: dict[str, int] = {}
    refuse_other_buckets(connection, tiers)
    for tier in sorted(tiers, key=lambda tier: tier.step):
        parent = parent_of[tier.name]
        values: dict[str, object] = {
            "step_seconds": tier.step.total_seconds(),
            "step_months": tier.months,
            "retention_seconds": tier.retention.total_seconds(),
            "timezone": tier.timezone,
            "parent_id": ids[parent.name] if parent else None,
            "active": True,
        }
        values |= complete_since.get(tier.name, {})
        statement = insert(tables.tiers).values(name=tier.name, **values)
        statement = statement.on_conflict_do_update(index_elements=["name"], set_=values)
        ids[tier.name] = connection.execute(statement.returning(tables.tiers.c.id)).scalar_one()


def _incomplete(connection: Connection, names: Sequence[str], *, now: datetime) -> dict[str, dict[str, datetime]]:
    """Tiers that come, or come back, when there are series already: they have all buckets from now on only."""
    table = tables.tiers
    active = set(connection.execute(select(table.c.name).where(table.c.active)).scalars())
    if connection.execute(select(tables.series.c.id).limit(1)).first() is None:
        return {}
    return {name: {"complete_since": now} for name in names if name not in active}


def parents_of(connection: Connection, tiers: Sequence[Tier]) -> dict[str, Tier | None]:
    """The tier that each one is built from; None: from samples.

    One that has rollups stays with what it was built from: a tier that has just come has only the newest parts of its
    buckets, and what is merged from those would be worse (ledger rule 5).
    """
    parent_of = parents(tiers)
    by_name = {tier.name: tier for tier in tiers}
    table, parent = tables.tiers, tables.tiers.alias()
    statement = select(table.c.name, parent.c.name.label("parent")).outerjoin(parent, parent.c.id == table.c.parent_id)
    for row in connection.execute(statement.where(HAS_ROLLUPS, table.c.name.in_(list(by_name)))):
        if row.parent is None:
            parent_of[row.name] = None
        elif (before := by_name.get(row.parent)) is not None and before.retention >= longest_bucket(by_name[row.name]):
            parent_of[row.name] = before
    return parent_of


HAS_ROLLUPS = or_(
    *(
        select(form.c.tier_id).where(form.c.tier_id == tables.tiers.c.id).exists()
        for form in (tables.rollup, tables.clock)
    )
)


def refuse_other_buckets(connection: Connection, tiers: Sequence[Tier]) -> None:
    """A tier that has rollups keeps its buckets: old and new ones would overlap, and count the same samples twice.

    One that has none yet may change, save for a step that takes partitions of another width: it has some already.
    """
    stored = {row.name: row for row in connection.execute(select(tables.tiers, HAS_ROLLUPS.label("has_rollups"))).all()}
    for tier in tiers:
        before = stored.get(tier.name)
        if before is None or (before.step_seconds, before.timezone) == (tier.step.total_seconds(), tier.timezone):
            continue
        step = timedelta(seconds=before.step_seconds)
        what = f"{format_duration(step)} in {before.timezone}, which cannot be mixed with others"
        if before.has_rollups:
            raise UsageError(f"tier {tier.name} has rollups of {what}; give the new tier another name")
        if partitions.width_of(step) != partitions.width_of(tier.step):
            raise UsageError(f"tier {tier.name} has partitions for rollups of {what}; give the new tier another name")


def ladder_of(tier: Tier) -> Ladder:
    """The buckets of a tier of the configuration."""
    return Ladder(tier.step, tier.timezone, months=tier.months)


def create_views(connection: Connection) -> None:
    """Make or renew the functions, and the views of all tiers that are published, whoever published them."""
    functions.create_functions(connection)
    create_selector_functions(connection)
    sample_view.create_samples_view(connection)
    reader_views.create_reader_views(connection)
    installation = catalog.read_installation(connection)
    of_tiers = [
        views.TierView(
            tier_id=tier.id,
            name=tier.name,
            ladder=tier.ladder,
            built_from=tuple(_lineage(tier, installation)),
            lateness=installation.lateness,
            span=tier.spans.length if tier.spans is not None else None,
        )
        for tier in installation.tiers
    ]
    for view in of_tiers:
        views.create_tier_view(connection, view)
        sketch_views.create_sketch_view(connection, view)
    views.create_rollup_views(connection, of_tiers)
    ranges = [TierRange(view.tier_id, view.ladder, view.span) for view in of_tiers]
    settings = RangeSettings(installation.lateness, installation.lookback)
    range_functions.create_range_functions(connection, ranges, settings)
    reader_role.renew_grants(connection)


def _lineage(tier: TierEntry | None, installation: Installation) -> Iterator[int]:
    """A tier and those that it is built from, coarsest first."""
    while tier is not None:
        yield tier.id
        tier = installation.tier(tier.parent_id or 0)


def ensure_tiers(connection: Connection) -> None:
    """Make the tables of every tier that was ever published: a newer version may have more of them."""
    for row in connection.execute(select(tables.tiers.c.id, tables.tiers.c.name)).all():
        partitions.ensure_tier(connection, tier_id=row.id, tier_name=row.name)


def ensure_partitions(connection: Connection, settings: Settings, *, now: datetime) -> int:
    """Make the partitions from the oldest sample that is accepted to `AHEAD`; gives how many were missing."""
    finest = set(connection.execute(select(tables.tiers.c.name).where(tables.tiers.c.parent_id.is_(None))).scalars())
    ensure_tiers(connection)
    return sum(
        partitions.ensure(connection, partitioned, since=since, until=now + AHEAD)
        for partitioned, since in wanted_partitions(settings, finest, now=now)
    )


def wanted_partitions(
    settings: Settings, finest: Collection[str], *, now: datetime
) -> Iterator[tuple[Partitioned, datetime]]:
    """What has to have partitions, and since when; `finest`: the names of the tiers that are built from samples."""
    since = now - settings.sample_retention
    yield partitions.SAMPLES, since
    yield partitions.COLLECTIONS, now
    for tier in settings.tiers:
        partitioned = partitions.rollup_partitions(tier.name, tier.step, is_finest=tier.name in finest)
        for one in (partitioned, partitions.sketch_partitions(partitioned)):
            yield one, ladder_of(tier).start_of(since)


def find_source(connection: Connection, name: str) -> tuple[int, Source] | None:
    """A published source with its id. Uses index: sources_name_key."""
    table = tables.sources
    statement = select(table.c.id, table.c.definition).where(table.c.active, table.c.name == name)
    row = connection.execute(statement).one_or_none()
    return None if row is None else (row.id, _SOURCE.validate_python(row.definition))


def source_names(connection: Connection) -> list[str]:
    """The names of all published sources."""
    table = tables.sources
    return list(connection.execute(select(table.c.name).where(table.c.active).order_by(table.c.name)).scalars())
