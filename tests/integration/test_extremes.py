"""Values at the ends of the range of doubles blank no view: PostgreSQL raises where a quotient leaves that range."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest

from aggregator.exposition.series import Kind
from aggregator.rollups.buckets import milliseconds
from tests.installation import Installation, series_key

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
TINY, HUGE = 5e-324, 1e308
GAUGE, COUNTER = series_key("g", 0, Kind.GAUGE), series_key("c_total", 0, Kind.COUNTER)


@pytest.mark.parametrize(
    ("values", "average", "rate"),
    [
        pytest.param((0.0, TINY), 0.0, 0.0, id="tiny"),
        pytest.param((0.0, HUGE), HUGE / 2, math.inf, id="huge"),
        pytest.param((HUGE, HUGE, HUGE), math.inf, 0.0, id="a sum beyond the range"),
        pytest.param((0.0, math.inf), math.inf, None, id="infinite"),
        pytest.param((-math.inf, math.inf), None, None, id="infinite both ways"),
    ],
)
def test_every_tier_can_be_read_whatever_the_values(
    installation: Installation, values: tuple[float, ...], average: float | None, rate: float | None
) -> None:
    (target,) = installation.targets(1)
    # So close that a rate per second of something huge leaves the range.
    samples = {milliseconds(START) + 20 * place: {GAUGE: one, COUNTER: one} for place, one in enumerate(values)}
    installation.collect(target, samples)
    installation.now = START.replace(day=3)
    installation.roll_up()
    for view in ("metrics_1m", "metrics_5m", "metrics_1h", "metrics_1d"):
        rows = {metric: row for (metric, _, _), row in installation.rows(view).items()}
        assert rows["g"]["avg"] == average
        assert rows["c_total"]["rate"] == rate
        assert rows["g"]["count"] == rows["c_total"]["count"] == len(values)
