"""Rollup rows: read and written as matrices, one line per block, one array per statistic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import ColumnElement, Connection, func, literal, select, text
from sqlalchemy.dialects.postgresql import array

from aggregator.rollups.statistics import Integers, Statistics, names_of
from aggregator.storage import tables
from aggregator.storage.blocks import BLOCK_SERIES, Grid
from aggregator.storage.copying import Rows, copy_in, copy_out, encode, from_wire_instant, grouped, wire_instants

_TABLE = tables.rollup
_KEYS = ("bucket", "block_id", "slots_due", "tier_id")
_STATISTICS = tuple(field.name for field in fields(Statistics))
_SLOTS = "slots"
_ALL_NAMES = (*_KEYS, "count", "last_at", "sum", "min", "max", "first", "last", "m2", "increase", "covered", _SLOTS)


@dataclass(frozen=True)
class Stored:
    """The rollups of some blocks in one bucket: statistics of shape (blocks, 64), and which blocks have a row.

    `slots_due`: slots in the bucket, int64 of shape (blocks,), 0 where there is no row. `slots`: those of each series,
    shape (blocks, 64), where the blocks hold outputs of a rule.
    """

    statistics: Statistics
    has_row: npt.NDArray[np.bool_]
    slots_due: npt.NDArray[np.int64]
    slots: Integers | None = None

    @classmethod
    def nothing(cls, blocks: int) -> Stored:
        """No row of any block."""
        none = np.zeros(blocks, dtype=np.int64)
        return cls(Statistics.empty((blocks, BLOCK_SERIES)), none.astype(np.bool_), none)

    @property
    def slots_of_cells(self) -> Integers:
        """The slots due for each series: its own, or those of its block; shape (blocks, 64)."""
        if self.slots is not None:
            return self.slots
        return np.broadcast_to(self.slots_due[:, np.newaxis], self.statistics.count.shape)

    def array(self, name: str) -> npt.NDArray[Any]:
        """What a column of the table holds; shape (blocks, 64)."""
        values: npt.NDArray[Any] = self.slots_of_cells if name == _SLOTS else getattr(self.statistics, name)
        return values


def _names(grid: Grid, *, is_counter: bool, is_finest: bool) -> tuple[str, ...]:
    names = names_of(is_counter=is_counter, is_finest=is_finest, is_output=grid.is_output)
    return (*names, _SLOTS) if grid.is_output else names


def read_rollups(
    connection: Connection,
    *,
    tier_id: int,
    is_finest: bool,
    grid: Grid,
    since: datetime,
    until: datetime,
    only: tuple[str, ...] = (*_STATISTICS, _SLOTS),
) -> dict[datetime, Stored]:
    """The rollups of a grid's blocks by bucket, oldest first; buckets without any row are left out.

    `only` leaves out statistics that the caller does not need. Uses index: rollup_pkey.
    """
    found: list[tuple[tuple[str, ...], Rows]] = []
    for counters in (False, True):
        ids = grid.block_ids[grid.is_counter == counters]
        wanted = tuple(name for name in _names(grid, is_counter=counters, is_finest=is_finest) if name in only)
        if not len(ids) or not wanted:
            continue
        names = ("bucket", "block_id", "slots_due", *wanted)
        query = select(*(_column(name) for name in names)).where(
            _TABLE.c.tier_id == tier_id,
            _TABLE.c.block_id.in_(ids.tolist()),
            _TABLE.c.bucket >= since,
            _TABLE.c.bucket < until,
        )
        found += [(wanted, rows) for rows in grouped(copy_out(connection, query), _TABLE, names)]
    return _by_bucket(found, grid, with_slots=grid.is_output and _SLOTS in only)


def _column(name: str) -> ColumnElement[Any]:
    """A column; where a row was written while its tier was not the finest, the last sample counts as at the start."""
    column: ColumnElement[Any] = _TABLE.c[name]
    if name != "last_at":
        return column
    unknown = func.array_fill(literal(0), array([func.cardinality(_TABLE.c["count"])]))
    return func.coalesce(column, unknown).label(name)


def _by_bucket(
    found: Sequence[tuple[tuple[str, ...], Rows]], grid: Grid, *, with_slots: bool
) -> dict[datetime, Stored]:
    """Rows with the statistics that they carry, laid out by bucket; all buckets lie in arrays of their own together."""
    if not found:
        return {}
    buckets = np.unique(np.concatenate([rows.columns["bucket"] for _, rows in found]))
    shape = (len(buckets), len(grid.block_ids))
    statistics = Statistics.empty((*shape, BLOCK_SERIES))
    has_row, slots_due = np.zeros(shape, dtype=np.bool_), np.zeros(shape, dtype=np.int64)
    slots = np.zeros((*shape, BLOCK_SERIES) if with_slots else (len(buckets), 0), dtype=np.int64)
    for wanted, rows in found:
        bucket = np.searchsorted(buckets, rows.columns["bucket"])
        block = np.searchsorted(grid.block_ids, rows.columns["block_id"])
        has_row[bucket, block] = True
        slots_due[bucket, block] = rows.columns["slots_due"]
        for name in wanted:
            values = rows.columns[name]
            target = slots if name == _SLOTS else getattr(statistics, name)
            target[bucket, block, : values.shape[1]] = values
    return {
        from_wire_instant(int(start)): Stored(
            statistics[place], has_row[place], slots_due[place], slots[place] if with_slots else None
        )
        for place, start in enumerate(buckets)
    }


@dataclass(frozen=True)
class Changed:
    """The rollups of a bucket of which some lines (blocks; bool of shape (blocks,)) are to be written."""

    bucket: datetime
    rollups: Stored
    lines: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class TierRows:
    """Which tier's rows are written, and their blocks."""

    tier_id: int
    is_finest: bool
    grid: Grid


