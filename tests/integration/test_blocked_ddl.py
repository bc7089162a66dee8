"""Partitions that are missing are made when they are needed; and no change of the schema lets readers queue."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from alembic import command
from sqlalchemy import text

from aggregator.embedded.process import wait_until
from aggregator.exposition.series import Kind
from aggregator.stages.maintain import Maintain
from aggregator.storage import engine, migrate, partitions
from aggregator.storage.engine import Connection, Database, StorageError, is_lock_timeout, transaction
from tests.installation import Installation, series_key
from tests.sessions import PATIENCE, session
from tests.slots import collect_slot

START = datetime(2026, 3, 1, 8, tzinfo=UTC)
GAUGE = series_key("g", 0, Kind.GAUGE)
#: The newest revision that changes a table which workers and readers use.
BEFORE, CHANGES = "20261123_0001", "20261123_0002"
#: What everybody waits for at the most: a migration gives up after 5 s; the rest is for a machine that is busy.
MOST_WAIT_SECONDS = 15
_AHEAD = text(
    """
    SELECT parent.relname AS parent, child.relname AS child
    FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid JOIN pg_class AS parent ON parent.oid = inhparent
    WHERE child.relkind = 'r' AND child.relname ~ '_[0-9]{8}$' AND right(child.relname, 8) > :day
    """
)


def drop_ahead(connection: Connection, *, after: datetime) -> int:
    """Drop every partition that begins after a day."""
    found = connection.execute(_AHEAD, {"day": f"{after:%Y%m%d}"}).all()
    for row in found:
        connection.execute(text(f'DROP TABLE aggregator."{row.child}"'))
    return len(found)


def test_where_nobody_made_partitions_ahead_collections_and_rollups_make_theirs(installation: Installation) -> None:
    (target,) = installation.targets(1)
    collect_slot(installation, target, START, {GAUGE: 1.0})
    assert installation.database.run(lambda found: drop_ahead(found, after=START)) > 10
    later = START + timedelta(days=40)  # another day, week and month
    for place in range(8):
        collect_slot(installation, target, later + place * timedelta(seconds=15), {GAUGE: float(place)})
    installation.now = later + timedelta(hours=1, minutes=1)
    installation.roll_up()
    found = installation.rows("metrics_1m")
    assert [found["g", "t0", later + place * timedelta(minutes=1)]["sum"] for place in range(2)] == [6.0, 22.0]
    assert installation.rows("metrics_1h")["g", "t0", later]["count"] == 8


@contextmanager
def long_reader(database: Database) -> Iterator[None]:
    """Somebody who has read everything and has not ended their transaction."""
    with transaction(database.engine) as connection:
        for table in ("sample_frame", "rollup", "targets", "series", "collections", "dirty"):
            connection.execute(text(f"SELECT count(*) FROM aggregator.{table}"))  # noqa: S608 - ours
        yield


def test_partitions_are_made_ahead_beside_a_long_reader(installation: Installation, other: Database) -> None:
    installation.database.run(lambda found: drop_ahead(found, after=START))
    with long_reader(other):
        done = Maintain(installation.database, "test").run(clock=lambda: START)
    assert done is not None
    assert done.partitions_made >= 6
    ahead = installation.database.run(lambda found: partitions.existing(found, partitions.SAMPLES))
    assert ahead[-1].end >= START + timedelta(days=3)


@contextmanager
def reading(url: str, longest: list[float]) -> Iterator[None]:
    """Another reader, who reads again and again; notes the longest time that it took."""
    stop = threading.Event()

    def read() -> None:
        with session(url) as database:
            while not stop.is_set():
                began = time.monotonic()
                database.run(lambda found: found.execute(text("SELECT count(*) FROM aggregator.series")).scalar())
                longest.append(time.monotonic() - began)
                stop.wait(0.05)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_migration_gives_up_behind_a_long_reader_and_succeeds_later(empty_database_url: str) -> None:
    url = empty_database_url
    command.upgrade(migrate._config(url), BEFORE)
    longest: list[float] = []
    with session(url) as first, session(url) as second:
        with reading(url, longest), long_reader(first):
            assert wait_until(lambda: len(longest) > 2, PATIENCE)
            began = time.monotonic()
            with pytest.raises(StorageError) as raised:
                migrate.upgrade(url)
            assert is_lock_timeout(raised.value)
            assert time.monotonic() - began < 4 * MOST_WAIT_SECONDS
            assert second.run(migrate.current_revision) == BEFORE
        migrate.upgrade(url)
        assert second.run(migrate.current_revision) == migrate.head_revision()
    assert max(longest) < MOST_WAIT_SECONDS


def test_a_drop_lets_readers_pass_within_its_short_patience(
    installation: Installation, other: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without a patience of its own a drop would wait for so long.
    monkeypatch.setattr(engine, "LOCK_TIMEOUT", timedelta(seconds=3 * MOST_WAIT_SECONDS))
    installation.now += timedelta(days=1, hours=13)
    longest: list[float] = []
    maintain = Maintain(installation.database, "test")
    with long_reader(other), reading(installation.url, longest):
        assert wait_until(lambda: len(longest) > 2, PATIENCE)
        longest.clear()
        done = maintain.run(clock=lambda: installation.now)
    assert done is not None
    assert [reason for _, reason in done.partitions_held] == ["it is being read or written"]
    assert max(longest) < MOST_WAIT_SECONDS
    done = maintain.run(clock=lambda: installation.now)
    assert done is not None
    assert len(done.partitions_dropped) >= 1
