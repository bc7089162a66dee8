"""Every query of docs/sql.md, with Grafana's macros expanded, as the reader, on a database with something to find."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import psycopg2.extras
import pytest

from aggregator.embedded.postgres import EmbeddedPostgres
from aggregator.exposition.series import Kind, SeriesKey
from aggregator.rollups.buckets import milliseconds
from aggregator.storage.reader_role import make_reader
from tests.dashboards.macros import Span, expand
from tests.dashboards.variables import Value, filled
from tests.databases import create_database, drop_database
from tests.installation import Installation, series_key, settings_for

START = datetime(2026, 3, 9, tzinfo=UTC)
HOUR = timedelta(hours=1)
DOCUMENT = (Path(__file__).parents[2] / "docs" / "sql.md").read_text()
#: By section; a block that is no query would be one that people cannot run.
QUERIES = [
    (title, query)
    for title, section in re.findall(r"^## (.+?)$(.*?)(?=^## |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    for query in re.findall(r"```sql\n(.*?)```", section, re.DOTALL)
]
LOAD = series_key("node_load1", 0, Kind.GAUGE)


def other(metric: str, **labels: str) -> SeriesKey:
    return SeriesKey(metric, tuple(sorted({"instance": "t0", "job": "scripted", **labels}.items())), Kind.COUNTER)


def values_at(second: int) -> dict[SeriesKey, float]:
    """Of a host: its load rises by one in ten minutes; its interfaces receive 10 and 1,000 bytes a second."""
    received = {
        other("node_network_receive_bytes_total", device=name): float(rate * second)
        for name, rate in (("lo", 1_000), ("eth0", 10))
    }
    bounds = {other("http_request_duration_seconds_bucket", le=le): float(second) for le in ("0.1", "+Inf")}
    return {LOAD: second / 600, **received, **bounds}


@pytest.fixture(scope="module")
def reading(
    postgres_server: EmbeddedPostgres, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """A reader's session; there is an hour of samples this week, with a gap, and one of the week before."""
    url = create_database(postgres_server, "documented", template=migrated_template)
    with closing(
        Installation(url, START - timedelta(days=7) + HOUR, settings_for(tmp_path_factory.mktemp("home")))
    ) as made:
        (target,) = made.targets(1)
        for week_start in (START - timedelta(days=7), START):
            made.now = week_start + HOUR
            seconds = [second for second in range(0, 3_600, 15) if not 1_200 <= second < 2_100]
            made.collect(target, {milliseconds(week_start) + second * 1_000: values_at(second) for second in seconds})
            made.now += timedelta(days=1)
            made.roll_up()
        reader = made.database.run(lambda connection: make_reader(connection, "documented_reader", password=None))
        with closing(psycopg2.connect(reader.url(url), cursor_factory=psycopg2.extras.RealDictCursor)) as connected:
            connected.autocommit = True
            yield connected
    drop_database(postgres_server, "documented")
    with closing(psycopg2.connect(urlsplit(url)._replace(path="/postgres").geturl())) as owner:
        owner.autocommit = True
        owner.cursor().execute("DROP ROLE documented_reader")


def expanded(query: str) -> str:
    """The query as Grafana sends it for the hour."""
    return expand(filled(query, {"instance": Value("t0")}), Span(START, START + HOUR, timedelta(minutes=1)))


def rows_of(reading: Any, query: str) -> list[dict[str, Any]]:
    with reading.cursor() as cursor:
        cursor.execute(expanded(query))
        return list(cursor.fetchall())


@pytest.mark.parametrize(
    ("title", "query"), QUERIES, ids=[f"{title}-{place}" for place, (title, _) in enumerate(QUERIES)]
)
def test_every_query_of_the_document_runs(reading: Any, title: str, query: str) -> None:
    found = rows_of(reading, query)
    assert found or "sketches_" in query, title
    if found and "time" in found[0] and "DISTINCT ON" not in query:
        assert [row["time"] for row in found] == sorted(row["time"] for row in found)


def pattern(words: str) -> str:
    return next(query for title, query in QUERIES if title == "Patterns" and words in query)


def test_a_gap_is_there_and_has_no_value(reading: Any) -> None:
    found = rows_of(reading, pattern("found.avg"))
    assert [row["time"] for row in found] == [START + timedelta(minutes=minute) for minute in range(0, 61, 5)]
    assert [place for place, row in enumerate(found) if row["avg"] is None] == [4, 5, 6, 12]


def test_a_gap_has_the_value_before_it(reading: Any) -> None:
    found = [row["last"] for row in rows_of(reading, pattern("part"))]
    assert found[3:7] == [1_185 / 600] * 4
    assert found[7] == pytest.approx(2_385 / 600)
    assert None not in found


def test_the_last_known_value_is_that_of_the_last_interval(reading: Any) -> None:
    (row,) = rows_of(reading, pattern("DISTINCT ON"))
    assert (row["time"], row["last"]) == (START + timedelta(minutes=59), 3_585 / 600)


def test_last_week_stands_beside_this_week(reading: Any) -> None:
    (row,) = rows_of(reading, pattern("week_before"))
    assert row["avg"] == row["week_before"] > 0


def test_rates_are_added_over_the_other_labels(reading: Any) -> None:
    found = rows_of(reading, next(query for title, query in QUERIES if "metric_range_by" in query))
    assert {row["rate"] for row in found if row["rate"] is not None} == {10.0}
