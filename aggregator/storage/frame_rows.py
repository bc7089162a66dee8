"""Sample frames on the wire: columns to COPY data, each frame in the form that is smaller, and back."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from aggregator.storage import tables
from aggregator.storage.copying import Rows, encode, grouped
from aggregator.storage.frame_columns import FrameColumns, Integers

_TABLE = tables.sample_frame
#: The columns of what is written, and of what is read.
WRITTEN = ("target_id", "map_id", "at", "received_at", "places", "values")
READ = ("target_id", "map_id", "at", "places", "values")
#: An array's header; what a dense frame takes for each place, and a sparse one's two arrays for each sample.
_ARRAY_BYTES, _DENSE_BYTES, _SPARSE_BYTES = 24, 8, 12


def decode_frames(data: memoryview) -> FrameColumns:
    """The frames of COPY data with the columns of `READ`."""
    parts = []
    for rows in decode_rows(data):
        columns = rows.columns
        given = ~np.isnan(columns["values"])
        place = columns["places"][given] - 1 if "places" in columns else np.nonzero(given)[1]
        parts.append(
            FrameColumns(
                columns["target_id"].astype(np.int64),
                columns["map_id"].astype(np.int64),
                columns["at"],
                given.sum(axis=1),
                place.astype(np.int64),
                columns["values"][given],
            )
        )
    return FrameColumns.joined([part.in_order() for part in parts])


def decode_rows(data: memoryview) -> Iterator[Rows]:
    """COPY data with the columns of `READ`, as it is stored; `places` is absent where frames are dense."""
    return grouped(data, _TABLE, READ, optional=("places",))


def encode_frames(frames: FrameColumns, received_at: Integers) -> list[bytes]:
    """Frames as COPY data with the columns of `WRITTEN`, each in the form that is smaller.

    `received_at`: of each frame, as on the wire; int64 of shape (n,).
    """
    return [encode(_TABLE, WRITTEN, rows) for rows in rows_of(frames, received_at)]


def rows_of(frames: FrameColumns, received_at: Integers) -> Iterator[Rows]:
    """Frames as they are stored, grouped by shape: rows of one shape have one layout."""
    if not len(frames):
        return
    width = frames.place[np.cumsum(frames.size) - 1] + 1
    is_sparse = 2 * _ARRAY_BYTES + _SPARSE_BYTES * frames.size < _ARRAY_BYTES + _DENSE_BYTES * width
    shape = np.where(is_sparse, -frames.size, width)
    frames = frames.taken(order := np.argsort(shape, kind="stable"))
    received_at = received_at[order]
    edges = np.flatnonzero(np.diff(shape[order], prepend=0, append=0))
    first_sample = np.append(0, np.cumsum(frames.size))
    for begin, end in itertools.pairwise(edges.tolist()):
        here, samples = slice(begin, end), slice(first_sample[begin], first_sample[end])
        columns = {
            "target_id": frames.target_id[here],
            "map_id": frames.map_id[here],
            "at": frames.at[here],
            "received_at": received_at[here],
        }
        length = int(shape[order[begin]])
        place, value = frames.place[samples], frames.value[samples]
        if length < 0:
            yield Rows({**columns, "values": value.reshape(-1, -length), "places": place.reshape(-1, -length) + 1})
        else:
            values = np.full((end - begin, length), np.nan)
            values[np.repeat(np.arange(end - begin), frames.size[here]), place] = value
            yield Rows({**columns, "values": values})
