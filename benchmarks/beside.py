"""The numbers of a Prometheus beside ours, window by window."""

from __future__ import annotations

import itertools
import json
import math
import statistics
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from figures import Connection, rows

JOB = "stepping"
GAUGES = ("wave", "high", "quantiles", "untyped", "up")
COUNTERS = ("inner_total", "edge_total", "falling_total", "seconds_bucket", "seconds_sum", "seconds_count")
QUANTILES = (0.1, 0.5, 0.9, 0.99)
#: Two floats that were computed in another order.
ROUNDED = 1e-12

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
            (metric, _labels(one["metric"]), round(at) - span.window): float(number)
            for one in found
            for at, number in one["values"]
        }

    def samples(self, metric: str, *, seconds: int, end: float | None = None) -> dict[Place, list[Sample]]:
        """The samples of a metric in the seconds before an instant; the last part of the place is 0."""
        parameters = {} if end is None else {"time": end}
        found = self.ask("query", query=f"{metric}[{seconds}s]", **parameters)
        return {
            (metric, _labels(one["metric"]), 0): [(float(at), float(number)) for at, number in one["values"]]
            for one in found
        }


def _labels(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, text) for name, text in labels.items() if name not in ("__name__", "job", "instance")))


def phase_seconds(prometheus: Prometheus, interval: int) -> float:
    """How long after a multiple of the interval it scrapes."""
    (samples,) = prometheus.samples("up", seconds=60).values()
    return samples[-1][0] % interval


def ours_by_window(connection: Connection, span: Span, column: str) -> dict[Place, float]:
    """A column of our view; NULL is not there."""
    found = rows(
        connection,
        f"SELECT metric, labels, extract(epoch FROM time)::bigint, {column} FROM aggregator.{span.view}"  # noqa: S608 - our own names
        " WHERE job = %(job)s AND time >= to_timestamp(%(since)s) AND time < to_timestamp(%(until)s)",
        job=JOB,
        since=span.first,
        until=span.end,
    )
    return {
        (metric, _labels(labels), start): float(number) for metric, labels, start, number in found if number is not None
    }


def clean_windows(connection: Connection, prometheus: Prometheus, span: Span, *, margin: float) -> set[int]:
    """The windows in which both scraped each time, and quickly: else the values may have changed meanwhile."""
    due = span.window // span.interval
    ranges = {"up": f"count_over_time(up[{span.window}s])"}
    ranges["scrape_duration_seconds"] = f"max_over_time(scrape_duration_seconds[{span.window}s])"
    theirs = {metric: prometheus.by_window(query, span, metric=metric) for metric, query in ranges.items()}
    ours = {"up": ours_by_window(connection, span, "count")}
    ours["scrape_duration_seconds"] = ours_by_window(connection, span, "max")
    return {
        start
        for start in range(span.first, span.end, span.window)
        if all(one["up"].get(("up", (), start)) == due for one in (theirs, ours))
        and all(
            one["scrape_duration_seconds"].get(("scrape_duration_seconds", (), start), margin) < margin
            for one in (theirs, ours)
        )
    }


@dataclass(frozen=True)
class Row:
    """How what Prometheus says compares with ours; `differs_because` where it may."""

    theirs: str
    ours: str
    compared: int
    equal: int
    largest: float
    differs_because: str = ""

    @classmethod
    def of(cls, theirs: tuple[str, Numbers], ours: tuple[str, Numbers], windows: set[int], because: str = "") -> Row:
        """Compare numbers, each with what it is called; a series that only one of them has is infinitely different."""
        places = [place for place in {*theirs[1], *ours[1]} if place[2] in windows]
        differences = [_difference(theirs[1].get(place), ours[1].get(place)) for place in places]
        equal = sum(one <= ROUNDED for one in differences)
        return cls(theirs[0], ours[0], len(places), equal, max(differences, default=math.nan), because)

    @property
    def is_as_promised(self) -> bool:
        """Whether all is equal, or different for a reason."""
        return bool(self.compared) and (self.equal == self.compared or bool(self.differs_because))

    def __str__(self) -> str:
        largest = "-" if self.equal == self.compared else f"{self.largest:.2g}"
        return (
            f"| `{self.theirs}` | {self.ours} | {self.compared} | {self.equal} | {largest} | {self.differs_because} |"
        )


def _difference(theirs: float | None, ours: float | None) -> float:
    """The difference, relative to the larger one."""
    if theirs is None or ours is None:
        return math.inf
    return 0.0 if theirs == ours else abs(theirs - ours) / max(abs(theirs), abs(ours))


def compared(connection: Connection, prometheus: Prometheus, span: Span, windows: set[int]) -> Iterator[Row]:
    """All rows of the table."""
    for function, column, metrics in (
        ("min_over_time", "min", GAUGES),
        ("max_over_time", "max", GAUGES),
        ("sum_over_time", "sum", GAUGES),
        ("avg_over_time", "avg", GAUGES),
        ("count_over_time", "count", GAUGES + COUNTERS),
        ("last_over_time", "last", GAUGES + COUNTERS),
    ):
        theirs = over_windows(prometheus, span, function, metrics)
        yield Row.of(
            (function, theirs), (f"`{column}`", only(ours_by_window(connection, span, column), metrics)), windows
        )
    yield from _deviations(connection, prometheus, span, windows)
    yield from _counters(connection, prometheus, span, windows)
    yield from _histograms(connection, prometheus, span, windows)


