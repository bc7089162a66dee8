"""What tests of rules do again and again: publish, store samples of two targets, look at the outputs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from aggregator.collectors.protocol import Target
from aggregator.config.model import Rule
from aggregator.exposition.series import Kind
from aggregator.rollups.buckets import milliseconds
from tests.installation import Installation, series_key
from tests.ruled import publish_rules

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
ALL = Rule(name="all:g", select="g", by=())
EACH = Rule(name="each:g", select="g", by=("instance",))


def publish(installation: Installation, *rules: Rule) -> None:
    installation.database.run(lambda found: publish_rules(found, installation.settings, rules, now=installation.now))


def collect(installation: Installation, target: Target, place: int, values: Mapping[int, float]) -> None:
    """Store samples of the gauge `g` of a target, by the seconds after `START`."""
    key = series_key("g", place, Kind.GAUGE)
    samples = {milliseconds(START) + 1_000 * second: {key: value} for second, value in values.items()}
    installation.collect(target, samples)


def outputs(installation: Installation, view: str, metric: str) -> dict[tuple[str | None, datetime], object]:
    """The sums of a rule's outputs by instance and bucket."""
    rows = installation.rows(view)
    return {(instance, time): row["sum"] for (name, instance, time), row in rows.items() if name == metric}


def two_targets(installation: Installation) -> list[Target]:
    """Two targets with three minutes of samples each, and a clock that stands long after them."""
    targets = installation.targets(2)
    installation.now = START + timedelta(minutes=10)
    for place, target in enumerate(targets):
        collect(installation, target, place, {20: 1.0 + place, 80: 10.0 + place, 140: 100.0 + place})
    return targets
