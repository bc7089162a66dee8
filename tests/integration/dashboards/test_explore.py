"""Every query of the dashboard *Explore a metric*, for each statistic, and whatever is typed into its variables."""

from __future__ import annotations

import contextlib
import json
from datetime import timedelta

import psycopg2
import pytest

from tests.dashboards.files import Query, queries
from tests.dashboards.stock import HISTOGRAM, INSTANCES, MODES
from tests.dashboards.variables import Value
from tests.integration.dashboards.conftest import Answer, Reading, assert_shape

EXPLORE = {query.owner: query for query in queries("explore")}
HOSTILE = (
    "'; SELECT pg_sleep(60); --",
    "x' OR 'a' = 'a",
    "') OR true --",
    "pg_sleep(60)",
    "\\'); DROP ROLE x; --",
    "$q$) OR true --",
)
#: Minutes; in such a span intervals are a minute long.
LONG = 360
GAUGE = {"metric": "node_load1", "instance": ".*", "conditions": "", "statistic": "auto", "quantile": "0.5"}
GAUGE["by"] = "job"
COUNTER = {**GAUGE, "metric": "node_cpu_seconds_total", "conditions": 'job="node",mode!="iowait"', "by": "job,mode"}
BUCKETS = {**GAUGE, "metric": HISTOGRAM}
#: Panels that have an answer for one kind of metric only.
ONLY_OF = {"Quantile of a gauge": GAUGE, "Quantile of a histogram": BUCKETS}


def asked(reading: Reading, owner: str, choice: dict[str, str], *, minutes: float = 60) -> Answer:
    values = {name: Value(chosen) for name, chosen in choice.items()}
    all_text = ".*" if choice["instance"] == ".*" else ""
    values["instance"] = Value(choice["instance"], is_multiple=True, all_text=all_text)
    return reading.ask(EXPLORE[owner].sql(values, reading.finish - timedelta(minutes=minutes), reading.finish))


@pytest.mark.parametrize("choice", [GAUGE, COUNTER, BUCKETS], ids=["gauge", "counter", "buckets"])
@pytest.mark.parametrize("query", EXPLORE.values(), ids=EXPLORE)
def test_every_query_of_explore_gives_what_grafana_can_show(
    reading: Reading, query: Query, choice: dict[str, str]
) -> None:
    answer = asked(reading, query.owner, choice)
    if choice == ONLY_OF.get(query.owner, choice):
        assert_shape(query, answer)
    else:
        assert answer.rows == []


@pytest.mark.parametrize(
    ("choice", "statistic", "expected"),
    [
        (GAUGE, "max", 0.1),
        (GAUGE, "last", 0.1),
        (GAUGE, "stddev", 0.0),
        (GAUGE, "count", 4.0),
        (GAUGE, "sum", 0.4),
        ({**COUNTER, "conditions": 'job="node",mode="idle"'}, "increase", 45.0),
        ({**COUNTER, "conditions": 'job="node",mode="idle"'}, "auto", 0.75),
    ],
)
def test_the_statistic_that_is_chosen_is_shown(
    reading: Reading, choice: dict[str, str], statistic: str, expected: float
) -> None:
    one = {**choice, "instance": INSTANCES[2], "statistic": statistic}
    found = [row["value"] for row in asked(reading, "Each series", one, minutes=LONG).rows]
    assert found[5] == pytest.approx(expected)


def test_groups_are_sums_of_rates_over_what_is_not_named(reading: Reading) -> None:
    rows = asked(reading, "Grouped", COUNTER, minutes=LONG).rows
    found = {row["series"]: row["value"] for row in rows if row["time"] == rows[20]["time"]}
    processors = 2 * len(INSTANCES)
    expected = {f'{{"job": "node", "mode": "{mode}"}}': MODES[mode] * processors for mode in ("idle", "user", "system")}
    assert found == pytest.approx(expected)


def test_the_tier_follows_from_the_span(reading: Reading) -> None:
    for minutes, tier in ((5, "raw"), (LONG, "1m"), (5 * LONG, "5m")):
        assert [row["tier"] for row in asked(reading, "Tier", GAUGE, minutes=minutes).rows] == [tier]


@pytest.mark.parametrize("instance", INSTANCES)
def test_an_instance_is_found_by_its_name_whatever_it_holds(reading: Reading, instance: str) -> None:
    found = asked(reading, "Grouped", {**GAUGE, "instance": instance, "by": "instance"}).rows
    assert {row["series"] for row in found} == {json.dumps({"instance": instance})}


@pytest.mark.parametrize(
    ("choice", "expected"), [(GAUGE, 0.1), (BUCKETS, 0.1), ({**BUCKETS, "quantile": "0.95"}, 0.91)]
)
def test_the_quantile_that_is_chosen_is_shown(reading: Reading, choice: dict[str, str], expected: float) -> None:
    owner = "Quantile of a gauge" if choice == GAUGE else "Quantile of a histogram"
    found = [row["value"] for row in asked(reading, owner, {**choice, "conditions": 'job="node"'}).rows]
    assert found[5] == pytest.approx(expected)


@pytest.mark.parametrize("name", ["metric", "instance", "conditions", "statistic", "by"])
@pytest.mark.parametrize("typed", HOSTILE)
def test_what_a_viewer_types_stays_text(reading: Reading, name: str, typed: str) -> None:
    """A selector that cannot be read is refused with a reason; everything else is looked for or means `auto`."""
    for owner in EXPLORE:
        # The literal is whole: it is either answered or refused by what reads selectors.
        with contextlib.suppress(psycopg2.errors.InvalidParameterValue):
            assert asked(reading, owner, {**GAUGE, name: typed}).columns


@pytest.mark.parametrize("typed", ["'", "pg_sleep(60)", "1' || '"])
def test_a_quantile_that_is_no_number_is_an_error(reading: Reading, typed: str) -> None:
    for owner, query in EXPLORE.items():
        if "$quantile" in query.text:
            with pytest.raises(psycopg2.errors.InvalidTextRepresentation):
                asked(reading, owner, {**GAUGE, "quantile": typed})
