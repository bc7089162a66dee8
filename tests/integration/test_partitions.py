"""Partitions are made once, ahead of their time or when a sample needs them, and found again by their bounds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from aggregator.exposition.series import Kind
from aggregator.rollups.buckets import milliseconds
from aggregator.storage import partitions
from aggregator.storage.engine import Connection, Database, transaction
from aggregator.storage.partitions import SAMPLES
from tests.installation import Installation, series_key, settings_for
from tests.sessions import PATIENCE, session, wait_for_blocked
from tests.templates import BroughtUp, installed

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
FAR = datetime(2027, 1, 1, tzinfo=UTC)
ONE_DAY = timedelta(days=1)


@pytest.fixture
def installation(brought_up: BroughtUp, tmp_path: Path) -> Iterator[Installation]:
    with installed(brought_up, NOW, settings_for(tmp_path)) as made:
        yield made


def existing_starts(installation: Installation) -> list[datetime]:
    found = installation.database.run(lambda connection: partitions.existing(connection, SAMPLES))
    return [partition.start for partition in found]


def test_publishing_makes_partitions_from_the_retention_to_three_days_ahead(installation: Installation) -> None:
    today = datetime(2026, 3, 1, tzinfo=UTC)
    assert existing_starts(installation) == [today + ONE_DAY * days for days in range(-2, 4)]


def test_each_partition_is_made_once_and_covers_a_half_open_day(installation: Installation) -> None:
    def ensure(until: datetime) -> int:
        return installation.database.run(
            lambda connection: partitions.ensure(connection, SAMPLES, since=FAR, until=until)
        )

    assert ensure(FAR + timedelta(hours=30)) == 2
    assert ensure(FAR + timedelta(hours=30)) == 0
    assert ensure(FAR + 2 * ONE_DAY) == 0
    found = installation.database.run(lambda connection: partitions.existing(connection, SAMPLES))
    assert found[-1] == partitions.Partition("sample_frame_20270102", FAR + ONE_DAY, FAR + 2 * ONE_DAY)


def test_two_sessions_that_need_the_same_partition_at_once_both_go_on(installation: Installation) -> None:
    both = threading.Barrier(2)
    made: list[int] = []

    def work() -> None:
        database = Database.connect(installation.url, application="test")
        both.wait(timeout=60)
        until = FAR + 20 * ONE_DAY
        made.append(database.run(lambda found: partitions.ensure(found, SAMPLES, since=FAR, until=until)))
        database.dispose()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sum(made) == 20
    assert existing_starts(installation)[-20:] == [FAR + ONE_DAY * days for days in range(20)]


def test_a_session_that_waited_for_another_sees_what_that_one_has_made(installation: Installation) -> None:
    def ensure(connection: Connection) -> int:
        return partitions.ensure(connection, SAMPLES, since=FAR, until=FAR + ONE_DAY)

    with session(installation.url) as other, ThreadPoolExecutor(1) as second:
        with transaction(installation.database.engine) as connection:
            assert ensure(connection) == 1
            # Not through `Database.run`, which would retry what must not fail.
            waiting = second.submit(_in_transaction, other, ensure)
            wait_for_blocked(installation.url)
        assert waiting.result(timeout=PATIENCE.total_seconds()) == 0


def _in_transaction(database: Database, work: Callable[[Connection], int]) -> int:
    with transaction(database.engine) as connection:
        return work(connection)


def test_a_sample_of_a_day_that_nobody_foresaw_is_stored(installation: Installation) -> None:
    (target,) = installation.targets(1)
    key = series_key("g", 0, Kind.GAUGE)
    ahead = NOW + timedelta(days=30)
    installation.now = ahead  # `maintain` has not run for so long
    assert installation.collect(target, {milliseconds(ahead): {key: 1.5}}).samples == 1
    assert existing_starts(installation)[-1] == datetime(2026, 3, 31, tzinfo=UTC)


def test_no_statistics_are_gathered_about_arrays(installation: Installation) -> None:
    statement = text(
        "SELECT DISTINCT parent.relname, coalesce(attstattarget, -1) AS target"
        " FROM pg_attribute JOIN pg_class AS child ON child.oid = attrelid JOIN pg_inherits ON inhrelid = child.oid"
        " JOIN pg_class AS parent ON parent.oid = inhparent JOIN pg_type ON pg_type.oid = atttypid"
        " WHERE child.relkind = 'r' AND typcategory = 'A' AND attnum > 0 ORDER BY 1"
    )
    with installation.database.engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(statement)]
    assert {name for name, _ in found} >= {"sample_frame", "collections", "rollup_1m", "rollup_1d"}
    assert {target for _, target in found} == {0}


def test_every_tier_has_partitions_of_its_own_width_and_storage(installation: Installation) -> None:
    statement = text(
        "SELECT parent.relname AS tier, min(array_to_string(child.reloptions, ' ')) AS storage"
        " FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid JOIN pg_class AS parent"
        " ON parent.oid = inhparent WHERE parent.relname LIKE 'rollup\\_1_' OR parent.relname = 'rollup_5m'"
        " GROUP BY 1 ORDER BY 1"
    )
    with installation.database.engine.connect() as connection:
        storage = {row.tier: row.storage for row in connection.execute(statement)}
    half = "toast_tuple_target=8160 fillfactor=50"
    assert storage == {"rollup_1d": half, "rollup_1h": half, "rollup_1m": "toast_tuple_target=8160", "rollup_5m": half}
    tiers = [("1m", 1), ("5m", 7), ("1h", 28), ("1d", 364)]
    for (name, days), minutes in zip(tiers, (1, 5, 60, 1_440), strict=True):
        step = timedelta(minutes=minutes)
        assert partitions.rollup_partitions(name, step, is_finest=name == "1m").width == timedelta(days=days)
