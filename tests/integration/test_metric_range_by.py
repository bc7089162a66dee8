"""`metric_range_by` weighs by samples, and the lists that dashboards show: metrics and values of labels."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from aggregator.embedded.postgres import EmbeddedPostgres
from aggregator.exposition.series import Kind
from tests.installation import Installation
from tests.ranged import START, Row, ask, metric_range, ranged, samples

MINUTE_MS, HOUR_MS = 60_000, 3_600_000
TARGETS = 3


@pytest.fixture(scope="module")
def past(
    postgres_server: EmbeddedPostgres, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    with ranged(postgres_server, migrated_template, tmp_path_factory.mktemp("home"), targets=TARGETS) as made:
        yield made


def metric_range_by(past: Installation, selector: str, interval_ms: int, by: str) -> list[Row]:
    return ask(
        past,
        "SELECT * FROM aggregator.metric_range_by(:selector, :start, CAST(:start AS timestamptz) + interval '3 hours',"
        " :interval_ms, CAST(:by AS text[])) ORDER BY time, labels::text",
        selector=selector,
        start=START,
        interval_ms=interval_ms,
        by=by,
    )


def all_values(start_ms: int, end_ms: int) -> list[float]:
    """The samples of all gauges in an interval; the n-th has every n-th sample, n times as large."""
    return [
        value * (place + 1)
        for place in range(TARGETS)
        for number, (at, value) in enumerate(samples(Kind.GAUGE).items())
        if number % (place + 1) == 0 and start_ms <= at < end_ms
    ]


@pytest.mark.parametrize("interval_ms", [30_000, MINUTE_MS, 10 * MINUTE_MS, HOUR_MS])
def test_all_series_together_are_weighed_by_their_samples(past: Installation, interval_ms: int) -> None:
    found = metric_range_by(past, "temperature", interval_ms, "{job}")
    assert found
    for row in found:
        start_ms = round(row["time"].timestamp() * 1_000)
        values = all_values(start_ms, start_ms + interval_ms)
        mean = math.fsum(values) / len(values)
        assert (row["labels"], row["job"], row["instance"]) == ({"job": "scripted"}, "scripted", None)
        assert (row["count"], row["min"], row["max"]) == (len(values), min(values), max(values))
        assert row["avg"] == pytest.approx(mean, rel=1e-12)
        assert row["sum"] == pytest.approx(math.fsum(values), rel=1e-12)
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
        assert row["stddev"] == pytest.approx(deviation, rel=1e-6)
        assert (row["increase"], row["rate"]) == (None, None)
        assert row["series"] <= TARGETS


def test_by_all_labels_is_each_series_alone(past: Installation) -> None:
    alone = metric_range(past, "temperature", 10 * MINUTE_MS)
    found = metric_range_by(past, "temperature", 10 * MINUTE_MS, "{job,instance,absent}")
    names = ("time", "metric", "labels", "count", "min", "max", "completeness", "is_final", "tier")
    assert [{name: row[name] for name in names} for row in found] == [
        {name: row[name] for name in names} for row in alone
    ]
    assert [row["avg"] for row in found] == pytest.approx([row["avg"] for row in alone], rel=1e-12)
    assert {row["series"] for row in found} == {1}


def test_rates_and_increases_of_counters_are_added(past: Installation) -> None:
    alone = metric_range(past, "requests_total", HOUR_MS)
    found = metric_range_by(past, "requests_total", HOUR_MS, "{}")
    assert [row["labels"] for row in found] == [{}] * 3
    for row in found:
        parts = [one for one in alone if one["time"] == row["time"]]
        assert row["increase"] == pytest.approx(sum(one["increase"] for one in parts))
        assert row["rate"] == pytest.approx(sum(one["rate"] for one in parts))
        assert (row["avg"], row["stddev"], row["sum"]) == (None, None, None)


def test_metrics_stay_apart(past: Installation) -> None:
    found = metric_range_by(past, '{__name__=~"temperature|requests_total"}', HOUR_MS, "{job}")
    assert {row["metric"] for row in found} == {"temperature", "requests_total"}
    assert {row["avg"] is None for row in found if row["metric"] == "temperature"} == {False}


def test_metrics_and_the_values_of_labels_are_listed(past: Installation) -> None:
    assert ask(past, "SELECT * FROM aggregator.metric_names() AS name") == [
        {"name": "requests_total"},
        {"name": "temperature"},
    ]
    statement = "SELECT * FROM aggregator.label_values(:metric, :label) AS value"
    for metric, label, expected in (
        ("temperature", "instance", ["t0", "t1", "t2"]),
        ('temperature{instance=~"t[12]"}', "instance", ["t1", "t2"]),
        ("temperature", "absent", []),
        ("unknown", "instance", []),
    ):
        assert [row["value"] for row in ask(past, statement, metric=metric, label=label)] == expected
