"""Quantiles over a range: of sketches and of histograms, grouped and in longer intervals, held against all samples."""

from __future__ import annotations

import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from aggregator.exposition.series import Kind, SeriesKey
from aggregator.rollups.buckets import from_milliseconds, milliseconds
from aggregator.rollups.sketch import RELATIVE_ERROR
from tests.installation import Installation, series_key
from tests.integration.test_quantile_functions import prometheus_quantile
from tests.integration.test_sketches import ask_for

START = datetime(2026, 3, 2, tzinfo=UTC)
TARGETS = 3
BOUNDS = ("0.1", "0.5", "2", "+Inf")
MINUTE_MS = 60_000
#: By place of the target: what the gauge was and when, and what the histogram's request took and when.
Given = dict[int, dict[int, float]]


class Measured:
    """An installation with twenty minutes of a gauge and of a histogram on three targets, and what was measured."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.gauge: Given = {place: {} for place in range(TARGETS)}
        self.requests: Given = {place: {} for place in range(TARGETS)}
        randomness = random.Random(5)  # noqa: S311 - a test's own randomness
        ask_for(installation, "latency")
        installation.now = START + timedelta(hours=1)
        for place, target in enumerate(installation.targets(TARGETS)):
            counts, collected = dict.fromkeys(BOUNDS, 0), {}
            for at in range(milliseconds(START), milliseconds(START) + 20 * MINUTE_MS, 5_000):
                value, took = randomness.lognormvariate(place, 1), randomness.lognormvariate(place - 1, 1)
                self.gauge[place][at], self.requests[place][at] = value, took
                counts = {bound: count + (took <= float(bound)) for bound, count in counts.items()}
                buckets = {bucket(place, bound): float(count) for bound, count in counts.items()}
                collected[at] = {gauge(place): value, **buckets}
            installation.collect(target, collected)
        installation.now += timedelta(days=1)
        installation.roll_up()

    def ask(self, function: str, *arguments: object) -> dict[tuple[datetime, str | None], dict[str, object]]:
        """The rows of a function for the twenty minutes, by time and instance."""
        q, selector, interval_ms, by = arguments
        finish = START + timedelta(minutes=20)
        values = {"q": q, "selector": selector, "start": START, "finish": finish, "interval_ms": interval_ms, "by": by}
        statement = f"SELECT * FROM aggregator.{function}(:q, :selector, :start, :finish, :interval_ms, :by)"  # noqa: S608 - ours
        with self.installation.database.engine.connect() as connection:
            rows = connection.execute(text(statement), values).mappings().all()
        found = {(row["time"], row["instance"]): dict(row) for row in rows}
        assert len(found) == len(rows)
        return found


def gauge(place: int) -> SeriesKey:
    return series_key("latency", place, Kind.GAUGE)


def bucket(place: int, bound: str) -> SeriesKey:
    return SeriesKey("took_bucket", (("instance", f"t{place}"), ("job", "scripted"), ("le", bound)), Kind.COUNTER)


@pytest.fixture
def measured(installation: Installation) -> Measured:
    return Measured(installation)


def by_interval(given: Given, interval_ms: int, *, apart: bool) -> dict[tuple[datetime, str | None], list[float]]:
    """All values by the start of their interval and, kept apart, by instance."""
    found = defaultdict(list)
    for place, values in given.items():
        for at, value in values.items():
            start = from_milliseconds(at // interval_ms * interval_ms)
            found[start, f"t{place}" if apart else None].append(value)
    return dict(found)


def test_a_quantile_of_sketches_is_within_one_percent_of_that_of_all_samples(measured: Measured) -> None:
    for interval_ms, tier in ((MINUTE_MS, "1m"), (2 * MINUTE_MS, "1m"), (5 * MINUTE_MS, "5m"), (10 * MINUTE_MS, "5m")):
        for apart in (True, False):
            for q in (0.0, 0.5, 0.95, 1.0):
                found = measured.ask("sketch_quantile_range", q, "latency", interval_ms, ["instance"] if apart else [])
                given = by_interval(measured.gauge, interval_ms, apart=apart)
                assert found.keys() == given.keys()
                for key, row in found.items():
                    exact = np.quantile(given[key], q, method="inverted_cdf")
                    assert row["quantile"] == pytest.approx(exact, rel=RELATIVE_ERROR * 1.001)
                    assert (row["count"], row["tier"], row["metric"]) == (len(given[key]), tier, "latency")
                    assert (row["completeness"], row["is_final"]) == (1, True)


def test_a_quantile_of_a_histogram_is_that_of_its_added_increases(measured: Measured) -> None:
    for interval_ms in (MINUTE_MS, 2 * MINUTE_MS, 5 * MINUTE_MS):
        for apart in (True, False):
            found = measured.ask(
                "histogram_quantile_range", 0.9, "took_bucket", interval_ms, ["instance"] if apart else []
            )
            given = by_interval(increasing(measured.requests), interval_ms, apart=apart)
            assert found.keys() == given.keys()
            for key, row in found.items():
                buckets = [(bound, float(sum(took <= float(bound) for took in given[key]))) for bound in BOUNDS]
                assert row["quantile"] == pytest.approx(prometheus_quantile(0.9, buckets), rel=1e-12)
                assert row["labels"] == ({"instance": key[1]} if apart else {})


def increasing(requests: Given) -> Given:
    """All requests but the first of each target, which a counter's first sample does not count."""
    return {place: dict(sorted(values.items())[1:]) for place, values in requests.items()}


def test_below_the_finest_step_sketches_are_those_of_the_finest_tier(measured: Measured) -> None:
    found = measured.ask("sketch_quantile_range", 0.5, "latency", 5_000, ["instance"])
    assert {row["tier"] for row in found.values()} == {"1m"}
    assert len(found) == 20 * TARGETS


def test_what_has_no_sketch_gives_no_rows_and_a_bad_call_an_error(measured: Measured) -> None:
    assert measured.ask("sketch_quantile_range", 0.5, "took_bucket", MINUTE_MS, []) == {}
    assert measured.ask("sketch_quantile_range", 0.5, "nothing", MINUTE_MS, []) == {}
    for function in ("sketch_quantile_range", "histogram_quantile_range"):
        with pytest.raises(DBAPIError, match="write a positive number of milliseconds"):
            measured.ask(function, 0.5, "latency", -1, [])
        with pytest.raises(DBAPIError, match="this quote is not closed"):
            measured.ask(function, 0.5, 'latency{a="', MINUTE_MS, [])


def test_an_interval_with_a_late_sample_that_waits_is_not_final(measured: Measured) -> None:
    installation = measured.installation
    (target, *_) = installation.targets(TARGETS)
    late = milliseconds(START) + 7 * MINUTE_MS + 1
    installation.collect(target, {late: {gauge(0): 1.0}})
    for interval_ms, start in ((MINUTE_MS, 7), (5 * MINUTE_MS, 5), (10 * MINUTE_MS, 0)):
        found = measured.ask("sketch_quantile_range", 0.5, "latency", interval_ms, [])
        waiting = {at for (at, _), row in found.items() if not row["is_final"]}
        assert waiting == {START + timedelta(minutes=start)}
