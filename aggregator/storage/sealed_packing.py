"""A span of rollups packed: statistics of each series to columns, and the clocks that series share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aggregator.rollups.packed import Packed, unpack
from aggregator.rollups.packing import pack
from aggregator.rollups.statistics import Integers, Statistics
from aggregator.storage.blocks import BLOCK_SERIES
from aggregator.storage.sealed_columns import OWN
from aggregator.storage.sealed_wire import Row, wire

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PackedSpan:
    """Some blocks in one span of `buckets`, as columns on the wire without their keys.

    `lines`: the series that have samples, block x 64 + position, both from 0; `clock_of`: the clock of each in its
    block; `rows`: the columns of each. `clock_blocks`, `clock_numbers`, `clocks`: the block, number and columns of each
    clock.
    """

    buckets: int
    lines: Integers
    clock_of: Integers
    rows: list[Row]
    clock_blocks: Integers
    clock_numbers: Integers
    clocks: list[Row]


#: Statistics by whether it is counters that have them, or all others.
Names = Mapping[bool, tuple[str, ...]]


def pack_span(statistics: Statistics, slots: Integers, *, is_counter: Flags, names: Names) -> PackedSpan:
    """Pack statistics and slots due of shape (buckets, blocks, 64).

    `is_counter`: for each block, shape (blocks,). `names`: what is stored of them.
    Raises ValueError where a number would not come back with its bits.
    """
    count = _by_series(statistics.count)
    lines = np.flatnonzero(np.asarray(count > 0).any(axis=1))
    given = np.asarray(count[lines] > 0)
    rows: list[Row] = [{} for _ in lines]
    of_counters = np.repeat(is_counter, BLOCK_SERIES)[lines]
    for kind, listed in names.items():
        chosen = np.flatnonzero(of_counters == kind)
        for name in (name for name in OWN if name in listed and len(chosen)):
            values = _by_series(getattr(statistics, name))[lines[chosen]]
            _add(rows, chosen, _wired(values, given[chosen], name))
    shared = _shared(statistics, slots, lines, given=given)
    firsts, clock_of = _clocks(shared, lines // BLOCK_SERIES)
    clocks: list[Row] = [{} for _ in firsts]
    for name, values in shared.items():
        if name == "slots_due" or any(name in listed for listed in names.values()):
            known = given[firsts] | (name == "count")
            _add(clocks, np.arange(len(firsts)), _wired(values[firsts], known, name))
    return PackedSpan(len(slots), lines, clock_of, rows, lines[firsts] // BLOCK_SERIES, clock_of[firsts], clocks)


def _shared(statistics: Statistics, slots: Integers, lines: Integers, *, given: Flags) -> dict[str, npt.NDArray[Any]]:
    """What clocks hold, by series; alike wherever it has no meaning. Each of shape (series, buckets)."""
    return {
        "count": _by_series(statistics.count)[lines],
        "last_at": np.where(given, _by_series(statistics.last_at)[lines], 0),
        "slots_due": np.where(given, _by_series(slots)[lines], 0),
        "covered": np.where(given, _by_series(statistics.covered)[lines], np.nan),
    }


def _by_series(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """From (buckets, blocks, 64) to (series, buckets)."""
    return array.reshape(len(array), -1).T


def _add(rows: list[Row], lines: Integers, columns: list[Row]) -> None:
    for line, found in zip(lines.tolist(), columns, strict=True):
        rows[line] |= found


def _wired(values: npt.NDArray[Any], given: Flags, name: str) -> list[Row]:
    return wire(_packed(values, given, name), name)


def _packed(values: npt.NDArray[Any], given: Flags, name: str) -> Packed:
    """The values packed, and compared with what comes back."""
    packed = pack(values, given)
    found, wanted = unpack(packed)[given], np.asarray(values, dtype=np.float64)[given]
    if not ((found.view(np.int64) == wanted.view(np.int64)) | (np.isnan(found) & np.isnan(wanted))).all():
        raise ValueError(f"{name} does not come back with its bits")
    return packed


def _clocks(shared: Mapping[str, npt.NDArray[Any]], blocks: Integers) -> tuple[Integers, Integers]:
    """The first series of each different clock of a block, and for each series the number of its clock."""
    keys = np.concatenate([np.ascontiguousarray(values).view(np.int64) for values in shared.values()], axis=1)
    found: dict[tuple[int, bytes], int] = {}
    used: dict[int, int] = {}
    firsts: list[int] = []
    clock_of = np.zeros(len(blocks), dtype=np.int64)
    for line, block in enumerate(blocks.tolist()):
        key = (block, keys[line].tobytes())
        if key not in found:
            found[key] = used.get(block, 0)
            used[block] = found[key] + 1
            firsts.append(line)
        clock_of[line] = found[key]
    return np.array(firsts, dtype=np.int64), clock_of
