"""What `packing.py` packs: statistics of many series over a span, from recordings and from random walks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
from recorded import Recording

from aggregator.rollups.reduce import Edge, reduce_samples
from aggregator.rollups.statistics import Statistics

SLOT_MS = 15_000
BUCKET_MS = 60_000
_SLOTS = BUCKET_MS // SLOT_MS
_LOOKBACK_MS = 300_000


@dataclass(frozen=True)
class Kind:
    """One kind of data: its name, the recording or what stands for one, and its rollups of 1m.

    `rollups`: each array of shape (series, buckets).
    """

    name: str
    recording: Recording
    rollups: Statistics


def kinds(directory: Path | None, *, series: int = 256, slots: int = 1_440) -> Iterator[Kind]:
    """The recordings in a directory, then walks; the seed is fixed, so that two runs pack the same walks."""
    for path in sorted(directory.glob("*.npz")) if directory else ():
        yield _kind(path.stem, Recording.load(path))
    random = np.random.default_rng(1)
    steps = random.normal(size=(slots, series)).cumsum(axis=0)
    for name, values in (("walk, 2 places", np.round(steps, 2)), ("walk, full mantissa", steps)):
        yield _kind(name, Recording(values, random.integers(2, 40, slots), np.zeros(series, dtype=np.bool_)))


def _kind(name: str, recording: Recording) -> Kind:
    return Kind(name, recording, rolled_up(recording))


def rolled_up(recording: Recording) -> Statistics:
    """The rollups of 1m as the service makes them, each array of shape (series, buckets), for series that have any."""
    values, shape = recording.values, recording.values.shape[1:]
    edge = Edge(np.full(shape, np.nan), np.zeros(shape, dtype=np.int64))
    at_ms = np.arange(len(values)) * SLOT_MS + recording.delay_ms
    buckets = []
    for bucket in range(len(values) // _SLOTS):
        slots = slice(bucket * _SLOTS, (bucket + 1) * _SLOTS)
        found = reduce_samples(
            values[slots],
            np.broadcast_to(at_ms[slots, None], values[slots].shape),
            start_ms=bucket * BUCKET_MS,
            edge=edge,
            lookback_ms=_LOOKBACK_MS,
            is_counter=recording.is_counter,
        )
        edge = edge.after(found, start_ms=bucket * BUCKET_MS)
        buckets.append(found)
    stacked = {
        field.name: np.stack([getattr(one, field.name) for one in buckets], axis=1) for field in fields(Statistics)
    }
    lines = (stacked["count"] > 0).any(axis=1)
    return Statistics(**{name: array[lines] for name, array in stacked.items()})


def gauges(rollups: Statistics) -> npt.NDArray[np.bool_]:
    """Which series are gauges; shape (series,)."""
    return np.asarray(~np.isnan(rollups.min).all(axis=1))
