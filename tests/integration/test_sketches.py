"""Sketches in every tier hold the samples of their bucket, all of them, whatever the order in which they came."""

from __future__ import annotations

import math
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select, text, update

from aggregator.config.load import load_settings
from aggregator.config.selector import parse_selector
from aggregator.exposition.series import Kind, SeriesKey
from aggregator.rollups.buckets import from_milliseconds, milliseconds
from aggregator.rollups.sketch import keys_of
from aggregator.stages.maintain import Maintain
from aggregator.storage import catalog, ledger, partitions, publish, tables
from aggregator.storage.engine import Connection, Database, transaction
from aggregator.storage.quantiles import choose_sketched
from aggregator.storage.series import register
from tests.installation import Installation, series_key
from tests.sessions import PATIENCE, wait_for_blocked

START = datetime(2026, 3, 1, 11, 50, tzinfo=UTC)
STEPS_SECONDS = {"1m": 60, "5m": 300, "1h": 3_600, "1d": 86_400}
ONE_MINUTE = timedelta(minutes=1)

Sketched = dict[tuple[str, str, datetime], tuple[dict[int, int], float, float]]


def ask_for(installation: Installation, *selectors: str) -> None:
    """Configure `quantiles` of the scripted source, as publishing does."""
    installation.database.run(lambda connection: publish_quantiles(connection, installation.source_id, *selectors))


def publish_quantiles(connection: Connection, source_id: int, *selectors: str) -> None:
    table = tables.sources
    definition = {"quantiles": list(selectors)}
    connection.execute(update(table).where(table.c.id == source_id).values(definition=definition))
    parsed = [parse_selector(one, anchored_name=True) for one in selectors]
    choose_sketched(connection, source_id, parsed)


def sketches(installation: Installation, tier: str) -> Sketched:
    """What the view of a tier shows: samples by key, min and max, by (metric, instance, time)."""
    statement = text(
        "SELECT time, metric, instance, count, (sketch).keys, (sketch).counts, (sketch).min, (sketch).max"  # noqa: S608 - ours
        f" FROM aggregator.sketches_{tier}"
    )
    found = {}
    with installation.database.engine.connect() as connection:
        for row in connection.execute(statement):
            assert sum(row.counts) == row.count
            assert row.keys == sorted(set(row.keys))
            by_key = dict(zip(row.keys, row.counts, strict=True))
            found[row.metric, row.instance, row.time] = (by_key, row.min, row.max)
    return found


