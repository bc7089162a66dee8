"""An installation with two and a half hours of samples, rolled up, for tests that read ranges of it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import text

from aggregator.embedded.postgres import EmbeddedPostgres
from aggregator.exposition.series import Kind
from aggregator.rollups.buckets import milliseconds
from tests.databases import create_database, drop_database
from tests.installation import Installation, series_key, settings_for

START = datetime(2026, 3, 2, tzinfo=UTC)
GAUGE = series_key("temperature", 0, Kind.GAUGE)
COUNTER = series_key("requests_total", 0, Kind.COUNTER)
SECONDS = range(7, 9_000, 15)

Row = dict[str, Any]


def samples(kind: Kind) -> dict[int, float]:
    """Two and a half hours at 15 s, with a gap within a bucket, one of some minutes, and a reset."""
    kept = [second for second in SECONDS if not (120 <= second < 150 or 2_400 <= second < 3_060)]
    start_ms = milliseconds(START)
    if kind is Kind.GAUGE:
        return {start_ms + second * 1_000: 1e6 + second % 97 / 8 for second in kept}
    return {start_ms + second * 1_000: float(second % 4_000) for second in kept}


def fill(installation: Installation, *, targets: int = 1) -> None:
    """Collect the samples, of the counter and of as many gauges as there are targets, and roll them up."""
    gauge, counter = samples(Kind.GAUGE), samples(Kind.COUNTER)
    installation.now += timedelta(hours=3)
    for place, target in enumerate(installation.targets(targets)):
        # The others have fewer samples of larger values: an average of averages would show.
        here = {at: value for number, (at, value) in enumerate(gauge.items()) if number % (place + 1) == 0}
        own = series_key("temperature", place, Kind.GAUGE)
        other = series_key("requests_total", place, Kind.COUNTER)
        installation.collect(target, {at: {own: value * (place + 1), other: counter[at]} for at, value in here.items()})
    installation.now += timedelta(days=2)
    installation.roll_up()


@contextmanager
def ranged(server: EmbeddedPostgres, template: str, directory: Path, *, targets: int = 1) -> Iterator[Installation]:
    """Such an installation in a database of its own, for tests that only read."""
    name = f"ranged_{uuid.uuid4().hex}"
    url = create_database(server, name, template=template)
    try:
        with closing(Installation(url, START, settings_for(directory))) as made:
            fill(made, targets=targets)
            yield made
    finally:
        drop_database(server, name)


def ask(installation: Installation, statement: str, **values: object) -> list[Row]:
    """The rows of a statement."""
    with installation.database.engine.connect() as connection:
        return [dict(row) for row in connection.execute(text(statement), values).mappings()]


def metric_range(
    installation: Installation, selector: str, interval_ms: int, *, since: datetime = START, hours: float = 3
) -> list[Row]:
    """What `metric_range` gives, by time and instance."""
    return ask(
        installation,
        "SELECT * FROM aggregator.metric_range(:selector, :start, :finish, :interval_ms) ORDER BY time, instance",
        selector=selector,
        start=since,
        finish=since + timedelta(hours=hours),
        interval_ms=interval_ms,
    )
