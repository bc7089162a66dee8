"""The spool of an import: a file of any size and order, on disk by day and target, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from aggregator.exposition.history import Piece
from aggregator.exposition.strict import Named
from aggregator.stages.collect.history import MOST_DAYS
from aggregator.stages.collect.spool_distances import add_distances
from aggregator.stages.collect.spool_parts import (
    DAY_KEY,
    MINUTE_KEY,
    TARGET_KEY,
    Part,
    Samples,
    State,
    keys_of,
    part_directories,
    read_series,
    read_state,
    write_part,
)
from aggregator.stages.collect.spool_targets import TargetNumbers

#: Samples that are held in memory before they become a part: about 90 MB while they are sorted.
PART_SAMPLES = 1_000_000
#: New series that are held in memory before they become part of one.
PART_SERIES = 20_000
#: Samples that are read at once to be stored.
WINDOW_SAMPLES = 500_000
#: Days of sparse samples that are read at once at most: as many as one transaction writes to.
WINDOW_DAYS = MOST_DAYS
#: What a sample may be ahead of the clock.
FUTURE_ALLOWED_MS = 600_000


@dataclass
class SpoolWriter:
    """Takes the pieces of a file and writes parts; a part is complete with the state to go on from."""

    root: Path
    targets: TargetNumbers
    state: State = field(default_factory=State)
    _pieces: list[Samples] = field(default_factory=list)
    _named: list[Named] = field(default_factory=list)
    _buffered: int = 0

    @classmethod
    def go_on(cls, root: Path, *, source: str | None) -> SpoolWriter:
        """A writer that begins where the last complete part ended."""
        writer = cls(root, TargetNumbers(source), read_state(root))
        writer.targets.add(read_series(root))
        return writer

    @property
    def is_full(self) -> bool:
        """Whether there is enough for a part."""
        return self._buffered >= PART_SAMPLES or len(self._named) >= PART_SERIES

    def add(self, piece: Piece, *, now_ms: int) -> None:
        """Take the samples of a piece; those from before 1970 or from the future are refused and counted."""
        self.targets.add(piece.named)
        self._named += piece.named
        samples = Samples(piece.series, piece.at_ms, piece.values)
        reasons = {"before_1970": samples.at_ms < 0, "future": samples.at_ms > now_ms + FUTURE_ALLOWED_MS}
        refused = {reason: int(mask.sum()) for reason, mask in reasons.items() if mask.any()}
        if refused:
            samples = samples.chosen(~np.logical_or(*reasons.values()))
        self._pieces.append(samples)
        self._buffered += len(samples)
        self.state = replace(
            self.state,
            samples=self.state.samples + len(piece.values),
            nans=self.state.nans + piece.nans,
            refused=added(self.state.refused, refused),
        )

    def count_damage(self, reason: str) -> None:
        """Count a line that was skipped."""
        self.state = replace(self.state, damaged=added(self.state.damaged, {reason: 1}))

    def flush(self) -> None:
        """Write what is held as a part, with the state as it is now."""
        samples = Samples.joined(self._pieces)
        targets = self.targets.of_series()[samples.series]
        sources = [target.source for target in self.targets.numbers]
        self.state = replace(
            self.state, distances=add_distances(self.state.distances, samples, targets, sources=sources)
        )
        write_part(self.root, samples, keys_of(samples.at_ms, targets), named=self._named, state=self.state)
        self._pieces, self._named, self._buffered = [], [], 0


def added(counts: dict[str, int], more: dict[str, int]) -> dict[str, int]:
    """Two counts by name in one."""
    return {name: counts.get(name, 0) + more.get(name, 0) for name in {**counts, **more}}


class Window(NamedTuple):
    """A range of keys that is stored at once; `since` included, `until` excluded."""

    since: int
    until: int

    @property
    def day(self) -> int:
        """Its first day, in days since 1970."""
        return self.since // DAY_KEY


@dataclass(frozen=True)
class SpoolReader:
    """Reads a complete spool in windows: days in order, a full day target by target, a full target by minutes."""

    parts: tuple[Part, ...]

    @classmethod
    def open(cls, root: Path) -> SpoolReader:
        """Open all parts."""
        return cls(tuple(Part.open(directory) for directory in part_directories(root)))

    def windows(self, since: int, *, most: int = WINDOW_SAMPLES) -> Iterator[Window]:
        """The windows from a key on, each of about `most` samples at most."""
        while (first := self._first_key(since)) is not None:
            window = Window(first, self._end(first, most))
            yield window
            since = window.until

    def count(self, since: int, until: int) -> int:
        """How many samples have keys in the half-open range."""
        bounds = (part.bounds(since, until) for part in self.parts)
        return sum(end - begin for begin, end in bounds)

    def read(self, window: Window) -> Samples:
        """The samples of a window, in the order of the file where their keys are equal."""
        pieces = (part.read(window.since, window.until) for part in self.parts)
        return Samples.joined([piece for piece in pieces if piece is not None])

    def _first_key(self, since: int) -> int | None:
        found = ((part.keys, int(np.searchsorted(part.keys, since))) for part in self.parts)
        return min((int(keys[place]) for keys, place in found if place < len(keys)), default=None)

    def _end(self, first: int, most: int) -> int:
        day, target = first // DAY_KEY * DAY_KEY, first // TARGET_KEY * TARGET_KEY

        def fits(until: int) -> bool:
            return self.count(first, until) <= most

        if fits(day + DAY_KEY):
            return _furthest(day, DAY_KEY, WINDOW_DAYS, fits)
        if fits(target + TARGET_KEY):
            return _furthest(target, TARGET_KEY, (day + DAY_KEY - target) // TARGET_KEY, fits)
        return _furthest(first, MINUTE_KEY, target + TARGET_KEY - first, fits)


def _furthest(begin: int, step: int, most_steps: int, fits: Callable[[int], bool]) -> int:
    """The furthest end, whole steps from the beginning, that fits; one step where none does."""
    fitting, too_far = 1, most_steps + 1
    while too_far - fitting > 1:
        middle = (fitting + too_far) // 2
        if fits(begin + middle * step):
            fitting = middle
        else:
            too_far = middle
    return begin + fitting * step


__all__ = ["PART_SAMPLES", "SpoolReader", "SpoolWriter", "Window", "added"]
