"""Turning the matrix: frames come by target, blocks lie by metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aggregator.rollups.buckets import milliseconds
from aggregator.storage.frames import Frame

#: A matrix with fewer of its cells filled is packed: sorting the samples is then cheaper than carrying the gaps.
_LEAST_FILLED = 0.25


@dataclass(frozen=True)
class Samples:
    """The samples of a bucket by series: `values` and `at_ms` of shape (t, n), time ascending; NaN: there is none."""

    values: npt.NDArray[np.float64]
    at_ms: npt.NDArray[np.int64]


def samples_by_series(frames: Sequence[Frame], columns: Mapping[int, npt.NDArray[np.int64]], *, width: int) -> Samples:
    """Lay frames (oldest first) out by series. `columns` gives, for each frame map, the column of each of its series.

    Only the order within a series matters, so the k-th frames of all targets share a line; where frames hold few of
    their series each, the k-th samples of all series do.
    """
    depth = max(_frames_by_target(frames).values(), default=0)
    if sum(len(frame.values) for frame in frames) < _LEAST_FILLED * depth * width:
        return _packed(frames, columns, width=width)
    values = np.full((depth, width), np.nan)
    at_ms = np.zeros((depth, width), dtype=np.int64)
    lines: dict[int, int] = {}
    for frame in frames:
        line = lines.get(frame.target_id, 0)
        lines[frame.target_id] = line + 1
        places = frame.pick(columns[frame.map_id])
        values[line, places] = frame.values
        at_ms[line, places] = milliseconds(frame.at)
    return Samples(values, at_ms)


def _frames_by_target(frames: Sequence[Frame]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for frame in frames:
        counts[frame.target_id] = counts.get(frame.target_id, 0) + 1
    return counts


def _packed(frames: Sequence[Frame], columns: Mapping[int, npt.NDArray[np.int64]], *, width: int) -> Samples:
    """The k-th line holds the k-th sample of every series."""
    value = np.concatenate([frame.values for frame in frames])
    column = np.concatenate([frame.pick(columns[frame.map_id]) for frame in frames])
    at = np.repeat([milliseconds(frame.at) for frame in frames], [len(frame.values) for frame in frames])
    given = ~np.isnan(value)
    value, column, at = value[given], column[given], at[given]
    order = np.argsort(column, kind="stable")  # frames are in order of time, so each series stays so
    column = column[order]
    line = np.arange(len(column)) - np.searchsorted(column, column)
    shape = (int(line.max(initial=-1)) + 1, width)
    values, at_ms = np.full(shape, np.nan), np.zeros(shape, dtype=np.int64)
    values[line, column], at_ms[line, column] = value[order], at[order]
    return Samples(values, at_ms)
