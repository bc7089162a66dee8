"""Stored rollups in memory: matrices of a grid's blocks by bucket, whichever form they are stored in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from aggregator.rollups.statistics import Integers, Statistics
from aggregator.storage.blocks import BLOCK_SERIES, Grid
from aggregator.storage.copying import Rows, from_wire_instant
from aggregator.storage.sealed_rows import Cells

Flags = npt.NDArray[np.bool_]
#: In which form a block has its rollups in a bucket: int8.
Forms = npt.NDArray[np.int8]
NONE, OPEN, SEALED = 0, 1, 2
#: The column of slots that outputs of rules have, each its own.
SLOTS = "slots"


@dataclass(frozen=True)
class Stored:
    """The rollups of some blocks in one bucket: statistics of shape (blocks, 64), and which blocks have a row.

    `form`: NONE, OPEN or SEALED, shape (blocks,); it stays as it was read when statistics change. `slots_due`: slots in
    the bucket, int64 of shape (blocks,), 0 where there is no row. `slots`: those of each series, shape (blocks, 64),
    where the blocks hold outputs of a rule.
    """

    statistics: Statistics
    form: Forms
    slots_due: Integers
    slots: Integers | None = None

    @classmethod
    def nothing(cls, blocks: int) -> Stored:
        """No row of any block."""
        none = np.zeros(blocks, dtype=np.int64)
        return cls(Statistics.empty((blocks, BLOCK_SERIES)), none.astype(np.int8), none)

    @property
    def has_row(self) -> Flags:
        """Which blocks have rollups, in either form; shape (blocks,)."""
        return np.asarray(self.form != NONE)

    @property
    def is_sealed(self) -> Flags:
        """Which blocks have their rollups sealed; shape (blocks,)."""
        return np.asarray(self.form == SEALED)

    @property
    def slots_of_cells(self) -> Integers:
        """The slots due for each series: its own, or those of its block; shape (blocks, 64)."""
        if self.slots is not None:
            return self.slots
        return np.broadcast_to(self.slots_due[:, np.newaxis], self.statistics.count.shape)

    def array(self, name: str) -> npt.NDArray[Any]:
        """What a column of the table holds; shape (blocks, 64)."""
        values: npt.NDArray[Any] = self.slots_of_cells if name == SLOTS else getattr(self.statistics, name)
        return values


@dataclass(frozen=True)
class Matrix:
    """The rollups of a grid's blocks in some buckets (as on the wire, ascending), in either form.

    `statistics`, `slots`: shape (buckets, blocks, 64); `form`, `slots_due`: (buckets, blocks).
    """

    buckets: Integers
    statistics: Statistics
    form: Forms
    slots_due: Integers
    slots: Integers | None

    @classmethod
    def empty(cls, buckets: Integers, grid: Grid, *, with_slots: bool) -> Matrix:
        """No row of any block."""
        shape = (len(buckets), len(grid.block_ids))
        return cls(
            buckets,
            Statistics.empty((*shape, BLOCK_SERIES)),
            np.full(shape, NONE, dtype=np.int8),
            np.zeros(shape, dtype=np.int64),
            np.zeros((*shape, BLOCK_SERIES), dtype=np.int64) if with_slots else None,
        )

    @property
    def slots_of_cells(self) -> Integers:
        """The slots due for each series; shape (buckets, blocks, 64)."""
        if self.slots is not None:
            return self.slots
        return np.broadcast_to(self.slots_due[:, :, np.newaxis], self.statistics.count.shape)

    def add_open(self, names: Sequence[str], rows: Rows, *, grid: Grid) -> None:
        """Lay out open rows that carry these statistics."""
        bucket = np.searchsorted(self.buckets, rows.columns["bucket"])
        block = np.searchsorted(grid.block_ids, rows.columns["block_id"])
        self.form[bucket, block] = OPEN
        self.slots_due[bucket, block] = rows.columns["slots_due"]
        for name in names:
            values = rows.columns[name]
            target = self.slots if name == SLOTS else getattr(self.statistics, name)
            if target is not None:
                target[bucket, block, : values.shape[1]] = values

    def add_sealed(self, cells: Cells, *, grid: Grid) -> None:
        """Lay out what was read from sealed rows."""
        bucket = np.searchsorted(self.buckets, cells.bucket)
        block = np.searchsorted(grid.block_ids, cells.block_id)
        self.form[bucket, block] = SEALED
        np.maximum.at(self.slots_due, (bucket, block), cells.slots_due)
        for name, values in cells.values.items():
            getattr(self.statistics, name)[bucket, block, cells.position] = values
        if self.slots is not None:
            self.slots[bucket, block, cells.position] = cells.slots_due

    def by_bucket(self) -> dict[datetime, Stored]:
        """The same, bucket by bucket, oldest first; no copy."""
        return {
            from_wire_instant(int(start)): Stored(
                self.statistics[place],
                self.form[place],
                self.slots_due[place],
                None if self.slots is None else self.slots[place],
            )
            for place, start in enumerate(self.buckets)
        }
