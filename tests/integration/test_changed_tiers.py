"""A configuration whose ladder of tiers changes while there are rollups."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, select, text, update

from aggregator.config.model import Tier
from aggregator.errors import UsageError
from aggregator.exposition.series import Kind
from aggregator.rollups.buckets import milliseconds
from aggregator.storage import publish, tables
from aggregator.storage.announce import announce
from aggregator.storage.bootstrap import bring_up
from tests.installation import Installation, series_key, settings_for

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
COUNTER = series_key("c_total", 0, Kind.COUNTER)


def publish_tiers(installation: Installation, tiers: tuple[Tier, ...]) -> None:
    settings = installation.settings.model_copy(update={"tiers": tiers})
    own = update(tables.sources).where(tables.sources.c.id == installation.source_id).values(active=True)

    def work(connection: Connection) -> None:
        publish.publish(connection, settings, config_hash="changed", now=installation.now)
        connection.execute(own)

    installation.database.run(work)


def test_a_tier_that_becomes_the_finest_goes_on_from_the_rows_that_it_has(installation: Installation) -> None:
    tiers = installation.settings.tiers
    finer = Tier(name="10s", step=timedelta(seconds=10), retention=timedelta(days=2))
    publish_tiers(installation, (finer, *tiers))
    (target,) = installation.targets(1)
    for part in range(2):
        seconds = range(part * 120, part * 120 + 120, 5)
        installation.collect(target, {milliseconds(START) + 1_000 * second: {COUNTER: second} for second in seconds})
        installation.now += timedelta(minutes=3)
        installation.roll_up()
        publish_tiers(installation, tiers)
    increases = {time: row["increase"] for (_, _, time), row in installation.rows("metrics_1m").items()}
    assert [increases[time] for time in sorted(increases)] == [55, 60, 60, 60]


def test_a_tier_with_rollups_stays_built_from_what_has_all_parts_of_its_buckets(installation: Installation) -> None:
    (target,) = installation.targets(1)

    def go_on(minutes: range) -> None:
        installation.now = START + timedelta(minutes=minutes.stop, seconds=10)
        seconds = range(minutes.start * 60, minutes.stop * 60, 15)
        installation.collect(target, {milliseconds(START) + 1_000 * second: {COUNTER: second} for second in seconds})
        installation.roll_up()

    go_on(range(20))
    finer = Tier(name="10s", step=timedelta(seconds=10), retention=timedelta(days=2))
    between = Tier(name="10m", step=timedelta(minutes=10), retention=timedelta(days=90))
    publish_tiers(installation, (finer, *installation.settings.tiers, between))
    installation.collect(target, {milliseconds(START) + 7_000: {COUNTER: 7.0}})
    go_on(range(20, 60))
    for view in ("metrics_1m", "metrics_5m", "metrics_1h", "metrics_1d"):
        rows = installation.rows(view).values()
        assert (sum(row["count"] for row in rows), sum(row["increase"] for row in rows)) == (241, 3_585), view  # type: ignore[misc] # numbers
    since = START + timedelta(minutes=20)
    whole = [row["count"] for (_, _, time), row in installation.rows("metrics_10m").items() if time >= since]
    assert whole == [40, 40, 40, 40]


def test_a_migration_on_a_node_with_other_tiers_keeps_the_views_of_those_that_are_published(
    installation: Installation, tmp_path: Path
) -> None:
    between = Tier(name="10m", step=timedelta(minutes=10), retention=timedelta(days=90))
    publish_tiers(installation, (*installation.settings.tiers, between))
    (target,) = installation.targets(1)
    installation.collect(target, {milliseconds(START): {COUNTER: 1.0}})
    installation.now += timedelta(minutes=20)
    installation.roll_up()
    assert not bring_up(installation.url, settings_for(tmp_path, AGGREGATOR_NODE="other"), now=installation.now)
    with installation.database.engine.connect() as connection:
        tiers = connection.execute(text("SELECT DISTINCT tier FROM aggregator.block_rollups ORDER BY tier"))
        assert tiers.scalars().all() == ["10m", "1h", "1m", "5m"]


def test_a_step_that_takes_other_partitions_is_refused_in_words(installation: Installation) -> None:
    tier = Tier(name="x", step=timedelta(minutes=10), retention=timedelta(days=900))
    publish_tiers(installation, (*installation.settings.tiers, tier))
    alike = tier.model_copy(update={"step": timedelta(minutes=15)})
    publish_tiers(installation, (*installation.settings.tiers, alike))
    other = tier.model_copy(update={"step": timedelta(days=2)})
    with pytest.raises(UsageError, match="tier x has partitions for rollups of 15m in UTC"):
        publish_tiers(installation, (*installation.settings.tiers, other))


def test_another_step_or_zone_is_refused_where_there_are_rollups(installation: Installation) -> None:
    tiers = installation.settings.tiers
    berlin = tuple(
        tier.model_copy(update={"timezone": "Europe/Berlin"}) if tier.name == "1d" else tier for tier in tiers
    )
    publish_tiers(installation, berlin)
    publish_tiers(installation, tiers)
    (target,) = installation.targets(1)
    installation.collect(target, {milliseconds(START): {COUNTER: 1.0}})
    installation.now += timedelta(days=1, hours=1)
    installation.roll_up()
    with pytest.raises(UsageError, match="tier 1d has rollups of 1d in UTC"):
        publish_tiers(installation, berlin)
    announce(
        installation.database,
        installation.settings.model_copy(update={"tiers": berlin, "file": Path("/etc/aggregator.toml")}),
        config_hash="berlin",
        started_at=START,
        now=installation.now,
    )
    with installation.database.engine.connect() as connection:
        assert connection.execute(select(tables.tiers.c.timezone).distinct()).scalars().all() == ["UTC"]
        assert connection.execute(select(tables.nodes.c.name)).scalars().all() == ["test"]
