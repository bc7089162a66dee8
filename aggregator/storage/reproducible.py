"""Which stored rollups can still be made from their inputs: they hold no more samples than their inputs do.

Nothing partial is ever taken, so equal counts mean that all inputs are there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, select

from aggregator.storage import forms, tables
from aggregator.storage.blocks import BLOCK_SERIES
from aggregator.storage.catalog import Installation, TierEntry
from aggregator.storage.copying import from_wire_instant, wire_instants
from aggregator.storage.frames import read_columns
from aggregator.storage.rollup_forms import read_counts
from aggregator.storage.series import maps_of

_Integers = npt.NDArray[np.int64]

#: Samples that are read at once to be counted.
_MOST_SAMPLES = 1_000_000


@dataclass(frozen=True)
class _Cells:
    """Where a target's series lie. `series_ids` ascend; `cell`: line of the block x 64 + position from 0, or -1."""

    block_ids: _Integers
    series_ids: _Integers
    cell: _Integers

    @property
    def is_own(self) -> npt.NDArray[np.bool_]:
        """For each cell, whether one of the target's series is there."""
        own = np.zeros(len(self.block_ids) * BLOCK_SERIES, dtype=np.bool_)
        own[self.cell[self.cell >= 0]] = True
        return own

    def of_series(self, series_ids: Sequence[int]) -> _Integers:
        """The cell of each series, -1 where it has none yet."""
        asked = np.array(series_ids, dtype=np.int64)
        line = np.minimum(np.searchsorted(self.series_ids, asked), max(len(self.series_ids) - 1, 0))
        return np.where(self.series_ids[line] == asked, self.cell[line], -1)

    @classmethod
    def of_target(cls, connection: Connection, target_id: int) -> _Cells:
        """Uses index: series_target_id_identity_hash_key."""
        table = tables.series
        statement = select(table.c.id, table.c.block_id, table.c.position).where(table.c.target_id == target_id)
        rows = sorted((row.id, row.block_id or -1, row.position or 0) for row in connection.execute(statement))
        ids, blocks, positions = np.array(rows, dtype=np.int64).reshape(-1, 3).T
        block_ids = np.unique(blocks[blocks >= 0])
        cell = np.searchsorted(block_ids, blocks) * BLOCK_SERIES + positions - 1
        return cls(block_ids, ids, np.where(blocks >= 0, cell, -1))


@dataclass(frozen=True)
class _Counts:
    """Samples by bucket and cell: `bucket` (as on the wire), `cell` and `count`, int64 of shape (n,)."""

    bucket: _Integers
    cell: _Integers
    count: _Integers


def lost_buckets(
    connection: Connection, installation: Installation, *, target_id: int, since: datetime, until: datetime
) -> list[tuple[datetime, datetime]]:
    """The buckets of all tiers that overlap the interval and hold rollups of a target that have lost inputs.

    Gives their half-open intervals (UTC). What is stored is read before what it is made of: inputs only ever grow.
    """
    forms.hold(connection)  # the shard's lock is somebody else's
    cells = _Cells.of_target(connection, target_id)
    if not len(cells.block_ids):
        return []
    check = _Check(connection, installation, target_id, cells)
    return [bucket for tier in installation.tiers for bucket in check.lost(tier, since=since, until=until)]


