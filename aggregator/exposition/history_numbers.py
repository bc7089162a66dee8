"""Columns of numbers as text, read at once; whatever is unusual is named, for the strict path to judge."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from aggregator.exposition.lines import INFINITY, NUMBER, VALUE

_DECIMAL_CHARACTERS = b"0123456789+-.eE"
#: Beyond these milliseconds a float64 of seconds has lost them anyway.
LATEST_MS = 2**62
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

Places = list[int]
Number = TypeVar("Number", int, float)


def read_values(tokens: Sequence[bytes]) -> tuple[npt.NDArray[np.float64], Places]:
    """The values (float64, shape (n,)), and the places of tokens that are none."""
    values, bad = _floats(tokens, VALUE)
    # A decimal beyond the range becomes infinite too, which nobody has written.
    bad += [place for place in np.flatnonzero(np.isinf(values)).tolist() if not INFINITY.fullmatch(tokens[place])]
    return values, bad


def read_seconds(tokens: Sequence[bytes]) -> tuple[npt.NDArray[np.int64], Places]:
    """Seconds since 1970 as milliseconds (int64, shape (n,)), and the places of tokens that are none."""
    seconds, bad = _floats(tokens, NUMBER)
    milliseconds = seconds * 1_000
    is_far = ~(np.abs(milliseconds) <= LATEST_MS)
    milliseconds[is_far] = 0
    return np.rint(milliseconds).astype(np.int64), bad + np.flatnonzero(is_far).tolist()


def read_instants(tokens: Sequence[bytes]) -> tuple[npt.NDArray[np.int64], Places]:
    """ISO 8601 with an offset as milliseconds (int64, shape (n,)), and the places of tokens that are not."""
    instants, bad = _each(tokens, read_instant)
    return np.array(instants, dtype=np.int64), bad


def read_instant(token: bytes) -> int:
    """ISO 8601 with an offset as milliseconds since 1970 UTC; raises ValueError for anything else."""
    instant = datetime.fromisoformat(token.decode("ascii"))
    if instant.tzinfo is None:
        raise ValueError("has no offset, and could mean several instants")
    return round((instant - _EPOCH) / _MILLISECOND)


def _floats(tokens: Sequence[bytes], grammar: re.Pattern[bytes]) -> tuple[npt.NDArray[np.float64], Places]:
    """Python's float() takes underscores, blanks and signed nans, which no format allows: the grammar decides."""
    unusual: Places = []
    if b"".join(tokens).translate(None, _DECIMAL_CHARACTERS):
        unusual = [place for place, token in enumerate(tokens) if token.translate(None, _DECIMAL_CHARACTERS)]
    bad = [place for place in unusual if not grammar.fullmatch(tokens[place])]
    if bad:
        tokens = list(tokens)
        for place in bad:
            tokens[place] = b"0"
    try:
        return np.array(list(map(float, tokens)), dtype=np.float64), bad
    except ValueError:
        values, failed = _each(tokens, float)
        return np.array(values, dtype=np.float64), bad + failed


def _each(tokens: Sequence[bytes], read: Callable[[bytes], Number]) -> tuple[list[Number | Literal[0]], Places]:
    """Each token's number, 0 where there is none, and where that is."""
    numbers: list[Number | Literal[0]] = []
    bad: Places = []
    for place, token in enumerate(tokens):
        try:
            numbers.append(read(token))
        except ValueError:
            numbers.append(0)
            bad.append(place)
    return numbers, bad
