"""Blocks: where in the rollups a series has its place, for life."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, func, insert, select, text, update

from aggregator.exposition.series import Kind
from aggregator.storage import tables
from aggregator.storage.series import maps_of
from aggregator.storage.witness import Witness

BLOCK_SERIES = 64


def place_new_series(connection: Connection, shard_id: int) -> list[int]:
    """Give every series of a locked shard that has none its block and position; gives their ids.

    They are sorted by metric, so that one metric over many targets lies in few rows. Uses index: series_unplaced_idx.
    """
    series, targets = tables.series, tables.targets
    rows = connection.execute(
        select(series.c.id, series.c.kind)
        .join(targets, targets.c.id == series.c.target_id)
        .where(targets.c.shard_id == shard_id, series.c.block_id.is_(None))
        .order_by(series.c.kind, series.c.metric, series.c.labels, series.c.target_id)
    ).all()
    for kind, group in groupby(rows, key=lambda row: int(row.kind)):
        _place(connection, shard_id, kind, [row.id for row in group])
    return [row.id for row in rows]


def _place(connection: Connection, shard_id: int, kind: int, series_ids: Sequence[int]) -> None:
    blocks = tables.blocks
    left = list(series_ids)
    open_block = connection.execute(
        select(blocks.c.id, blocks.c.size)
        .where(blocks.c.shard_id == shard_id, blocks.c.kind == kind, blocks.c.size < BLOCK_SERIES)
        .order_by(blocks.c.id)
    ).first()
    places: list[dict[str, int]] = []
    if open_block is not None:
        fitting, left = left[: BLOCK_SERIES - open_block.size], left[BLOCK_SERIES - open_block.size :]
        places += _positions(open_block.id, open_block.size, fitting)
        connection.execute(
            update(blocks).where(blocks.c.id == open_block.id).values(size=open_block.size + len(fitting))
        )
    chunks = [left[start : start + BLOCK_SERIES] for start in range(0, len(left), BLOCK_SERIES)]
    if chunks:
        values = [{"shard_id": shard_id, "kind": kind, "size": len(chunk)} for chunk in chunks]
        made = connection.execute(insert(blocks).returning(blocks.c.id, sort_by_parameter_order=True), values).scalars()
        for block_id, chunk in zip(made, chunks, strict=True):
            places += _positions(block_id, 0, chunk)
    connection.execute(_SET_PLACES, {name: [place[name] for place in places] for name in ("series", "block", "place")})


# One statement for all of them: a large target's first scrape brings tens of thousands. Uses index: series_pkey.
_SET_PLACES = text(
    """
    UPDATE aggregator.series AS s SET block_id = placed.block, position = placed.place
    FROM unnest(CAST(:series AS bigint[]), CAST(:block AS integer[]), CAST(:place AS smallint[]))
        AS placed (series, block, place)
    WHERE s.id = placed.series
    """
)


def _positions(block_id: int, taken: int, series_ids: Iterable[int]) -> list[dict[str, int]]:
    return [
        {"series": series_id, "block": block_id, "place": taken + count}
        for count, series_id in enumerate(series_ids, start=1)
    ]


@dataclass(frozen=True)
class Layout:
    """Where the series of a frame map lie: arrays of shape (n,), in the map's order. `position` counts from 0."""

    block_id: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]
    is_counter: npt.NDArray[np.bool_]

    @property
    def is_placed(self) -> bool:
        """Whether every series has its place."""
        return bool((self.block_id >= 0).all())

    def first(self, length: int) -> Layout:
        """The layout of the first series of the map."""
        return Layout(self.block_id[:length], self.position[:length], self.is_counter[:length])


