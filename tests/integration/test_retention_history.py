"""Old samples at the edge of what is kept: nothing that is good is lost, for any target, in any tier."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial

import numpy as np
import pytest
from sqlalchemy import select

from aggregator.collectors.protocol import Target
from aggregator.exposition.series import Kind, SeriesKey
from aggregator.rollups.buckets import milliseconds
from aggregator.stages.collect.history import History, HistoryStore, HistoryStored
from aggregator.stages.maintain import Maintain, Maintained
from aggregator.storage import catalog, held_partitions, partitions, retention, tables
from aggregator.storage.engine import Database, transaction
from aggregator.storage.history_targets import HistoryTarget
from aggregator.storage.partitions import SAMPLES
from tests.installation import Installation, series_key
from tests.sessions import PATIENCE, wait_for_blocked

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
QUARTER_MINUTE = timedelta(seconds=15)
MINUTE = timedelta(minutes=1)
TIERS = ("metrics_1m", "metrics_5m", "metrics_1h", "metrics_1d")
GONE = {"samples_gone": 1}


def imported(
    store: HistoryStore, target: HistoryTarget, now: datetime, **samples: tuple[datetime, float]
) -> HistoryStored:
    """Store one sample of each named series (a name ending in `_total` is a counter)."""
    names = tuple(
        SeriesKey(name, target.labels, Kind.COUNTER if name.endswith("_total") else Kind.GAUGE) for name in samples
    )
    at_ms = np.array([milliseconds(at) for at, _ in samples.values()])
    values = np.array([value for _, value in samples.values()])
    return store.store(target, History(names, np.arange(len(names)), at_ms, values), now=now)


def scripted(store: HistoryStore, place: int, now: datetime) -> HistoryTarget:
    labels = {"job": "scripted", "instance": f"t{place}"}
    return store.target("scripted", labels, interval=QUARTER_MINUTE, now=now)


def maintained(installation: Installation) -> Maintained:
    done = Maintain(installation.database, "test").run(clock=lambda: installation.now)
    assert done is not None
    return done


def all_tiers(installation: Installation) -> dict[str, object]:
    return {view: installation.rows(view) for view in TIERS}


def oldest_samples(installation: Installation) -> datetime:
    return installation.database.run(lambda found: partitions.existing(found, SAMPLES))[0].start


@pytest.fixture
def two_targets(installation: Installation) -> tuple[Target, Target]:
    """Two targets of one shard with a minute of samples, whose samples are gone; their rollups stand in all tiers."""
    first, second = installation.targets(2)
    for place in range(4):
        at = START + place * QUARTER_MINUTE
        installation.collect_two(first, at, g=float(place), c=float(place))
        key = series_key("g", 1, Kind.GAUGE)
        installation.collect(second, {milliseconds(at): {key: 10.0 + place}})
    installation.now += timedelta(days=3, hours=1)
    installation.roll_up()
    assert "sample_frame_20260301" in maintained(installation).partitions_dropped
    return first, second


def test_a_late_sample_in_the_first_kept_minute_lands_in_every_tier(installation: Installation) -> None:
    (target,) = installation.targets(1)
    midnight = START.replace(hour=0) + timedelta(days=1)
    installation.now = midnight
    installation.collect_two(target, midnight - QUARTER_MINUTE, c=100.0)
    installation.collect_two(target, midnight + 2 * QUARTER_MINUTE, c=106.0)
    installation.now = midnight + timedelta(hours=47)
    installation.roll_up()
    drop = partial(
        retention.drop_unless_needed,
        partitioned=SAMPLES,
        needs=retention.needs_of_samples(installation_of(installation)),
    )
    for old in installation.database.run(lambda found: partitions.existing(found, SAMPLES)):
        if old.end <= midnight:
            assert installation.database.run(partial(drop, partition=old)) is None
    assert oldest_samples(installation) == midnight
    # After the 100 before midnight, which only a rollup remembers, 3 is a reset; 106 had been 6 more, and is now 103.
    assert installation.collect_two(target, midnight, c=3.0).rejected == {}
    assert installation.collect_two(target, midnight - timedelta(milliseconds=1), c=9.0).rejected == {"too_old": 1}
    installation.now += timedelta(days=1)
    installation.roll_up()
    for view in TIERS:
        assert installation.rows(view)["c_total", "t0", midnight]["increase"] == 3.0 + 103.0, view


def installation_of(installation: Installation) -> catalog.Installation:
    return installation.database.run(catalog.read_installation)


def test_an_import_into_a_minute_whose_samples_are_gone_is_refused_and_changes_nothing(
    installation: Installation, two_targets: tuple[Target, Target]
) -> None:
    store = HistoryStore(installation.database)
    before = all_tiers(installation)
    target = scripted(store, 0, installation.now)
    assert target.id == two_targets[0].id
    gone = {"g": (START + MINUTE / 2, 99.0), "new": (START, 1.0)}
    assert imported(store, target, installation.now, **gone) == HistoryStored(0, 0, {"samples_gone": 2}, 0)
    assert installation.marks() == []
    installation.roll_up()
    assert all_tiers(installation) == before
    assert oldest_samples(installation) > START


def test_another_target_takes_samples_in_the_same_minute_and_nobody_else_loses_any(
    installation: Installation, two_targets: tuple[Target, Target]
) -> None:
    assert two_targets
    store = HistoryStore(installation.database)
    before = {view: installation.rows(view) for view in TIERS}
    new = store.target("scripted", {"job": "scripted", "instance": "t9"}, interval=QUARTER_MINUTE, now=installation.now)
    assert new.shard_id == scripted(store, 0, installation.now).shard_id
    assert imported(store, new, installation.now, g=(START, 7.0)).refused == {}
    # The partition is there again, but not what was in it.
    assert oldest_samples(installation) == START.replace(hour=0)
    assert imported(store, scripted(store, 1, installation.now), installation.now, g=(START, 7.0)).refused == GONE
    installation.roll_up()
    for view in TIERS:
        found = installation.rows(view)
        assert before[view].items() <= found.items()
        assert [row["count"] for key, row in found.items() if key[1] == "t9"] == [1], view
    assert imported(store, new, installation.now, g=(START + QUARTER_MINUTE, 9.0)).refused == {}
    installation.roll_up()
    assert installation.rows("metrics_1d")["g", "t9", START.replace(hour=0)]["sum"] == 16.0


def test_a_sample_is_refused_as_far_as_the_lookback_reaches_from_what_is_lost(
    installation: Installation, two_targets: tuple[Target, Target]
) -> None:
    assert two_targets
    store = HistoryStore(installation.database)
    target = scripted(store, 0, installation.now)
    # What is lost are the samples of one minute; all tiers above can still be made from their children.
    for at, refused in (
        (START - timedelta(minutes=5, milliseconds=1), {}),
        (START - timedelta(minutes=5), GONE),
        (START - timedelta(hours=5), {}),
        (START + timedelta(minutes=6, milliseconds=-1), GONE),
        (START + timedelta(minutes=6), {}),
    ):
        assert imported(store, target, installation.now, g=(at, 1.0)).refused == refused, at


def test_an_import_goes_on_below_what_was_dropped_while_its_own_samples_are_there(
    installation: Installation, two_targets: tuple[Target, Target]
) -> None:
    assert two_targets
    store = HistoryStore(installation.database)
    past = START - timedelta(days=300)
    one, other = (
        store.target("old", {"job": "old", "instance": name}, interval=QUARTER_MINUTE, now=installation.now)
        for name in "ab"
    )
    samples = [(past + place * timedelta(seconds=97), float(place * place % 50)) for place in range(120)]
    for place, sample in enumerate(samples[::-1]):
        assert imported(store, one, installation.now, g=sample, c_total=sample).refused == {}
        if place % 30 == 0:
            installation.roll_up()
            maintained(installation)
    names = (SeriesKey("g", other.labels, Kind.GAUGE), SeriesKey("c_total", other.labels, Kind.COUNTER))
    at_ms = np.array([milliseconds(at) for at, _ in samples])
    values = np.array([value for _, value in samples])
    both = History(names, np.repeat([0, 1], len(samples)), np.tile(at_ms, 2), np.tile(values, 2))
    assert store.store(other, both, now=installation.now).refused == {}
    installation.roll_up()
    for view in TIERS:
        rows = installation.rows(view)
        mine, theirs = (
            {
                (metric, time): {name: value for name, value in row.items() if name not in ("labels", "instance")}
                for (metric, instance, time), row in rows.items()
                if instance == name
            }
            for name in "ab"
        )
        assert mine == theirs != {}, view


def test_imported_samples_are_kept_until_their_retention_has_passed_since_the_last_write(
    installation: Installation, two_targets: tuple[Target, Target]
) -> None:
    assert two_targets
    store = HistoryStore(installation.database)
    past = START - timedelta(days=300)
    target = store.target("old", {"job": "old", "instance": "a"}, interval=QUARTER_MINUTE, now=installation.now)
    imported(store, target, installation.now, g=(past, 1.0))
    assert ("ledger", 1) in causes(installation)
    installation.roll_up()
    written = installation.now
    held = dict(maintained(installation).partitions_held)
    assert held[SAMPLES.name(past)] == f"an import or a recomputation wrote to it at {written:%Y-%m-%dT%H:%MZ}"
    assert ("backfill", 1) in causes(installation)
    # Newer ones go meanwhile, and what is held can still be added to.
    installation.now += timedelta(days=1, hours=12)
    assert maintained(installation).partitions_dropped
    assert imported(store, target, installation.now, g=(past + QUARTER_MINUTE, 2.0)).refused == {}
    installation.now += timedelta(days=1, hours=12)
    installation.roll_up()
    assert SAMPLES.name(past) in dict(maintained(installation).partitions_held)
    installation.now += timedelta(days=1)
    assert SAMPLES.name(past) in maintained(installation).partitions_dropped
    assert imported(store, target, installation.now, g=(past + MINUTE, 2.0)).refused == GONE
    assert installation.rows("metrics_1d")["g", "a", past.replace(hour=0)]["count"] == 2
    assert installation.database.run(lambda found: found.execute(select(tables.partition_writes.c.start)).all()) != []
    installation.now += timedelta(days=15)
    maintained(installation)
    left = installation.database.run(
        lambda found: found.execute(
            select(tables.partition_writes.c.start).where(tables.partition_writes.c.table_name == "sample_frame")
        ).all()
    )
    assert left == []


def causes(installation: Installation) -> list[tuple[str, int]]:
    """What holds partitions of samples, and how many of them, after another run of maintenance."""
    maintained(installation)
    held = installation.database.run(held_partitions.held_partitions)
    return [(one.cause, one.partitions) for one in held if one.table == SAMPLES.table]


def test_samples_that_come_while_their_partition_is_dropped_are_refused(
    installation: Installation, other: Database
) -> None:
    (target,) = installation.targets(1)
    installation.collect_two(target, START, g=1.0)
    installation.roll_up()
    installation.now += timedelta(hours=1)
    installation.roll_up()
    before = all_tiers(installation)
    store = HistoryStore(installation.database)
    history_target = scripted(store, 0, installation.now)
    needs = retention.needs_of_samples(installation_of(installation))
    with ThreadPoolExecutor(1) as importer:
        with transaction(other.engine) as connection:
            for old in partitions.existing(connection, SAMPLES):
                if old.start <= START:
                    assert retention.drop_unless_needed(connection, SAMPLES, old, needs) is None
            coming = importer.submit(imported, store, history_target, installation.now, g=(START + QUARTER_MINUTE, 5.0))
            wait_for_blocked(installation.url)
        assert coming.result(timeout=PATIENCE.total_seconds()).refused == GONE
    assert installation.collect_two(target, START + QUARTER_MINUTE, g=5.0).rejected == {"too_old": 1}
    assert installation.marks() == []
    installation.roll_up()
    assert all_tiers(installation) == before
    assert oldest_samples(installation) > START


def test_live_samples_of_the_future_and_before_1970_are_refused_and_counted(installation: Installation) -> None:
    (target,) = installation.targets(1)
    future = installation.now + timedelta(minutes=10)
    assert installation.collect_two(target, future, g=1.0).rejected == {}
    assert installation.collect_two(target, future + timedelta(milliseconds=1), g=1.0).rejected == {"future": 1}
    assert installation.collect_two(target, datetime(1969, 12, 31, tzinfo=UTC), g=1.0).rejected == {"before_1970": 1}
    assert installation.collect_two(target, datetime(1970, 1, 1, tzinfo=UTC), g=1.0).rejected == {"too_old": 1}


def test_another_value_at_the_same_time_replaces_the_first_and_is_counted(installation: Installation) -> None:
    (target,) = installation.targets(1)
    assert installation.collect_two(target, START, g=1.0, c=1.0).rejected == {}
    assert installation.collect_two(target, START, g=1.0).rejected == {}
    assert installation.collect_two(target, START, g=2.0, c=1.0).rejected == {"replaced": 1}
    assert installation.rows("samples")["g", "t0", START]["value"] == 2.0
