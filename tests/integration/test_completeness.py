"""How complete a bucket is: samples that there are, of those that the schedule of their time asked for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from aggregator.exposition.series import Kind
from aggregator.rollups.buckets import milliseconds
from aggregator.storage import tables
from tests.installation import Installation, series_key

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
GAUGE = series_key("g", 0, Kind.GAUGE)


def set_schedule(installation: Installation, *, interval_seconds: float, offset_seconds: float) -> None:
    table = tables.sources
    values = {"interval_seconds": interval_seconds, "offset_seconds": offset_seconds}
    statement = update(table).where(table.c.id == installation.source_id).values(values)
    installation.database.run(lambda connection: connection.execute(statement))


def collect_every(installation: Installation, seconds: int, *, since: datetime, until: datetime) -> None:
    (target,) = installation.targets(1)
    times = range(0, int((until - since).total_seconds()), seconds)
    samples = {milliseconds(since) + 1_000 * second: {GAUGE: 1.0} for second in times}
    installation.now = max(until, installation.now + timedelta(seconds=1))
    installation.collect(target, samples)


def completeness(installation: Installation, view: str) -> dict[datetime, object]:
    return {time: row["completeness"] for (_, _, time), row in installation.rows(view).items()}


def test_a_bucket_over_a_changed_interval_is_as_complete_as_its_parts(installation: Installation) -> None:
    change, end = START + timedelta(minutes=30), START + timedelta(minutes=60)
    collect_every(installation, 60, since=START, until=change)
    set_schedule(installation, interval_seconds=60, offset_seconds=0)
    installation.now = change + timedelta(minutes=1)
    installation.roll_up()
    set_schedule(installation, interval_seconds=15, offset_seconds=0)
    collect_every(installation, 15, since=change, until=end - timedelta(minutes=15))
    installation.now = end + timedelta(minutes=1)
    installation.roll_up()
    assert set(completeness(installation, "metrics_5m").values()) == {1.0}
    assert completeness(installation, "metrics_1h") == {START: pytest.approx((30 + 60) / (30 + 120))}


def test_a_late_sample_leaves_the_slots_of_its_bucket_as_they_were(installation: Installation) -> None:
    set_schedule(installation, interval_seconds=30, offset_seconds=0)
    collect_every(installation, 60, since=START, until=START + timedelta(minutes=1))
    installation.now += timedelta(minutes=2)
    installation.roll_up()
    set_schedule(installation, interval_seconds=5, offset_seconds=0)
    collect_every(installation, 60, since=START + timedelta(seconds=30), until=START + timedelta(minutes=1))
    installation.roll_up()
    assert completeness(installation, "metrics_1m") == {START: 1.0}


def test_slots_count_in_the_bucket_that_they_are_collected_in(installation: Installation) -> None:
    set_schedule(installation, interval_seconds=90, offset_seconds=45)
    first = START + timedelta(seconds=45)
    collect_every(installation, 90, since=first, until=START + timedelta(minutes=15))
    installation.now = START + timedelta(minutes=20)
    installation.roll_up()
    assert list(completeness(installation, "metrics_5m").values()) == [1.0, 1.0, 1.0]
