"""`metric_range`: the tier that fits and is kept, regrouped where intervals are longer, and equal to the oracle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, text, update
from sqlalchemy.exc import DBAPIError

from aggregator.config.model import Tier
from aggregator.embedded.postgres import EmbeddedPostgres
from aggregator.exposition.series import Kind
from aggregator.rollups.buckets import milliseconds
from aggregator.storage import publish, tables
from tests import oracle
from tests.installation import Installation, settings_for
from tests.ranged import COUNTER, GAUGE, START, ask, fill, metric_range, ranged, samples

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
LOOKBACK_MS = 300_000
LONG_AGO = datetime.now(UTC) - timedelta(hours=1)


@pytest.fixture(scope="module")
def past(
    postgres_server: EmbeddedPostgres, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """For tests that only read."""
    with ranged(postgres_server, migrated_template, tmp_path_factory.mktemp("home")) as made:
        yield made


@pytest.fixture
def rolled_up(installation: Installation) -> Installation:
    """For tests that change it."""
    fill(installation)
    return installation


@pytest.mark.parametrize(
    ("interval_ms", "tier", "length_ms"),
    [
        (15_000, "raw", 15_000),
        (40_000, "raw", 40_000),
        (MINUTE_MS, "1m", MINUTE_MS),
        (90_000, "1m", 2 * MINUTE_MS),
        (4 * MINUTE_MS, "1m", 4 * MINUTE_MS),
        (5 * MINUTE_MS, "5m", 5 * MINUTE_MS),
        (30 * MINUTE_MS, "5m", 30 * MINUTE_MS),
        (HOUR_MS, "1h", HOUR_MS),
        (61 * MINUTE_MS, "1h", 2 * HOUR_MS),
        (DAY_MS, "1d", DAY_MS),
        (7 * DAY_MS, "1d", 7 * DAY_MS),
    ],
)
def test_every_interval_is_what_the_samples_in_it_give(
    past: Installation, interval_ms: int, tier: str, length_ms: int
) -> None:
    for kind, key in ((Kind.GAUGE, GAUGE), (Kind.COUNTER, COUNTER)):
        given = samples(kind)
        found = metric_range(past, key.metric, interval_ms)
        # Whole weeks begin on Monday, as START does.
        origin_ms = milliseconds(START) if length_ms == 7 * DAY_MS else 0
        starts = sorted({(at - origin_ms) // length_ms * length_ms + origin_ms for at in given})
        assert [milliseconds(row["time"]) for row in found] == starts
        for row, start_ms in zip(found, starts, strict=True):
            assert row["tier"] == tier
            assert (row["metric"], row["labels"]) == (key.metric, {"instance": "t0", "job": "scripted"})
            expected = expected_row(kind, given, start_ms, start_ms + length_ms)
            assert oracle.wrong_columns(row, expected) == {}, row["time"]
            assert row["is_final"] == (
                length_ms < DAY_MS or row["time"] + timedelta(milliseconds=length_ms) <= LONG_AGO
            )


def expected_row(kind: Kind, given: dict[int, float], start_ms: int, end_ms: int) -> dict[str, oracle.Expected]:
    if kind is Kind.GAUGE:
        row = oracle.gauge_row(given.items(), start_ms, end_ms, level=3)
    else:
        row = oracle.counter_row(given.items(), start_ms, end_ms, level=3, lookback_ms=LOOKBACK_MS)
    count = int(row["count"].value or 0)
    row["completeness"] = oracle.completeness(count, start_ms, end_ms, interval_ms=15_000, offset_ms=2_000)
    return row


def test_intervals_are_whole_whatever_the_range_cuts(past: Installation) -> None:
    whole = {row["time"]: row for row in metric_range(past, "temperature", 10 * MINUTE_MS)}
    part = metric_range(past, "temperature", 10 * MINUTE_MS, since=START + timedelta(minutes=14), hours=0.1)
    assert [row["time"] for row in part] == [START + timedelta(minutes=10), START + timedelta(minutes=20)][: len(part)]
    assert part == [whole[row["time"]] for row in part]


def test_what_is_no_longer_kept_comes_from_a_coarser_tier(rolled_up: Installation) -> None:
    def drop(connection: Connection) -> None:
        ids = dict(connection.execute(text("SELECT name, id FROM aggregator.tiers")).all())
        for name, days in (("1m", 3), ("5m", 2)):
            statement = insert(tables.retained).values(
                table_name="rollup", tier_id=ids[name], dropped_before=START + timedelta(days=days)
            )
            connection.execute(statement)
            connection.execute(text(f'DELETE FROM aggregator."rollup_{name}"'))  # noqa: S608 - ours
        dropped = START + timedelta(days=1)
        connection.execute(insert(tables.retained).values(table_name="sample_frame", dropped_before=dropped))

    assert {row["tier"] for row in metric_range(rolled_up, "temperature", MINUTE_MS)} == {"1m"}
    rolled_up.database.run(drop)
    for interval_ms in (15_000, MINUTE_MS, 5 * MINUTE_MS, HOUR_MS):
        found = metric_range(rolled_up, "temperature", interval_ms)
        assert ([row["tier"] for row in found], sum(row["count"] for row in found)) == (
            ["1h"] * 3,
            len(samples(Kind.GAUGE)),
        )


def test_a_tier_that_was_added_later_is_read_from_then_on(rolled_up: Installation) -> None:
    added = Tier(name="15m", step=timedelta(minutes=15), retention=timedelta(days=90))
    settings = rolled_up.settings.model_copy(update={"tiers": (*rolled_up.settings.tiers, added)})
    own = update(tables.sources).where(tables.sources.c.id == rolled_up.source_id).values(active=True)

    def work(connection: Connection) -> None:
        publish.publish(connection, settings, config_hash="added", now=rolled_up.now)
        connection.execute(own)

    rolled_up.database.run(work)
    assert {row["tier"] for row in metric_range(rolled_up, "temperature", 15 * MINUTE_MS)} == {"5m"}
    (target,) = rolled_up.targets(1)
    since, rolled_up.now = rolled_up.now, rolled_up.now + timedelta(days=1)
    rolled_up.collect(target, {milliseconds(since + timedelta(minutes=1)): {GAUGE: 1.0}})
    rolled_up.now += timedelta(days=1)
    rolled_up.roll_up()
    assert {row["tier"] for row in metric_range(rolled_up, "temperature", 15 * MINUTE_MS, since=since)} == {"15m"}


def test_an_unknown_metric_gives_nothing(past: Installation) -> None:
    assert [metric_range(past, "unknown", interval) for interval in (1_000, MINUTE_MS, 2 * MINUTE_MS)] == [[]] * 3


@pytest.mark.parametrize(
    ("selector", "shift_hours", "interval_ms", "message"),
    [
        ("temperature{", 1, MINUTE_MS, "expected a label name"),
        ("temperature; DROP TABLE x", 1, MINUTE_MS, "expected nothing more"),
        ('temperature{instance=~"("}', 1, MINUTE_MS, "cannot be used"),
        ("{}", 1, MINUTE_MS, "would match every series"),
        (None, 1, MINUTE_MS, "the selector is NULL"),
        ("temperature", 1, -1, "write a positive number of milliseconds"),
        ("temperature", 1, 0, "write a positive number of milliseconds"),
        ("temperature", 1, None, "cannot be NULL"),
        ("temperature", -1, MINUTE_MS, "before it starts"),
        (
            "temperature",
            11_001 / 3_600,
            1_000,
            "more than 11,000 points for a series; write an interval_ms of at least",
        ),
    ],
)
@pytest.mark.parametrize("call", ["metric_range({})", "metric_range_by({}, '{{instance}}')"])
def test_what_cannot_be_answered_is_an_error_that_says_what_to_do(
    past: Installation, call: str, *, selector: str, shift_hours: float, interval_ms: int, message: str
) -> None:
    arguments = call.format(":selector, :start, :finish, :interval_ms")
    finish = START + timedelta(hours=shift_hours)
    with pytest.raises(DBAPIError) as failed:
        ask(
            past,
            f"SELECT * FROM aggregator.{arguments}",  # noqa: S608 - written above
            selector=selector,
            start=START,
            finish=finish,
            interval_ms=interval_ms,
        )
    assert message in str(failed.value.orig)
    assert failed.value.orig.pgcode == "22023"  # type: ignore[union-attr] # psycopg2's own


def test_exactly_11_000_points_are_given(past: Installation) -> None:
    assert len(metric_range(past, "temperature", 1_000, hours=11_000 / 3_600)) == len(samples(Kind.GAUGE))


def test_sql_in_a_selector_stays_text(past: Installation) -> None:
    for value in ("t0' OR true --", "t0'; DROP SCHEMA aggregator CASCADE; --", "$1", "%s"):
        assert metric_range(past, f'temperature{{instance="{value}"}}', MINUTE_MS) == []
    assert len(metric_range(past, "temperature", HOUR_MS)) == 3


def test_extremes_never_abort_a_range(installation: Installation) -> None:
    (target,) = installation.targets(1)
    values = [1.7e308, 1.7e308, -1.7e308, 5e-324, 5e-324, float("inf"), 0.0, 1e-308, -1e308, float("-inf")]
    at_ms = milliseconds(START)
    installation.now += timedelta(hours=1)
    installation.collect(
        target, {at_ms + place * 15_000: {GAUGE: value, COUNTER: value} for place, value in enumerate(values * 8)}
    )
    installation.now += timedelta(days=2)
    installation.roll_up()
    for interval_ms in (15_000, 30_000, MINUTE_MS, 2 * MINUTE_MS, HOUR_MS, DAY_MS, 2 * DAY_MS):
        for selector in ("temperature", "requests_total"):
            found = metric_range(installation, selector, interval_ms)
            assert sum(row["count"] for row in found) == len(values) * 8
            assert found[0]["first"] == values[0]


@pytest.fixture
def live(database_url: str, tmp_path: Path) -> Iterator[Installation]:
    """An installation whose clock is the database's, in which the present stays open for longer than a test takes."""
    settings = settings_for(tmp_path).model_copy(update={"lateness": timedelta(hours=1)})
    with closing(Installation(database_url, datetime.now(UTC), settings)) as made:
        yield made


def test_the_open_interval_is_not_final_and_neither_is_one_with_a_dirty_bucket(live: Installation) -> None:
    (target,) = live.targets(1)
    hour = live.now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=3)
    minutes = [hour + timedelta(minutes=minute) for minute in range(20)]
    live.collect(target, {milliseconds(at): {GAUGE: 1.0} for at in minutes})
    live.collect(target, {milliseconds(live.now - timedelta(seconds=70)): {GAUGE: 1.0}})
    live.roll_up()

    def is_final(interval_ms: int) -> list[bool]:
        found = metric_range(live, "temperature", interval_ms, since=hour, hours=4)
        return [row["is_final"] for row in found]

    for interval_ms in (15_000, MINUTE_MS, 2 * MINUTE_MS):
        assert is_final(interval_ms) == [True] * (len(is_final(interval_ms)) - 1) + [False]
    # A sample that comes late for a minute without any: no row says so, but the ledger does.
    live.collect(target, {milliseconds(hour + timedelta(minutes=25, seconds=5)): {GAUGE: 1.0}})
    assert is_final(20 * MINUTE_MS)[0] is True
    assert is_final(30 * MINUTE_MS)[0] is False
    live.roll_up()
    assert is_final(30 * MINUTE_MS)[0] is True
