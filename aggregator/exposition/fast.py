"""The fast path: a target sends the same lines again and again, so only the numbers that changed are read.

It accepts nothing that the strict path would not accept with exactly the same values. In any doubt it declines, and the
strict path reads the whole body.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from operator import eq, ne
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from aggregator.exposition.formats import Format
from aggregator.exposition.lines import INFINITY, VALUE
from aggregator.exposition.openmetrics import ValueRules

_DECIMAL_CHARACTERS = b"0123456789+-.eE"
_INTEGER_CHARACTERS = b"0123456789-"


class Reading(NamedTuple):
    """The numbers of one body: values (float64, shape (n,)), and instants (int64, ms) where every sample has one."""

    values: npt.NDArray[np.float64]
    timestamps_ms: npt.NDArray[np.int64] | None


@dataclass(frozen=True)
class KnownBody:
    """The last body that was accepted, line by line, and what other values in it would have to keep to.

    `prefixes[i]` is the part of `lines[i]` before the value, None for a line that holds no sample; `places[i]` is the
    index of its value. Either every sample carries a timestamp or none does, set off by single spaces.
    """

    body_format: Format
    lines: list[bytes]
    prefixes: list[bytes | None]
    places: npt.NDArray[np.int64]
    reading: Reading
    rules: ValueRules | None

    def read(self, body: bytes, body_format: Format) -> tuple[KnownBody, Reading] | None:
        """The body as the new known one, and its numbers; None where the strict path must decide."""
        lines = body.split(b"\n")
        if len(lines) != len(self.lines) or body_format is not self.body_format:
            return None
        is_changed = list(map(ne, lines, self.lines))
        tails = _tails(list(compress(lines, is_changed)), list(compress(self.prefixes, is_changed)))
        numbers = None if tails is None else _numbers(tails, stamped=self.reading.timestamps_ms is not None)
        if numbers is None:
            return None
        reading = self._with(numbers, self.places[np.frombuffer(bytes(is_changed), dtype=np.bool_)])
        if self.rules is not None and not self.rules.allow(reading.values):
            return None
        known = KnownBody(body_format, lines, self.prefixes, self.places, reading, self.rules)
        return known, reading

    def _with(self, numbers: Reading, places: npt.NDArray[np.int64]) -> Reading:
        values = self.reading.values.copy()
        values[places] = numbers.values
        if self.reading.timestamps_ms is None or numbers.timestamps_ms is None:
            return Reading(values, None)
        timestamps_ms = self.reading.timestamps_ms.copy()
        timestamps_ms[places] = numbers.timestamps_ms
        return Reading(values, timestamps_ms)


def _tails(lines: list[bytes], prefixes: list[bytes | None]) -> list[bytes] | None:
    """What follows each line's known prefix; None where a line has another, or holds no sample."""
    if None in prefixes:
        return None
    known: list[bytes] = prefixes  # type: ignore[assignment] # just checked
    tails = list(map(bytes.removeprefix, lines, known))
    # A prefix that is not there leaves its line whole.
    return None if any(map(eq, tails, lines)) else tails


def _numbers(tails: Sequence[bytes], *, stamped: bool) -> Reading | None:
    """The numbers in the tails, value alone or value and timestamp; None for any that the strict path may refuse."""
    if not stamped:
        values = _values(tails)
        return None if values is None else Reading(values, None)
    pairs = [tail.split(b" ") for tail in tails]
    if any(len(pair) != 2 for pair in pairs):  # noqa: PLR2004 - a value and a timestamp
        return None
    values = _values([pair[0] for pair in pairs])
    timestamps_ms = _milliseconds([pair[1] for pair in pairs])
    return None if values is None or timestamps_ms is None else Reading(values, timestamps_ms)


def _values(tokens: Sequence[bytes]) -> npt.NDArray[np.float64] | None:
    # Python's float() takes underscores, blanks and signed nans, which no format allows.
    if not _consist_of(tokens, _DECIMAL_CHARACTERS) and not all(map(VALUE.fullmatch, tokens)):
        return None
    try:
        values = np.array(list(map(float, tokens)), dtype=np.float64)
    except ValueError:
        return None
    for index in np.flatnonzero(np.isinf(values)):
        if INFINITY.fullmatch(tokens[int(index)]) is None:
            return None
    return values


def _milliseconds(tokens: Sequence[bytes]) -> npt.NDArray[np.int64] | None:
    if not _consist_of(tokens, _INTEGER_CHARACTERS) or max(map(len, tokens), default=0) > len("1700000000000"):
        return None
    try:
        return np.array(list(map(int, tokens)), dtype=np.int64)
    except ValueError:
        return None


def _consist_of(tokens: Sequence[bytes], characters: bytes) -> bool:
    left_over = b" ".join(tokens).translate(None, characters)
    return left_over == b" " * (len(tokens) - 1)
