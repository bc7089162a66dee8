"""Turning the matrix: frames come by target, blocks lie by metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aggregator.rollups.buckets import milliseconds
from aggregator.storage.blocks import Grid
from aggregator.storage.frames import Frame


@dataclass(frozen=True)
class Samples:
    """The samples of a bucket by cell: `values` and `at_ms` of shape (t, cells); NaN where there is none."""

    values: npt.NDArray[np.float64]
    at_ms: npt.NDArray[np.int64]


def samples_by_cell(frames: Sequence[Frame], cells: Mapping[int, npt.NDArray[np.int64]], *, grid: Grid) -> Samples:
    """Lay frames (oldest first) out by cell; the k-th line holds the k-th frame of every target.

    `cells` gives the cells of each frame map. Only the order within a target matters, so targets share lines.
    """
    lines: dict[int, int] = {}
    depth = 0
    for frame in frames:
        lines[frame.target_id] = lines.get(frame.target_id, 0) + 1
        depth = max(depth, lines[frame.target_id])
    values = np.full((depth, grid.cells), np.nan)
    at_ms = np.zeros((depth, grid.cells), dtype=np.int64)
    lines.clear()
    for frame in frames:
        line = lines.get(frame.target_id, 0)
        lines[frame.target_id] = line + 1
        places = cells[frame.map_id][: len(frame.values)]
        values[line, places] = frame.values
        at_ms[line, places] = milliseconds(frame.at)
    return Samples(values, at_ms)
