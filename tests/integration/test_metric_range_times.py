"""Intervals in SQL lie where the buckets of the same length lie; ranges of local days, weeks and months."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg2
import psycopg2.extensions
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from aggregator.config.duration import MONTH
from aggregator.embedded.postgres import EmbeddedPostgres
from aggregator.rollups.buckets import Ladder, milliseconds
from aggregator.storage.engine import make_engine
from aggregator.storage.range_times import INTERVALS, TierRange
from tests.databases import create_database, drop_database
from tests.effort import examples
from tests.installation import Installation, settings_for
from tests.ranged import GAUGE, metric_range

START = datetime(2026, 3, 30, 12, tzinfo=UTC)
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "America/Havana")
ODD_ZONES = ("America/Sao_Paulo", "Asia/Beirut", "America/St_Johns", "Pacific/Apia", "Africa/Cairo")
SECONDS, DAYS, WEEKS = timedelta(seconds=1), timedelta(days=1), timedelta(days=7)
Session = psycopg2.extensions.connection


@pytest.fixture(scope="module")
def session(postgres_server: EmbeddedPostgres, migrated_template: str) -> Iterator[Session]:
    """A session on a database that has the functions."""
    url = create_database(postgres_server, "intervals", template=migrated_template)
    engine = make_engine(url, application="test")
    with engine.begin() as connection:
        for statement in INTERVALS:
            connection.execute(text(statement.replace(":", "\\:")))
    engine.dispose()
    with closing(psycopg2.connect(url, options="-c timezone=UTC")) as connected:
        connected.autocommit = True
        yield connected
    drop_database(postgres_server, "intervals")


LADDERS = st.one_of(
    st.builds(Ladder, st.sampled_from([SECONDS, 60 * SECONDS, 3_600 * SECONDS, DAYS, WEEKS])),
    st.builds(Ladder, st.sampled_from([DAYS, WEEKS]), st.sampled_from([*ZONES, *ODD_ZONES])),
    st.builds(lambda zone: Ladder(MONTH, zone, months=1), st.sampled_from([*ZONES, *ODD_ZONES])),
)
INSTANTS = st.datetimes(datetime(1975, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - given by `timezones`


@settings(max_examples=examples(200), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(ladder=LADDERS, buckets=st.integers(1, 40), instant=INSTANTS)
def test_so_many_buckets_begin_and_end_where_one_of_that_length_does(
    session: Session, ladder: Ladder, buckets: int, instant: datetime
) -> None:
    # So near to where the clock may change that it matters.
    instant = ladder.start_of(instant) + timedelta(minutes=instant.minute - 20)
    whole = Ladder(ladder.step * buckets, ladder.timezone, months=ladder.months * buckets)
    given_ = TierRange(1, ladder).interval(f"{buckets}::bigint")
    statement = f"SELECT aggregator.interval_start(%(at)s, {given_}), aggregator.interval_end(%(at)s, {given_})"
    with session.cursor() as cursor:
        cursor.execute(
            statement.replace("interval_start(%(at)s", "interval_start(%(at)s::timestamptz"), {"at": instant}
        )
        found = cursor.fetchone()
    start = whole.start_of(instant)
    assert found == (start, whole.end_of(start))


@pytest.fixture
def local(database_url: str, tmp_path: Path) -> Iterator[Installation]:
    """An installation with local days, weeks and months."""
    file = tmp_path / "aggregator.toml"
    file.write_text(
        "".join(
            f'[[tiers]]\nname = "{name}"\nstep = "{step}"\nretention = "10y"\ntimezone = "Europe/Berlin"\n'
            for name, step in (("day", "1d"), ("week", "1w"), ("month", "1mo"))
        )
    )
    with closing(Installation(database_url, START, settings_for(tmp_path, AGGREGATOR_CONFIG=str(file)))) as made:
        yield made


@pytest.mark.parametrize(
    ("interval", "tier", "times"),
    [
        (
            timedelta(days=1),
            "day",
            ["2026-03-27T23:00Z", "2026-03-28T23:00Z", "2026-03-29T22:00Z"],
        ),
        (timedelta(days=2), "day", ["2026-03-27T23:00Z", "2026-03-29T22:00Z"]),
        (timedelta(days=7), "week", ["2026-03-22T23:00Z", "2026-03-29T22:00Z"]),
        (timedelta(days=14), "week", ["2026-03-15T23:00Z", "2026-03-29T22:00Z"]),
        (timedelta(days=31), "month", ["2026-02-28T23:00Z"]),
        (timedelta(days=90), "month", ["2025-12-31T23:00Z"]),
    ],
)
def test_a_range_follows_the_calendar(local: Installation, interval: timedelta, tier: str, times: list[str]) -> None:
    (target,) = local.targets(1)
    at = datetime(2026, 3, 29, 12, tzinfo=UTC)
    # Every six hours around the day that has 23 of them.
    local.collect(target, {milliseconds(at + timedelta(hours=6 * step)): {GAUGE: float(step)} for step in range(-4, 5)})
    local.now += timedelta(days=40)
    local.roll_up()
    found = metric_range(
        local, "temperature", interval // timedelta(milliseconds=1), since=at - timedelta(hours=30), hours=60
    )
    assert [f"{row['time']:%Y-%m-%dT%H:%MZ}" for row in found] == times
    assert {row["tier"] for row in found} == {tier}
    assert sum(row["count"] for row in found) == 9
