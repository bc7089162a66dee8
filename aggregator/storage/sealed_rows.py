"""Sealed rows of rollups: written from a span's statistics, read back as cells, deleted by block and span."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, Table, delete, select

from aggregator.rollups.packed import unpack
from aggregator.rollups.statistics import Floats, Integers
from aggregator.storage import tables
from aggregator.storage.blocks import BLOCK_SERIES, Grid
from aggregator.storage.catalog import TierEntry
from aggregator.storage.copying import copy_in, copy_out, wire_instants
from aggregator.storage.sealed_columns import OWN, SHARED, columns_of
from aggregator.storage.sealed_packing import PackedSpan
from aggregator.storage.sealed_wire import Read, Row, decode_rows, encode_rows, scalar, unwire

_SEALED, _CLOCK = tables.sealed, tables.clock
_ROW_KEYS = ("start", "block_id", "position", "clock")
_CLOCK_KEYS = ("start", "step_ms", "block_id", "clock", "buckets")
_MILLISECOND = timedelta(milliseconds=1)
_MICROSECONDS_IN_MS = 1_000


@dataclass(frozen=True)
class Cells:
    """Rollups that were read from sealed rows, of n series and buckets: `values` by statistic, each of shape (n,).

    `bucket`: as on the wire; `block_id`; `position`: from 0; `slots_due`: of the series. All of shape (n,).
    """

    bucket: Integers
    block_id: Integers
    position: Integers
    slots_due: Integers
    values: dict[str, npt.NDArray[Any]]


def read_sealed(
    connection: Connection,
    tier: TierEntry,
    *,
    grid: Grid,
    since: datetime,
    until: datetime,
    only: Sequence[str],
) -> Iterator[Cells]:
    """The rollups of a grid's blocks in buckets of the half-open interval. Uses indexes: sealed_pkey, clock_pkey."""
    if tier.spans is None:
        return
    own = tuple(name for name in OWN if name in only)
    first, _ = tier.spans.bounds(since)
    rows = _read(connection, _SEALED, (*_ROW_KEYS, *columns_of(own)), tier, grid=grid, since=first, until=until)
    if not rows.count:
        return
    clocks = _read(connection, _CLOCK, (*_CLOCK_KEYS, *columns_of(SHARED)), tier, grid=grid, since=first, until=until)
    edges = wire_instants([since, until])
    lengths = clocks.integers("buckets")
    line_of = _lines_by_key(clocks)
    clock_of_row = np.array([line_of[key] for key in _keys(rows)], dtype=np.int64)
    for buckets in np.unique(lengths).tolist():
        chosen = np.flatnonzero(lengths[clock_of_row] == buckets)
        yield _cells(
            rows.only(chosen.tolist()),
            clocks.only(clock_of_row[chosen].tolist()),
            own,
            buckets=buckets,
            edges=edges,
        )


def _read(
    connection: Connection,
    table: Table,
    names: tuple[str, ...],
    tier: TierEntry,
    *,
    grid: Grid,
    since: datetime,
    until: datetime,
) -> Read:
    query = select(*(table.c[name] for name in names)).where(
        table.c.tier_id == tier.id,
        table.c.block_id.in_(grid.block_ids.tolist()),
        table.c.start >= since,
        table.c.start < until,
    )
    return decode_rows(copy_out(connection, query), names)


def _keys(read: Read) -> Iterator[tuple[int, int, int]]:
    return zip(*(read.integers(name).tolist() for name in ("block_id", "start", "clock")), strict=True)


def _lines_by_key(clocks: Read) -> dict[tuple[int, int, int], int]:
    return {key: line for line, key in enumerate(_keys(clocks))}


def _cells(rows: Read, clocks: Read, own: Sequence[str], *, buckets: int, edges: Integers) -> Cells:
    """The cells with samples, from rows of one length and the clock of each row."""
    count = _unpacked(clocks, "count", buckets=buckets)
    step = clocks.integers("step_ms") * _MICROSECONDS_IN_MS
    instants = rows.integers("start")[:, None] + step[:, None] * np.arange(buckets)
    line, place = np.nonzero((count > 0) & (instants >= edges[0]) & (instants < edges[1]))
    whole = {"count": count, "last_at": _unpacked(clocks, "last_at", buckets=buckets)}
    values: dict[str, npt.NDArray[Any]] = {
        name: np.nan_to_num(array[line, place]).astype(np.int64) for name, array in whole.items()
    }
    values["covered"] = _unpacked(clocks, "covered", buckets=buckets)[line, place]
    values |= {name: _unpacked(rows, name, buckets=buckets)[line, place] for name in own}
    slots = _unpacked(clocks, "slots_due", buckets=buckets)[line, place]
    return Cells(
        instants[line, place],
        rows.integers("block_id")[line],
        rows.integers("position")[line] - 1,
        slots.astype(np.int64),
        values,
    )


def _unpacked(read: Read, name: str, *, buckets: int) -> Floats:
    return unpack(unwire(read, name, buckets=buckets))


def write_sealed(connection: Connection, tier: TierEntry, packed: PackedSpan, *, grid: Grid, start: datetime) -> None:
    """Store a packed span that begins at `start`; its partitions are there, and no row of its blocks is."""
    at = scalar("q", int(wire_instants([start])[0]))
    common = {"start": at, "tier_id": scalar("h", tier.id)}
    block = [scalar("i", block_id) for block_id in grid.block_ids.tolist()]
    rows: list[Row] = [
        {
            **common,
            "block_id": block[line // BLOCK_SERIES],
            "position": scalar("h", line % BLOCK_SERIES + 1),
            "clock": scalar("h", number),
            **columns,
        }
        for line, number, columns in zip(packed.lines.tolist(), packed.clock_of.tolist(), packed.rows, strict=True)
    ]
    step = scalar("q", tier.ladder.step // _MILLISECOND)
    clocks: list[Row] = [
        {
            **common,
            "step_ms": step,
            "block_id": block[line],
            "clock": scalar("h", number),
            "buckets": scalar("h", packed.buckets),
            **columns,
        }
        for line, number, columns in zip(
            packed.clock_blocks.tolist(), packed.clock_numbers.tolist(), packed.clocks, strict=True
        )
    ]
    for table, listed in ((_SEALED, rows), (_CLOCK, clocks)):
        names = tuple(table.c.keys())
        if listed:
            copy_in(connection, f'aggregator."{table.name}"', names, [encode_rows(listed, names)])


def delete_sealed(connection: Connection, tier: TierEntry, *, block_ids: Sequence[int], start: datetime) -> None:
    """Delete what is sealed of some blocks in the span that begins at `start`.

    Uses indexes: sealed_pkey, clock_pkey.
    """
    for table in (_SEALED, _CLOCK):
        connection.execute(
            delete(table).where(
                table.c.tier_id == tier.id, table.c.block_id.in_(list(block_ids)), table.c.start == start
            )
        )
