"""Every query of docs/grafana.md, as the reader, as Grafana sends it, on data of which the answers are known."""

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
from tests.dashboards.files import NAMES, queries
from tests.dashboards.macros import Span, expand
from tests.dashboards.variables import Value, filled
from tests.databases import create_database, drop_database
from tests.installation import Installation, settings_for

START = datetime(2026, 3, 9, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)
MINUTE = timedelta(minutes=1)
DOCUMENT = (Path(__file__).parents[2] / "docs" / "grafana.md").read_text()
#: By heading; the headings of examples are a level deeper.
QUERIES: list[tuple[str, str]] = [
    (title, query)
    for title, section in re.findall(r"^##+ (.+?)$(.*?)(?=^##|\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    for query in re.findall(r"```sql\n(.*?)```", section, re.DOTALL)
]
VALUES = {"instance": Value("t0"), "instances": Value(("t0", "10.0.0.5:9100"), is_multiple=True)}
#: Seconds of the hour: nothing is collected in the first span, and the target is down in the second.
GAP = range(1_200, 2_100)
DOWN = range(3_000, 3_240)
ORDERS = 30

Row = dict[str, Any]


def key(metric: str, kind: Kind, **labels: str) -> SeriesKey:
    return SeriesKey(metric, tuple(sorted({"instance": "t0", "job": "scripted", **labels}.items())), kind)


def values_at(second: int, load: float) -> dict[SeriesKey, float]:
    """Ten requests a second, of which one fails and half take up to 0.1 s; twelve disks, each written to more."""
    requests = {
        key("http_requests_total", Kind.COUNTER, code=code): float(rate * second)
        for code, rate in (("200", 9), ("503", 1))
    }
    buckets = {
        key("http_request_duration_seconds_bucket", Kind.COUNTER, le=le): float(rate * second)
        for le, rate in (("0.1", 5), ("1", 10), ("+Inf", 10))
    }
    disks = {
        key("node_disk_written_bytes_total", Kind.COUNTER, device=f"sd{number:02}"): float(number * second)
        for number in range(1, 13)
    }
    host = {
        key("node_load1", Kind.GAUGE): load,
        key("up", Kind.GAUGE): float(second not in DOWN),
        key("node_cpu_seconds_total", Kind.COUNTER, cpu="0", mode="idle"): 0.5 * second,
        key("node_network_receive_bytes_total", Kind.COUNTER, device="eth0"): 10.0 * second,
    }
    return requests | buckets | disks | host


@pytest.fixture(scope="module")
def reading(
    postgres_server: EmbeddedPostgres, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """A reader's session; an hour of samples of this week, with a load of 2, and of last week, with a load of 1."""
    url = create_database(postgres_server, "grafana", template=migrated_template)
    with closing(Installation(url, START - WEEK + HOUR, settings_for(tmp_path_factory.mktemp("home")))) as made:
        (target,) = made.targets(1)
        for start, load in ((START - WEEK, 1.0), (START, 2.0)):
            made.now = start + HOUR
            seconds = [second for second in range(0, 3_600, 15) if second not in GAP]
            made.collect(target, {milliseconds(start) + second * 1_000: values_at(second, load) for second in seconds})
            made.now += timedelta(days=1)
            made.roll_up()
        reader = made.database.run(lambda connection: make_reader(connection, "grafana_reader", password=None))
    with closing(psycopg2.connect(url)) as owner, owner, owner.cursor() as cursor:
        cursor.execute("CREATE TABLE public.orders (created_at timestamptz)")
        cursor.execute("GRANT SELECT ON public.orders TO grafana_reader")
        orders = [(START + place * MINUTE,) for place in range(ORDERS)]
        psycopg2.extras.execute_values(cursor, "INSERT INTO public.orders VALUES %s", orders)
    with closing(psycopg2.connect(reader.url(url), cursor_factory=psycopg2.extras.RealDictCursor)) as connected:
        connected.autocommit = True
        yield connected
    drop_database(postgres_server, "grafana")
    with closing(psycopg2.connect(urlsplit(url)._replace(path="/postgres").geturl())) as owner:
        owner.autocommit = True
        owner.cursor().execute("DROP ROLE grafana_reader")


def rows(reading: Any, query: str) -> list[Row]:
    with reading.cursor() as cursor:
        cursor.execute(expand(filled(query, VALUES), Span(START, START + HOUR, MINUTE)))
        return list(cursor.fetchall())


def example(title: str, place: int = 0) -> str:
    return [query for heading, query in QUERIES if heading == title][place]


def values(found: list[Row], name: str) -> set[float]:
    return {round(row[name], 9) for row in found if row[name] is not None}


@pytest.mark.parametrize(
    ("title", "query"), QUERIES, ids=[f"{title}-{place}" for place, (title, _) in enumerate(QUERIES)]
)
def test_every_query_of_the_document_gives_what_grafana_can_show(reading: Any, title: str, query: str) -> None:
    found = rows(reading, query)
    assert found, title
    assert {type(value) for row in found for value in row.values()} <= {datetime, str, int, float, type(None)}
    if "time" in found[0]:
        assert [row["time"] for row in found] == sorted(row["time"] for row in found)


def test_the_document_says_how_many_queries_the_dashboards_have() -> None:
    """The tests of the dashboards run all of them: those of Host and Explore, and of Aggregator operations."""
    count = sum(len(queries(name)) for name in NAMES)
    print(f"{count} queries in {len(NAMES)} dashboards, {len(QUERIES)} in the document")  # noqa: T201 - what it shows
    assert f"Each of their {count} queries" in " ".join(DOCUMENT.split())


def test_rates_are_added_over_codes(reading: Any) -> None:
    assert values(rows(reading, example("Rate by instance")), "rate") == {10.0}


def test_one_request_in_ten_fails(reading: Any) -> None:
    assert values(rows(reading, example("Share of errors")), "errors") == {0.1}


def test_the_quantile_is_interpolated_in_its_bucket(reading: Any) -> None:
    """Half are below 0.1 s, all below 1 s: 95 % lie at nine tenths of the way between."""
    assert values(rows(reading, example("p95 of a latency histogram")), "p95") == {round(0.1 + 0.9 * 0.9, 9)}


def test_a_heat_map_has_each_observation_in_one_bucket(reading: Any) -> None:
    last = rows(reading, example("Heat map of a histogram"))[-3:]
    assert [(row["le"], row["count"]) for row in last] == [("0.1", 300.0), ("1", 300.0), ("+Inf", 0.0)]


@pytest.mark.parametrize("place", [0, 1])
def test_the_ten_disks_that_are_written_to_most(reading: Any, place: int) -> None:
    found = rows(reading, example("Top 10 disks", place))
    assert sorted({row["device"] for row in found}) == [f"sd{number:02}" for number in range(3, 13)]
    assert place == 1 or [row["device"] for row in found[:2]] == ["sd12", "sd11"]


def test_last_week_lies_over_this_week(reading: Any) -> None:
    found = {(row["time"], row["week"]): row["avg"] for row in rows(reading, example("This week against last"))}
    assert found == {(START, "this week"): 2.0, (START, "last week"): 1.0}


def test_requests_for_each_order(reading: Any) -> None:
    """Ten a second, in the hour without its gap and without what came before its first sample."""
    (row,) = rows(reading, example("Beside a business table"))
    assert row["time"] == START
    assert row["requests_per_order"] == pytest.approx(10 * (3_585 - 915) / ORDERS)


def test_an_interval_that_is_not_complete_enough_is_a_gap(reading: Any) -> None:
    found = rows(reading, example("Completeness as a threshold"))
    assert [row["time"] for row in found] == [START + place * 5 * MINUTE for place in (0, 1, 2, 3, 7, 8, 9, 10, 11)]
    assert values(found, "avg") == {2.0}


def test_a_gap_has_the_value_before_it(reading: Any) -> None:
    found = rows(reading, example("A gap filled"))
    assert [row["time"] for row in found] == [START + place * 5 * MINUTE for place in range(13)]
    assert values(found, "last") == {2.0}
    assert None not in [row["last"] for row in found]


def test_the_last_known_value_has_an_age(reading: Any) -> None:
    (row,) = rows(reading, example("Last known value"))
    assert row == {"instance": "t0", "last": 2.0, "age": 60.0}


def test_a_span_in_which_a_target_was_down_is_one_region(reading: Any) -> None:
    (row,) = rows(reading, example("An annotation"))
    assert (row["time"], row["timeend"]) == (START + 50 * MINUTE, START + 54 * MINUTE)
    assert row["text"] == "t0 was down"


def test_an_alert_has_one_number_by_instance(reading: Any) -> None:
    assert rows(reading, example("An alert rule")) == [{"instance": "t0", "load": 2.0}]


def test_a_day_begins_at_local_midnight(reading: Any) -> None:
    (row,) = rows(reading, example("By day, in local time"))
    assert row["time"] == datetime(2026, 3, 8, 23, tzinfo=UTC)
    assert row["requests"] == pytest.approx(10 * (3_585 - 915))
