"""How a collection of one target ended, as series: up, scrape_duration_seconds, scrape_samples_scraped."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from aggregator.collectors.protocol import Batch, Collected, Target
from aggregator.exposition.series import Kind, SeriesKey
from aggregator.printable import on_one_line

REPORTED = ("up", "scrape_duration_seconds", "scrape_samples_scraped")


def whole_milliseconds(instant: datetime) -> datetime:
    """The instant cut to milliseconds, the resolution in which samples are kept."""
    return instant.replace(microsecond=instant.microsecond // 1_000 * 1_000)


def now() -> datetime:
    """The present in UTC, cut to milliseconds."""
    return whole_milliseconds(datetime.now(UTC))


@lru_cache(maxsize=4_096)
def report_keys(target: Target) -> tuple[SeriesKey, ...]:
    """The series that every target has, whether it answers or not; `keep` and `drop` do not touch them.

    The same tuple object each time: a target that is down is looked up as quickly as one that is up.
    """
    labels = tuple(sorted(target.labels))
    return tuple(SeriesKey(metric, labels, Kind.GAUGE) for metric in REPORTED)


def report_values(*, up: bool, duration_seconds: float, scraped: int) -> npt.NDArray[np.float64]:
    """The values in the order of `report_keys`; `scraped` counts what the target exposed, kept or not."""
    return np.array([float(up), duration_seconds, float(scraped)], dtype=np.float64)


def failed(
    target: Target,
    *,
    started_at: datetime,
    duration_seconds: float,
    reason: str,
    error: str,
    output: str | None = None,
) -> Collected:
    """A target that gave nothing: `up` 0 with the reason, and no sample of its own.

    An error may hold a stranger's words, and is read in logs and on terminals: it becomes one line.
    """
    values = report_values(up=False, duration_seconds=duration_seconds, scraped=0)
    batch = Batch(started_at, report_keys(target), values)
    return Collected(
        target, started_at, duration_seconds, (batch,), error=on_one_line(error), reason=reason, output=output
    )


def over_the_limit(collected: Collected, error: str) -> Collected:
    """What a collection becomes whose new series the source has no room for: nothing of it is kept."""
    refused = failed(
        collected.target,
        started_at=collected.started_at,
        duration_seconds=collected.duration_seconds,
        reason="series_limit",
        error=error,
        output=collected.output,
    )
    return replace(refused, rejected={"series_limit": collected.samples})
