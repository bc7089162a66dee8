"""Sealed rows from rollups and samples: spans cut, statistics packed, clocks told apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
from figures import Connection
from figures import rows as fetched
from packed_data import BUCKET_MS, SLOT_MS
from packed_sql import all_elements
from packed_tables import (
    BLOCKS_OF_A_TARGET,
    CLOCK,
    OWN,
    SAMPLES_CLOCK,
    SEALED,
    SEALED_SAMPLES,
    SHARED,
    Storage,
    fill,
    scalar,
    wire,
)
from recorded import Recording

from aggregator.rollups.packed import Packed
from aggregator.rollups.packing import pack
from aggregator.rollups.statistics import Statistics

BLOCK_SERIES = 64
#: Microseconds from PostgreSQL's epoch to the instant that all data begin at, 2026-01-01T00:00Z.
ORIGIN_US = 820_540_800_000_000
_MS = 1_000
Row = dict[str, bytes]


@dataclass(frozen=True)
class SealedRows:
    """The rows of both tables."""

    own: list[Row]
    clocks: list[Row]

    def __add__(self, other: SealedRows) -> SealedRows:
        return SealedRows(self.own + other.own, self.clocks + other.clocks)

    def repeated(self, times: int) -> SealedRows:
        """The same for that many targets: half-empty last pages then weigh little."""
        return SealedRows(
            *([_moved(row, by) for by in range(times) for row in rows] for rows in (self.own, self.clocks))
        )


def _moved(row: Row, by: int) -> Row:
    return row | {"block_id": scalar("i", int.from_bytes(row["block_id"][4:], "big") + by * BLOCKS_OF_A_TARGET)}


def spans(rollups: Statistics, span: int) -> Iterator[tuple[int, Statistics]]:
    """The rollups (shape (series, buckets)) by span, each with the place of its first bucket."""
    for first in range(0, rollups.count.shape[1], span):
        yield (
            first,
            Statistics(
                **{field.name: getattr(rollups, field.name)[:, first : first + span] for field in fields(Statistics)}
            ),
        )


def pack_all(rollups: Statistics) -> dict[str, Packed]:
    """Every statistic that is a series' own, packed; what seals a span spends its time here."""
    given = rollups.count > 0
    return {name: pack(getattr(rollups, name), given) for name in OWN}


def sealed_rows(rollups: Statistics, *, span: int, bucket_ms: int = BUCKET_MS) -> SealedRows:
    """The rows of some series, 64 to a block in their order."""
    rows = SealedRows([], [])
    for first, part in spans(rollups, span):
        start = ORIGIN_US + first * bucket_ms * _MS
        blocks = np.arange(len(part.count)) // BLOCK_SERIES
        rows += _of_span(part, start=start, blocks=blocks)
    return rows


def _of_span(rollups: Statistics, *, start: int, blocks: npt.NDArray[np.int64]) -> SealedRows:
    given = rollups.count > 0
    lines = np.flatnonzero(given.any(axis=1))
    packed = {name: wire(statistic, name) for name, statistic in pack_all(rollups).items()}
    clocks, clock = _clocks(rollups, blocks)
    own = [
        {
            "start": scalar("q", start),
            "block_id": scalar("i", int(blocks[line])),
            "position": scalar("h", int(line % BLOCK_SERIES) + 1),
            "clock": scalar("h", int(clock[line])),
            **{column: value for name in OWN for column, value in packed[name][line].items()},
        }
        for line in lines
    ]
    return SealedRows(own, [{"start": scalar("q", start), **row} for row in clocks])


def _clocks(rollups: Statistics, blocks: npt.NDArray[np.int64]) -> tuple[list[Row], npt.NDArray[np.int64]]:
    """The different clocks of each block, without their start, and which of them each series has."""
    found: dict[tuple[int, bytes], int] = {}
    number = np.zeros(len(blocks), dtype=np.int64)
    used: dict[int, int] = {}
    firsts: list[int] = []
    for line, block in enumerate(blocks.tolist()):
        given = rollups.count[line] > 0
        key = b"".join(np.where(given, getattr(rollups, name)[line], 0).tobytes() for name in SHARED[:3])
        if (block, key) not in found:
            found[block, key] = used.get(block, 0)
            used[block] = found[block, key] + 1
            firsts.append(line)
        number[line] = found[block, key]
    return _clock_rows(rollups, np.array(firsts), blocks=blocks, number=number), number


