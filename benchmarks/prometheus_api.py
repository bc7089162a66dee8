"""What a running Prometheus says, window by window, by its HTTP API."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: A series as both name it: metric and labels, without those that the scraper adds; and the start of a window.
Place = tuple[str, tuple[tuple[str, str], ...], int]
Numbers = Mapping[Place, float]
#: When, in seconds since the epoch, and the value.
Sample = tuple[float, float]


@dataclass(frozen=True)
class Span:
    """Consecutive windows: the start of the first, and how long each is, in seconds; the view that holds ours."""

    first: int
    window: int
    count: int
    view: str
    interval: int

    @property
    def end(self) -> int:
        """The end of the last window."""
        return self.first + self.window * self.count


@dataclass(frozen=True)
class Prometheus:
    """The HTTP API of a running one."""

    url: str

    def ask(self, path: str, **parameters: object) -> list[dict[str, Any]]:
        """The result of a query."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=30) as answer:  # noqa: S310 - ours
            return list(json.load(answer)["data"]["result"])

    def by_window(self, query: str, span: Span, *, metric: str = "") -> dict[Place, float]:
        """What a query gives at the end of each window; functions of ranges leave the metric's name out."""
        found = self.ask("query_range", query=query, start=span.first + span.window, end=span.end, step=span.window)
        return {
            (metric, own_labels(one["metric"]), round(at) - span.window): float(number)
            for one in found
            for at, number in one["values"]
        }

    def samples(self, metric: str, *, seconds: int, end: float | None = None) -> dict[Place, list[Sample]]:
        """The samples of a metric in the seconds before an instant; the last part of the place is 0."""
        parameters = {} if end is None else {"time": end}
        found = self.ask("query", query=f"{metric}[{seconds}s]", **parameters)
        return {
            (metric, own_labels(one["metric"]), 0): [(float(at), float(number)) for at, number in one["values"]]
            for one in found
        }


def own_labels(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """A series' labels without those that whoever scrapes adds."""
    return tuple(sorted((name, text) for name, text in labels.items() if name not in ("__name__", "job", "instance")))


def phase_seconds(prometheus: Prometheus, interval: int) -> float:
    """How long after a multiple of the interval it scrapes."""
    (samples,) = prometheus.samples("up", seconds=60).values()
    return samples[-1][0] % interval
