"""OpenMetrics with timestamps, as exporters write it and as Prometheus' own dump does: series by series, untyped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat

import numpy as np
import numpy.typing as npt

from aggregator.errors import RejectedError
from aggregator.exposition import lines as cutting
from aggregator.exposition.exposed import NO_TIMESTAMP_MS
from aggregator.exposition.history import Cut, Damage, HistoryReader, Piece, StrictSample
from aggregator.exposition.history_numbers import read_seconds
from aggregator.exposition.strict import END, declare

#: A line's series, value and timestamp.
_PARTS = 3
#: So many lines of one series in a row are cut at once.
_RUN = 16
#: Timestamps that are remembered: those of a target, of some weeks.
_MOST_TIMES = 200_000
#: All bytes but those at which `bytes.split` divides, though only two of them are dividers here.
_NO_BLANKS = bytes({*range(256)} - {*b" \n\t\r\v\f"})
_END_LINE = b"\n" + END + b"\n"


@dataclass
class OpenMetricsHistory(HistoryReader):
    """Line by line, so that any order of families will do; the rules of a body as a whole are not asked for.

    `has_ended`: the last line read was `# EOF`.
    """

    has_ended: bool = False
    _times: dict[bytes, int] = field(default_factory=dict)

    def read(self, block: bytes) -> Piece:
        """As any reader; a line that follows `# EOF` is damaged, and what comes after it is read on."""
        inner = _lines_after_end(block)
        if self.has_ended and block:
            inner.insert(0, 0)
        after_end = [
            Damage(self.line + place + 1, "after_end", "stands after # EOF: two files in one?") for place in inner
        ]
        piece = super().read(block)
        self.has_ended = block.removesuffix(b"\n").rpartition(b"\n")[2] == END
        return replace(piece, damages=tuple(sorted((*piece.damages, *after_end)))) if after_end else piece

    def cut(self, lines: Sequence[bytes]) -> Cut:
        """Series, value and timestamp stand between single spaces; a label may hold spaces too, so from the right."""
        cut = Cut([], [], [])
        place = 0
        while place < len(lines):
            place += _cut_run(lines, place, cut) or _cut_each(lines[place : place + _RUN], cut)
        return cut

    def read_times(self, tokens: Sequence[bytes]) -> tuple[npt.NDArray[np.int64], list[int]]:
        """Seconds, with decimals. The series of a target share their timestamps, which are read once."""
        known = list(map(self._times.get, tokens))
        if None not in known:
            return np.array(known, dtype=np.int64), []
        at_ms, bad = read_seconds(tokens)
        if not bad:
            if len(self._times) > _MOST_TIMES:
                self._times.clear()
            self._times.update(zip(tokens, at_ms.tolist(), strict=True))
        return at_ms, bad

    def read_line(self, line: bytes) -> StrictSample | None:
        """A sample, or a line that begins with `#`."""
        if line.startswith(b"#"):
            declare(line, is_text=False, types=self.types)
            return None
        cut = cutting.cut_openmetrics_sample(line)
        if cut.timestamp_ms == NO_TIMESTAMP_MS:
            raise RejectedError("no_timestamp", "the line has no timestamp")
        head = cut.prefix.removesuffix(b" ")
        self.know(head, cut.prefix, line)
        return StrictSample(head, cut.value, cut.timestamp_ms)

    def finish(self, rest: bytes) -> Damage | None:
        """A file without its last line was cut off."""
        if rest == END or (self.has_ended and not rest):
            return None
        return Damage(self.line + 1, "truncated", "the file does not end with # EOF: it was cut off")


def _cut_each(lines: Sequence[bytes], cut: Cut) -> int:
    """Cut lines one by one; gives how many."""
    for parts in [line.rsplit(b" ", 2) for line in lines]:
        is_cut = len(parts) == _PARTS
        cut.heads.append(parts[0] if is_cut else None)
        cut.values.append(parts[1] if is_cut else b"")
        cut.times.append(parts[2] if is_cut else b"")
    return len(lines)


def _cut_run(lines: Sequence[bytes], place: int, cut: Cut) -> int:
    """Cut lines from a place on that have one head, all at once; gives how many, 0 where there are too few."""
    head = lines[place].rsplit(b" ", 2)[0]
    prefix = head + b" "
    count = _RUN
    if place + count > len(lines) or not lines[place + count - 1].startswith(prefix):
        return 0
    while place + 2 * count <= len(lines) and lines[place + 2 * count - 1].startswith(prefix):
        count *= 2
    run = lines[place : place + count]
    begin = len(prefix)
    tails = b"\n".join([line[begin:] for line in run])
    # One space in each line, and what it divides is not empty: then there are two parts of each.
    parts = tails.split()
    is_whole = len(parts) == 2 * count and tails.translate(None, _NO_BLANKS) == (b" \n" * count)[:-1]
    if not is_whole or not all(map(bytes.startswith, run, repeat(prefix))):
        return 0
    cut.heads.extend([head] * count)
    cut.values.extend(parts[::2])
    cut.times.extend(parts[1::2])
    return count


def _lines_after_end(block: bytes) -> list[int]:
    """The places (from 0) of lines in the block that follow a `# EOF` of the same block."""
    text = b"\n" + block
    places: list[int] = []
    position = text.find(_END_LINE)
    while 0 <= position < len(text) - len(_END_LINE):
        places.append(text.count(b"\n", 0, position) + 1)
        position = text.find(_END_LINE, position + 1)
    return places
