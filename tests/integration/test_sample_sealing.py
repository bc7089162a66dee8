"""Which samples maintain seals, and when; what is empty then is dropped, and what is sealed in its time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from sqlalchemy import text

from aggregator.exposition.series import Kind
from aggregator.rollups.buckets import milliseconds
from aggregator.stages.maintain import Maintain
from aggregator.stages.maintain.sealing import Sealing
from aggregator.storage import catalog, ledger, partition_writes, partitions, sealed_samples
from aggregator.storage.engine import Connection, Database, transaction
from aggregator.storage.partitions import SAMPLES
from aggregator.storage.sample_sealing import STAYS_OPEN
from tests.installation import Installation, series_key

START = datetime(2026, 3, 1, 8, tzinfo=UTC)
SPAN_END = START + timedelta(hours=4)
CLOSED = SPAN_END + STAYS_OPEN
NEXT_DAY = START.replace(hour=0) + timedelta(days=1)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
INSIDE = 2 * 240
LATE = START + timedelta(minutes=7, seconds=5)

Row = tuple[datetime, str, float]


@pytest.fixture
def scraped(installation: Installation) -> Installation:
    """A gauge and a counter over the whole of a span and ten minutes of the next, rolled up."""
    (target,) = installation.targets(1)
    gauge, counter = series_key("g", 0, Kind.GAUGE), series_key("c_total", 0, Kind.COUNTER)
    instants = [START + place * MINUTE for place in range(250)]
    installation.now = instants[-1] + 2 * MINUTE
    found = {milliseconds(at): {gauge: place % 7 / 4, counter: float(place)} for place, at in enumerate(instants)}
    installation.collect(target, found)
    installation.roll_up()
    return installation


def seal(installation: Installation, now: datetime) -> int:
    """Seal; gives how many samples."""
    found = installation.database.run(catalog.read_installation)
    return Sealing(installation.database, found, lambda: now).run().samples


def counted(installation: Installation, table: str) -> int:
    with installation.database.engine.connect() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM aggregator.{table}")).scalar_one())  # noqa: S608 - ours


def stored(installation: Installation) -> list[Row]:
    """Every row of the view `samples`."""
    with installation.database.engine.connect() as connection:
        rows = connection.execute(text("SELECT time, metric, value FROM aggregator.samples ORDER BY 1, 2"))
        return [(row.time, row.metric, row.value) for row in rows]


def shard_of(connection: Connection) -> int:
    return int(connection.execute(text("SELECT min(shard_id) FROM aggregator.targets")).scalar_one())


def partition_names(installation: Installation) -> set[str]:
    listed = installation.database.run(partial(partitions.existing, partitioned=SAMPLES))
    return {one.name for one in listed}


def test_a_span_is_sealed_when_nobody_glances_at_it_any_more(scraped: Installation) -> None:
    before = stored(scraped)
    assert seal(scraped, CLOSED - timedelta(seconds=1)) == 0
    assert seal(scraped, CLOSED) == INSIDE
    assert (counted(scraped, "sample_frame"), counted(scraped, "sample_sealed")) == (10, 2)
    assert counted(scraped, "sample_clock") == 1
    assert stored(scraped) == before
    assert seal(scraped, CLOSED) == 0


@pytest.mark.parametrize("bucket", [START - MINUTE + timedelta(seconds=30), SPAN_END - MINUTE, SPAN_END + 4 * MINUTE])
def test_what_the_ledger_still_reads_stays_open(scraped: Installation, bucket: datetime) -> None:
    def mark(connection: Connection) -> None:
        (finest,) = catalog.read_installation(connection).finest
        ledger.mark(connection, [ledger.Mark(finest.id, shard_of(connection), bucket, SPAN_END)], now=SPAN_END)

    scraped.database.run(mark)
    assert seal(scraped, CLOSED) == 0
    scraped.database.run(lambda connection: connection.execute(text("DELETE FROM aggregator.dirty")))
    assert seal(scraped, CLOSED) == INSIDE


def test_what_the_ledger_does_not_read_is_sealed(scraped: Installation) -> None:
    def mark(connection: Connection) -> None:
        (finest,) = catalog.read_installation(connection).finest
        beside = (START - 2 * MINUTE, SPAN_END + 5 * MINUTE)
        marks = [ledger.Mark(finest.id, shard_of(connection), bucket, SPAN_END) for bucket in beside]
        ledger.mark(connection, marks, now=SPAN_END)

    scraped.database.run(mark)
    assert seal(scraped, CLOSED) == INSIDE


def test_what_a_backfill_has_just_written_to_stays_open(scraped: Installation) -> None:
    written = NEXT_DAY + HOUR
    note = partial(partition_writes.note, partitioned=SAMPLES, instants=[START], table_name=SAMPLES.table, now=written)
    scraped.database.run(note)
    assert seal(scraped, written + HOUR - MINUTE) == 0
    assert seal(scraped, written + HOUR + MINUTE) == INSIDE + 2 * 10


def test_late_samples_lie_beside_or_unseal_and_are_sealed_again(scraped: Installation) -> None:
    seal(scraped, CLOSED)
    (target,) = scraped.targets(1)
    scraped.now = SPAN_END + HOUR
    scraped.collect_two(target, LATE, g=1e6)
    assert (counted(scraped, "sample_frame"), counted(scraped, "sample_sealed")) == (11, 2)
    scraped.collect_two(target, START, g=2e6)
    assert (counted(scraped, "sample_frame"), counted(scraped, "sample_sealed")) == (251, 0)
    scraped.now += MINUTE
    scraped.roll_up()
    before = stored(scraped)
    assert (LATE, "g", 1e6) in before
    assert (START, "g", 2e6) in before
    assert seal(scraped, scraped.now) == INSIDE + 1
    assert counted(scraped, "sample_frame") == 10
    assert counted(scraped, "sample_clock") == 2  # the gauge has one sample more
    assert stored(scraped) == before


def test_targets_without_a_shard_stay_open(scraped: Installation) -> None:
    scraped.database.run(lambda found: found.execute(text("UPDATE aggregator.targets SET shard_id = NULL")))
    assert seal(scraped, CLOSED) == 0
    assert counted(scraped, "sample_frame") == 250


def test_a_target_that_is_being_written_is_left_for_the_next_run(scraped: Installation, other: Database) -> None:
    with transaction(other.engine) as connection:
        connection.execute(text("SELECT FROM aggregator.targets FOR NO KEY UPDATE"))
        assert seal(scraped, CLOSED) == 0
    assert seal(scraped, CLOSED) == INSIDE


def test_what_would_not_come_back_stays_open(scraped: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    before = stored(scraped)
    with monkeypatch.context() as patched:
        real = sealed_samples.unpack
        patched.setattr(sealed_samples, "unpack", lambda packed: real(packed) + 1.0)
        assert seal(scraped, CLOSED) == 0
    assert counted(scraped, "sample_sealed") == 0
    assert stored(scraped) == before


def test_an_empty_partition_is_dropped_and_comes_back_with_late_samples(scraped: Installation) -> None:
    maintain = Maintain(scraped.database, "test")
    before, name = stored(scraped), SAMPLES.name(START)
    done = maintain.run(clock=lambda: NEXT_DAY + 10 * MINUTE)
    assert done is not None
    assert done.sealed.samples == INSIDE + 2 * 10
    done = maintain.run(clock=lambda: NEXT_DAY + 10 * MINUTE + HOUR)
    assert done is not None
    assert name in done.sealed.partitions_dropped
    assert name not in partition_names(scraped)
    assert stored(scraped) == before
    (target,) = scraped.targets(1)
    scraped.now = NEXT_DAY + 2 * HOUR
    scraped.collect_two(target, START, g=2e6)
    assert name in partition_names(scraped)
    assert counted(scraped, name) == 240
    assert stored(scraped) == sorted([row for row in before if row[:2] != (START, "g")] + [(START, "g", 2e6)])


def test_sealed_samples_are_dropped_in_their_time_and_that_is_recorded(scraped: Installation) -> None:
    maintain = Maintain(scraped.database, "test")
    maintain.run(clock=lambda: NEXT_DAY + 10 * MINUTE)
    maintain.run(clock=lambda: NEXT_DAY + 10 * MINUTE + HOUR)
    retention = scraped.database.run(catalog.read_installation).sample_retention
    done = maintain.run(clock=lambda: NEXT_DAY + retention - MINUTE)
    assert done is not None
    assert counted(scraped, "sample_sealed") == 4
    done = maintain.run(clock=lambda: NEXT_DAY + retention + MINUTE)
    assert done is not None
    assert SAMPLES.name(START) in done.partitions_dropped
    assert (counted(scraped, "sample_sealed"), counted(scraped, "sample_clock")) == (0, 0)
    assert stored(scraped) == []
    assert scraped.database.run(partial(catalog.dropped_before, table_name=SAMPLES.table)) == NEXT_DAY
