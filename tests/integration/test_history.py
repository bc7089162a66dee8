"""Old samples as imports bring them: of any age, order and density, once or many times, by several at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import func, select, text

from aggregator.exposition.series import Kind, SeriesKey
from aggregator.rollups.buckets import milliseconds
from aggregator.stages.collect.history import History, HistoryStore, HistoryStored
from aggregator.stages.collect.marking import days_of
from aggregator.storage import frames, tables
from aggregator.storage.copying import wire_instants
from aggregator.storage.engine import Connection
from aggregator.storage.history_targets import HistoryTarget
from tests.installation import Installation
from tests.sessions import session

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
PAST = datetime(2025, 2, 3, 4, tzinfo=UTC)
PAST_MS = milliseconds(PAST)
QUARTER_MINUTE = timedelta(seconds=15)
LABELS = {"job": "old", "instance": "a:1", "zone": "x"}


def keys(count: int, kind: Kind = Kind.GAUGE) -> tuple[SeriesKey, ...]:
    labels = (("instance", "a:1"), ("job", "old"))
    return tuple(SeriesKey(f"m{place}" + "_total" * (kind is Kind.COUNTER), labels, kind) for place in range(count))


def history(names: tuple[SeriesKey, ...], *samples: tuple[int, int, float]) -> History:
    """Samples given as (series, milliseconds after PAST, value)."""
    series, at_ms, values = zip(*samples, strict=True)
    return History(names, np.array(series), PAST_MS + np.array(at_ms), np.array(values, dtype=np.float64))


def target_of(store: HistoryStore, installation: Installation) -> HistoryTarget:
    return store.target("old", LABELS, interval=QUARTER_MINUTE, now=installation.now)


def samples_of(installation: Installation) -> dict[tuple[str, int], float]:
    with installation.database.engine.connect() as connection:
        rows = connection.execute(text("SELECT metric, time, value FROM aggregator.samples")).all()
    return {(row.metric, milliseconds(row.time) - PAST_MS): row.value for row in rows}


@pytest.fixture
def store(installation: Installation) -> HistoryStore:
    return HistoryStore(installation.database)


def test_old_samples_are_stored_rolled_up_and_counted(installation: Installation, store: HistoryStore) -> None:
    target = target_of(store, installation)
    given = history(keys(2), (0, 0, 1.0), (1, 0, 2.0), (0, 15_000, 3.0), (1, 15_000, np.nan), (0, 61_000, 4.0))
    assert store.store(target, given, now=installation.now) == HistoryStored(4, 0, {}, 0)
    assert samples_of(installation) == {("m0", 0): 1.0, ("m1", 0): 2.0, ("m0", 15_000): 3.0, ("m0", 61_000): 4.0}
    assert [bucket for _, bucket, _ in installation.marks()] == [PAST, PAST + timedelta(minutes=1)]
    with installation.database.engine.connect() as connection:
        assert connection.execute(select(func.bool_and(tables.dirty.c.backfill))).scalar_one()
    installation.roll_up()
    assert [row["count"] for row in installation.rows("metrics_1d").values()] == [3, 1]


def test_the_same_history_once_more_changes_and_marks_nothing(installation: Installation, store: HistoryStore) -> None:
    target = target_of(store, installation)
    given = history(keys(3), *((place % 3, place * 1_000, float(place)) for place in range(1_200)))
    assert store.store(target, given, now=installation.now) == HistoryStored(1_200, 0, {}, 0)
    installation.roll_up()
    before = samples_of(installation)
    assert store.store(target, given, now=installation.now) == HistoryStored(1_200, 0, {}, 1_200)
    assert installation.marks() == []
    assert samples_of(installation) == before


def test_the_last_of_two_values_counts_and_is_counted(installation: Installation, store: HistoryStore) -> None:
    target, names = target_of(store, installation), keys(1)
    given = history(names, (0, 0, 1.0), (0, 5, 5.0), (0, 0, 2.0), (0, 5, 5.0), (0, 0, 3.0))
    assert store.store(target, given, now=installation.now) == HistoryStored(5, 2, {}, 1)
    assert store.store(target, history(names, (0, 0, 4.0)), now=installation.now) == HistoryStored(1, 1, {}, 0)
    assert samples_of(installation) == {("m0", 0): 4.0, ("m0", 5): 5.0}


def test_what_changed_has_arrived_when_it_changed(installation: Installation, store: HistoryStore) -> None:
    target, names = target_of(store, installation), keys(2)
    store.store(target, history(names, (0, 0, 1.0), (0, 1, 1.0)), now=installation.now)
    store.store(target, history(names, (0, 0, 1.0), (1, 1, 1.0)), now=installation.now + timedelta(hours=1))
    with installation.database.engine.connect() as connection:
        arrived = connection.execute(select(tables.sample_frame.c.received_at).order_by("at")).scalars().all()
    assert arrived == [installation.now, installation.now + timedelta(hours=1)]


def test_few_samples_among_many_series_are_stored_sparse_and_read_alike(
    installation: Installation, store: HistoryStore
) -> None:
    target, names = target_of(store, installation), keys(300)
    few = history(names, (7, 0, 1.5), (299, 0, 2.5), (299, 1, 3.5), (250, 2, 4.5))
    store.store(target, few, now=installation.now)
    all_of_one = history(names, *((place, 1, float(place)) for place in range(299)), (3, 2, 0.5))
    store.store(target, all_of_one, now=installation.now)

    def widths(connection: Connection) -> list[tuple[int, bool]]:
        rows = connection.execute(select(tables.sample_frame.c["values"], tables.sample_frame.c.places).order_by("at"))
        return [(len(row[0]), row.places is not None) for row in rows]

    assert installation.database.run(widths) == [(2, True), (300, False), (2, True)]
    found = samples_of(installation)
    assert len(found) == 304
    assert (found["m7", 0], found["m299", 0], found["m298", 1], found["m299", 1]) == (1.5, 2.5, 298.0, 3.5)
    assert (found["m250", 2], found["m3", 2]) == (4.5, 0.5)
    read = installation.database.run(
        lambda found: frames.read_frames(found, target_ids=[target.id], since=PAST, until=PAST + QUARTER_MINUTE)
    )
    assert [int(np.count_nonzero(~np.isnan(frame.values))) for frame in read] == [2, 300, 2]
    assert [frame.places for frame in read] == [None] * 3
    installation.roll_up()
    assert sum(int(row["count"]) for row in installation.rows("metrics_1h").values()) == 304  # type: ignore[call-overload] # a number


def test_a_collection_and_an_import_of_one_instant_are_one_frame(installation: Installation) -> None:
    (collected,) = installation.targets(1)
    installation.collect_two(collected, START, g=1.0, c=5.0)
    store = HistoryStore(installation.database)
    target = store.target(
        "scripted", {"job": "scripted", "instance": "t0"}, interval=QUARTER_MINUTE, now=installation.now
    )
    assert target.id == collected.id
    at = milliseconds(START) - PAST_MS
    names = (SeriesKey("new", (("instance", "t0"), ("job", "scripted")), Kind.GAUGE),)
    assert store.store(target, history(names, (0, at, 7.0)), now=installation.now).samples == 1
    assert samples_of(installation) == {("g", at): 1.0, ("c_total", at): 5.0, ("new", at): 7.0}
    with installation.database.engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(tables.sample_frame)).scalar_one() == 1


def test_the_target_of_a_source_is_found_by_its_labels_or_made_once(
    installation: Installation, store: HistoryStore
) -> None:
    def ask(place: int) -> HistoryTarget:
        with session(installation.url) as database:
            labels = {"job": "old", "instance": f"a:{place % 2}"}
            return HistoryStore(database).target("old", labels, interval=QUARTER_MINUTE, now=installation.now)

    with ThreadPoolExecutor(4) as importers:
        found = list(importers.map(ask, range(8)))
    assert found[::2] == [found[0]] * 4
    assert found[1::2] == [found[1]] * 4
    assert found[0].id != found[1].id
    assert found[0].shard_id == found[1].shard_id
    with installation.database.engine.connect() as connection:
        row = connection.execute(select(tables.sources).where(tables.sources.c.name == "old")).one()
    assert (row.kind, row.active, row.interval_seconds, row.offset_seconds) == ("import", False, 15.0, 0.0)
    assert target_of(store, installation).labels == (("instance", "a:1"), ("job", "old"))


def test_the_most_specific_target_is_taken(installation: Installation) -> None:
    (plain,) = installation.targets(1)
    labels = {"job": "scripted", "instance": "t0", "env": "prod"}
    special = installation.database.run(
        lambda found: found.execute(
            tables.targets.insert()
            .values(
                source_id=installation.source_id, address="x", labels=labels, active=False, created_at=installation.now
            )
            .returning(tables.targets.c.id)
        ).scalar_one()
    )
    store = HistoryStore(installation.database)
    for given, expected in ((labels, special), ({**labels, "env": "test"}, plain.id)):
        assert store.target("scripted", given, interval=QUARTER_MINUTE, now=installation.now).id == expected


def test_samples_of_the_future_and_before_1970_are_refused_and_counted(
    installation: Installation, store: HistoryStore
) -> None:
    target = target_of(store, installation)
    now_ms = milliseconds(installation.now)
    at_ms = np.array([-1, now_ms + 600_001, np.iinfo(np.int64).max, now_ms + 600_000, 0])
    given = History(keys(1), np.zeros(5, dtype=np.int64), at_ms, np.ones(5))
    stored = store.store(target, given, now=installation.now)
    assert stored == HistoryStored(2, 0, {"before_1970": 1, "future": 2}, 0)


def test_infinities_are_samples_and_nan_is_none(installation: Installation, store: HistoryStore) -> None:
    target = target_of(store, installation)
    given = history(keys(1), (0, 0, np.inf), (0, 1, -np.inf), (0, 2, np.nan), (0, 3, -0.0))
    assert store.store(target, given, now=installation.now).samples == 3
    assert samples_of(installation) == {("m0", 0): np.inf, ("m0", 1): -np.inf, ("m0", 3): 0.0}


def test_ten_years_in_one_call_are_stored_in_several_transactions(
    installation: Installation, store: HistoryStore
) -> None:
    target = target_of(store, installation)
    days = [(0, day * 30 * 86_400_000, float(day)) for day in range(-120, 0)]
    assert store.store(target, history(keys(1), *days), now=installation.now).samples == 120
    assert len(samples_of(installation)) == 120


def test_days_are_those_of_the_partitions() -> None:
    instants = [datetime(1970, 1, 1, tzinfo=UTC), datetime(1999, 12, 31, 23, tzinfo=UTC), PAST]
    assert days_of(wire_instants(instants)) == [instant.replace(hour=0) for instant in instants]
