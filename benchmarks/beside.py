"""The numbers of a Prometheus beside ours, window by window."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from figures import Connection, rows
from prometheus_api import Numbers, Place, Prometheus, Sample, Span, own_labels

#: By this name it is due in the first quarter of an interval: a scrape that begins late is over before a value changes.
JOB = "beside"
GAUGES = ("wave", "high", "quantiles", "untyped", "up")
COUNTERS = ("inner_total", "edge_total", "falling_total", "seconds_bucket", "seconds_sum", "seconds_count")
QUANTILES = (0.1, 0.5, 0.9, 0.99)
#: Two floats that were computed in another order.
ROUNDED = 1e-12


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
        (metric, own_labels(labels), start): float(number)
        for metric, labels, start, number in found
        if number is not None
    }


def clean_windows(connection: Connection, prometheus: Prometheus, span: Span, *, margin: float) -> set[int]:
    """The windows in which both scraped each time, on time and quickly: else the values changed meanwhile."""
    seconds = span.window * span.count
    theirs = prometheus.samples("up", seconds=seconds, end=span.end)
    slowness = prometheus.samples("scrape_duration_seconds", seconds=seconds, end=span.end)
    scrapes = [
        [*zip(_instants(theirs), _values(slowness), strict=True)],
        rows(
            connection,
            "SELECT extract(epoch FROM u.time)::float8, d.value FROM aggregator.samples AS u"
            " JOIN aggregator.samples AS d ON d.time = u.time AND d.job = u.job"
            " WHERE u.job = %(job)s AND u.metric = 'up' AND d.metric = 'scrape_duration_seconds'",
            job=JOB,
        ),
    ]
    return {
        start
        for start in range(span.first, span.end, span.window)
        if all(_is_clean(one, start, span, margin) for one in scrapes)
    }


def _instants(samples: Mapping[Place, list[Sample]]) -> list[float]:
    return [at for series in samples.values() for at, _ in series]


def _values(samples: Mapping[Place, list[Sample]]) -> list[float]:
    return [value for series in samples.values() for _, value in series]


def _is_clean(scrapes: Iterable[tuple[float, ...]], start: int, span: Span, margin: float) -> bool:
    """Whether all scrapes of a window are there, and each was over before the next change of a value."""
    here = [(at % span.interval, seconds) for at, seconds in scrapes if start <= at < start + span.window]
    return len(here) == span.window // span.interval and all(
        margin < phase < span.interval - margin and seconds < margin for phase, seconds in here
    )


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
        here = falls.setdefault((metric, own_labels(labels), start), [])
        if before is not None and value < before:
            here.append(before_at >= start)
    return falls


def _histograms(connection: Connection, prometheus: Prometheus, span: Span, windows: set[int]) -> Iterator[Row]:
    for quantile in QUANTILES:
        query = f"histogram_quantile({quantile}, rate(seconds_bucket[{span.window}s]))"
        theirs = prometheus.by_window(query, span)
        statement = f"""
            SELECT extract(epoch FROM time)::bigint,
                aggregator.histogram_quantile({quantile}, labels ->> 'le', increase)
            FROM aggregator.{span.view}
            WHERE job = %(job)s AND metric = 'seconds_bucket' AND time >= to_timestamp(%(since)s)
                AND time < to_timestamp(%(until)s)
            GROUP BY 1
        """  # noqa: S608 - our own names
        found = rows(connection, statement, job=JOB, since=span.first, until=span.end)
        ours = {("", (), start): number for start, number in found if number is not None}
        name = f"histogram_quantile({quantile}, rate)"
        yield Row.of((name, theirs), ("`histogram_quantile` of `increase`", ours), windows)