def write_rollups(connection: Connection, rows: TierRows, changed: Sequence[Changed]) -> int:
    """Write the changed lines: new rows by one COPY, existing ones replaced in place; gives the number of rows.

    The caller holds the shard's lock, so `rollups.has_row` stays true.
    """
    fresh = [(one, one.lines & ~one.rollups.has_row) for one in changed]
    if parts := _encoded(rows, fresh):
        copy_in(connection, 'aggregator."rollup"', _ALL_NAMES, parts)
    _replace(connection, rows, [one for one in changed if (one.lines & one.rollups.has_row).any()])
    return sum(int(np.count_nonzero(one.lines)) for one in changed)


def _encoded(tier: TierRows, chosen: Sequence[tuple[Changed, npt.NDArray[np.bool_]]]) -> list[bytes]:
    """The chosen lines as COPY data, grouped by kind and by how many positions of a block are in use."""
    chosen = [(one, lines) for one, lines in chosen if lines.any()]
    if not chosen:
        return []
    keys = _keys(tier, chosen)
    is_counter = np.concatenate([tier.grid.is_counter[lines] for _, lines in chosen])
    used = _used_positions(_gathered(chosen, "count"))
    parts: list[bytes] = []
    for counters in (False, True):
        if (is_counter != counters).all():
            continue
        names = _names(tier.grid, is_counter=counters, is_finest=tier.is_finest)
        statistics = {name: _gathered(chosen, name) for name in names}
        for width in np.unique(used[is_counter == counters]):
            here = (is_counter == counters) & (used == width)
            columns = {name: values[here] for name, values in keys.items()}
            columns |= {name: values[here, :width] for name, values in statistics.items()}
            parts.append(encode(_TABLE, _ALL_NAMES, Rows(columns)))
    return parts


def _gathered(chosen: Sequence[tuple[Changed, npt.NDArray[np.bool_]]], name: str) -> npt.NDArray[Any]:
    """One statistic of all chosen lines; shape (lines, 64)."""
    return np.concatenate([one.rollups.array(name)[lines] for one, lines in chosen])


def _keys(tier: TierRows, chosen: Sequence[tuple[Changed, npt.NDArray[np.bool_]]]) -> dict[str, npt.NDArray[Any]]:
    counts = [np.count_nonzero(lines) for _, lines in chosen]
    return {
        "bucket": np.repeat(wire_instants([one.bucket for one, _ in chosen]), counts),
        "block_id": np.concatenate([tier.grid.block_ids[lines] for _, lines in chosen]),
        "slots_due": np.concatenate([one.rollups.slots_due[lines] for one, lines in chosen]),
        "tier_id": np.full(sum(counts), tier.tier_id),
    }


def _used_positions(count: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Per line the place behind the last position that has a sample; at least 1."""
    given = count > 0
    from_end = np.argmax(given[:, ::-1], axis=1)
    return np.where(given.any(axis=1), count.shape[1] - from_end, 1)


# A temporary table: an UPDATE by values would send every number as text.
_STAGING = text(
    "CREATE TEMPORARY TABLE IF NOT EXISTS rollup_staging (LIKE aggregator.rollup)"
    " WITH (toast_tuple_target = 8160) ON COMMIT DROP"
)
_ASSIGNMENTS = ", ".join(
    f'"{name}" = staged."{name}"' for name in _ALL_NAMES if name not in ("bucket", "block_id", "tier_id")
)
# Uses index: rollup_pkey.
_UPDATE = text(
    f"UPDATE aggregator.rollup AS stored SET {_ASSIGNMENTS} FROM pg_temp.rollup_staging AS staged"  # noqa: S608 - names of our own table
    # Said as values too, so that one partition is looked at, and by its index.
    " WHERE stored.tier_id = :tier_id AND stored.bucket = :bucket AND stored.block_id = ANY(:block_ids)"
    " AND staged.bucket = :bucket AND staged.block_id = stored.block_id"
)
_EMPTY_STAGING = text("TRUNCATE pg_temp.rollup_staging")


def _replace(connection: Connection, rows: TierRows, changed: Sequence[Changed]) -> None:
    """Replace the lines that have a row: staged at once, then one statement for each bucket."""
    if not changed:
        return
    connection.execute(_STAGING)
    staged = _encoded(rows, [(one, one.lines & one.rollups.has_row) for one in changed])
    copy_in(connection, "pg_temp.rollup_staging", _ALL_NAMES, staged)
    for one in changed:
        ids = rows.grid.block_ids[one.lines & one.rollups.has_row].tolist()
        connection.execute(_UPDATE, {"tier_id": rows.tier_id, "bucket": one.bucket, "block_ids": ids})
    connection.execute(_EMPTY_STAGING)