@dataclass(frozen=True)
class Grid:
    """The cells of some blocks: cell = line of the block x 64 + position, both from 0. `block_ids` ascend.

    `is_output`: they hold outputs of a rule, which have slots of their own and no first or last sample.
    """

    block_ids: npt.NDArray[np.int64]
    is_counter: npt.NDArray[np.bool_]
    is_output: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Blocks, and the 64 places of each."""
        return len(self.block_ids), BLOCK_SERIES

    @property
    def cells(self) -> int:
        """How many cells there are in all."""
        return len(self.block_ids) * BLOCK_SERIES

    @property
    def is_counter_cell(self) -> npt.NDArray[np.bool_]:
        """For each cell, whether its block holds counters; shape (cells,)."""
        return np.repeat(self.is_counter, BLOCK_SERIES)

    def only(self, lines: npt.NDArray[np.bool_]) -> Grid:
        """The grid of the chosen blocks; `lines` has shape (blocks,)."""
        return replace(self, block_ids=self.block_ids[lines], is_counter=self.is_counter[lines])

    def part(self, start: int, stop: int) -> Grid:
        """The grid of the blocks from line `start` up to `stop`."""
        return replace(self, block_ids=self.block_ids[start:stop], is_counter=self.is_counter[start:stop])

    @classmethod
    def of(cls, layouts: Mapping[int, Layout]) -> Grid:
        """The grid of all blocks in which series of these frame maps lie."""
        block_ids = np.concatenate([layout.block_id for layout in layouts.values()])
        counters = np.concatenate([layout.is_counter for layout in layouts.values()])
        ids, first = np.unique(block_ids, return_index=True)
        return cls(ids, counters[first])

    def cells_of(self, layout: Layout) -> npt.NDArray[np.int64]:
        """The cell of each series of a frame map; shape (n,)."""
        return np.searchsorted(self.block_ids, layout.block_id) * BLOCK_SERIES + layout.position


@dataclass
class LayoutCache:
    """The layouts that this process has read and that were committed; a map only grows, a place never changes."""

    layouts: dict[int, Layout] = field(default_factory=dict)
    #: Of all that is remembered here; None where nothing is.
    witness: Witness | None = None

    def forget(self) -> None:
        """Drop everything: behind a new connection may be another database."""
        self.layouts.clear()
        self.witness = None

    def read(self, connection: Connection, lengths: dict[int, int]) -> dict[int, Layout]:
        """The layouts of maps, each at least as long as asked.

        What is read anew is just as long: a series behind it may be registered at this moment, and has no place yet.
        """
        stale = [
            map_id
            for map_id, length in lengths.items()
            if map_id not in self.layouts or len(self.layouts[map_id].block_id) < length
        ]
        fresh = _read_layouts(connection, stale) if stale else {}
        return {
            map_id: fresh[map_id].first(length) if map_id in fresh else self.layouts[map_id]
            for map_id, length in lengths.items()
        }

    def knows(self, layouts: Mapping[int, Layout]) -> bool:
        """Whether these are remembered already."""
        return all(self.layouts.get(map_id) is layout for map_id, layout in layouts.items())

    def keep(self, layouts: Mapping[int, Layout], witness: Witness | None) -> None:
        """Remember layouts whose places are committed, with the witness that was committed with them."""
        self.layouts.update(layouts)
        self.witness = witness


def _read_layouts(connection: Connection, map_ids: Sequence[int]) -> dict[int, Layout]:
    """Uses indexes: frame_maps_pkey, series_pkey."""
    listed = maps_of(connection, map_ids)
    series = tables.series
    all_ids = sorted({series_id for series_ids in listed.values() for series_id in series_ids})
    places: dict[int, tuple[int, int, bool]] = {}
    for row in connection.execute(
        select(series.c.id, series.c.block_id, series.c.position, series.c.kind).where(series.c.id.in_(all_ids))
    ):
        block_id, position = (-1, 0) if row.block_id is None else (row.block_id, row.position - 1)
        places[row.id] = (block_id, position, row.kind == Kind.COUNTER)
    return {map_id: _layout([places[series_id] for series_id in ids]) for map_id, ids in listed.items()}


def _layout(places: Sequence[tuple[int, int, bool]]) -> Layout:
    block_id, position, is_counter = (np.array(column) for column in zip(*places, strict=True))
    return Layout(block_id.astype(np.int64), position.astype(np.int64), is_counter.astype(np.bool_))


def cells_of_shard(connection: Connection, shard_id: int) -> int:
    """How many cells the blocks of a shard have, or will have once the series of its targets are placed.

    Of a rule's shard those of its inputs, where these are more: they are what has to be held.
    Uses indexes: blocks_shard_id_kind_idx, targets_shard_id_idx, rules_shard_id_key, rule_inputs_rule_id_idx.
    """
    blocks, targets, rules, inputs = tables.blocks, tables.targets, tables.rules, tables.rule_inputs
    placed = select(func.count() * BLOCK_SERIES).where(blocks.c.shard_id == shard_id).scalar_subquery()
    weighed = select(func.sum(targets.c.weight)).where(targets.c.shard_id == shard_id).scalar_subquery()
    of_rule = select(rules.c.id).where(rules.c.shard_id == shard_id).scalar_subquery()
    read = select(func.count() * BLOCK_SERIES).where(inputs.c.rule_id == of_rule).scalar_subquery()
    return int(connection.execute(select(func.greatest(placed, weighed, read))).scalar_one())


def shard_grid(connection: Connection, shard_id: int) -> Grid:
    """The grid of all blocks of a shard. Uses indexes: blocks_shard_id_kind_idx, rules_shard_id_key."""
    blocks, rules = tables.blocks, tables.rules
    is_output = select(rules.c.id).where(rules.c.shard_id == shard_id).exists()
    rows = connection.execute(
        select(blocks.c.id, blocks.c.kind, is_output.label("is_output"))
        .where(blocks.c.shard_id == shard_id)
        .order_by(blocks.c.id)
    ).all()
    ids = np.array([row.id for row in rows], dtype=np.int64)
    is_counter = np.array([row.kind == Kind.COUNTER for row in rows], dtype=np.bool_)
    return Grid(ids, is_counter, is_output=any(row.is_output for row in rows))
