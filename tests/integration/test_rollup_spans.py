"""How many buckets are computed at once changes no number, and live work goes before backfill."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import select, update

from aggregator.exposition.series import Kind, SeriesKey
from aggregator.rollups.buckets import milliseconds
from aggregator.stages.collect.history import History, HistoryStore
from aggregator.stages.rollup import spans
from aggregator.stages.rollup.coarse import Coarse, Merged
from aggregator.storage import ledger, partitions, tables
from aggregator.storage.blocks import BLOCK_SERIES
from aggregator.storage.engine import Connection
from aggregator.storage.rollup_rows import Changed
from tests.installation import Installation, series_key

START = datetime(2026, 3, 1, 10, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
VIEWS = ("metrics_1m", "metrics_5m", "metrics_1h", "metrics_1d")


def collect_at_random(installation: Installation, randomness: random.Random) -> None:
    """Two targets over an hour and a half, with gaps, resets and much that comes out of order."""
    targets = installation.targets(2)
    instants = sorted(randomness.sample(range(5_400), 120))
    instants = instants[60:90] + instants[:60] + instants[90:]
    for count, second in enumerate(instants):
        place = second % 2
        values = {
            series_key("g", place, Kind.GAUGE): randomness.uniform(-1e9, 1e9),
            series_key("c_total", place, Kind.COUNTER): float((second * 7) % 3_000),
        }
        installation.collect(targets[place], {milliseconds(START) + second * 1_000: values})
        if count == 70:
            installation.roll_up()
    installation.roll_up()


@pytest.mark.parametrize("most_cells", [1, 64 * 9])
def test_spans_of_any_length_give_the_same_rows_bit_by_bit(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, most_cells: int
) -> None:
    installation.now = START + timedelta(days=1, hours=1)
    collect_at_random(installation, random.Random(5))  # noqa: S311 - a test's own randomness
    before = {view: installation.rows(view) for view in VIEWS}
    shard_id, tier_ids = installation.database.run(empty_rollups)
    monkeypatch.setattr(spans, "MOST_CELLS", most_cells)
    monkeypatch.setattr("aggregator.stages.rollup.transaction.MOST_CELLS", most_cells)
    marks = [
        ledger.Mark(tier_ids[view], shard_id, row[2], installation.now, backfill=True)
        for view in VIEWS[:1]
        for row in before[view]
    ]
    installation.database.run(lambda connection: ledger.mark(connection, marks, now=installation.now))
    installation.roll_up()
    assert {view: installation.rows(view) for view in VIEWS} == before


def test_so_many_coarse_buckets_are_merged_at_once_as_their_parts_fit(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranges: list[timedelta] = []
    compute = Coarse.compute

    def watched(stage: Coarse, span: spans.Span) -> tuple[list[Changed], list[Merged]]:
        if stage.tier.name == "1d":
            ranges.append(span.until - span.since)
        return compute(stage, span)

    monkeypatch.setattr(Coarse, "compute", watched)
    # Of days that are made of hours, a transaction takes many: a block has 24 cells for each of its 64 series.
    monkeypatch.setattr(spans, "MOST_CELLS", 3 * 24 * BLOCK_SERIES)
    store = HistoryStore(installation.database)
    target = store.target("old", {"job": "old", "instance": "a"}, interval=MINUTE, now=installation.now)
    at_ms = milliseconds(START - timedelta(days=100)) + np.arange(20) * 86_400_000
    history = History((SeriesKey("g", target.labels, Kind.GAUGE),), np.zeros(20, dtype=np.int64), at_ms, np.ones(20))
    store.store(target, history, now=installation.now)
    installation.roll_up()
    assert max(ranges) == timedelta(days=3)
    assert [row["count"] for row in installation.rows("metrics_1d").values()] == [1] * 20


def empty_rollups(connection: Connection) -> tuple[int, dict[str, int]]:
    """Take all rollups away; gives the shard that they were of, and the ids of the tiers by view."""
    connection.execute(tables.rollup.delete())
    shard_id = connection.execute(select(tables.blocks.c.shard_id).distinct()).scalar_one()
    tiers = connection.execute(select(tables.tiers.c.name, tables.tiers.c.id))
    return shard_id, {f"metrics_{name}": tier_id for name, tier_id in tiers}


def test_backfill_is_taken_newest_first_and_after_all_that_is_live(installation: Installation) -> None:
    (target,) = installation.targets(1)
    installation.collect_two(target, START, g=1.0)
    shard_id = installation.database.run(
        lambda connection: connection.execute(select(tables.targets.c.shard_id)).scalar_one()
    )
    (live,) = installation.marks()
    backfill = [START - place * MINUTE for place in range(1, 6)]
    marks = [ledger.Mark(1, shard_id, bucket, START, backfill=True) for bucket in backfill]
    installation.database.run(lambda connection: ledger.mark(connection, marks, now=START))
    now = START + timedelta(hours=1)

    def take(connection: Connection) -> list[datetime]:
        work = ledger.take(connection, shard_id, now=now, most_buckets=2)
        return sorted(work.targets) if work else []

    assert [installation.database.run(take) for _ in range(5)] == [
        [live[1]],
        sorted(backfill[:2]),
        sorted(backfill[2:4]),
        backfill[4:],
        [],
    ]


def test_shards_with_live_marks_come_first(installation: Installation) -> None:
    now = START + timedelta(hours=1)
    marks = [
        ledger.Mark(1, 1, START, START, backfill=True),
        ledger.Mark(1, 2, START, START + MINUTE),
        ledger.Mark(1, 3, START, START - MINUTE, backfill=True),
        ledger.Mark(1, 3, START, START + 2 * MINUTE),
        ledger.Mark(1, 4, START, now + MINUTE),
    ]
    installation.database.run(lambda connection: ledger.mark(connection, marks, now=START))
    due = installation.database.run(lambda connection: ledger.due_shards(connection, now=now))
    assert due == [3, 2, 1]
    assert installation.database.run(lambda found: ledger.due_shards(found, now=now, only=[1, 2, 4])) == [2, 1]


def test_a_counter_keeps_the_increase_over_an_edge_that_is_gone(installation: Installation) -> None:
    (target,) = installation.targets(1)
    for place in range(8):
        installation.collect_two(target, START + place * timedelta(seconds=15), c=float(place))
    installation.now += timedelta(days=1)
    installation.roll_up()
    before = installation.rows("metrics_1m")
    second = START + MINUTE
    assert before["c_total", "t0", second]["increase"] == 4.0

    def lose_the_first_minute(connection: Connection) -> None:
        connection.execute(tables.rollup.delete().where(tables.rollup.c.tier_id == 1, tables.rollup.c.bucket == START))
        shard_id = connection.execute(select(tables.targets.c.shard_id)).scalar_one()
        ledger.mark(connection, [ledger.Mark(1, shard_id, second, installation.now)], now=installation.now)

    installation.database.run(lose_the_first_minute)
    installation.roll_up()
    assert installation.rows("metrics_1m") == {key: row for key, row in before.items() if key[2] == second}


def test_a_coarse_row_keeps_its_slots_where_not_all_of_its_children_are_there(installation: Installation) -> None:
    targets = installation.targets(2)
    for place, target in enumerate(targets):
        for minute in (0, 3):
            key = series_key("g", place, Kind.GAUGE)
            installation.collect(target, {milliseconds(START + minute * MINUTE): {key: 1.0}})
    installation.now += timedelta(days=1)
    installation.roll_up()
    before = installation.rows("metrics_5m")

    def lose_a_child(connection: Connection) -> None:
        connection.execute(tables.rollup.delete().where(tables.rollup.c.tier_id == 1, tables.rollup.c.bucket == START))
        connection.execute(update(tables.rollup).where(tables.rollup.c.tier_id == 1).values(slots_due=1))
        shard_id = connection.execute(select(tables.targets.c.shard_id).distinct()).scalar_one()
        ledger.mark(connection, [ledger.Mark(2, shard_id, START, installation.now)], now=installation.now)

    installation.database.run(lose_a_child)
    installation.roll_up()
    assert installation.rows("metrics_5m") == before


def test_an_old_bucket_gets_its_partition_when_it_is_written(installation: Installation) -> None:
    (target,) = installation.targets(1)
    installation.now -= timedelta(days=60)
    installation.collect_two(target, installation.now, g=1.0)
    installation.now += timedelta(hours=1)
    installation.roll_up()
    finest = partitions.rollup_partitions("1m", MINUTE, is_finest=True)
    starts = installation.database.run(
        lambda connection: [found.start for found in partitions.existing(connection, finest)]
    )
    assert datetime(2025, 12, 31, tzinfo=UTC) in starts
