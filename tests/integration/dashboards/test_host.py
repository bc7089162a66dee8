"""Every query of the dashboard *Host*, as the reader, as Grafana sends it, on real data."""

from __future__ import annotations

import psycopg2
import pytest

from tests.dashboards.files import Query, queries
from tests.dashboards.stock import GIGABYTE, INSTANCES, OPEN_SINCE
from tests.dashboards.variables import Value
from tests.integration.dashboards.conftest import Answer, Reading, assert_shape

ALL = Value((), is_multiple=True, all_text=".*")
HOST = {query.owner: query for query in queries("host")}
#: What a viewer may type, or write into the address.
HOSTILE = (
    "'; DROP TABLE aggregator.targets; --",
    "x' OR 'a' = 'a",
    "') OR true --",
    "\\'; SELECT pg_sleep(60); --",
    "$q$; SELECT pg_sleep(60); --",
    "\\$q\\$) OR true --",
    "$__timeFrom() OR true --",
    "${job:raw}",
    '"} or {x!="',
)


def chosen(*instances: str) -> Value:
    return Value(instances, is_multiple=True)


def asked(reading: Reading, query: Query, job: str, instance: Value = ALL) -> Answer:
    return reading.ask(query.sql({"job": Value(job), "instance": instance}, reading.start, reading.finish))


@pytest.mark.parametrize("query", HOST.values(), ids=HOST)
def test_every_query_of_host_gives_what_grafana_can_show(reading: Reading, query: Query) -> None:
    assert_shape(query, asked(reading, query, "node"))
    some = asked(reading, query, "node", chosen(*INSTANCES[:2]))
    assert_shape(query, some)
    assert {row["instance"] for row in some.rows if "instance" in row} <= set(INSTANCES[:2])


#: What a machine may lack: a container has no disk of its own, a kernel no pressure information.
MAY_LACK = {"Pressure"} | {owner for owner in HOST if owner.startswith(("Disk", "File systems", "Fullest", "Network"))}


@pytest.mark.parametrize("job", ["host", "exporter"])
@pytest.mark.parametrize("query", HOST.values(), ids=HOST)
def test_every_query_of_host_has_an_answer_for_this_machine(
    reading: Reading, exporter: str | None, query: Query, job: str
) -> None:
    """As the collector `host` reads it, and as a real node_exporter does: the metrics have the same names and kinds."""
    if job == "exporter" and exporter is None:
        pytest.skip("node_exporter is not installed")
    answer = asked(reading, query, job)
    if answer.rows or query.owner not in MAY_LACK:
        assert_shape(query, answer)


@pytest.mark.parametrize(
    ("panel", "expected"),
    [
        ("CPU busy", {0.25}),
        ("Memory used", {0.25}),
        ("Fullest file system", {0.6}),
        ("Load, one minute", {0.1}),
        ("CPU by mode", {0.75, 0.15, 0.08, 0.02}),
        ("Load", {0.1, 0.5, 1.5}),
        ("Swap used", {GIGABYTE / 2}),
        ("Disk throughput", {100.0, -100.0}),
        ("Disk utilisation", {0.25}),
        ("Network traffic", {1_000.0, -1_000.0}),
        ("Network errors and drops", {1.0}),
    ],
)
def test_a_panel_of_host_has_the_values_that_were_collected(reading: Reading, panel: str, expected: set[float]) -> None:
    found = {row["value"] for row in asked(reading, HOST[panel], "node").rows} - {None}
    assert sorted({round(value, 9) for value in found}) == pytest.approx(sorted(expected))


def test_memory_is_of_all_chosen_machines_together(reading: Reading) -> None:
    found = asked(reading, HOST["Memory"], "node").rows[5]
    parts = {name: found[name] / GIGABYTE / len(INSTANCES) for name in ("used", "reclaimable", "free")}
    assert parts == pytest.approx({"used": 2, "reclaimable": 5, "free": 1})


def test_completeness_and_success_name_the_tier_that_is_read(reading: Reading) -> None:
    rows = asked(reading, HOST["Completeness and success"], "node").rows
    assert {(row["tier"], row["complete"], row["reached"]) for row in rows[10:-10]} == {("1m", 1.0, 1.0)}


def test_the_open_interval_is_marked(reading: Reading) -> None:
    """However long ago: a sample waits to be rolled up."""
    (region,) = asked(reading, HOST["Not final"], "node").rows
    assert region["time"] <= reading.finish - OPEN_SINCE < region["timeend"]


@pytest.mark.parametrize("typed", HOSTILE)
def test_what_a_viewer_types_stays_text(reading: Reading, typed: str) -> None:
    """It is looked for and not found; the query neither fails nor does anything else."""
    for query in HOST.values():
        if query.kind != "variable":
            assert asked(reading, query, "node", chosen(typed)).rows == []
        assert asked(reading, query, typed).rows == [] or query.owner == "$job"


def test_what_would_be_another_selector_is_refused_as_one(reading: Reading) -> None:
    with pytest.raises(psycopg2.errors.InvalidParameterValue, match="selector"):
        asked(reading, HOST["Load"], "node", chosen("x`} or {y=`"))


def test_names_with_quotes_are_found(reading: Reading) -> None:
    for instance in INSTANCES:
        found = asked(reading, HOST["Load, one minute"], "node", chosen(instance))
        assert {row["instance"] for row in found.rows} == {instance}
