"""How far apart the samples of an imported file are: the interval of a source that nobody configured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

import numpy as np
import numpy.typing as npt

from aggregator.stages.collect.spool_parts import Samples

#: Intervals that people configure, in seconds; a distance counts as the nearest one.
_USUAL_SECONDS = np.array(
    [1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1_200, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400]
)
#: Between each two of them, where their ratios to a distance are alike.
_HALFWAY_MS = 1_000 * np.sqrt(_USUAL_SECONDS[1:].astype(np.float64) * _USUAL_SECONDS[:-1])
#: Series of each source that are looked at in a part: enough for a median.
_SERIES_LOOKED_AT = 100
#: The interval where nothing is known: a file with one sample of each series.
DEFAULT_INTERVAL = timedelta(minutes=1)


def add_distances(
    known: Mapping[str, Mapping[str, int]],
    samples: Samples,
    targets: npt.NDArray[np.int64],
    *,
    sources: Sequence[str],
) -> dict[str, dict[str, int]]:
    """Count how far apart samples of some series of each source are, by the usual interval that comes nearest.

    `targets` (int64, shape (n,)) are numbers of targets, `sources` the source of each number.
    """
    counts = {source: dict(of_source) for source, of_source in known.items()}
    series, first = np.unique(samples.series, return_index=True)
    names = np.array(sources, dtype=object)[targets[first]] if len(series) else np.array([], dtype=object)
    for source in dict.fromkeys(names.tolist()):
        chosen = samples.chosen(np.isin(samples.series, series[names == source][:_SERIES_LOOKED_AT]))
        for seconds, count in zip(*_distances(chosen), strict=True):
            of_source = counts.setdefault(source, {})
            of_source[str(seconds)] = of_source.get(str(seconds), 0) + count
    return counts


def _distances(samples: Samples) -> tuple[list[int], list[int]]:
    order = np.lexsort((samples.at_ms, samples.series))
    series, at_ms = samples.series[order], samples.at_ms[order]
    apart = np.diff(at_ms)[np.diff(series) == 0]
    nearest = np.searchsorted(_HALFWAY_MS, apart[apart > 0])
    places, counts = np.unique(nearest, return_counts=True)
    return _USUAL_SECONDS[places].tolist(), counts.tolist()


def median_interval(counts: Mapping[str, int]) -> timedelta:
    """The median of counted distances."""
    ordered = sorted((int(seconds), count) for seconds, count in counts.items())
    half = sum(count for _, count in ordered) / 2
    seen = 0
    for seconds, count in ordered:
        seen += count
        if seen >= half:
            return timedelta(seconds=seconds)
    return DEFAULT_INTERVAL
