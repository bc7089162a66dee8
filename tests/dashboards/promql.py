"""PromQL as Grafana's Prometheus data source sends it: intervals filled in."""

from __future__ import annotations

import re
from datetime import timedelta

from tests.dashboards.macros import shown

_METRIC = re.compile(r"\b(aggregator_\w+|up)\b")


def expanded(expression: str, *, scrape: timedelta, interval: timedelta) -> str:
    """The expression for a scrape interval and a panel's interval. Facts from Grafana's documentation.

    `$__rate_interval` is at least four scrapes, so that a rate has its samples.
    """
    rate = max(interval + scrape, 4 * scrape)
    text = expression.replace("$__rate_interval", shown(rate)).replace("$__interval", shown(interval))
    assert "$" not in text, text
    return text


def metrics(expression: str) -> set[str]:
    """The names of the metrics in an expression."""
    return set(_METRIC.findall(expression))
