"""Days, weeks and months of four zones, over the changes of their clocks, through the real stages."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from aggregator.cli.app import run
from aggregator.exposition.series import Kind, SeriesKey
from aggregator.rollups.buckets import from_milliseconds, milliseconds
from tests import oracle
from tests.installation import Installation, series_key, settings_for

START = datetime(1985, 12, 29, tzinfo=UTC)
LOOKBACK_MS = 30 * 60 * 1_000
INTERVAL_SECONDS = 15
SETTINGS = 'sample_retention = "5d"\nlookback = "30m"\n'
STEPS = ("1d", "1w", "1mo")
#: The zones by the ends of their tiers' names, with the instants (UTC) at which their clocks were changed.
CHANGES = {
    "nepal": ("Asia/Kathmandu", ["1985-12-31T18:30"]),
    "new_york": ("America/New_York", ["2025-03-09T07:00", "2025-11-02T06:00"]),
    "berlin": ("Europe/Berlin", ["2025-03-30T01:00", "2025-10-26T01:00"]),
    "lord_howe": ("Australia/Lord_Howe", ["2025-04-05T15:00", "2025-10-04T15:30"]),
}
GAUGE, COUNTER = series_key("g", 0, Kind.GAUGE), series_key("c_total", 0, Kind.COUNTER)
#: How many merges lie between the samples and a tier, at most.
MOST_LEVELS = 6

FirstDay = Callable[[date], date]


#: Step, end of the name, and zone of each tier by the calendar.
ALL_TIERS = (
    *((step, f"_{end}", zone) for end, (zone, _) in CHANGES.items() for step in STEPS),
    ("1w", "", "UTC"),
    ("1mo", "", "UTC"),
    ("3mo", "_lord_howe", "Australia/Lord_Howe"),
)
FEW_TIERS = tuple(tier for tier in ALL_TIERS if tier[1:] in (("_berlin", "Europe/Berlin"), ("", "UTC")))


@pytest.fixture
def installation(database_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Installation]:
    """With the tiers of the test's parameter beside the default ones."""
    file = tmp_path / "aggregator.toml"
    text = '[[tiers]]\nname = "{0}{1}"\nstep = "{0}"\nretention = "50y"\ntimezone = "{2}"\n'
    file.write_text(SETTINGS + "".join(text.format(*tier) for tier in request.param))
    with closing(Installation(database_url, START, settings_for(tmp_path, AGGREGATOR_CONFIG=str(file)))) as made:
        yield made


def scripted(randomness: random.Random, change: datetime) -> dict[int, dict[SeriesKey, float]]:
    """Samples from 27 hours before the change to 27 hours after, with gaps and resets."""
    at, count, samples = change - timedelta(hours=27), 0.0, {}
    while (at := at + timedelta(minutes=randomness.choice([4, 7, 13, 29, 30, 31, 44, 121]))) < change + timedelta(
        hours=27
    ):
        count = 0.0 if randomness.random() < 0.05 else count + randomness.randrange(1_000) / 8
        values = {GAUGE: randomness.uniform(-1e6, 1e6), COUNTER: count}
        samples[milliseconds(at) + randomness.randrange(1_000)] = values
    samples[milliseconds(change)] = {GAUGE: 1.0, COUNTER: count}
    samples[milliseconds(change) - 1] = {GAUGE: 2.0, COUNTER: count}
    return samples


