"""Samples packed: frames of a span to sealed rows with their clocks, and back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aggregator.rollups.packed import Packed, unpack
from aggregator.rollups.packing import pack
from aggregator.storage.frame_columns import FrameColumns
from aggregator.storage.open_frames import Arrived
from aggregator.storage.sealed_wire import Row, scalar, wire

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_MICROSECONDS_IN_MS = 1_000
#: Numbers that are packed at once.
_AT_ONCE = 1_000_000


@dataclass(frozen=True)
class PackedFrames:
    """Rows of `sample_sealed` and of `sample_clock`."""

    rows: list[Row]
    clocks: list[Row]


@dataclass(frozen=True)
class _Series:
    """The samples of each place of each frame map: those of series k are `begin[k]` to `begin[k] + size[k]`.

    `line`: the frame of each sample, ascending within a series; `value`. Both of shape (m,), the others (series,).
    """

    place: Integers
    begin: Integers
    size: Integers
    line: Integers
    value: Floats

    @classmethod
    def of(cls, frames: FrameColumns) -> _Series:
        """Frames by series."""
        _, group = np.unique(frames.map_id, return_inverse=True)
        width = int(frames.place.max()) + 1
        frame = frames.frame
        key = group[frame] * width + frames.place
        # Of one series after the other, samples are in order already: a merge sort keeps them so.
        order = np.argsort(key, kind="stable")
        key = key[order]
        begin = np.flatnonzero(np.diff(key, prepend=-1))
        return cls(key[begin] % width, begin, np.diff(begin, append=len(key)), frame[order], frames.value[order])

    def samples_of(self, series: Integers, size: int) -> Integers:
        """Where the samples of some series of one size are; shape (len(series), size)."""
        return self.begin[series][:, None] + np.arange(size)

    def clocks(self) -> tuple[Integers, Integers]:
        """The first series of each set of frames, and for each series the line of its set among them."""
        found: dict[bytes, int] = {}
        firsts: list[int] = []
        clock_of = np.zeros(len(self.begin), dtype=np.int64)
        ends = self.begin + self.size
        for series, (begin, end) in enumerate(zip(self.begin.tolist(), ends.tolist(), strict=True)):
            key = self.line[begin:end].tobytes()
            clock = found.setdefault(key, len(firsts))
            if clock == len(firsts):
                firsts.append(series)
            clock_of[series] = clock
        return np.array(firsts, dtype=np.int64), clock_of


def pack_frames(arrived: Arrived, *, start: int) -> PackedFrames:
    """Pack frames, at least one, that are not before `start` (as on the wire), the start of their rows.

    Raises ValueError where a number would not come back.
    """
    frames = arrived.frames
    series = _Series.of(frames)
    firsts, clock_of = series.clocks()
    number = _numbers(frames.map_id[series.line[series.begin[firsts]]])
    keys = _keys(frames, series.line[series.begin], start=start)
    rows: list[Row] = [{}] * len(series.begin)
    for some, size in _by_size(series.size):
        packed = pack_exactly(series.value[series.samples_of(some, size)])
        for one, columns in zip(some.tolist(), wire(packed, "value"), strict=True):
            place, clock = scalar("i", int(series.place[one]) + 1), scalar("i", int(number[clock_of[one]]))
            rows[one] = {**keys[one], "place": place, "clock": clock, **columns}
    return PackedFrames(rows, _clock_rows(arrived, series, firsts, number=number, keys=keys, start=start))


def _clock_rows(
    arrived: Arrived, series: _Series, firsts: Integers, *, number: Integers, keys: list[Row], start: int
) -> list[Row]:
    clocks: list[Row] = [{}] * len(firsts)
    for some, size in _by_size(series.size[firsts]):
        line = series.line[series.samples_of(firsts[some], size)]
        at, received = arrived.frames.at[line], arrived.received_at[line]
        wired = [wire(_packed_times(one), name) for name, one in (("at", at - start), ("received", received - at))]
        for clock, *columns in zip(some.tolist(), *wired, strict=True):
            own = {"clock": scalar("i", int(number[clock])), "samples": scalar("i", size)}
            clocks[clock] = {**keys[firsts[clock]], **own, **columns[0], **columns[1]}
    return clocks


def _keys(frames: FrameColumns, lines: Integers, *, start: int) -> list[Row]:
    """What identifies the rows of the maps that have these frames."""
    at = scalar("q", start)
    pairs = zip(frames.target_id[lines].tolist(), frames.map_id[lines].tolist(), strict=True)
    return [
        {"start": at, "target_id": scalar("i", target_id), "map_id": scalar("i", map_id)} for target_id, map_id in pairs
    ]


def _numbers(map_ids: Integers) -> Integers:
    """The number from 0 of each clock among those of its map."""
    used: defaultdict[int, int] = defaultdict(int)
    numbers = np.zeros(len(map_ids), dtype=np.int64)
    for line, map_id in enumerate(map_ids.tolist()):
        numbers[line] = used[map_id]
        used[map_id] += 1
    return numbers


def _by_size(sizes: Integers) -> Iterator[tuple[Integers, int]]:
    """The lines of each size, some of them at once."""
    for size in np.unique(sizes).tolist():
        lines = np.flatnonzero(sizes == size)
        step = max(1, _AT_ONCE // size)
        for begin in range(0, len(lines), step):
            yield lines[begin : begin + step], size


def pack_exactly(values: Floats) -> Packed:
    """Values of shape (n, samples), none of them NaN, packed and compared with what comes back."""
    packed = pack(values, np.ones(values.shape, dtype=np.bool_))
    if not (unpack(packed).view(np.int64) == np.ascontiguousarray(values).view(np.int64)).all():
        raise ValueError("samples do not come back with their bits")
    return packed


def _packed_times(microseconds: Integers) -> Packed:
    packed = pack_exactly(microseconds / _MICROSECONDS_IN_MS)
    if not (microseconds_of(unpack(packed)) == microseconds).all():
        raise ValueError("instants do not come back")
    return packed


def microseconds_of(milliseconds: Floats) -> Integers:
    """Whole microseconds from milliseconds with thousandths; exact below 2^51 microseconds, which are 71 years."""
    return np.rint(milliseconds * _MICROSECONDS_IN_MS).astype(np.int64)
