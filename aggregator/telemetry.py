"""The service's own Prometheus metrics of a node: name, help, unit and labels, in one list.

What every node exports is summed by whoever reads it, so only what a node itself did is here; what is true of the whole
installation is read from PostgreSQL and served by `web`.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values

from aggregator.metric_files import readable_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PREFIX = "aggregator"
#: From a millisecond (one small batch) to five minutes (the hard limit of a task).
DURATION_BUCKETS_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


_making = threading.Lock()


@dataclass(frozen=True)
class Metric:
    """One metric that a node exports, without the prefix."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


METRICS = (
    Metric("collections_total", "counter", "Collections of targets, by how they ended.", ("source", "outcome")),
    Metric("collect_duration_seconds", "histogram", "How long one target took to answer.", ("source",)),
    Metric("samples_total", "counter", "Samples stored.", ("source",)),
    Metric("samples_rejected_total", "counter", "Samples, or whole scrapes, refused.", ("source", "reason")),
    Metric("late_samples_total", "counter", "Samples for a bucket that had been rolled up before.", ("source",)),
    Metric("rollup_rows_total", "counter", "Rollup rows written.", ("tier",)),
    Metric("rollup_duration_seconds", "histogram", "How long one transaction of rollups took.", ("tier",)),
    Metric("summary_refresh_duration_seconds", "histogram", "How long a summary took to refresh.", ("summary",)),
    Metric("task_runs_total", "counter", "Task runs, by how they ended.", ("task", "outcome")),
    Metric("task_duration_seconds", "histogram", "How long a task ran.", ("task",)),
    Metric("tasks_in_progress", "gauge", "Tasks that run now.", ("task",)),
    Metric("config_info", "gauge", "The configuration in force, by its hash.", ("hash",)),
    Metric("build_info", "gauge", "The version that runs.", ("version",)),
)


def install(directory: Path, identify: Callable[[], int | str]) -> None:
    """Keep all values in files below `directory`, one set per process identifier; call it before any metric is used.

    `identify` gives a name that the successor of a dead process takes over (docs/pitfalls.md#metric-files), so
    that counters go on and files do not pile up.
    """
    import os  # noqa: PLC0415 - only a worker gets here

    directory.mkdir(parents=True, exist_ok=True)
    readable_files(directory)  # a damaged file would fail the process that goes on with it: it is set aside first
    take_over(directory, identify())
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
    values.ValueClass = values.MultiProcessValue(process_identifier=identify)  # type: ignore[no-untyped-call] # theirs
    _made.cache_clear()
    registry.cache_clear()


def forget_gauges(directory: Path) -> None:
    """Forget what all processes of a node said of themselves, before the first of them starts anew."""
    for path in directory.glob("gauge_*.db"):
        _remove(path)


def take_over(directory: Path, identifier: int | str) -> None:
    """Forget the gauges of a dead process, before its successor under the same identifier uses any metric.

    Its counters go on; but what it had in progress is no longer, and what it said of itself may have changed.
    """
    for path in directory.glob(f"gauge_*_{identifier}.db"):
        _remove(path)


def _remove(path: Path) -> None:
    """Remove a file; what is none, such as a directory of that name, is set aside later."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _metric(name: str) -> Counter | Gauge | Histogram:
    with _making:  # two threads would register the same name twice
        return _made(name)


@cache
def _made(name: str) -> Counter | Gauge | Histogram:
    metric = next(metric for metric in METRICS if metric.name == name)
    full_name = f"{PREFIX}_{metric.name}"
    if metric.kind == "counter":
        return Counter(full_name, metric.help, metric.labels, registry=registry())
    if metric.kind == "gauge":
        mode: Literal["livesum", "mostrecent"] = "mostrecent" if metric.name.endswith("_info") else "livesum"
        return Gauge(full_name, metric.help, metric.labels, registry=registry(), multiprocess_mode=mode)
    return Histogram(full_name, metric.help, metric.labels, registry=registry(), buckets=DURATION_BUCKETS_SECONDS)


@cache
def registry() -> CollectorRegistry:
    """The registry of this process' own values (in a worker they live in files and the exporter sums them)."""
    return CollectorRegistry()


def count(name: str, amount: float = 1, **labels: str) -> None:
    """Add to a counter."""
    metric = _metric(name)
    (metric.labels(**labels) if labels else metric).inc(amount)  # type: ignore[union-attr] # only counters come here


def observe(name: str, seconds: float, **labels: str) -> None:
    """Record a duration in a histogram."""
    _metric(name).labels(**labels).observe(seconds)  # type: ignore[union-attr] # only histograms come here


def adjust(name: str, amount: float, **labels: str) -> None:
    """Raise or lower a gauge."""
    _metric(name).labels(**labels).inc(amount)  # type: ignore[union-attr] # only gauges come here


def put(name: str, value: float, **labels: str) -> None:
    """Set a gauge."""
    _metric(name).labels(**labels).set(value)  # type: ignore[union-attr] # only gauges come here


__all__ = [
    "METRICS",
    "Metric",
    "adjust",
    "count",
    "forget_gauges",
    "install",
    "observe",
    "prometheus_client",
    "put",
    "registry",
    "take_over",
]
