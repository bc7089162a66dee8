"""The table of docs/time.md: local days and weeks around a change of the clock, as the views show them.

`pytest -s` prints it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from aggregator.exposition.series import Kind
from aggregator.rollups.buckets import Ladder, milliseconds
from tests.installation import Installation, series_key, settings_for

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "time.md"
START = datetime(1985, 12, 28, tzinfo=UTC)
#: Days in Nepal are whole quarters of an hour.
EVERY = {"nepal": timedelta(minutes=15)}
ELSEWHERE = timedelta(minutes=30)
GAUGE = series_key("g", 0, Kind.GAUGE)
DAY, WEEK = timedelta(days=1), timedelta(days=7)
#: By the ends of their tiers' names: each zone, with the days on which its clock was changed.
ZONES = {
    "berlin": ("Europe/Berlin", ["2026-03-29", "2026-10-25"]),
    "new_york": ("America/New_York", ["2026-03-08", "2026-11-01"]),
    "lord_howe": ("Australia/Lord_Howe", ["2026-04-05", "2026-10-04"]),
    "nepal": ("Asia/Kathmandu", ["1986-01-01"]),
}
HEAD = ["zone", "bucket", "starts, local time", "starts, UTC", "hours", "samples"]


@pytest.fixture
def installation(database_url: str, tmp_path: Path) -> Iterator[Installation]:
    settings = ['sample_retention = "11d"\n']
    for end, (zone, _) in ZONES.items():
        for step in ("1d", "1w"):
            tier = f'name = "{step}_{end}"\nstep = "{step}"\nretention = "50y"\ntimezone = "{zone}"\n'
            settings.append(f"[[tiers]]\n{tier}")
    file = tmp_path / "aggregator.toml"
    file.write_text("".join(settings))
    with closing(Installation(database_url, START, settings_for(tmp_path, AGGREGATOR_CONFIG=str(file)))) as made:
        yield made


def buckets(zone: str, changed: str) -> list[tuple[str, datetime, datetime]]:
    """The week of a change, and the days before, of and after it."""
    noon = datetime.fromisoformat(f"{changed}T12:00").replace(tzinfo=ZoneInfo(zone))
    days, weeks = Ladder(DAY, zone), Ladder(WEEK, zone)
    found = [("1d", days, day) for day in days.starts(noon - DAY, noon + DAY)]
    found.insert(0, ("1w", weeks, weeks.start_of(noon)))
    return [(step, start, ladder.end_of(start)) for step, ladder, start in found]


def collect(installation: Installation, since: datetime, until: datetime, *, every: timedelta) -> None:
    """A sample at each step of so long; all at once, ten minutes after the end."""
    (target,) = installation.targets(1)
    count = (until - since) // every
    installation.now = until + timedelta(minutes=10)
    installation.collect(target, {milliseconds(since + every * place): {GAUGE: float(place)} for place in range(count)})


def row(zone: str, step: str, start: datetime, *, hours: float, samples: object) -> list[str]:
    local = start.astimezone(ZoneInfo(zone)).strftime("%a %Y-%m-%d %H:%M %z")
    return [zone, step, f"{local[:-2]}:{local[-2:]}", f"{start:%Y-%m-%d %H:%M}", f"{hours:g}", str(samples)]


def test_the_table_of_local_days_is_what_the_views_show(installation: Installation) -> None:
    for end, zone, changed in changes():
        starts, ends = zip(*((start, finish) for _, start, finish in buckets(zone, changed)), strict=True)
        collect(installation, min(starts), max(ends), every=EVERY.get(end, ELSEWHERE))
    installation.now += timedelta(days=40)
    installation.roll_up()
    lines = [HEAD, ["---"] * len(HEAD)]
    for end, zone, changed in changes():
        for step, start, finish in buckets(zone, changed):
            view = installation.rows(f"metrics_{step}_{end}")
            hours = (finish - start) / timedelta(hours=1)
            samples = view["g", "t0", start]["count"]
            assert samples == (finish - start) / EVERY.get(end, ELSEWHERE)
            lines.append(row(zone, step, start, hours=hours, samples=samples))
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    sys.stdout.write(f"\n{table}")
    assert table in DOCUMENT.read_text()


def changes() -> Iterator[tuple[str, str, str]]:
    """The end of the tiers' names, the zone and the day of each change, oldest first within a zone."""
    for end, (zone, days) in sorted(ZONES.items(), key=lambda item: item[1][1]):
        yield from ((end, zone, day) for day in days)