def _deviations(connection: Connection, prometheus: Prometheus, span: Span, windows: set[int]) -> Iterator[Row]:
    ours = "`stddev`", only(ours_by_window(connection, span, "stddev"), GAUGES)
    because = "its running mean loses digits where values are large, here at 10^15"
    yield Row.of(
        ("stddev_over_time", over_windows(prometheus, span, "stddev_over_time", GAUGES)), ours, windows, because
    )
    exact = {
        (metric, labels, start): statistics.pstdev([value for at, value in series if start <= at < start + span.window])
        for (metric, labels, _), series in _all_samples(prometheus, span, GAUGES).items()
        for start in windows
    }
    yield Row.of(("exact deviation of its own samples", exact), ours, windows)


def _all_samples(prometheus: Prometheus, span: Span, metrics: Iterable[str]) -> dict[Place, list[Sample]]:
    """The samples of metrics from one window before the span on."""
    found: dict[Place, list[Sample]] = {}
    for metric in metrics:
        found |= prometheus.samples(metric, seconds=span.window * (span.count + 1), end=span.end)
    return found


def over_windows(prometheus: Prometheus, span: Span, function: str, metrics: Iterable[str]) -> dict[Place, float]:
    """What a function of ranges gives for each window of some metrics."""
    found: dict[Place, float] = {}
    for metric in metrics:
        found |= prometheus.by_window(f"{function}({metric}[{span.window}s])", span, metric=metric)
    return found


def only(numbers: Numbers, metrics: Iterable[str]) -> dict[Place, float]:
    """The numbers of some metrics."""
    return {place: number for place, number in numbers.items() if place[0] in metrics}


def _counters(connection: Connection, prometheus: Prometheus, span: Span, windows: set[int]) -> Iterator[Row]:
    increase = only(ours_by_window(connection, span, "increase"), COUNTERS)
    deltas = {
        place: sum(map(_delta, pairs))
        for place, pairs in _pairs(_all_samples(prometheus, span, COUNTERS), span).items()
    }
    yield Row.of(("sum of deltas of its own samples", deltas), ("`increase`", increase), windows)
    theirs = over_windows(prometheus, span, "increase", COUNTERS)
    because = "extrapolated to the window's ends; the delta over its left edge is in no window"
    yield Row.of(("increase", theirs), ("`increase`", increase), windows, because)
    resets = over_windows(prometheus, span, "resets", COUNTERS)
    falls = _falls(connection, span)
    inside = {place: float(sum(is_inside for is_inside in found)) for place, found in falls.items()}
    yield Row.of(("resets", resets), ("falls between samples of the window", inside), windows)
    counted = {place: float(len(found)) for place, found in falls.items()}
    because = "a reset at a window's left edge is in no window"
    yield Row.of(("resets", resets), ("resets that `increase` has allowed for", counted), windows, because)


def _delta(pair: tuple[float, float]) -> float:
    before, value = pair
    return value if value < before else value - before


def _pairs(samples: Mapping[Place, list[Sample]], span: Span) -> dict[Place, list[tuple[float, float]]]:
    """By window of the later one, the values of consecutive samples."""
    found: dict[Place, list[tuple[float, float]]] = {}
    for (metric, labels, _), series in samples.items():
        for (_, before), (at, value) in itertools.pairwise(series):
            start = int(at // span.window) * span.window
            if start >= span.first:
                found.setdefault((metric, labels, start), []).append((before, value))
    return found


def _falls(connection: Connection, span: Span) -> dict[Place, list[bool]]:
    """By window of the later sample, for each fall whether the earlier sample lies in the window too."""
    found = rows(
        connection,
        """
        SELECT metric, labels, extract(epoch FROM time)::float8, value, lag(value) OVER series,
            extract(epoch FROM lag(time) OVER series)::float8
        FROM aggregator.samples
        WHERE job = %(job)s AND metric = ANY(%(metrics)s) AND time >= to_timestamp(%(since)s)
            AND time < to_timestamp(%(until)s)
        WINDOW series AS (PARTITION BY metric, labels ORDER BY time)
        """,
        job=JOB,
        metrics=list(COUNTERS),
        since=span.first - span.window,
        until=span.end,
    )
    falls: dict[Place, list[bool]] = {}
    for metric, labels, at, value, before, before_at in found:
        start = int(at // span.window) * span.window
        here = falls.setdefault((metric, _labels(labels), start), [])
        if before is not None and value < before:
            here.append(before_at >= start)
    return falls


def _histograms(connection: Connection, prometheus: Prometheus, span: Span, windows: set[int]) -> Iterator[Row]:
    for quantile in QUANTILES:
        query = f"histogram_quantile({quantile}, rate(seconds_bucket[{span.window}s]))"
        theirs = prometheus.by_window(query, span)
        found = rows(
            connection,
            "SELECT extract(epoch FROM time)::bigint,"
            f" aggregator.histogram_quantile({quantile}, labels ->> 'le', increase) FROM aggregator.{span.view}"  # noqa: S608 - our own names
            " WHERE job = %(job)s AND metric = 'seconds_bucket' AND time >= to_timestamp(%(since)s)"
            " AND time < to_timestamp(%(until)s) GROUP BY 1",
            job=JOB,
            since=span.first,
            until=span.end,
        )
        ours = {("", (), start): number for start, number in found if number is not None}
        name = f"histogram_quantile({quantile}, rate)"
        yield Row.of((name, theirs), ("`histogram_quantile` of `increase`", ours), windows)
