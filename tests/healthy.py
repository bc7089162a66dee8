"""An installation in which all is well, as its metrics tell it, with everything that may be told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

from aggregator.serving.installation import InstallationMetrics
from aggregator.serving.status import Server, Status
from aggregator.storage.health import Health
from aggregator.storage.health_limits import DatabaseLimits
from aggregator.storage.health_verify import Verification
from tests.unit.serving.test_status import NOW, WELL, ago

WHOLE: Health = replace(
    WELL,
    slots_missed={"rollup": 0, "maintain": 0},
    verification=Verification(ago(3_600), 1_000, None),
    limits=DatabaseLimits(10, 97, 0.01),
    sealing_due={"samples": NOW + timedelta(hours=1), "1m": None},
)
SERVERS = {name: Server(is_up=True) for name in ("database", "broker", "cache")}
#: Where Prometheus has them from.
SCRAPED = {"instance": "web:9810", "job": "aggregator-installation"}


def samples(status: Status) -> Iterator[tuple[str, dict[str, str], float]]:
    """What `web` says of a status: name, labels and value of each series, as Prometheus keeps them."""
    for family in InstallationMetrics(status, {"aggregator.collect": 0}).collect():
        for sample in family.samples:
            labels = {name: value for name, value in sample.labels.items() if value}
            yield sample.name, labels | SCRAPED, sample.value


def installation_metric_names() -> set[str]:
    """The names of all metrics of the installation."""
    return {name for name, _, _ in samples(Status(NOW, SERVERS, WHOLE))}