def _clock_rows(
    rollups: Statistics, firsts: npt.NDArray[np.int64], *, blocks: npt.NDArray[np.int64], number: npt.NDArray[np.int64]
) -> list[Row]:
    count = rollups.count[firsts]
    always = np.ones(count.shape, dtype=np.bool_)
    due = np.full(count.shape, float(BUCKET_MS // SLOT_MS))
    packed = {
        "count": pack(count, always),
        "last_at": pack(rollups.last_at[firsts], count > 0),
        "covered": pack(rollups.covered[firsts], count > 0),
        "slots_due": pack(due, always),
    }
    wired = {name: wire(packed[name], name) for name in SHARED}
    return [
        {
            "block_id": scalar("i", int(blocks[line])),
            "clock": scalar("h", int(number[line])),
            "buckets": scalar("h", count.shape[1]),
            **{column: value for name in SHARED for column, value in wired[name][place].items()},
        }
        for place, line in enumerate(firsts.tolist())
    ]


def store(connection: Connection, rows: SealedRows, *, name: str, storage: Storage) -> None:
    """Make the tables `sealed_<name>` and `clock_<name>` and fill them."""
    fill(connection, f"sealed_{name}", rows.own, kept=SEALED, storage=storage)
    fill(connection, f"clock_{name}", rows.clocks, kept=CLOCK, storage=storage)


def sample_rows(recording: Recording, *, span: int) -> SealedRows:
    """Samples as sealed rows: a clock is the instants at which some series of the target have samples."""
    rows = SealedRows([], [])
    for first in range(0, len(recording.values), span):
        values = recording.values[first : first + span].T
        at_ms = np.arange(values.shape[1]) * SLOT_MS + recording.delay_ms[first : first + span]
        patterns, clock = np.unique(~np.isnan(values), axis=0, return_inverse=True)
        keys = {"start": scalar("q", ORIGIN_US + first * SLOT_MS * _MS), "block_id": scalar("i", 0)}
        for number, pattern in enumerate(patterns):
            if pattern.any():
                lines = np.flatnonzero(clock == number)
                sampled = values[lines][:, pattern]
                rows += _sampled(sampled, at_ms[pattern], lines=lines, keys=keys | {"clock": scalar("h", number)})
    return rows


def _sampled(
    values: npt.NDArray[np.float64], at_ms: npt.NDArray[np.int64], *, lines: npt.NDArray[np.int64], keys: Row
) -> SealedRows:
    """The rows of the series of one clock, none of which lacks a sample; `values` of shape (series, instants)."""
    always = np.ones(values.shape, dtype=np.bool_)
    (ticks,) = wire(pack(at_ms[None, :], always[:1]), "at")
    packed = zip(lines.tolist(), wire(pack(values, always), "value"), strict=True)
    own = [{**keys, "position": scalar("h", line), **row} for line, row in packed]
    return SealedRows(own, [{**keys, "buckets": scalar("h", len(at_ms)), **ticks}])


def store_samples(connection: Connection, rows: SealedRows, *, name: str, storage: Storage) -> None:
    """Make the tables `sealed_<name>` and `clock_<name>` of samples and fill them."""
    fill(connection, f"sealed_{name}", rows.own, kept=SEALED_SAMPLES, storage=storage)
    fill(connection, f"clock_{name}", rows.clocks, kept=SAMPLES_CLOCK, storage=storage)


def differing_elements(connection: Connection, rollups: Statistics) -> tuple[int, int]:
    """How many numbers SQL reads from the tables `*_rollups` with other bits than were packed, and how many in all."""
    read = np.array(fetched(connection, all_elements()), dtype=np.float64)  # NULL becomes NaN
    given = rollups.count > 0
    different = 0
    for place, name in enumerate((*SHARED, *OWN)):
        if name == "slots_due":
            continue
        stored = getattr(rollups, name)[given].astype(np.float64)
        found = np.ascontiguousarray(read[:, place])
        is_same = (found.view(np.int64) == stored.view(np.int64)) | (np.isnan(found) & np.isnan(stored))
        different += int(np.count_nonzero(~is_same))
    return different, read.size
