"""A counter that counts ten million ups and is reset fifty times: not one is lost or counted twice in any tier."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt

from aggregator.exposition.series import Kind
from aggregator.rollups.buckets import milliseconds
from tests.installation import Installation, series_key

START = datetime(2026, 3, 1, 21, 7, 3, tzinfo=UTC)
UPS = 10_000_000
RESETS = 50
DAYS = 2
INTERVAL_MS = 15_000
SAMPLES = DAYS * 86_400_000 // INTERVAL_MS
PARTS = 4
VIEWS = ("metrics_1m", "metrics_5m", "metrics_1h", "metrics_1d")


def counted(randomness: np.random.Generator) -> npt.NDArray[np.float64]:
    """The counter at each sample: it begins at 0, and after a reset it has what was counted since."""
    ups = randomness.multinomial(UPS, np.full(SAMPLES - 1, 1 / (SAMPLES - 1)))
    resets = set((np.sort(randomness.choice(SAMPLES // 20, RESETS, replace=False)) * 20 + 19).tolist())
    values = [0]
    for step, up in enumerate(ups.tolist()):
        values.append(up if step in resets else values[-1] + up)
    return np.array(values, dtype=np.float64)


def test_ten_million_ups_with_fifty_resets_are_ten_million_in_every_tier(installation: Installation) -> None:
    (target,) = installation.targets(1)
    key = series_key("c_total", 0, Kind.COUNTER)
    values = counted(np.random.default_rng(50))
    assert np.count_nonzero(np.diff(values) < 0) == RESETS
    # The parts come in an order that leaves each edge between them to a late one.
    for part in (0, 2, 3, 1):
        places = range(part * SAMPLES // PARTS, (part + 1) * SAMPLES // PARTS)
        installation.now = max(installation.now, START + timedelta(milliseconds=INTERVAL_MS * places[-1]))
        at_ms = milliseconds(START)
        installation.collect(target, {at_ms + INTERVAL_MS * place: {key: values[place]} for place in places})
        installation.roll_up()
    installation.now += timedelta(days=1)
    installation.roll_up()
    for view in VIEWS:
        rows = installation.rows(view).values()
        assert sum(row["increase"] for row in rows) == UPS, view
        assert sum(row["count"] for row in rows) == SAMPLES, view
    assert installation.marks() == []
