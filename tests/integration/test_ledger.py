"""The dirty ledger on a real server: what a rollup and those who write at the same time do to each other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, insert, select, text

from aggregator.exposition.series import Kind
from aggregator.rollups.buckets import milliseconds
from aggregator.stages.collect.marking import SETTLE
from aggregator.stages.rollup import Rollup
from aggregator.storage import blocks, frames, ledger, tables
from aggregator.storage.engine import Connection, Database, transaction
from aggregator.storage.series import register
from tests.installation import LONG, Installation, series_key
from tests.sessions import PATIENCE, session, wait_for_blocked

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
STEP = timedelta(seconds=15)
GAUGE = series_key("g", 0, Kind.GAUGE)
COUNTER = series_key("c_total", 0, Kind.COUNTER)


def test_a_locked_shard_is_skipped_by_others_and_lets_rows_refer_to_it(
    installation: Installation, other: Database
) -> None:
    (target,) = installation.targets(1)
    installation.collect_two(target, START, g=1.0)
    installation.now += timedelta(minutes=2)
    (shard_id,) = other.run(lambda found: ledger.due_shards(found, now=installation.now))
    with transaction(installation.database.engine) as connection:
        assert ledger.lock_shard(connection, shard_id)
        assert not other.run(lambda found: ledger.lock_shard(found, shard_id))
        # A block is a child of the shard: its insert must not wait for the rollup.
        other.run(lambda found: found.execute(insert(tables.blocks).values(shard_id=shard_id, kind=1, size=0)))
    assert other.run(lambda found: ledger.lock_shard(found, shard_id))


def test_a_live_mark_that_comes_while_backfill_is_taken_stays_live(
    installation: Installation, other: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    (target,) = installation.targets(1)
    installation.collect_two(target, START, g=1.0)
    installation.now += timedelta(minutes=2)
    (shard_id,) = other.run(lambda found: ledger.due_shards(found, now=installation.now))
    other.run(lambda found: found.execute(tables.dirty.update().values(backfill=True)))
    delete = ledger._delete

    def collect_meanwhile(*arguments: Any) -> Any:
        installation.collect_two(target, START + STEP, g=2.0)
        return delete(*arguments)

    monkeypatch.setattr(ledger, "_delete", collect_meanwhile)
    with transaction(other.engine) as connection:
        work = ledger.take(connection, shard_id, now=installation.now, most_buckets=9)
    assert work == ledger.Work(work.tier_id if work else 0, backfill=True, targets={START: frozenset({target.id})})
    assert [(bucket, of) for _, bucket, of in installation.marks()] == [(START, target.id)]
    monkeypatch.undo()
    installation.roll_up()
    assert installation.rows("metrics_1m")["g", "t0", START]["sum"] == 3.0
    with installation.database.engine.connect() as connection:
        assert connection.execute(select(tables.dirty.c.backfill).distinct()).scalars().all() == [False]


def test_two_rollups_at_once_share_the_shards_and_write_each_row_once(installation: Installation) -> None:
    targets = installation.targets(120)  # two shards
    for place, target in enumerate(targets):
        key = series_key("g", place, Kind.GAUGE)
        installation.collect(target, {milliseconds(START): {key: float(place)}})
    installation.now += timedelta(minutes=2)
    with session(installation.url) as other:
        second = Rollup(other, "second")
        with ThreadPoolExecutor(1) as beside:
            running = beside.submit(second.run, lambda: installation.now, budget=LONG)
            written = installation.roll_up() + running.result(timeout=PATIENCE.total_seconds())
        kept = other.run(lambda found: found.execute(select(func.count()).select_from(tables.rollup)).scalar_one())
    assert written == kept == 6  # three blocks, in 1m and in 5m
    rows = installation.rows("metrics_1m")
    assert {identity[1]: row["sum"] for identity, row in rows.items()} == {f"t{n}": float(n) for n in range(120)}


def test_a_mark_that_commits_during_a_rollup_is_not_lost(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    (target,) = installation.targets(1)
    installation.collect_two(target, START, g=1.0)
    installation.now += timedelta(minutes=2)
    read = frames.read_frames_as_stored
    interrupted: list[bool] = []

    def read_then_be_overtaken(*arguments: Any, **named: Any) -> list[frames.Frame]:
        found = read(*arguments, **named)
        if not interrupted:
            interrupted.append(True)
            with closing(Installation(installation.url, installation.now, installation.settings)) as writer:
                writer.now += timedelta(seconds=1)  # a claim of its own
                writer.collect_two(target, START + STEP, g=5.0)
        return found

    monkeypatch.setattr(Installation, "_make_source", lambda _self, _connection: installation.source_id)
    monkeypatch.setattr(frames, "read_frames_as_stored", read_then_be_overtaken)
    installation.roll_up()
    assert interrupted
    installation.now += SETTLE
    installation.roll_up()
    assert installation.rows("metrics_1m")["g", "t0", START]["count"] == 2
    assert installation.rows("metrics_1m")["g", "t0", START]["sum"] == 6.0


def test_a_rollup_that_fails_leaves_its_marks_in_the_ledger(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    (target,) = installation.targets(1)
    installation.collect_two(target, START, g=1.0)
    before = installation.marks()
    installation.now += timedelta(minutes=2)

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("in the middle")

    with monkeypatch.context() as patched:
        patched.setattr("aggregator.stages.rollup.transaction.write_rollups", fail)
        with pytest.raises(RuntimeError, match="in the middle"):
            installation.roll_up()
    assert installation.marks() == before
    assert installation.roll_up() == 2
    assert [name for name, _, _ in installation.marks()] == ["1h"]


def test_a_shard_that_fails_holds_up_no_other_and_keeps_its_marks(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = installation.targets(101)  # two shards
    for place, target in enumerate(targets):
        key = series_key("g", place, Kind.GAUGE)
        installation.collect(target, {milliseconds(START): {key: float(place)}})
    installation.now += timedelta(minutes=2)
    first = installation.database.run(lambda found: ledger.due_shards(found, now=installation.now))[0]
    place_new_series = blocks.place_new_series

    def fail_for_first(connection: Connection, shard_id: int) -> int:
        if shard_id == first:
            raise RuntimeError("poison")
        return place_new_series(connection, shard_id)

    with monkeypatch.context() as patched:
        patched.setattr(blocks, "place_new_series", fail_for_first)
        with pytest.raises(RuntimeError, match="poison"):
            installation.roll_up()
    done = len(installation.rows("metrics_1m"))
    assert 0 < done < len(targets)
    installation.roll_up()
    assert len(installation.rows("metrics_1m")) == len(targets)


def test_a_series_that_is_registered_while_others_are_placed_gets_its_place_in_the_next_rollup(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    (target,) = installation.targets(1)
    installation.collect_two(target, START, g=1.0)
    place_new_series = blocks.place_new_series

    def place_then_be_overtaken(connection: Connection, shard_id: int) -> int:
        placed = place_new_series(connection, shard_id)
        with session(installation.url) as other:
            other.run(lambda found: register(found, target.id, [GAUGE, COUNTER], now=installation.now))
        return placed

    installation.now += timedelta(minutes=2)
    with monkeypatch.context() as patched:
        patched.setattr(blocks, "place_new_series", place_then_be_overtaken)
        installation.roll_up()
    installation.collect_two(target, START + STEP, g=2.0, c=7.0)
    installation.now += timedelta(minutes=2)
    installation.roll_up()
    rows = installation.rows("metrics_1m")
    assert {metric: row["last"] for (metric, _, _), row in rows.items()} == {"g": 2.0, "c_total": 7.0}


def test_the_same_sample_once_more_marks_nothing_and_writes_no_row(installation: Installation) -> None:
    (target,) = installation.targets(1)
    installation.collect_two(target, START, g=1.0)
    installation.now += timedelta(minutes=10)
    installation.roll_up()
    before = installation.marks()
    assert installation.collect_two(target, START, g=1.0).rejected == {}
    assert installation.marks() == before


def test_batches_of_one_instant_are_merged_and_what_differs_is_counted(installation: Installation) -> None:
    (target,) = installation.targets(1)
    assert installation.collect_two(target, START, g=1.0).rejected == {}
    assert installation.collect_two(target, START, c=7.0).rejected == {}
    assert installation.collect_two(target, START, g=2.0, c=7.0).rejected == {"replaced": 1}
    values = {metric: row["value"] for (metric, _, _), row in installation.rows("samples").items()}
    assert values == {"g": 2.0, "c_total": 7.0}
    with installation.database.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM aggregator.sample_frame")).scalar_one() == 1


def test_two_writers_of_one_instant_lose_no_sample(installation: Installation, other: Database) -> None:
    (target,) = installation.targets(1)
    installation.collect_two(target, START, g=1.0, c=1.0)
    map_id = other.run(lambda found: found.execute(select(tables.frame_maps.c.id)).scalar_one())
    at = START + STEP
    nan = float("nan")

    def write(connection: Connection, values: list[float]) -> None:
        frames.lock_targets(connection, [target.id])
        frame = frames.Frame(target.id, map_id, at, np.array(values))
        frames.write_frames(connection, [frame], received_at=at)

    with ThreadPoolExecutor(1) as second:
        with transaction(installation.database.engine) as connection:
            write(connection, [3.0, nan])
            waiting = second.submit(other.run, lambda found: write(found, [nan, 4.0]))
            wait_for_blocked(installation.url)
        waiting.result(timeout=PATIENCE.total_seconds())
    rows = installation.rows("samples")
    assert {metric: row["value"] for (metric, _, time), row in rows.items() if time == at} == {"g": 3.0, "c_total": 4.0}
