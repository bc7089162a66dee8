"""Rollups in both forms: read alike, written open, sealed by span, and unsealed where a sealed one changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime

import numpy as np
from sqlalchemy import Connection

from aggregator.rollups.statistics import Integers, Statistics
from aggregator.storage import forms
from aggregator.storage.blocks import Grid
from aggregator.storage.catalog import TierEntry
from aggregator.storage.copying import wire_instants
from aggregator.storage.rollup_matrix import SLOTS, Flags, Matrix, Stored
from aggregator.storage.rollup_rows import (
    Changed,
    TierRows,
    delete_open,
    names_in,
    read_open,
    replace_open,
    write_open,
)
from aggregator.storage.sealed_packing import pack_span
from aggregator.storage.sealed_rows import delete_sealed, read_sealed, write_sealed

_STATISTICS = tuple(field.name for field in fields(Statistics))
_ALL = (*_STATISTICS, SLOTS)


def read_rollups(
    connection: Connection,
    tier: TierEntry,
    *,
    grid: Grid,
    since: datetime,
    until: datetime,
    only: Sequence[str] = _ALL,
) -> dict[datetime, Stored]:
    """The rollups of a grid's blocks by bucket, oldest first; buckets without any are left out.

    `only` leaves out statistics that the caller does not need. These are several statements: the caller holds the lock
    of the blocks' shard, a snapshot, or the forms (`forms.hold`). Uses indexes: rollup_pkey, sealed_pkey, clock_pkey.
    """
    return _read(connection, tier, grid=grid, since=since, until=until, only=only).by_bucket()


def _read(
    connection: Connection,
    tier: TierEntry,
    *,
    grid: Grid,
    since: datetime,
    until: datetime,
    only: Sequence[str] = _ALL,
) -> Matrix:
    found = read_open(connection, tier, grid=grid, since=since, until=until, only=only)
    sealed = []
    if forms.may_be_sealed(connection, tier.id, since=since):
        sealed = list(read_sealed(connection, tier, grid=grid, since=since, until=until, only=only))
    buckets = [rows.columns["bucket"] for _, rows in found] + [cells.bucket for cells in sealed]
    together = np.unique(np.concatenate(buckets)) if buckets else np.zeros(0, dtype=np.int64)
    matrix = Matrix.empty(together, grid, with_slots=grid.is_output and SLOTS in only)
    for names, rows in found:
        matrix.add_open(names, rows, grid=grid)
    for cells in sealed:
        matrix.add_sealed(cells, grid=grid)
    return matrix


@dataclass(frozen=True)
class Counts:
    """How many samples which rollups have, at least one. `bucket` as on the wire, `position` from 0; shapes (n,)."""

    bucket: Integers
    block_id: Integers
    position: Integers
    count: Integers


def read_counts(
    connection: Connection, tier: TierEntry, *, block_ids: Integers, since: datetime, until: datetime
) -> Iterator[Counts]:
    """How many samples the rollups of some blocks have; needs what `read_rollups` needs, and its indexes."""
    grid = Grid(block_ids, np.zeros(len(block_ids), dtype=np.bool_))  # rows of any kind have counts
    for _, rows in read_open(connection, tier, grid=grid, since=since, until=until, only=("count",)):
        count = rows.columns["count"].astype(np.int64)
        line, position = np.nonzero(count)
        yield Counts(rows.columns["bucket"][line], rows.columns["block_id"][line], position, count[line, position])
    if forms.may_be_sealed(connection, tier.id, since=since):
        for cells in read_sealed(connection, tier, grid=grid, since=since, until=until, only=("count",)):
            yield Counts(cells.bucket, cells.block_id, cells.position, cells.values["count"])


def write_rollups(connection: Connection, rows: TierRows, changed: Sequence[Changed]) -> int:
    """Write the changed lines: new rows by one COPY, existing ones replaced in place; gives the number of rows.

    Where a line is sealed, its block's span is unsealed first; the open partition of its interval is there. The caller
    holds the shard's lock, so `rollups.has_row` stays true.
    """
    _unseal(connection, rows, changed)
    write_open(connection, rows, [(one, one.lines & ~one.rollups.has_row) for one in changed])
    replace_open(connection, rows, [one for one in changed if (one.lines & one.rollups.has_row).any()])
    return sum(int(np.count_nonzero(one.lines)) for one in changed)


def _unseal(connection: Connection, rows: TierRows, changed: Sequence[Changed]) -> None:
    """Make the sealed rows open again of each block and span of which a sealed line changes."""
    if rows.tier.spans is None:
        return
    by_span: dict[datetime, Flags] = {}
    for one in changed:
        lines = one.lines & one.rollups.is_sealed
        if lines.any():
            start, _ = rows.tier.spans.bounds(one.bucket)
            by_span[start] = by_span.get(start, np.zeros_like(lines)) | lines
    for start, lines in sorted(by_span.items()):
        _unseal_span(connection, rows.tier, rows.grid.only(lines), start=start)
    if by_span:
        forms.changing(connection)


def _unseal_span(connection: Connection, tier: TierEntry, grid: Grid, *, start: datetime) -> None:
    if tier.spans is None:
        raise AssertionError("what is sealed has spans")
    _, end = tier.spans.bounds(start)
    stored = _read(connection, tier, grid=grid, since=start, until=end).by_bucket()
    chosen = [(Changed(bucket, one, one.is_sealed), one.is_sealed) for bucket, one in stored.items()]
    write_open(connection, TierRows(tier, grid), chosen)
    delete_sealed(connection, tier, block_ids=grid.block_ids.tolist(), start=start)


def seal(connection: Connection, tier: TierEntry, *, grid: Grid, start: datetime) -> int:
    """Seal the span that begins at `start`, of the grid's blocks of one shard; gives how many rollups they have in it.

    What is sealed of them already is packed together with what is open. The caller holds the shard's lock, has made the
    partitions, and then calls `forms.note_sealed` and `forms.changing`. Raises ValueError where a number would not come
    back with its bits: nothing is to be committed then.
    """
    if tier.spans is None:
        raise ValueError(f"{tier.name} is not sealed: its buckets differ in length, or straddle partitions")
    _, end = tier.spans.bounds(start)
    found = _read(connection, tier, grid=grid, since=start, until=end)
    whole = _whole(found, tier, grid, start=start, end=end)
    names = {
        is_counter: names_in(grid, is_counter=is_counter, is_finest=tier.is_finest) for is_counter in (False, True)
    }
    packed = pack_span(whole.statistics, whole.slots_of_cells, is_counter=grid.is_counter, names=names)
    block_ids = grid.block_ids.tolist()
    delete_sealed(connection, tier, block_ids=block_ids, start=start)
    write_sealed(connection, tier, packed, grid=grid, start=start)
    delete_open(connection, tier, block_ids=block_ids, since=start, until=end)
    return int(np.count_nonzero(whole.statistics.count))


def _whole(found: Matrix, tier: TierEntry, grid: Grid, *, start: datetime, end: datetime) -> Matrix:
    """The matrix with a line for every bucket of the span."""
    step = tier.ladder.step
    buckets = wire_instants([start + place * step for place in range(round((end - start) / step))])
    if len(found.buckets) == len(buckets):
        return found
    whole = Matrix.empty(buckets, grid, with_slots=found.slots is not None)
    places = np.searchsorted(buckets, found.buckets)
    for name in _STATISTICS:
        getattr(whole.statistics, name)[places] = getattr(found.statistics, name)
    whole.slots_due[places] = found.slots_due
    if whole.slots is not None and found.slots is not None:
        whole.slots[places] = found.slots
    return whole
