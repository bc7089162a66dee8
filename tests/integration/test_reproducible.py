"""Which rollups have lost inputs, and what random imports store: each as plain Python finds it."""

from __future__ import annotations

import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from aggregator.exposition.series import Kind, SeriesKey
from aggregator.rollups.buckets import floor_to, milliseconds
from aggregator.stages.collect.history import History, HistoryStore
from aggregator.storage import catalog, frames
from aggregator.storage.history_targets import HistoryTarget
from aggregator.storage.reproducible import lost_buckets
from tests.installation import Installation

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
PAST = datetime(2026, 1, 30, 22, tzinfo=UTC)
PAST_MS = milliseconds(PAST)
HOURS = 3
VIEWS = ("samples", "metrics_1m", "metrics_5m", "metrics_1h", "metrics_1d")
INTERVAL = timedelta(seconds=15)
EVER = (PAST - timedelta(days=2), PAST + timedelta(days=2))


def keys_of(target: HistoryTarget, count: int) -> tuple[SeriesKey, ...]:
    return tuple(SeriesKey(f"g{place}", target.labels, Kind.GAUGE) for place in range(count))


def random_history(randomness: random.Random, keys: tuple[SeriesKey, ...], samples: int) -> History:
    """Dense at times, sparse at others, with repetitions."""
    series, at_ms = [], []
    for _ in range(samples):
        instant = PAST_MS + randomness.randrange(HOURS * 240) * 15_000
        chosen = range(len(keys)) if randomness.random() < 0.05 else [randomness.randrange(len(keys))]
        series += list(chosen)
        at_ms += [instant] * len(chosen)
    values = [float(randomness.randrange(5)) for _ in series]
    return History(keys, np.array(series), np.array(at_ms), np.array(values))


@pytest.mark.parametrize("seed", range(2))
def test_random_imports_store_what_a_dictionary_would(installation: Installation, seed: int) -> None:
    randomness = random.Random(seed)  # noqa: S311 - a test's own randomness
    store = HistoryStore(installation.database)
    target = store.target("old", {"job": "old", "instance": "a"}, interval=INTERVAL, now=START)
    expected: dict[tuple[str, int], float] = {}
    for call in range(8):
        keys = keys_of(target, 40 + 30 * (call // 3))
        history = random_history(randomness, keys, 150)
        added = replaced = 0
        for series, at_ms, value in zip(history.series, history.at_ms, history.values, strict=True):
            before = expected.get((keys[series].metric, int(at_ms)))
            added += before is None
            replaced += before is not None and before != value
            expected[keys[series].metric, int(at_ms)] = float(value)
        stored = store.store(target, history, now=START)
        assert (stored.samples, stored.replaced, stored.refused) == (len(history.values), replaced, {})
        assert stored.unchanged == len(history.values) - added - replaced
    found = {(key[0], milliseconds(key[2])): row["value"] for key, row in installation.rows("samples").items()}
    assert found == expected
    read = installation.database.run(
        lambda connection: frames.read_columns(connection, target_ids=[target.id], since=EVER[0], until=EVER[1])
    )
    assert len(read.value) == len(expected)
    installation.roll_up()
    for view in VIEWS[1:]:
        assert sum(int(str(row["count"])) for row in installation.rows(view).values()) == len(expected), view


@pytest.mark.parametrize("seed", range(2))
def test_lost_buckets_are_those_whose_inputs_count_less(installation: Installation, seed: int) -> None:
    randomness = random.Random(seed)  # noqa: S311 - a test's own randomness
    store = HistoryStore(installation.database)
    targets = [
        store.target("old", {"job": "old", "instance": name}, interval=INTERVAL, now=START) for name in ("a", "b")
    ]
    for target in targets:
        store.store(target, random_history(randomness, keys_of(target, 70), 400), now=START)
    installation.roll_up()
    for statement in losses(randomness):
        installation.database.run(lambda connection, lose=statement: connection.execute(text(lose)))
    published = installation.database.run(catalog.read_installation)
    rows = {view: installation.rows(view) for view in VIEWS}
    for target, name in zip(targets, "ab", strict=True):
        expected = {bucket for tier in range(1, 5) for bucket in lost_by_hand(rows, tier, name)}
        found = installation.database.run(
            lambda connection, target_id=target.id: lost_buckets(
                connection, published, target_id=target_id, since=EVER[0], until=EVER[1]
            )
        )
        assert len(found) == len(set(found))
        assert {(start, end - start) for start, end in found} == expected != set()


def losses(randomness: random.Random) -> list[str]:
    """Some of the samples, and of the rollups of some tiers, of spans of time."""
    spans = []
    for table, column, where in (
        ("sample_frame", "at", "true"),
        ("sample_frame", "at", "target_id % 2 = 0"),
        ("rollup", "bucket", "tier_id = (SELECT id FROM aggregator.tiers WHERE name = '1m')"),
        ("rollup", "bucket", "tier_id = (SELECT id FROM aggregator.tiers WHERE name = '5m')"),
    ):
        since = PAST + timedelta(minutes=randomness.randrange(HOURS * 60))
        until = since + timedelta(minutes=randomness.randrange(1, 50))
        spans.append(
            f"DELETE FROM aggregator.{table} WHERE {where}"  # noqa: S608 - a test's own words
            f" AND {column} >= '{since.isoformat()}' AND {column} < '{until.isoformat()}'"
        )
    return spans


STEPS = (None, *(timedelta(minutes=minutes) for minutes in (1, 5, 60, 1_440)))


def lost_by_hand(rows: dict[str, Any], tier: int, instance: str) -> set[tuple[datetime, timedelta]]:
    step = STEPS[tier]
    assert step is not None
    inputs: defaultdict[tuple[str, datetime], int] = defaultdict(int)
    for (metric, of, time), row in rows[VIEWS[tier - 1]].items():
        if of == instance:
            start = floor_to(time, step)
            inputs[metric, start] += row.get("count", 1)
    return {
        (time, step)
        for (metric, of, time), row in rows[VIEWS[tier]].items()
        if of == instance and inputs[metric, time] < row["count"]
    }