def expected(samples: dict[SeriesKey, dict[int, float]], step_seconds: int) -> Sketched:
    """The same from all samples."""
    result = {}
    for key, by_time in samples.items():
        for start in {at // (step_seconds * 1_000) * step_seconds * 1_000 for at in by_time}:
            inside = [value for at, value in by_time.items() if start <= at < start + step_seconds * 1_000]
            by_key = dict(sorted(Counter(keys_of(np.array(inside)).tolist()).items()))
            identity = (key.metric, dict(key.labels)["instance"], from_milliseconds(start))
            result[identity] = (by_key, min(inside), max(inside))
    return result


@pytest.mark.parametrize("seed", range(2))
def test_every_tier_holds_all_samples_of_its_buckets_whatever_the_order_of_arrival(
    installation: Installation, seed: int
) -> None:
    randomness = random.Random(seed)  # noqa: S311 - a test's own randomness
    ask_for(installation, "g", 'h{instance="t1"}', "c_total")
    targets = installation.targets(2)
    keys = [series_key(metric, place, Kind.GAUGE) for place in range(2) for metric in ("g", "h")]
    samples: dict[SeriesKey, dict[int, float]] = {key: {} for key in keys}
    arrivals = []
    for at in range(0, 1_200_000, 20_000):
        for place in range(2):
            values = {
                key: randomness.choice([0.0, -1.0, 1e-308, math.inf, 1.0]) * randomness.lognormvariate(0, 2)
                for key in keys[2 * place : 2 * place + 2]
                if randomness.random() < 0.8
            }
            instant = milliseconds(START) + at + randomness.randrange(20_000)
            for key, value in values.items():
                samples[key][instant] = value
            if values:
                counter = {series_key("c_total", place, Kind.COUNTER): float(at)}
                arrivals.append((instant, place, values | counter))
    arrivals.sort(key=lambda one: one[0] + (randomness.random() < 0.2) * randomness.randrange(1_000_000))
    for count, (at, place, values) in enumerate(arrivals + randomness.sample(arrivals, 10)):
        installation.now = max(installation.now, from_milliseconds(at))
        installation.collect(targets[place], {at: values})
        if count % 37 == 0:
            installation.roll_up()
    installation.now += timedelta(days=1, hours=1)
    installation.roll_up()
    asked = {key: one for key, one in samples.items() if key.metric == "g" or key == keys[3]}
    for tier, step in STEPS_SECONDS.items():
        assert sketches(installation, tier) == expected(asked, step), tier


def test_nothing_is_written_where_no_sketch_is_asked_for(installation: Installation) -> None:
    (target,) = installation.targets(1)
    installation.collect_two(target, START, g=1.0, c=2.0)
    installation.now += ONE_MINUTE * 10
    assert installation.roll_up() > 0
    with installation.database.engine.connect() as connection:
        assert connection.execute(select(tables.sketch)).all() == []


def test_a_coarse_bucket_that_began_before_sketches_were_asked_for_has_none(installation: Installation) -> None:
    (target,) = installation.targets(1)
    installation.collect_two(target, START, g=1.0)
    installation.now = START + ONE_MINUTE * 15
    installation.roll_up()
    ask_for(installation, "g")
    for minutes in (2, 5, 15):
        installation.collect_two(target, START + ONE_MINUTE * minutes, g=float(minutes))
    installation.now = START + timedelta(days=1)
    installation.roll_up()
    assert [at for _, _, at in sorted(sketches(installation, "1m"))] == [START + ONE_MINUTE * m for m in (2, 5, 15)]
    assert [at for _, _, at in sorted(sketches(installation, "5m"))] == [START + ONE_MINUTE * m for m in (5, 15)]
    assert [at for _, _, at in sorted(sketches(installation, "1h"))] == [START + ONE_MINUTE * 10]
    assert sketches(installation, "1d") == {}


def test_a_stored_sketch_stays_right_though_none_is_asked_for_any_more(installation: Installation) -> None:
    (target,) = installation.targets(1)
    ask_for(installation, "g")
    installation.collect_two(target, START, g=1.0)
    installation.now = START + ONE_MINUTE * 2
    installation.roll_up()
    ask_for(installation)
    installation.collect_two(target, START + timedelta(seconds=1), g=2.0)
    installation.collect_two(target, START + ONE_MINUTE, g=3.0)
    installation.now = START + timedelta(days=1)
    installation.roll_up()
    key = series_key("g", 0, Kind.GAUGE)
    samples = {milliseconds(START): 1.0, milliseconds(START) + 1_000: 2.0}
    assert sketches(installation, "1m") == expected({key: samples}, 60)
    assert sketches(installation, "5m") == {}


def test_a_recomputation_brings_the_sketches_that_were_not_asked_for_at_the_time(installation: Installation) -> None:
    (target,) = installation.targets(1)
    installation.collect_two(target, START, g=1.0)
    installation.now = START + timedelta(days=1)
    installation.roll_up()
    ask_for(installation, "g")
    (finest,) = installation.database.run(catalog.read_installation).finest
    shard_id = installation.database.run(lambda found: found.execute(select(tables.targets.c.shard_id)).scalar_one())
    mark = ledger.Mark(finest.id, shard_id, START, START)
    installation.database.run(lambda found: ledger.mark(found, [mark], now=START))
    installation.now += timedelta(days=1)
    installation.roll_up()
    samples = {series_key("g", 0, Kind.GAUGE): {milliseconds(START): 1.0}}
    for tier, step in STEPS_SECONDS.items():
        assert sketches(installation, tier) == expected(samples, step), tier


def sketched(installation: Installation) -> set[str]:
    """The metrics of the scripted source that are to have sketches."""
    table = tables.series
    statement = select(table.c.metric).where(table.c.has_sketch)
    return set(installation.database.run(lambda connection: connection.execute(statement).scalars().all()))


def test_publishing_says_which_gauges_have_sketches_old_ones_and_new_ones(
    installation: Installation, tmp_path: Path
) -> None:
    (target,) = installation.targets(1)

    def configure(quantiles: str) -> None:
        file = tmp_path / "aggregator.toml"
        source = '[[sources]]\nname = "scripted"\nkind = "prometheus"\ntargets = ["http://t0/metrics"]\n'
        file.write_text(f"{source}quantiles = {quantiles}\n")
        settings = load_settings(file, environment={"HOME": str(tmp_path), "AGGREGATOR_NODE": "test"})
        installation.database.run(
            lambda connection: publish.publish(connection, settings, config_hash=quantiles, now=START)
        )

    installation.collect_two(target, START, g=1.0, c=2.0)
    assert sketched(installation) == set()
    configure("true")
    assert sketched(installation) == {"g"}
    key = series_key("h", 0, Kind.GAUGE)
    installation.collect(target, {milliseconds(START) + 1: {key: 1.0, series_key("d_total", 0, Kind.COUNTER): 1.0}})
    assert sketched(installation) == {"g", "h"}
    configure("""['h{instance="t0"}', "[cd]_total"]""")
    assert sketched(installation) == {"h"}
    configure("false")
    assert sketched(installation) == set()


@pytest.mark.parametrize("first", ["publisher", "collector"])
def test_a_series_that_is_registered_while_quantiles_change_is_sketched(
    installation: Installation, other: Database, first: str
) -> None:
    (target,) = installation.targets(1)
    key = series_key("g", 0, Kind.GAUGE)

    def ask(connection: Connection) -> None:
        publish_quantiles(connection, installation.source_id, "g")

    def collect(connection: Connection) -> None:
        register(connection, target.id, [key], now=START)

    one, two = (ask, collect) if first == "publisher" else (collect, ask)
    with ThreadPoolExecutor(1) as second:
        with transaction(installation.database.engine) as connection:
            one(connection)
            waiting = second.submit(other.run, two)
            wait_for_blocked(installation.url)
        waiting.result(timeout=PATIENCE.total_seconds())
    assert sketched(installation) == {"g"}


def test_sketches_are_dropped_with_the_rollups_of_their_tier(installation: Installation) -> None:
    (target,) = installation.targets(1)
    ask_for(installation, "g")
    installation.collect_two(target, START, g=1.0)
    installation.now = START + timedelta(days=1)
    installation.roll_up()
    tier = installation.database.run(catalog.read_installation).tiers[0]

    def starts() -> list[list[datetime]]:
        tables_of = (tier.partitions, tier.sketch_partitions)
        found = installation.database.run(lambda connection: [partitions.existing(connection, of) for of in tables_of])
        return [[one.start for one in existing] for existing in found]

    rollups, beside = starts()
    assert rollups == beside
    assert START.replace(hour=0, minute=0) in beside
    installation.now = START + timedelta(days=17)
    done = Maintain(installation.database, "test").run(clock=lambda: installation.now)
    assert done is not None
    rollups, beside = starts()
    assert rollups == beside
    assert START.replace(hour=0, minute=0) not in beside
    assert sketches(installation, "1m") == {}
    assert len(sketches(installation, "5m")) == 1