def collect(
    installation: Installation, samples: Mapping[int, Mapping[SeriesKey, float]], *, order: random.Random
) -> None:
    """Store the samples in three parts that come in any order, rolling up after the first."""
    (target,) = installation.targets(1)
    installation.now = from_milliseconds(max(samples)) + timedelta(hours=1)
    instants = sorted(samples)
    parts = [instants[part * len(instants) // 3 : (part + 1) * len(instants) // 3] for part in range(3)]
    order.shuffle(parts)
    for number, part in enumerate(parts):
        installation.collect(target, {at: samples[at] for at in part})
        if number == 0:
            installation.roll_up()


def first_days(step: str) -> FirstDay:
    """The first day of the week, month or quarter that holds a day, by the calendar and by nothing of ours."""
    return {
        "1d": lambda day: day,
        "1w": lambda day: day - timedelta(days=day.weekday()),
        "1mo": lambda day: day.replace(day=1),
        "3mo": lambda day: day.replace(day=1, month=(day.month - 1) // 3 * 3 + 1),
    }[step]


def local_bucket(at_ms: int, zone: ZoneInfo, first_day: FirstDay) -> tuple[datetime, datetime]:
    """Start and end (UTC) of the bucket that holds an instant; these zones have one midnight a day."""
    first = first_day(from_milliseconds(at_ms).astimezone(zone).date())
    after = next(day for days in itertools.count(1) if (day := first + timedelta(days=days)) == first_day(day))
    start, end = (datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC) for day in (first, after))
    return start, end


def fixed_bucket(at_ms: int, seconds: int) -> tuple[datetime, datetime]:
    start = from_milliseconds(at_ms // (seconds * 1_000) * seconds * 1_000)
    return start, start + timedelta(seconds=seconds)


def views() -> Iterator[tuple[str, Callable[[int], tuple[datetime, datetime]]]]:
    """Every view with what gives the bucket of an instant."""
    for name, seconds in (("1m", 60), ("5m", 300), ("1h", 3_600), ("1d", 86_400)):
        yield f"metrics_{name}", lambda at, seconds=seconds: fixed_bucket(at, seconds)  # type: ignore[misc] # a default binds
    for step, end, zone in ALL_TIERS:
        days, info = first_days(step), ZoneInfo(zone)
        yield f"metrics_{step}{end}", lambda at, info=info, days=days: local_bucket(at, info, days)  # type: ignore[misc] # as above


def assert_equals_oracle(
    installation: Installation,
    view: str,
    buckets: set[tuple[datetime, datetime]],
    key: SeriesKey,
    values: dict[int, float],
) -> None:
    """These rows and no others, every column of them."""
    rows = {time: row for (metric, _, time), row in installation.rows(view).items() if metric == key.metric}
    assert set(rows) == {start for start, _ in buckets}, view
    for start, end in buckets:
        bounds = milliseconds(start), milliseconds(end)
        if key.kind is Kind.COUNTER:
            expected = oracle.counter_row(values.items(), *bounds, level=MOST_LEVELS, lookback_ms=LOOKBACK_MS)
        else:
            expected = oracle.gauge_row(values.items(), *bounds, level=MOST_LEVELS)
        row = rows[start]
        for name, column in expected.items():
            assert column.accepts(row[name]), (view, start, name, row[name], column)
        slots = (end - start) / timedelta(seconds=INTERVAL_SECONDS)
        assert row["completeness"] == pytest.approx(min(1, row["count"] / slots)), (view, start)
        assert row["is_final"] is True, (view, start)


@pytest.mark.parametrize("installation", [ALL_TIERS], indirect=True, ids=["all"])
def test_every_column_of_every_local_tier_equals_the_oracle(installation: Installation) -> None:
    randomness = random.Random(7)  # noqa: S311 - a test's own randomness
    changes = sorted(datetime.fromisoformat(f"{change}Z") for _, own in CHANGES.values() for change in own)
    samples: dict[int, dict[SeriesKey, float]] = {}
    for change in changes:
        part = scripted(randomness, change)
        collect(installation, part, order=randomness)
        samples |= part
    installation.now += timedelta(days=100)
    installation.roll_up()
    assert installation.marks() == []
    for view, bucket_of in views():
        buckets = {bucket_of(at) for at in samples}
        for key in (GAUGE, COUNTER):
            assert_equals_oracle(installation, view, buckets, key, {at: values[key] for at, values in samples.items()})


@pytest.mark.parametrize("installation", [FEW_TIERS], indirect=True, ids=["few"])
def test_a_late_sample_makes_its_own_buckets_not_final_and_no_others(installation: Installation) -> None:
    (target,) = installation.targets(1)
    change = datetime(2025, 10, 26, 1, tzinfo=UTC)
    hours = {milliseconds(change + timedelta(hours=hour)): {GAUGE: float(hour)} for hour in range(-48, 48)}
    installation.now = change + timedelta(days=3)
    installation.collect(target, hours)
    installation.now += timedelta(days=40)
    installation.roll_up()
    installation.now = change + timedelta(days=3)
    # The last minute of the long day, 25 October 22:00Z to 26 October 23:00Z.
    installation.collect(target, {milliseconds(datetime(2025, 10, 26, 22, 59, tzinfo=UTC)): {GAUGE: 7.0}})

    def not_final(view: str) -> list[str]:
        rows = installation.rows(view)
        return sorted(time.isoformat() for (_, _, time), row in rows.items() if not row["is_final"])

    assert not_final("metrics_1d_berlin") == ["2025-10-25T22:00:00+00:00"]
    assert not_final("metrics_1w_berlin") == ["2025-10-19T22:00:00+00:00"]
    assert not_final("metrics_1mo_berlin") == ["2025-09-30T22:00:00+00:00"]
    assert not_final("metrics_1d") == ["2025-10-26T00:00:00+00:00"]
    assert not_final("metrics_1mo") == ["2025-10-01T00:00:00+00:00"]


@pytest.mark.parametrize("installation", [FEW_TIERS], indirect=True, ids=["few"])
def test_query_shows_local_days_by_their_own_clock(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (target,) = installation.targets(1)
    change = datetime(2025, 10, 26, 1, tzinfo=UTC)
    installation.now = change + timedelta(days=3)
    installation.collect(
        target, {milliseconds(change + timedelta(hours=hour)): {GAUGE: float(hour)} for hour in (-24, 0, 24)}
    )
    installation.now += timedelta(days=40)
    installation.roll_up()
    monkeypatch.setenv("AGGREGATOR_DATABASE_URL", installation.url)
    span = ("--from", "2025-10-01T00:00:00+02:00", "--to", "2025-11-01T00:00:00+01:00", "--stat", "count")

    def table(step: str) -> list[list[str]]:
        assert run(("query", "g", "--step", step, *span)) == 0
        return [line.split()[:2] for line in capsys.readouterr().out.splitlines()[2:]]

    assert table("1d_berlin") == [
        ["2025-10-25T00:00:00+02:00", "1"],
        ["2025-10-26T00:00:00+02:00", "1"],
        ["2025-10-27T00:00:00+01:00", "1"],
    ]
    assert table("1mo_berlin") == [["2025-10-01T00:00:00+02:00", "3"]]
    assert table("1d") == [[f"2025-10-{day}T00:00:00Z", "1"] for day in (25, 26, 27)]
