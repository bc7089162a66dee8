"""The installation's health is read from what the stages leave in a real PostgreSQL."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Connection, insert, text, update

from aggregator.serving.status import Server, Status
from aggregator.storage import catalog, partitions, tables
from aggregator.storage.health import Health, HealthReader
from tests.installation import Installation, settings_for
from tests.integration.serving.conftest import Past, host_samples, host_target

if TYPE_CHECKING:
    from pathlib import Path

    from aggregator.storage.health_sources import SourceHealth

UP = {"database": Server(is_up=True)}


def health(installation: Past, now: datetime) -> Health:
    return installation.database.run(lambda connection: HealthReader().read(connection, now=now))


def source(found: Health, name: str) -> SourceHealth:
    return next(source for source in found.sources if source.name == name)


def execute(installation: Past, statement: Any) -> None:
    installation.database.run(lambda connection: connection.execute(statement) and None)


def test_an_installation_that_runs_has_no_problem(installation: Past, now: datetime) -> None:
    found = health(installation, now)
    assert Status(now, UP, found).problems() == []
    scripted = source(found, "scripted")
    assert (scripted.targets, scripted.up, scripted.down, scripted.series) == (2, 2, 0, 6)
    assert scripted.last_success is not None
    assert abs(scripted.last_success - now) < timedelta(seconds=60)


def test_the_newest_bucket_of_each_tier_is_the_newest_row_of_its_view(installation: Past, now: datetime) -> None:
    found = health(installation, now)
    for tier in found.tiers:
        view = text(f'SELECT max(time) FROM aggregator."metrics_{tier.name}"')  # noqa: S608 - our own names
        with installation.database.engine.connect() as connection:
            newest = connection.execute(view).scalar_one()
        assert tier.newest_bucket == newest
    assert found.tiers[0].newest_bucket is not None


def test_a_bucket_older_than_the_newest_partitions_is_found_as_well(installation: Past, now: datetime) -> None:
    later = now + timedelta(days=400)
    found = health(installation, later)
    assert found.tiers[0].newest_bucket == health(installation, now).tiers[0].newest_bucket is not None
    assert any("tier 1m is stale" in problem for problem in Status(later, UP, found).problems())


def test_lag_is_the_age_of_the_oldest_row_that_is_due_with_backfill_apart(installation: Past, now: datetime) -> None:
    rows = [
        {"due": now - timedelta(seconds=200), "backfill": False},
        {"due": now + timedelta(seconds=30), "backfill": False},
        {"due": now - timedelta(hours=1), "backfill": True},
    ]
    fixed = {"tier_id": 1, "shard_id": 1, "target_id": None, "bucket": now, "marked": now}
    execute(installation, tables.dirty.delete())
    execute(installation, insert(tables.dirty).values([{**fixed, **row} for row in rows]))
    found = health(installation, now)
    tier = found.tiers[0]
    assert tier.lag_seconds == pytest.approx(200)
    assert tier.backfill_lag_seconds == pytest.approx(3_600)
    assert (tier.live_rows, tier.backfill_rows) == (2, 1)
    assert any("tier 1m is stale" in problem for problem in Status(now, UP, found).problems())


def test_slots_that_fell_due_since_the_last_claim_are_missed(installation: Past, now: datetime) -> None:
    shard = text("SELECT t.shard_id FROM aggregator.targets AS t WHERE t.shard_id IS NOT NULL AND t.source_id = :id")

    def work(connection: Connection) -> None:
        shard_id = connection.execute(shard, {"id": installation.source_id}).scalars().first()
        connection.execute(tables.shard_slots.delete())
        connection.execute(
            insert(tables.shard_slots).values(
                shard_id=shard_id,
                first_slot=now - timedelta(hours=1),
                last_slot=now - timedelta(seconds=62),
                slots_missed=7,
            )
        )

    installation.database.run(work)
    # Interval 15 s, offset 2 s: four slots were due since, of which the last may be on its way.
    assert source(health(installation, now), "scripted").slots_missed == 7 + 3
    assert source(health(installation, now - timedelta(seconds=16)), "scripted").slots_missed == 7 + 1
    assert source(health(installation, now - timedelta(seconds=60)), "scripted").slots_missed == 7


def test_a_target_that_is_down_is_told_with_its_error(installation: Past, now: datetime) -> None:
    down = {"is_up": False, "state_since": now - timedelta(minutes=2), "last_error": "refused", "last_error_at": now}
    execute(installation, update(tables.targets).where(tables.targets.c.address == "http://t1/metrics").values(down))
    found = health(installation, now)
    assert (source(found, "scripted").up, source(found, "scripted").down) == (1, 1)
    assert source(found, "scripted").last_error == "refused"
    (problem,) = Status(now, UP, found).problems()
    assert "t1: refused" in problem


def test_the_last_success_of_a_source_that_is_down_for_long_is_still_known(installation: Past, now: datetime) -> None:
    before = source(health(installation, now), "scripted").last_success
    assert before is not None
    down = {
        "is_up": False,
        "state_since": before + timedelta(seconds=10),
        "last_error": "refused",
        "last_error_at": now,
    }
    execute(installation, update(tables.targets).values(down))
    later = now + timedelta(days=1)
    found = health(installation, later)
    assert source(found, "scripted").last_success == before
    assert any("source scripted is stale" in problem for problem in Status(later, UP, found).problems())


def test_what_only_a_node_that_is_gone_can_read_is_unknown(installation: Past, now: datetime) -> None:
    node = text("UPDATE aggregator.targets SET node_id = (SELECT id FROM aggregator.nodes) WHERE address = 'machine'")
    execute(installation, node)
    assert source(health(installation, now), "host").unknown == 0
    assert source(health(installation, now + timedelta(seconds=91)), "host").unknown == 1


def test_a_glance_shows_how_each_machine_does(installation: Past, now: datetime) -> None:
    (glance,) = health(installation, now).glance
    assert glance.instance == "machine"
    assert glance.cpu_busy_ratio == pytest.approx(0.2)
    assert (glance.load1, glance.memory_used_ratio) == (0.75, 0.25)
    assert glance.disk_fullest_ratio == pytest.approx(0.6)
    assert glance.disk_mountpoint == "/"


def test_a_glance_follows_a_frame_map_that_has_grown(database_url: str, tmp_path: Path, now: datetime) -> None:
    installation = Installation(database_url, now, settings_for(tmp_path))
    installation.collect(host_target(installation), host_samples(now))
    reader = HealthReader()
    installation.database.run(lambda connection: reader.read(connection, now=now))
    samples = host_samples(now + timedelta(seconds=5))
    for frame in samples.values():
        some = next(iter(frame))
        labels = dict(some.labels) | {"device": "b", "mountpoint": "/full"}
        for metric, value in (("node_filesystem_size_bytes", 100.0), ("node_filesystem_avail_bytes", 5.0)):
            frame[type(some)(metric, tuple(sorted(labels.items())), some.kind)] = value
    installation.collect(host_target(installation), samples)
    (glance,) = installation.database.run(lambda connection: reader.read(connection, now=now)).glance
    assert glance.disk_mountpoint == "/full"
    installation.close()


def test_partitions_and_bytes_are_told_by_table(installation: Past, now: datetime) -> None:
    found = health(installation, now)
    of_tiers = {f"{table}_{tier}" for table in ("rollup", "sketch") for tier in ("1m", "5m", "1h", "1d")}
    ended = {"sample_frame", "collections", *of_tiers}
    assert set(found.partitions_end) == ended
    assert all(end is not None and end > now + timedelta(days=1) for end in found.partitions_end.values())
    assert found.table_bytes["sample_frame"] > 0
    assert ended <= set(found.table_bytes)


def test_sealed_tables_count_among_the_bytes_of_tables(installation: Past, now: datetime) -> None:
    def make(connection: Connection) -> None:
        finest = catalog.read_installation(connection).finest[0]
        for one in (*finest.sealed_partitions, *partitions.SEALED_SAMPLES):
            partitions.ensure(connection, one, since=now, until=now + timedelta(seconds=1))

    installation.database.run(make)
    found = health(installation, now)
    assert min(found.table_bytes[name] for name in ("sealed_1m", "clock_1m", "sample_sealed", "sample_clock")) > 0


def test_what_is_stored_is_told_by_tier_and_form_and_by_source(installation: Past, now: datetime) -> None:
    document = Status(now, UP, health(installation, now)).document()
    stored = {(one["tier"], one["form"]): one for one in document["stored"]}
    assert len(stored) == 2 * 5
    assert stored["samples", "open"]["items"] == 2 * 4 * 3 + 2 * 8
    assert stored["1m", "open"]["bytes"] > 0
    assert not any(one["is_estimate"] for one in stored.values())
    assert {one["source"]: one["series"] for one in document["stored_of_sources"]} == {"scripted": 6, "host": 8}


def test_costly_answers_are_kept_for_a_while(installation: Past, now: datetime) -> None:
    reader = HealthReader()
    first = installation.database.run(lambda connection: reader.read(connection, now=now))
    second = installation.database.run(lambda connection: reader.read(connection, now=now))
    assert second.table_bytes is first.table_bytes


def test_the_limits_of_the_server_are_told(installation: Past, now: datetime) -> None:
    found = health(installation, now).limits
    assert found is not None
    with installation.database.engine.connect() as connection:
        most = int(connection.execute(text("SHOW max_connections")).scalar_one())
    assert 0 < found.connections <= found.connections_allowed < most
    assert 0 < found.transaction_ids_used < 1


def test_what_closed_and_is_not_sealed_is_told_by_tier_and_for_samples(installation: Past, now: datetime) -> None:
    found = health(installation, now).sealing_due
    assert set(found) == {"samples", "1m", "5m", "1h", "1d"}
    # Six minutes of samples: nothing has closed, except where a span has ended within them.
    assert all(due is None or due > now - timedelta(minutes=6) for due in found.values())
    long_ago = now - timedelta(days=3)
    sealed = {"tier_id": 0, "shard_id": 1, "until": long_ago, "sealed_at": long_ago}
    execute(installation, insert(tables.sealings).values(sealed))
    due = health(installation, now).sealing_due["samples"]
    assert due is not None
    assert timedelta(days=2) < now - due <= timedelta(days=3)
    # Another shard is further: the installation's sealing goes on.
    execute(installation, insert(tables.sealings).values({**sealed, "shard_id": 2, "until": now}))
    due = health(installation, now).sealing_due["samples"]
    assert due is None or due > now
