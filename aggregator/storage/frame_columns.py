"""Sample frames as columns: many frames, and all of their samples, in a few flat arrays; merged without a loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FrameColumns:
    """Frames, one for each target and instant, in the order of both; and their samples, none of which is NaN.

    Of n frames, int64 of shape (n,): `target_id`, `map_id`, and `at`, microseconds since 2000-01-01T00:00Z as
    PostgreSQL counts them. `size`, int64 (n,): how many samples each has. Of all m samples, frame after frame and in
    the order of their places: `place`, int64 (m,), from 0, and `value`, float64 (m,).
    """

    target_id: Integers
    map_id: Integers
    at: Integers
    size: Integers
    place: Integers
    value: Floats

    def __len__(self) -> int:
        return len(self.at)

    @property
    def frame(self) -> Integers:
        """The line of each sample's frame; shape (m,)."""
        return np.repeat(np.arange(len(self)), self.size)

    def only(self, chosen: npt.NDArray[np.bool_]) -> FrameColumns:
        """The chosen frames; `chosen` has shape (n,)."""
        if chosen.all():
            return self
        samples = np.repeat(chosen, self.size)
        return FrameColumns(
            self.target_id[chosen],
            self.map_id[chosen],
            self.at[chosen],
            self.size[chosen],
            self.place[samples],
            self.value[samples],
        )

    def find(self, other: FrameColumns) -> Integers:
        """For each frame of another, the line of the frame here with its target and instant, or -1; int64 (n,)."""
        if not len(self) or not len(other):
            return np.full(len(other), -1, dtype=np.int64)
        both = _keys(np.concatenate([self.target_id, other.target_id]), np.concatenate([self.at, other.at]))
        mine, theirs = both[: len(self)], both[len(self) :]
        line = np.minimum(np.searchsorted(mine, theirs), len(self) - 1)
        return np.where(mine[line] == theirs, line, -1)

    @classmethod
    def nothing(cls) -> FrameColumns:
        """No frame."""
        none = np.zeros(0, dtype=np.int64)
        return cls(none, none, none, none, none, np.zeros(0))

    @classmethod
    def joined(cls, parts: Sequence[FrameColumns]) -> FrameColumns:
        """The frames of all parts, which differ in target and instant, in their order."""
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return cls.nothing()
        target_id, map_id, at, size, place, value = (
            np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__
        )
        return cls(target_id, map_id, at, size, place, value).in_order()

    def in_order(self) -> FrameColumns:
        """The same frames, in the order of their targets and instants."""
        order = np.lexsort((self.at, self.target_id))
        return self if (order[1:] > order[:-1]).all() else self.taken(order)

    def taken(self, order: Integers) -> FrameColumns:
        """These frames in another order; int64 (n,)."""
        samples = _lines_of(order, self.size)
        return FrameColumns(
            self.target_id[order],
            self.map_id[order],
            self.at[order],
            self.size[order],
            self.place[samples],
            self.value[samples],
        )

    @classmethod
    def of_samples(cls, *, target_id: int, map_id: int, at: Integers, place: Integers, value: Floats) -> Gathered:
        """The frames of one target's samples, in any order; the later of two at one place and instant wins.

        `at`, `place` and `value` have shape (m,); no value is NaN.
        """
        order = np.lexsort((place, at))
        at, place, value = at[order], place[order], value[order]
        again = (at[1:] == at[:-1]) & (place[1:] == place[:-1])
        replaced = int(np.count_nonzero(again & (value[1:] != value[:-1])))
        last = np.append(~again, np.ones(min(1, len(at)), dtype=np.bool_))
        at, place, value = at[last], place[last], value[last]
        instants, size = np.unique(at, return_counts=True)
        frames = cls(np.full(len(instants), target_id), np.full(len(instants), map_id), instants, size, place, value)
        return Gathered(frames, replaced)


@dataclass(frozen=True)
class Gathered:
    """Frames that were gathered from samples; `replaced` samples had another value than a later one of their place."""

    frames: FrameColumns
    replaced: int


def _keys(target_id: Integers, at: Integers) -> Integers:
    """One number for each target and instant, ascending with both; comparable within one call."""
    if (target_id == target_id[0]).all():
        return at
    instants, rank = np.unique(at, return_inverse=True)
    return np.asarray(target_id * len(instants) + rank)


def _lines_of(order: Integers, size: Integers) -> Integers:
    """Where the samples of frames lie that are taken in another order; int64 (m,)."""
    begin = np.cumsum(size) - size
    sizes = size[order]
    within = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.asarray(np.repeat(begin[order], sizes) + within)


@dataclass(frozen=True)
class Merged:
    """Stored and new frames in one.

    Of n frames: `changed`, bool, is it another than was stored; `differing`, int64, how many of its samples have
    another value than the stored ones; `added`, int64, how many were not stored.
    """

    frames: FrameColumns
    changed: npt.NDArray[np.bool_]
    differing: Integers
    added: Integers


def merge(stored: FrameColumns, new: FrameColumns) -> Merged:
    """Merge frames of the same targets and instants, line by line: the new sample where both have one.

    Both are in the order of the same frame maps; the result has the new ones' maps.
    """
    if not len(new):
        none = np.zeros(0, dtype=np.int64)
        return Merged(new, none.astype(np.bool_), none, none)
    width = 1 + int(max(stored.place.max(), new.place.max()))
    key = np.concatenate([stored.frame * width + stored.place, new.frame * width + new.place])
    # Both are sorted, or nearly: a merge sort takes them as they are.
    order = np.argsort(key, kind="stable")
    key, value = key[order], np.concatenate([stored.value, new.value])[order]
    is_same = key[1:] == key[:-1]
    again, kept = np.append(False, is_same), np.append(~is_same, True)
    differs = again & (value != np.append(0.0, value[:-1]))
    frame, is_new = key // width, order >= len(stored.place)
    count = partial(np.bincount, minlength=len(new))
    differing, added = count(frame[differs]), count(frame[is_new & ~again])
    place = key[kept] - frame[kept] * width
    frames = FrameColumns(new.target_id, new.map_id, new.at, count(frame[kept]), place, value[kept])
    return Merged(frames, (differing > 0) | (added > 0), differing, added)
