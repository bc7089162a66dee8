"""OpenMetrics with timestamps, as exporters write it and as Prometheus' own dump does: series by series, untyped."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

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
_END_LINE = b"\n" + END + b"\n"


@dataclass
class OpenMetricsHistory(HistoryReader):
    """Line by line, so that any order of families will do; the rules of a body as a whole are not asked for.

    `has_ended`: the last line read was `# EOF`.
    """

    has_ended: bool = False

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
        parts: list[list[bytes]] = [line.rsplit(b" ", 2) for line in lines]
        heads: list[Hashable] = [part[0] for part in parts]
        if sum(map(len, parts)) != _PARTS * len(parts):
            heads = [part[0] if len(part) == _PARTS else None for part in parts]
            parts = [part if len(part) == _PARTS else [b""] * _PARTS for part in parts]
        return Cut(heads, [part[1] for part in parts], [part[2] for part in parts])

    def read_times(self, tokens: Sequence[bytes]) -> tuple[npt.NDArray[np.int64], list[int]]:
        """Seconds, with decimals."""
        return read_seconds(tokens)

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


def _lines_after_end(block: bytes) -> list[int]:
    """The places (from 0) of lines in the block that follow a `# EOF` of the same block."""
    text = b"\n" + block
    places: list[int] = []
    position = text.find(_END_LINE)
    while 0 <= position < len(text) - len(_END_LINE):
        places.append(text.count(b"\n", 0, position) + 1)
        position = text.find(_END_LINE, position + 1)
    return places
