"""What maintain seals, and when: closed spans that nothing waits for. What is empty then is dropped, at last all."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial

import numpy as np
import pytest
from sqlalchemy import text

from aggregator.exposition.series import Kind
from aggregator.rollups.buckets import milliseconds
from aggregator.stages.maintain import Maintain
from aggregator.stages.maintain import sealing as stage
from aggregator.stages.maintain.sealing import Sealing
from aggregator.storage import (
    catalog,
    ledger,
    partition_writes,
    partitions,
    registry,
    rollup_forms,
    sealed_packing,
    sealed_rows,
    sealing,
)
from aggregator.storage.blocks import shard_grid
from aggregator.storage.catalog import TierEntry
from aggregator.storage.engine import Connection, Database, transaction
from aggregator.storage.rollup_matrix import Stored
from tests.installation import Installation, series_key

START = datetime(2026, 3, 1, 8, tzinfo=UTC)
SPAN_END = START + timedelta(hours=4)
LATENESS = timedelta(minutes=2)
HOUR = timedelta(hours=1)


def finest(installation: Installation) -> TierEntry:
    return installation.database.run(catalog.read_installation).finest[0]


def seal(installation: Installation, now: datetime) -> int:
    """Seal; gives how many rollups of the finest tier are sealed then."""
    found = installation.database.run(catalog.read_installation)
    Sealing(installation.database, found, lambda: now).run()
    return sealed(installation)


def sealed(installation: Installation) -> int:
    """How many rollups of the finest tier are sealed: all that are stored but those that lie open."""
    tier = finest(installation)

    def read(connection: Connection) -> int:
        shard_id = connection.execute(text("SELECT min(shard_id) FROM aggregator.blocks")).scalar_one()
        grid, until = shard_grid(connection, shard_id), START + timedelta(days=1)
        only = ("count",)
        cells = sealed_rows.read_sealed(connection, tier, grid=grid, since=START, until=until, only=only)
        return sum(len(one.bucket) for one in cells)

    return installation.database.run(read)


def counted(installation: Installation, table: str) -> int:
    with installation.database.engine.connect() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM aggregator.{table}")).scalar_one())  # noqa: S608 - ours


def stored(installation: Installation) -> dict[datetime, Stored]:
    """All rollups of the finest tier."""
    tier = finest(installation)

    def read(connection: Connection) -> dict[datetime, Stored]:
        shard_id = connection.execute(text("SELECT min(shard_id) FROM aggregator.blocks")).scalar_one()
        grid, until = shard_grid(connection, shard_id), START + timedelta(days=30)
        return rollup_forms.read_rollups(connection, tier, grid=grid, since=START, until=until)

    return installation.database.run(read)


def values(rollups: dict[datetime, Stored]) -> dict[datetime, bytes]:
    """What is compared: all statistics of series with samples, to the bit."""
    found = {}
    for bucket, one in rollups.items():
        given = one.statistics.count > 0
        parts = [
            np.nan_to_num(getattr(one.statistics, name)[given]).tobytes() for name in ("count", "sum", "m2", "increase")
        ]
        found[bucket] = b"".join(parts)
    return found


@pytest.fixture
def scraped(installation: Installation) -> Installation:
    """A gauge and a counter over the whole of a span and some minutes of the next, rolled up."""
    (target,) = installation.targets(1)
    gauge, counter = series_key("g", 0, Kind.GAUGE), series_key("c_total", 0, Kind.COUNTER)
    instants = [START + place * timedelta(minutes=1) for place in range(250)]
    installation.now = instants[-1] + timedelta(minutes=2)
    found = {milliseconds(at): {gauge: float(place % 7), counter: float(place)} for place, at in enumerate(instants)}
    installation.collect(target, found)
    installation.roll_up()
    return installation


def test_a_span_is_sealed_when_it_is_past_lateness(scraped: Installation) -> None:
    before = values(stored(scraped))
    assert seal(scraped, SPAN_END + LATENESS - timedelta(seconds=1)) == 0
    assert seal(scraped, SPAN_END + LATENESS) == 2 * 240
    assert counted(scraped, "sealed_1m") == 2
    assert counted(scraped, "rollup_1m") == 2 * 10
    assert values(stored(scraped)) == before
    assert seal(scraped, SPAN_END + LATENESS) == 2 * 240


@pytest.mark.parametrize(("version", "sealed_rollups"), [("0.1.0", 0), ("0.2.0", 480), ("1.0", 480), ("unknown", 0)])
def test_nothing_is_sealed_beside_a_live_node_that_would_not_see_it(
    scraped: Installation, version: str, sealed_rollups: int
) -> None:
    now = SPAN_END + LATENESS
    facts = {"started_at": START, "config_hash": "", "exporter_url": ""}
    see = partial(registry.see_node, name="beside", now=now - timedelta(seconds=80), version=version, **facts)
    scraped.database.run(see)
    assert seal(scraped, now) == sealed_rollups
    # Gone, as an upgrade has restarted it or somebody has switched it off.
    assert seal(scraped, now + timedelta(seconds=20)) == 480


def test_what_the_ledger_waits_for_stays_open(scraped: Installation) -> None:
    tier, later = finest(scraped), SPAN_END + LATENESS

    def mark(connection: Connection) -> None:
        shard_id = connection.execute(text("SELECT min(shard_id) FROM aggregator.blocks")).scalar_one()
        late = SPAN_END - timedelta(minutes=1)
        ledger.mark(connection, [ledger.Mark(tier.id, shard_id, late, SPAN_END)], now=SPAN_END)

    scraped.database.run(mark)
    assert seal(scraped, later) == 0
    scraped.now = later
    scraped.roll_up()
    assert seal(scraped, later) == 2 * 240


def test_what_a_backfill_has_just_written_to_stays_open(scraped: Installation) -> None:
    tomorrow, tier = START.replace(hour=0) + timedelta(days=1, hours=1), finest(scraped)
    note = partial(
        partition_writes.note,
        partitioned=tier.partitions,
        instants=[START],
        table_name="rollup",
        tier_id=tier.id,
        now=tomorrow,
    )
    scraped.database.run(note)
    assert seal(scraped, tomorrow + timedelta(minutes=50)) == 0
    assert seal(scraped, tomorrow + timedelta(minutes=70)) == 2 * 250


def test_late_samples_unseal_their_block_and_are_sealed_again(scraped: Installation) -> None:
    seal(scraped, SPAN_END + LATENESS)
    (target,) = scraped.targets(1)
    scraped.now = SPAN_END + HOUR
    scraped.collect_two(target, START + timedelta(minutes=7, seconds=5), g=1e6)
    scraped.now += timedelta(minutes=1)
    scraped.roll_up()
    assert sealed(scraped) == 240  # the counter's: its block has not changed
    after = values(stored(scraped))
    assert seal(scraped, scraped.now) == 2 * 240
    assert values(stored(scraped)) == after
    assert any(np.nanmax(one.statistics.max) == 1e6 for one in stored(scraped).values())


def test_an_open_partition_that_is_empty_is_dropped_an_hour_after_it_was_sealed(scraped: Installation) -> None:
    maintain = Maintain(scraped.database, "test")
    tomorrow = START.replace(hour=0) + timedelta(days=1)
    before = values(stored(scraped))
    name = finest(scraped).partitions.name(START)
    done = maintain.run(clock=lambda: tomorrow + timedelta(minutes=3))
    assert done is not None
    assert done.sealed.rollups > 0
    assert counted(scraped, name) == 0
    done = maintain.run(clock=lambda: tomorrow + timedelta(minutes=62))
    assert done is not None
    assert name not in done.sealed.partitions_dropped
    done = maintain.run(clock=lambda: tomorrow + timedelta(minutes=64))
    assert done is not None
    assert name in done.sealed.partitions_dropped
    assert values(stored(scraped)) == before
    # Late samples make it anew.
    (target,) = scraped.targets(1)
    scraped.now = tomorrow + 2 * HOUR
    scraped.collect_two(target, START + timedelta(minutes=7, seconds=5), g=1e6)
    scraped.now += timedelta(minutes=1)
    scraped.roll_up()
    assert counted(scraped, name) == 240


def test_sealed_rollups_are_dropped_in_their_time_and_that_is_recorded(scraped: Installation) -> None:
    maintain = Maintain(scraped.database, "test")
    tomorrow = START.replace(hour=0) + timedelta(days=1)
    maintain.run(clock=lambda: tomorrow + timedelta(minutes=3))
    maintain.run(clock=lambda: tomorrow + timedelta(minutes=64))
    tier = finest(scraped)
    assert not [
        one
        for one in scraped.database.run(partial(partitions.existing, partitioned=tier.partitions))
        if one.start <= START < one.end
    ]
    past = START.replace(hour=0) + timedelta(days=1) + tier.retention + timedelta(minutes=1)
    done = maintain.run(clock=lambda: past)
    assert done is not None
    assert tier.partitions.name(START) in done.partitions_dropped
    assert counted(scraped, "sealed_1m") == 0
    dropped = scraped.database.run(lambda found: catalog.dropped_before(found, "rollup", tier_id=tier.id))
    assert dropped == tomorrow


def test_a_shard_that_somebody_else_has_is_left_for_the_next_run(scraped: Installation, other: Database) -> None:
    with transaction(other.engine) as connection:
        shard_id = connection.execute(text("SELECT min(shard_id) FROM aggregator.blocks")).scalar_one()
        assert ledger.lock_shard(connection, shard_id)
        assert seal(scraped, SPAN_END + LATENESS) == 0
    assert seal(scraped, SPAN_END + LATENESS) == 2 * 240


def test_who_may_have_planned_before_a_partition_was_there_is_waited_for(
    scraped: Installation, other: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "READERS_END", timedelta(milliseconds=50))
    with transaction(other.engine) as connection:
        connection.execute(text("SELECT count(*) FROM aggregator.metrics_1m")).scalar_one()
        assert seal(scraped, SPAN_END + LATENESS) == 0
        # By the next run it has looked.
        assert seal(scraped, SPAN_END + LATENESS) == 2 * 240


def test_what_would_not_come_back_stays_open(scraped: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    before = values(stored(scraped))
    with monkeypatch.context() as patched:
        real = sealed_packing.unpack
        patched.setattr(sealed_packing, "unpack", lambda packed: real(packed) + 1.0)
        assert seal(scraped, SPAN_END + LATENESS) == 0
    assert counted(scraped, "sealed_1m") == 0
    assert values(stored(scraped)) == before


def test_blocks_are_sealed_some_at_a_time(scraped: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "MOST_CELLS", 1)
    assert seal(scraped, SPAN_END + LATENESS) == 2 * 240


def test_nothing_is_sealed_when_the_time_is_up(scraped: Installation) -> None:
    found = scraped.database.run(catalog.read_installation)
    Sealing(scraped.database, found, lambda: SPAN_END + LATENESS).run(budget=timedelta(0))
    assert sealed(scraped) == 0
