"""What a collector is given and what it yields; every kind of source fits this one protocol."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import numpy as np
import numpy.typing as npt

from aggregator.config.source_model import BaseSource
from aggregator.exposition.series import SeriesKey


@dataclass(frozen=True)
class Target:
    """One endpoint of a source.

    `labels` are the target's own (job, instance and the source's); they are part of every series' label set. `address`
    is a URL for `prometheus`, a node's name for `host` and `command`, and a fixed word for `selftest`.
    """

    id: int
    address: str
    labels: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Batch:
    """All values of one target at one instant.

    `keys[i]` names the series of `values[i]` (float64; NaN values are not samples). Keys are complete: target labels
    are merged in, `keep` and `drop` are applied. Collectors hand out the *same tuple object* `keys` as long as the
    series of a target do not change, so that whoever stores them can look positions up once per tuple (by identity).
    """

    at: datetime
    keys: tuple[SeriesKey, ...]
    values: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Collected:
    """What one target gave.

    The first batch's instant is the start of the collection (UTC, whole milliseconds) and holds, besides the target's
    samples, `up` and `scrape_duration_seconds` and `scrape_samples_scraped` as gauges; further batches hold samples
    that carried other timestamps of their own. After a failure (`error` is not None) there is one batch, with `up` 0.
    """

    target: Target
    started_at: datetime
    duration_seconds: float
    batches: tuple[Batch, ...]
    samples: int = 0
    error: str | None = None
    #: A short static word for the error, e.g. `timeout`, `refused`, `body_too_large`; None when it succeeded.
    reason: str | None = None
    #: Single samples that were refused, by reason; the rest of the target's samples are kept.
    rejected: dict[str, int] = field(default_factory=dict)
    #: What a command printed (capped); None for other kinds.
    output: str | None = None


class Collector(Protocol):
    """Reads targets of one kind of source. An instance lives as long as its process and caches per target."""

    def collect(self, source: BaseSource, targets: Sequence[Target]) -> Iterator[Collected]:
        """Read all targets at once, and yield each as soon as it has answered or failed; never raises for a target."""
        ...
