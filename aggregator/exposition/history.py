"""Files of samples with timestamps: what is read of them piece by piece, and the path that both formats share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from aggregator.config.source_model import Limits
from aggregator.errors import RejectedError
from aggregator.exposition.history_numbers import read_values
from aggregator.exposition.lines import NOTHING_KEPT
from aggregator.exposition.strict import Named, StrictReader


class Damage(NamedTuple):
    """A line that cannot be read: its number in the file (from 1), a short static word, and what is wrong."""

    line: int
    reason: str
    message: str


@dataclass(frozen=True)
class Piece:
    """The samples of a stretch of lines, in their order.

    `series` (int64, shape (n,)) counts the series of the whole file in the order of their first line; `named` are those
    that this piece has brought, the next numbers in turn. `at_ms`: int64, milliseconds since 1970 UTC; `values`:
    float64, without NaN: `nans` says how many lines had one, which means "no sample".
    """

    series: npt.NDArray[np.int64]
    at_ms: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    named: tuple[Named, ...]
    damages: tuple[Damage, ...]
    nans: int


class StrictSample(NamedTuple):
    """One line, read by the strict rules; `head` is what other lines of the same series are known by."""

    head: Hashable
    value: float
    at_ms: int


class Cut(NamedTuple):
    """Lines cut in three, without a look at what the parts hold; the head of a line that cannot be cut is None."""

    heads: list[Hashable]
    values: list[bytes]
    times: list[bytes]


@dataclass
class HistoryReader(ABC):
    """Reads a file in pieces of whole lines.

    The fast path takes a line only where a line of the same head was accepted by the strict one, and where its numbers
    keep to the same grammar; every other line goes the strict way. `line` is the number of lines read so far,
    `series_count` that of series; both, and `types`, are what a reader that goes on later has to begin with.
    """

    limits: Limits
    line: int = 0
    series_count: int = 0
    types: dict[str, str] = field(default_factory=dict)
    _known: dict[Hashable, int] = field(default_factory=dict)
    _new: list[Named] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Names are judged by the rules of a scrape."""
        self._strict = StrictReader(self.limits)

    @abstractmethod
    def cut(self, lines: Sequence[bytes]) -> Cut:
        """The lines in three parts each."""

    @abstractmethod
    def read_times(self, tokens: Sequence[bytes]) -> tuple[npt.NDArray[np.int64], list[int]]:
        """The instants (int64, ms), and the places of tokens that are none or that the strict path has to judge."""

    @abstractmethod
    def read_line(self, line: bytes) -> StrictSample | None:
        """A line by the strict rules; None where it holds no sample. Raises RejectedError."""

    @abstractmethod
    def finish(self, rest: bytes) -> Damage | None:
        """What is wrong with the file's end; `rest` is what follows its last line feed."""

    def read(self, block: bytes) -> Piece:
        """The samples of whole lines, the last of which ends with a line feed too."""
        lines = block.split(b"\n")[:-1]
        cut = self.cut(lines)
        rows = _Rows.of(len(lines))
        rows.series[:] = np.fromiter(map(self._known.get, cut.heads, repeat(-1)), np.int64, len(lines))
        damages: list[Damage] = []
        is_fast = rows.series >= 0
        for place in np.flatnonzero(~is_fast).tolist():
            # Its series may have been met a few lines above.
            rows.series[place] = self._known.get(cut.heads[place], -1)
            if rows.series[place] >= 0:
                is_fast[place] = True
            else:
                self._read_strictly(lines, place, rows, damages)
        for place in self._read_numbers(cut, np.flatnonzero(is_fast), rows):
            rows.series[place] = -1
            self._read_strictly(lines, place, rows, damages)
        self.line += len(lines)
        return self._piece(rows, damages)

    def skip_line(self, reason: str, message: str) -> Damage:
        """Count a line that is not to be read."""
        self.line += 1
        return Damage(self.line, reason, message)

    def _read_numbers(self, cut: Cut, places: npt.NDArray[np.int64], rows: _Rows) -> list[int]:
        """Fill in the numbers of these lines; gives the places of those that the strict path has to judge."""
        tokens, times = cut.values, cut.times
        if len(places) < len(tokens):
            chosen = places.tolist()
            tokens, times = [tokens[place] for place in chosen], [times[place] for place in chosen]
        rows.values[places], bad_values = read_values(tokens)
        rows.at_ms[places], bad_times = self.read_times(times)
        return [int(places[index]) for index in sorted({*bad_values, *bad_times})]

    def _read_strictly(self, lines: Sequence[bytes], place: int, rows: _Rows, damages: list[Damage]) -> None:
        try:
            _check_text(lines[place])
            sample = self.read_line(lines[place])
        except RejectedError as error:
            damages.append(Damage(self.line + place + 1, error.reason, str(error).removesuffix(NOTHING_KEPT)))
            return
        if sample is not None:
            rows.series[place] = self._known[sample.head]
            rows.at_ms[place], rows.values[place] = sample.at_ms, sample.value

    def _piece(self, rows: _Rows, damages: list[Damage]) -> Piece:
        named, self._new = tuple(self._new), []
        is_sample = rows.series >= 0
        is_kept = is_sample & ~np.isnan(rows.values)
        nans = int(is_sample.sum() - is_kept.sum())
        if not is_kept.all():
            rows = _Rows(rows.series[is_kept], rows.at_ms[is_kept], rows.values[is_kept])
        return Piece(rows.series, rows.at_ms, rows.values, named, tuple(sorted(damages)), nans)

    def know(self, head: Hashable, prefix: bytes, line: bytes) -> None:
        """Number the series of a head that is new; `prefix` names it as OpenMetrics does. Raises RejectedError."""
        if head not in self._known:
            _check_text(prefix)
            self._new.append(self._strict.name(prefix, line))
            self._known[head] = self.series_count
            self.series_count += 1


def _check_text(line: bytes) -> None:
    try:
        line.decode()
    except UnicodeDecodeError as error:
        raise RejectedError("encoding", f"the line is not UTF-8: byte {error.start} cannot be read") from None
    if b"\0" in line:
        raise RejectedError("encoding", "the line holds a NUL character, which PostgreSQL cannot store")


class _Rows(NamedTuple):
    """What becomes of each line; `series` is -1 where it holds no sample."""

    series: npt.NDArray[np.int64]
    at_ms: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]

    @classmethod
    def of(cls, count: int) -> _Rows:
        return cls(np.full(count, -1), np.zeros(count, dtype=np.int64), np.zeros(count))