@dataclass(frozen=True)
class _Check:
    """The look at one target's rollups."""

    connection: Connection
    installation: Installation
    target_id: int
    cells: _Cells

    def lost(self, tier: TierEntry, *, since: datetime, until: datetime) -> Iterator[tuple[datetime, datetime]]:
        """The buckets of one tier that have lost inputs."""
        stored = _stored_counts(self.connection, tier, self.cells, since=tier.ladder.start_of(since), until=until)
        starts = np.unique(stored.bucket)
        if not len(starts):
            return
        ends = wire_instants([tier.ladder.end_of(from_wire_instant(start)) for start in starts])
        expected = _Expected(starts, ends, stored, len(self.cells.block_ids) * BLOCK_SERIES)
        for line in expected.lost(self._inputs(tier, expected)).tolist():
            yield from_wire_instant(starts[line]), from_wire_instant(ends[line])

    def _inputs(self, tier: TierEntry, expected: _Expected) -> Iterator[_Counts]:
        if tier.is_finest:
            for since, until in expected.spans():
                yield self._sampled(since, until)
        elif (parent := self.installation.tier(tier.parent_id or 0)) is not None:
            since, until = from_wire_instant(expected.starts[0]), from_wire_instant(expected.ends[-1])
            yield _stored_counts(self.connection, parent, self.cells, since=since, until=until)

    def _sampled(self, since: datetime, until: datetime) -> _Counts:
        """One count for each sample that is there, as if its instant were a bucket."""
        frames = read_columns(self.connection, target_ids=[self.target_id], since=since, until=until)
        cell = np.full(len(frames.place), -1, dtype=np.int64)
        map_of_sample = frames.map_id[frames.frame]
        for map_id, series_ids in maps_of(self.connection, np.unique(frames.map_id).tolist()).items():
            here = map_of_sample == map_id
            cell[here] = self.cells.of_series(series_ids)[frames.place[here]]
        given = cell >= 0
        at = frames.at[frames.frame][given]
        return _Counts(at, cell[given], np.ones(len(at), dtype=np.int64))


@dataclass(frozen=True)
class _Expected:
    """What stored buckets say that their inputs hold. `starts`, `ends`: as on the wire, ascending."""

    starts: _Integers
    ends: _Integers
    stored: _Counts
    cells: int

    def lost(self, inputs: Iterator[_Counts]) -> _Integers:
        """The lines of the buckets in which the inputs hold fewer samples of some series."""
        key = self._keys(self.stored)
        order = np.argsort(key)
        key, missing = key[order], self.stored.count[order].copy()
        for part in inputs:
            found = self._keys(part)
            place = np.minimum(np.searchsorted(key, found), len(key) - 1)
            is_asked = key[place] == found
            missing -= np.bincount(place[is_asked], weights=part.count[is_asked], minlength=len(key)).astype(np.int64)
        return np.unique(key[missing > 0] // self.cells)

    def _keys(self, counts: _Counts) -> _Integers:
        """One number for the bucket that an input belongs to and its cell; -1 for what lies in none of the buckets."""
        line = np.searchsorted(self.starts, counts.bucket, side="right") - 1
        is_inside = (line >= 0) & (counts.bucket < self.ends[line])
        return np.where(is_inside, line * self.cells + counts.cell, -1)

    def spans(self) -> Iterator[tuple[datetime, datetime]]:
        """The buckets in order, so many at once that their samples are not too many."""
        line = np.searchsorted(self.starts, self.stored.bucket)
        chunk = np.cumsum(np.bincount(line, weights=self.stored.count)) // _MOST_SAMPLES
        for one in np.unique(chunk):
            (lines,) = np.nonzero(chunk == one)
            yield from_wire_instant(self.starts[lines[0]]), from_wire_instant(self.ends[lines[-1]])


def _stored_counts(
    connection: Connection, tier: TierEntry, cells: _Cells, *, since: datetime, until: datetime
) -> _Counts:
    """The counts of a target's rollups in the buckets from `since` to `until`."""
    own = cells.is_own
    parts = []
    for found in read_counts(connection, tier, block_ids=cells.block_ids, since=since, until=until):
        cell = np.searchsorted(cells.block_ids, found.block_id) * BLOCK_SERIES + found.position
        chosen = own[cell]
        parts.append(_Counts(found.bucket[chosen], cell[chosen], found.count[chosen]))
    return _joined(parts)


def _joined(parts: Sequence[_Counts]) -> _Counts:
    none = np.zeros(0, dtype=np.int64)
    bucket, cell, count = (
        np.concatenate([none, *(getattr(part, name) for part in parts)]) for name in ("bucket", "cell", "count")
    )
    return _Counts(bucket, cell, count)
