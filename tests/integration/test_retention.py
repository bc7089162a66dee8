"""Retention on a real server: nothing is dropped that is still needed, and what is gone is never made worse."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from aggregator.stages.maintain import Maintain
from aggregator.storage import catalog, frames, ledger, partition_writes, partitions, retention, tables
from aggregator.storage.engine import Connection, Database, transaction
from aggregator.storage.partitions import SAMPLES
from tests.installation import Installation
from tests.sessions import PATIENCE, wait_for_blocked

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
STEP = timedelta(seconds=15)
WAITED_FOR = retention.Held("ledger", "1 ledger rows still wait for it")


def oldest_partition(connection: Connection) -> tuple[partitions.Partition, retention.Needs]:
    found = partitions.existing(connection, SAMPLES)[0]
    finest = catalog.read_installation(connection).finest
    return found, retention.Needs("sample_frame", 0, tuple(tier.id for tier in finest))


def test_a_partition_is_locked_before_the_ledger_is_asked(
    installation: Installation, other: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    (target,) = installation.targets(1)
    installation.collect_two(target, START, g=1.0)
    shard_id = other.run(lambda found: ledger.due_shards(found, now=START + timedelta(hours=1))[0])
    map_id = other.run(lambda found: found.execute(select(tables.frame_maps.c.id)).scalar_one())
    oldest, needs = other.run(oldest_partition)
    tier_id = needs.tier_ids_waiting[0]
    monkeypatch.setattr(partitions, "_DROP_LOCK_TIMEOUT", "10s")  # it is to wait for the writer

    def drop() -> retention.Held | None:
        return other.run(
            lambda found: retention.drop_unless_needed(found, partitioned=SAMPLES, partition=oldest, needs=needs)
        )

    with ThreadPoolExecutor(1) as maintainer:
        # The frame and its mark are written and not committed yet: nobody else can see the mark.
        with transaction(installation.database.engine) as connection:
            frame = frames.Frame(target.id, map_id, oldest.start, np.array([1.0]))
            frames.write_frames(connection, [frame], received_at=START)
            ledger.mark(connection, [ledger.Mark(tier_id, shard_id, oldest.start, START, target.id)], now=START)
            dropping = maintainer.submit(drop)
            wait_for_blocked(installation.url)
        assert dropping.result(timeout=PATIENCE.total_seconds()) == WAITED_FOR
    assert other.run(oldest_partition)[0] == oldest
    other.run(lambda found: found.execute(tables.dirty.delete()))
    assert drop() is None
    assert other.run(oldest_partition)[0].start == oldest.end
    assert other.run(lambda found: catalog.dropped_before(found, "sample_frame")) == oldest.end


def test_maintain_drops_what_is_past_its_retention_only_once_it_was_rolled_up(installation: Installation) -> None:
    (target,) = installation.targets(1)
    installation.collect_two(target, START, g=1.0)
    maintain = Maintain(installation.database, "test")
    installation.now += timedelta(days=3, hours=1)
    done = maintain.run(clock=lambda: installation.now)
    assert done is not None
    assert "sample_frame_20260301" in dict(done.partitions_held)
    assert installation.rows("samples")
    installation.roll_up()
    done = maintain.run(clock=lambda: installation.now)
    assert done is not None
    assert "sample_frame_20260301" in done.partitions_dropped
    assert not installation.rows("samples")
    assert installation.rows("metrics_1d")["g", "t0", START.replace(hour=0)]["count"] == 1


def test_a_partition_that_is_still_needed_holds_no_later_one(installation: Installation) -> None:
    (target,) = installation.targets(1)
    installation.collect_two(target, START, g=1.0)
    installation.now += timedelta(days=5)
    done = Maintain(installation.database, "test").run(clock=lambda: installation.now)
    assert done is not None
    assert done.partitions_held == (("sample_frame_20260301", "1 ledger rows still wait for it"),)
    assert "sample_frame_20260302" in done.partitions_dropped
    installation.roll_up()
    assert [row["count"] for row in installation.rows("metrics_1m").values()] == [1]


def test_no_rollups_are_dropped_that_are_still_to_be_written(installation: Installation) -> None:
    (target,) = installation.targets(1)
    installation.collect_two(target, START, g=1.0)
    installation.now += timedelta(days=20)
    done = Maintain(installation.database, "test").run(clock=lambda: installation.now)
    assert done is not None
    assert "rollup_1m_20260301" in dict(done.partitions_held)
    installation.roll_up()
    assert [row["count"] for row in installation.rows("metrics_1d").values()] == [1]


def test_a_reader_and_a_drop_do_not_wait_for_each_other(
    installation: Installation, other: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    oldest, needs = other.run(oldest_partition)
    waiting = retention._waiting
    read = select(tables.sample_frame.c.target_id)

    with ThreadPoolExecutor(1) as reader:
        reading = []

        def begin_to_read(*arguments: Any) -> int:
            reading.append(reader.submit(other.run, lambda found: found.execute(read).all()))
            wait_for_blocked(installation.url)
            return waiting(*arguments)

        monkeypatch.setattr(retention, "_waiting", begin_to_read)
        work = partial(retention.drop_unless_needed, partitioned=SAMPLES, partition=oldest, needs=needs)
        assert installation.database.run(work) is None
        assert reading[0].result(timeout=PATIENCE.total_seconds()) == []
    assert len(reading) == 1


def test_a_partition_that_is_being_read_stays_until_the_next_time(installation: Installation, other: Database) -> None:
    maintain = Maintain(installation.database, "test")
    installation.now += timedelta(days=1, hours=13)
    with transaction(other.engine) as connection:
        connection.execute(select(tables.sample_frame.c.target_id)).all()
        done = maintain.run(clock=lambda: installation.now)
        assert done is not None
        assert done.partitions_held == (("sample_frame_20260227", "it is being read or written"),)
    done = maintain.run(clock=lambda: installation.now)
    assert done is not None
    assert "sample_frame_20260227" in done.partitions_dropped


def test_samples_past_the_retention_are_refused_counted_and_change_no_rollup(installation: Installation) -> None:
    (target,) = installation.targets(1)
    for place in range(4):
        installation.collect_two(target, START + place * STEP, g=float(place))
    installation.now += timedelta(days=3, hours=1)
    installation.roll_up()
    Maintain(installation.database, "test").run(clock=lambda: installation.now)
    before = installation.rows("metrics_1m")
    stored = installation.collect_two(target, START + STEP / 2, g=100.0)
    assert (stored.samples, stored.rejected) == (0, {"too_old": 1})
    # A mark that should not be there harms nothing: no input is worse than what is stored.
    finest = installation.database.run(catalog.read_installation).finest[0]
    shard_id = installation.database.run(lambda found: found.execute(select(tables.blocks.c.shard_id)).scalar_one())
    mark = ledger.Mark(finest.id, shard_id, START, installation.now, target.id)
    installation.database.run(lambda found: ledger.mark(found, [mark], now=installation.now))
    installation.roll_up()
    assert installation.rows("metrics_1m") == before
    assert installation.marks() == []


def test_a_late_sample_is_refused_where_the_rollups_that_it_changes_are_gone(installation: Installation) -> None:
    (target,) = installation.targets(1)
    for place in range(8):
        installation.collect_two(target, START + place * STEP, c=float(place))
    table = tables.tiers
    short = table.update().where(table.c.name == "1m").values(retention_seconds=6 * 3_600)
    installation.database.run(lambda found: found.execute(short))
    installation.now += timedelta(hours=19)
    installation.roll_up()
    Maintain(installation.database, "test").run(clock=lambda: installation.now)
    before = installation.rows("metrics_5m")
    assert installation.collect_two(target, START + STEP / 2, c=0.5).rejected == {"too_old": 1}
    midnight = START.replace(hour=0) + timedelta(days=1)
    assert installation.collect_two(target, midnight + timedelta(minutes=4), c=9.0).rejected == {"too_old": 1}
    assert installation.collect_two(target, midnight + timedelta(minutes=5), c=9.0).rejected == {}
    installation.roll_up()
    assert before.items() <= installation.rows("metrics_5m").items()


def test_a_late_sample_within_the_retention_is_taken_and_counted(installation: Installation) -> None:
    (target,) = installation.targets(1)
    installation.collect_two(target, START, g=1.0)
    installation.now += timedelta(hours=1)
    installation.roll_up()
    stored = installation.collect_two(target, START + STEP, g=3.0)
    assert (stored.samples, stored.late, stored.rejected) == (1, 1, {})
    installation.now += timedelta(days=1)
    installation.roll_up()
    for view in ("metrics_1m", "metrics_5m", "metrics_1h", "metrics_1d"):
        assert [row["sum"] for row in installation.rows(view).values()] == [4.0], view


def test_what_an_importer_notes_while_the_partition_is_dropped_is_kept_for_what_it_writes_then(
    installation: Installation, other: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = installation.database.run(catalog.read_installation)
    day = START.replace(hour=0)
    now = START + timedelta(days=9)
    needs = retention.needs_of_samples(published, written_since=now - timedelta(days=2))
    note = partial(partition_writes.note, partitioned=SAMPLES, instants=[day], table_name=SAMPLES.table, now=now)
    drop = partitions.drop

    def noted_meanwhile(*arguments: object) -> None:
        other.run(note)
        drop(*arguments)  # type: ignore[arg-type] # what it was called with

    monkeypatch.setattr(partitions, "drop", noted_meanwhile)
    old = next(
        one for one in installation.database.run(partial(partitions.existing, partitioned=SAMPLES)) if one.start == day
    )
    work = partial(retention.drop_unless_needed, partitioned=SAMPLES, partition=old, needs=needs)
    assert installation.database.run(work) is None
    last_write = partial(partition_writes.last_write, table_name=SAMPLES.table, tier_id=0, start=day)
    assert installation.database.run(last_write) == now
