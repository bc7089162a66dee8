"""`/api/v1/range` over real HTTP: the rows that `aggregator query --format json` prints."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

from aggregator.serving import range_api
from aggregator.serving.observer import Addresses
from tests.integration.serving.test_web import CLOSED_PORT, Site, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.serving.conftest import Past

PATH = "/api/v1/range"


@pytest.fixture(scope="module")
def site(shared: Past) -> Iterator[Site]:
    with serving(Addresses(shared.url)) as started:
        yield started


def asked(site: Site, **parameters: str) -> tuple[int, Any]:
    status, headers, body = site.get(f"{PATH}?{urlencode(parameters)}")
    assert headers["Content-Type"] == "application/json"
    return status, json.loads(body)


def test_rows_have_the_fields_that_query_prints(site: Site) -> None:
    selector = 'temperature{job="scripted"}'
    status, rows = asked(site, selector=selector, stat="avg,max,rate", **{"from": "-30m"})
    assert status == 200
    assert {row["labels"]["instance"] for row in rows} == {"t0", "t1"}
    for row in rows:
        expected = ("time", "metric", "labels", "avg", "max", "rate", "completeness", "is_final", "tier")
        assert tuple(row) == expected
        assert (row["metric"], row["tier"], row["rate"]) == ("temperature", "1m", None)
        assert datetime.fromisoformat(row["time"]).tzinfo == UTC
    assert rows == sorted(rows, key=lambda row: (row["labels"]["instance"], row["time"]))
    status, raw = asked(site, selector=selector, step="raw")
    assert status == 200
    assert {tuple(row) for row in raw} == {("time", "metric", "labels", "value", "completeness", "is_final", "tier")}


def test_an_unknown_metric_has_no_rows(site: Site) -> None:
    assert asked(site, selector="nothing") == (200, [])


@pytest.mark.parametrize(
    ("parameters", "error"),
    [
        ({}, "selector is missing; write one such as selector=node_load1"),
        ({"selector": "node_load1{"}, "column"),
        ({"selector": "x", "from": "now", "to": "-1h"}, "from=now is not before to=-1h; turn them round"),
        ({"selector": "x", "from": "yesterday"}, "'yesterday' is no time; write -2h"),
        ({"selector": "x", "from": "2026-01-01T00:00:00"}, "has no offset"),
        ({"selector": "x", "step": "7m"}, "no tier has the step 7m; write one of 1m, 5m, 1h, 1d"),
        ({"selector": "x", "stat": "mode"}, "no statistic is called mode; there are count"),
        ({"selector": "x", "start": "-1h"}, "no parameter is called start; there are selector, from, to, step, stat"),
    ],
)
def test_a_question_that_cannot_be_answered_is_told_what_to_write(
    site: Site, parameters: dict[str, str], error: str
) -> None:
    status, body = asked(site, **parameters)
    assert (status, list(body)) == (400, ["error"])
    assert error in body["error"]
    assert "\n" not in body["error"]


def test_sql_in_a_selector_stays_text(site: Site) -> None:
    status, rows = asked(site, selector="""temperature{instance="'; DROP TABLE aggregator.series; --"}""")
    assert (status, rows) == (200, [])
    assert asked(site, selector="temperature", **{"from": "-30m"})[1]


def test_an_answer_with_too_many_rows_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(range_api, "MOST_ROWS", 1)
    status, body = asked(site, selector="temperature", **{"from": "-30m"})
    assert status == 400
    assert "more than 1 rows; narrow the selector" in body["error"]


def test_without_the_database_it_says_so() -> None:
    with serving(Addresses(f"postgresql://u:hidden@127.0.0.1:{CLOSED_PORT}/d")) as site:
        status, body = asked(site, selector="temperature")
    assert status == 503
    assert "AGGREGATOR_DATABASE_URL" in body["error"]
    assert "hidden" not in body["error"]
