"""Open rollup rows: read and written as matrices, one line per block, one array per statistic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from sqlalchemy import ColumnElement, Connection, delete, func, literal, select, text
from sqlalchemy.dialects.postgresql import array

from aggregator.rollups.statistics import names_of
from aggregator.storage import tables
from aggregator.storage.blocks import Grid
from aggregator.storage.catalog import TierEntry
from aggregator.storage.copying import Rows, copy_in, copy_out, encode, grouped, wire_instants
from aggregator.storage.rollup_matrix import SLOTS, Flags, Stored

_TABLE = tables.rollup
_KEYS = ("bucket", "block_id", "slots_due", "tier_id")
_ALL_NAMES = (*_KEYS, "count", "last_at", "sum", "min", "max", "first", "last", "m2", "increase", "covered", SLOTS)


def names_in(grid: Grid, *, is_counter: bool, is_finest: bool) -> tuple[str, ...]:
    """The arrays that rows of a kind have in a tier."""
    names = names_of(is_counter=is_counter, is_finest=is_finest, is_output=grid.is_output)
    return (*names, SLOTS) if grid.is_output else names


def read_open(
    connection: Connection, tier: TierEntry, *, grid: Grid, since: datetime, until: datetime, only: Sequence[str]
) -> list[tuple[tuple[str, ...], Rows]]:
    """The open rows of a grid's blocks in the half-open interval, each lot with the statistics that it carries.

    `only` leaves out statistics that the caller does not need. Uses index: rollup_pkey.
    """
    found: list[tuple[tuple[str, ...], Rows]] = []
    for counters in (False, True):
        ids = grid.block_ids[grid.is_counter == counters]
        names = names_in(grid, is_counter=counters, is_finest=tier.is_finest)
        wanted = tuple(name for name in names if name in only)
        if not len(ids) or not wanted:
            continue
        listed = ("bucket", "block_id", "slots_due", *wanted)
        query = select(*(_column(name) for name in listed)).where(
            _TABLE.c.tier_id == tier.id,
            _TABLE.c.block_id.in_(ids.tolist()),
            _TABLE.c.bucket >= since,
            _TABLE.c.bucket < until,
        )
        found += [(wanted, rows) for rows in grouped(copy_out(connection, query), _TABLE, listed)]
    return found


def _column(name: str) -> ColumnElement[Any]:
    """A column; where a row was written while its tier was not the finest, the last sample counts as at the start."""
    column: ColumnElement[Any] = _TABLE.c[name]
    if name != "last_at":
        return column
    unknown = func.array_fill(literal(0), array([func.cardinality(_TABLE.c["count"])]))
    return func.coalesce(column, unknown).label(name)


@dataclass(frozen=True)
class Changed:
    """The rollups of a bucket of which some lines (blocks; bool of shape (blocks,)) are to be written."""

    bucket: datetime
    rollups: Stored
    lines: Flags


#: A bucket's rollups, and the lines of them that are meant; shape (blocks,).
Chosen: TypeAlias = tuple[Changed, Flags]


@dataclass(frozen=True)
class TierRows:
    """Which tier's rows are written, and their blocks."""

    tier: TierEntry
    grid: Grid


def write_open(connection: Connection, rows: TierRows, chosen: Sequence[Chosen]) -> None:
    """Store lines that have no row, by one COPY."""
    if parts := _encoded(rows, chosen):
        copy_in(connection, 'aggregator."rollup"', _ALL_NAMES, parts)


def _encoded(rows: TierRows, chosen: Sequence[Chosen]) -> list[bytes]:
    """The chosen lines as COPY data, grouped by kind and by how many positions of a block are in use."""
    chosen = [(one, lines) for one, lines in chosen if lines.any()]
    if not chosen:
        return []
    keys = _keys(rows, chosen)
    is_counter = np.concatenate([rows.grid.is_counter[lines] for _, lines in chosen])
    used = _used_positions(_gathered(chosen, "count"))
    parts: list[bytes] = []
    for counters in (False, True):
        if (is_counter != counters).all():
            continue
        names = names_in(rows.grid, is_counter=counters, is_finest=rows.tier.is_finest)
        statistics = {name: _gathered(chosen, name) for name in names}
        for width in np.unique(used[is_counter == counters]):
            here = (is_counter == counters) & (used == width)
            columns = {name: values[here] for name, values in keys.items()}
            columns |= {name: values[here, :width] for name, values in statistics.items()}
            parts.append(encode(_TABLE, _ALL_NAMES, Rows(columns)))
    return parts


def _gathered(chosen: Sequence[Chosen], name: str) -> npt.NDArray[Any]:
    """One statistic of all chosen lines; shape (lines, 64)."""
    return np.concatenate([one.rollups.array(name)[lines] for one, lines in chosen])


def _keys(rows: TierRows, chosen: Sequence[Chosen]) -> dict[str, npt.NDArray[Any]]:
    counts = [np.count_nonzero(lines) for _, lines in chosen]
    return {
        "bucket": np.repeat(wire_instants([one.bucket for one, _ in chosen]), counts),
        "block_id": np.concatenate([rows.grid.block_ids[lines] for _, lines in chosen]),
        "slots_due": np.concatenate([one.rollups.slots_due[lines] for one, lines in chosen]),
        "tier_id": np.full(sum(counts), rows.tier.id),
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


def replace_open(connection: Connection, rows: TierRows, changed: Sequence[Changed]) -> None:
    """Replace the lines that have a row: staged at once, then one statement for each bucket.

    Raises RuntimeError where one of the rows is not there: nothing is to be committed then.
    """
    if not changed:
        return
    connection.execute(_STAGING)
    staged = _encoded(rows, [(one, one.lines & one.rollups.has_row) for one in changed])
    copy_in(connection, "pg_temp.rollup_staging", _ALL_NAMES, staged)
    for one in changed:
        ids = rows.grid.block_ids[one.lines & one.rollups.has_row].tolist()
        found = connection.execute(_UPDATE, {"tier_id": rows.tier.id, "bucket": one.bucket, "block_ids": ids}).rowcount
        if found != len(ids):
            raise RuntimeError(f"{len(ids) - found} of the rollup rows that are replaced at {one.bucket} are not there")
    connection.execute(_EMPTY_STAGING)


def delete_open(
    connection: Connection, tier: TierEntry, *, block_ids: Sequence[int], since: datetime, until: datetime
) -> None:
    """Delete the open rows of some blocks in the half-open interval. Uses index: rollup_pkey."""
    connection.execute(
        delete(_TABLE).where(
            _TABLE.c.tier_id == tier.id,
            _TABLE.c.block_id.in_(list(block_ids)),
            _TABLE.c.bucket >= since,
            _TABLE.c.bucket < until,
        )
    )
