"""What one scrape exposes, parsed: series in the order of their lines, with values and timestamps as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from aggregator.exposition.series import Kind

#: Stands in `Exposition.timestamps_ms` where a sample carries no timestamp of its own.
NO_TIMESTAMP_MS = int(np.iinfo(np.int64).min)


class ExposedSeries(NamedTuple):
    """A series as a target names it: labels sorted by name; a label may have an empty value."""

    metric: str
    labels: tuple[tuple[str, str], ...]
    kind: Kind


@dataclass(frozen=True)
class Exposition:
    """The samples of one scrape.

    `series[i]` names `values[i]` (float64, shape (n,)); one series may stand in several places. A `TargetParser` hands
    out the *same tuple object* as long as the series do not change. `timestamps_ms` (int64, shape (n,), milliseconds
    since 1970 UTC, `NO_TIMESTAMP_MS` for none) is None where no sample carries one. The arrays are the caller's own.
    """

    series: tuple[ExposedSeries, ...]
    values: npt.NDArray[np.float64]
    timestamps_ms: npt.NDArray[np.int64] | None
