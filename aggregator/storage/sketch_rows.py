"""Sketch rows: the sketches of a block's series in a bucket, read and written whole by binary COPY."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
from sqlalchemy import ColumnElement, Connection, and_, bindparam, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import DateTime, Integer

from aggregator.rollups.sketch import Integers, Sketches
from aggregator.storage import tables
from aggregator.storage.blocks import BLOCK_SERIES, Grid
from aggregator.storage.copying import Rows, copy_in, copy_out, encode, from_wire_instant, grouped, wire_instants

_TABLE = tables.sketch
_NAMES = ("bucket", "block_id", "tier_id", "positions", "keys", "counts")
_READ_NAMES = ("bucket", "block_id", "positions", "keys", "counts")


@dataclass(frozen=True)
class TierSpan:
    """Buckets of one tier that begin in a half-open interval (UTC), for the blocks of a grid."""

    tier_id: int
    since: datetime
    until: datetime
    grid: Grid


def sketched_cells(connection: Connection, grid: Grid) -> npt.NDArray[np.bool_]:
    """Which cells of a grid are to have sketches; shape (cells,). Uses index: series_sketched_idx."""
    table = tables.series
    chosen = np.zeros(grid.cells, dtype=np.bool_)
    statement = select(table.c.block_id, table.c.position).where(
        table.c.has_sketch, table.c.block_id.in_(grid.block_ids.tolist())
    )
    rows = connection.execute(statement).all()
    if rows:
        block_ids, positions = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
        chosen[np.searchsorted(grid.block_ids, block_ids) * BLOCK_SERIES + positions - 1] = True
    return chosen


def lines_with_sketches(connection: Connection, *spans: TierSpan) -> npt.NDArray[np.int64]:
    """The lines (blocks) of the spans' one grid that have a stored sketch in any of them, ascending.

    Uses index: sketch_pkey.
    """
    block_ids = spans[0].grid.block_ids
    found: set[int] = set()
    for span in spans:
        found.update(connection.execute(select(_TABLE.c.block_id).where(_within(span)).distinct()).scalars())
    return np.searchsorted(block_ids, sorted(found))


def _within(span: TierSpan) -> ColumnElement[bool]:
    return and_(
        _TABLE.c.tier_id == span.tier_id,
        _TABLE.c.block_id.in_(span.grid.block_ids.tolist()),
        _TABLE.c.bucket >= span.since,
        _TABLE.c.bucket < span.until,
    )


def read_sketches(connection: Connection, span: TierSpan) -> dict[datetime, Sketches]:
    """By bucket, oldest first, the stored sketches by cell of the grid. Uses index: sketch_pkey."""
    query = select(*(_TABLE.c[name] for name in _READ_NAMES)).where(_within(span))
    parts: dict[int, list[tuple[Integers, Integers, Integers]]] = {}
    for rows in grouped(copy_out(connection, query), _TABLE, _READ_NAMES):
        columns = rows.columns
        lines = np.searchsorted(span.grid.block_ids, columns["block_id"])
        cells = lines[:, None] * BLOCK_SERIES + columns["positions"].astype(np.int64) - 1
        for bucket in np.unique(columns["bucket"]):
            here = columns["bucket"] == bucket
            found = (cells[here], columns["keys"][here], columns["counts"][here])
            parts.setdefault(int(bucket), []).append(found)
    return {from_wire_instant(bucket): _joined(parts[bucket]) for bucket in sorted(parts)}


def _joined(parts: list[tuple[Integers, Integers, Integers]]) -> Sketches:
    """Whole rows put together: each is in order, and no two are of the same block."""
    cells, keys, counts = (np.concatenate([one.reshape(-1) for one in column]) for column in zip(*parts, strict=True))
    order = np.lexsort((keys, cells))
    return Sketches(*(column[order].astype(np.int64) for column in (cells, keys, counts)))


@dataclass(frozen=True)
class ChangedSketches:
    """The sketches of a bucket by cell of the grid, of which some lines (bool of shape (blocks,)) are to be written."""

    sketches: Sketches
    lines: npt.NDArray[np.bool_]


# Uses index: sketch_pkey. The interval is said as values too, so that other partitions are not looked at.
_DELETE = text(
    """
    DELETE FROM aggregator.sketch AS stored
    USING unnest(:buckets, :block_ids) AS gone (bucket, block_id)
    WHERE stored.tier_id = :tier_id AND stored.bucket >= :since AND stored.bucket < :until
        AND stored.bucket = gone.bucket AND stored.block_id = gone.block_id
    """
).bindparams(bindparam("buckets", type_=ARRAY(DateTime(timezone=True))), bindparam("block_ids", type_=ARRAY(Integer)))


def write_sketches(connection: Connection, span: TierSpan, changed: Mapping[datetime, ChangedSketches]) -> int:
    """Replace the rows of the changed lines; a line without any sketch has no row. Gives the rows written.

    The caller holds the shard's lock, and the partitions are there.
    """
    ids = span.grid.block_ids
    gone = [(bucket, int(block_id)) for bucket, one in changed.items() for block_id in ids[one.lines]]
    if not gone:
        return 0
    buckets, block_ids = (list(column) for column in zip(*gone, strict=True))
    where = {"tier_id": span.tier_id, "since": span.since, "until": span.until}
    connection.execute(_DELETE, {**where, "buckets": buckets, "block_ids": block_ids})
    rows = _rows(span, changed)
    if rows.widths.size:
        copy_in(connection, 'aggregator."sketch"', _NAMES, rows.encoded(span.tier_id))
    return rows.widths.size


@dataclass(frozen=True)
class _Rows:
    """Rows to be written: of each its bucket, its block, and where in the entries of all rows its own begin."""

    entries: Sketches
    buckets: npt.NDArray[np.int64]
    block_ids: npt.NDArray[np.int64]
    firsts: npt.NDArray[np.int64]
    widths: npt.NDArray[np.int64]

    def encoded(self, tier_id: int) -> list[bytes]:
        """The rows as COPY data, grouped by how many entries they have."""
        parts: list[bytes] = []
        for width in np.unique(self.widths):
            here = self.widths == width
            places = self.firsts[here][:, None] + np.arange(width)
            columns = {
                "bucket": self.buckets[here],
                "block_id": self.block_ids[here],
                "tier_id": np.full(len(places), tier_id),
                "positions": self.entries.series[places] % BLOCK_SERIES + 1,
                "keys": self.entries.keys[places],
                "counts": self.entries.counts[places],
            }
            parts.append(encode(_TABLE, _NAMES, Rows(columns)))
        return parts


def _rows(span: TierSpan, changed: Mapping[datetime, ChangedSketches]) -> _Rows:
    """The changed lines that have a sketch."""
    ids = span.grid.block_ids
    kept = [one.sketches.only(np.repeat(one.lines, BLOCK_SERIES)) for one in changed.values()]
    series, keys, counts = (
        np.concatenate([getattr(one, name) for one in kept]) for name in ("series", "keys", "counts")
    )
    buckets = np.repeat(wire_instants(list(changed)), [len(one) for one in kept])
    # Entries of one row stand together: a row begins where the bucket or the block is another one.
    row_of = np.column_stack((buckets, series // BLOCK_SERIES))
    starts = np.ones(len(series), dtype=np.bool_)
    starts[1:] = (row_of[1:] != row_of[:-1]).any(axis=1)
    firsts = np.flatnonzero(starts)
    return _Rows(
        entries=Sketches(series, keys, counts),
        buckets=buckets[firsts],
        block_ids=ids[series[firsts] // BLOCK_SERIES],
        firsts=firsts,
        widths=np.diff(firsts, append=len(series)),
    )
