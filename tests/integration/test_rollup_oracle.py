"""Whatever the order, lateness and repetition of collections: every tier equals a brute-force computation."""

from __future__ import annotations

import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta

import pytest

from aggregator.exposition.series import Kind, SeriesKey
from aggregator.rollups.buckets import milliseconds
from tests import oracle
from tests.installation import Installation, series_key

START = datetime(2026, 3, 1, 11, 50, tzinfo=UTC)
LOOKBACK_MS = 300_000
STEPS_SECONDS = {"metrics_1m": 60, "metrics_5m": 300, "metrics_1h": 3_600, "metrics_1d": 86_400}


def scripted_samples(randomness: random.Random, key: SeriesKey, seconds: int) -> dict[int, float]:
    """Irregular samples with gaps, resets and a wide range of values."""
    at, value, samples = 0.0, 100.0, {}
    while at < seconds:
        at += randomness.choice([5.0, 15.0, 15.0, 15.0, 40.0, 400.0 if randomness.random() < 0.1 else 15.0])
        if key.kind is Kind.COUNTER:
            value = 0.0 if randomness.random() < 0.05 else value + randomness.randrange(1_000) / 8
        else:
            value = randomness.uniform(-1e6, 1e6) + 1e9
        samples[milliseconds(START) + int(at * 1_000) + randomness.randrange(1_000)] = value
    return samples


def assert_equals_oracle(installation: Installation, samples: dict[SeriesKey, dict[int, float]]) -> None:
    for view, step in STEPS_SECONDS.items():
        rows = installation.rows(view)
        expected = {}
        for key, by_time in samples.items():
            instance = dict(key.labels)["instance"]
            for start in {at // (step * 1_000) * step * 1_000 for at in by_time}:
                end = start + step * 1_000
                if key.kind is Kind.COUNTER:
                    statistics = oracle.counter(by_time.items(), start, end, lookback_ms=LOOKBACK_MS)
                else:
                    statistics = oracle.gauge(by_time.items(), start, end)
                expected[key.metric, instance, datetime.fromtimestamp(start / 1_000, UTC)] = statistics
        assert set(rows) == set(expected), view
        for identity, statistics in expected.items():
            row = rows[identity]
            covered = statistics.pop("covered", None)
            for name, value in statistics.items():
                assert row[name] == pytest.approx(value, rel=1e-9, abs=1e-9), (view, identity, name)
            if covered:
                assert row["rate"] == pytest.approx(statistics["increase"] / covered, rel=1e-9), (view, identity)


@pytest.mark.parametrize("seed", range(1))  # test_numbers.py tries many more
def test_every_tier_equals_the_oracle_whatever_the_order_of_arrival(installation: Installation, seed: int) -> None:
    randomness = random.Random(seed)  # noqa: S311 - a test's own randomness
    targets = installation.targets(2)
    samples: dict[SeriesKey, dict[int, float]] = {}
    arrivals: list[tuple[int, int, dict[SeriesKey, float]]] = []
    for place in range(2):
        by_instant: dict[int, dict[SeriesKey, float]] = defaultdict(dict)
        for metric, kind in (("g", Kind.GAUGE), ("c_total", Kind.COUNTER), ("h", Kind.GAUGE)):
            key = series_key(metric, place, kind)
            samples[key] = scripted_samples(randomness, key, 1_500)
            for at, value in samples[key].items():
                by_instant[at][key] = value
        arrivals += [(at, place, values) for at, values in by_instant.items()]
    # Mostly in order, some much too late, some twice.
    arrivals.sort(key=lambda one: one[0] + (randomness.random() < 0.2) * randomness.randrange(1_000_000))
    arrivals += randomness.sample(arrivals, 20)
    for count, (at, place, values) in enumerate(arrivals):
        installation.now = max(installation.now, datetime.fromtimestamp(at / 1_000, UTC))
        installation.collect(targets[place], {at: values})
        if count % 37 == 0:
            installation.roll_up()
    installation.now += timedelta(days=1, hours=1)
    installation.roll_up()
    assert_equals_oracle(installation, samples)
    with installation.database.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM aggregator.dirty").scalar_one() == 0
