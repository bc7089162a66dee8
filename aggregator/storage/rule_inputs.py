"""Which series are inputs of which rule, by block: what a rollup of them has to mark, and what a rule adds up."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import ColumnElement, Connection, delete, select, text
from sqlalchemy.dialects.postgresql import insert

from aggregator.config.selector import Selector
from aggregator.exposition.series import Kind
from aggregator.storage import rules, tables
from aggregator.storage.blocks import BLOCK_SERIES, Grid
from aggregator.storage.copying import Rows, copy_in, copy_out, encode, grouped
from aggregator.storage.rules import RuleEntry
from aggregator.storage.selecting import selected
from aggregator.storage.series import ensure_series, identity_hash, known_ids

_TABLE = tables.rule_inputs
_NAMES = ("block_id", "rule_id", "kind", "outputs")
#: Series that are read at once while the inputs of a new rule are looked for.
_AT_ONCE = 10_000

Outputs = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Placed:
    """A series with its place; `position` from 0."""

    block_id: int
    position: int
    kind: Kind
    metric: str
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Inputs:
    """The inputs of a rule. `outputs`, shape (blocks, 64): the series that each cell goes into, 0 for none."""

    grid: Grid
    outputs: Outputs

    def part(self, start: int, stop: int) -> Inputs:
        """Those of the blocks from line `start` up to `stop`."""
        return Inputs(self.grid.part(start, stop), self.outputs[start:stop])


def note_placed(connection: Connection, series_ids: Collection[int], *, shard_id: int, now: datetime) -> None:
    """Make inputs of the series of a shard that have just got their places, and the outputs that rules lack for them.

    The caller holds the shard's lock and the rules. Uses index: series_pkey.
    """
    found = rules.active_rules(connection) if series_ids else []
    if not found:
        return
    series = tables.series
    rows = connection.execute(select(*_of_series()).where(series.c.id.in_(list(series_ids)))).all()
    placed = [_placed(*row) for row in rows]
    for rule in found:
        if chosen := [one for one in placed if rule.selector.matches(one.metric, one.labels)]:
            _add(connection, rule, chosen, now=now)
            _note_shards(connection, rule, [shard_id])


def find_inputs(connection: Connection, rule: RuleEntry, *, now: datetime) -> None:
    """Look anew for the inputs of a rule among all series that have a place. What rules make is none.

    The caller holds the rules alone. Uses index: series_metric_idx.
    """
    forget_inputs(connection, rule)
    shard_ids: set[int] = set()
    for found in _selected(connection, rule):
        shard_ids.update(shard_id for _, shard_id in found)
        _add(connection, rule, [placed for placed, _ in found], now=now)
    _note_shards(connection, rule, sorted(shard_ids))


def _selected(connection: Connection, rule: RuleEntry) -> Iterator[list[tuple[Placed, int]]]:
    """All series that a rule selects and that have a place, with their shards, by block; some at a time."""
    series = tables.series
    statement = (
        select(*_of_series(), tables.targets.c.shard_id)
        .join(*_TARGETS_OF_SERIES)
        .where(*_is_input(rule.selector))
        .order_by(series.c.block_id, series.c.position)
    )
    options = {"stream_results": True, "max_row_buffer": _AT_ONCE}
    for rows in connection.execute(statement, execution_options=options).partitions(_AT_ONCE):
        yield [(_placed(*row[:-1]), row.shard_id) for row in rows]


_TARGETS_OF_SERIES = (tables.targets, tables.targets.c.id == tables.series.c.target_id)


def _is_input(selector: Selector) -> tuple[ColumnElement[bool], ...]:
    """What a selector matches, has a place and is not made by a rule itself."""
    series = tables.series
    matches = selected(selector, metric=series.c.metric, labels=series.c.labels)
    is_output = select(tables.rules.c.id).where(tables.rules.c.target_id == tables.targets.c.id).exists()
    return matches, series.c.block_id.is_not(None), ~is_output


def inputs_by_labels(connection: Connection, rule: RuleEntry) -> Inputs:
    """The inputs of a rule as their names and labels say, whatever was written down.

    Uses indexes: series_metric_idx, series_target_id_identity_hash_key.
    """
    known = known_ids(connection, rule.target_id)
    blocks: dict[int, Outputs] = {}
    kind_of: dict[int, Kind] = {}
    for one, _ in (each for found in _selected(connection, rule) for each in found):
        outputs = blocks.setdefault(one.block_id, np.zeros(BLOCK_SERIES, dtype=np.int64))
        outputs[one.position] = known.get(identity_hash(rule.output_of(one.labels, one.kind)), 0)
        kind_of[one.block_id] = one.kind
    is_counter = np.array([kind == Kind.COUNTER for kind in kind_of.values()], dtype=np.bool_)
    return Inputs(
        Grid(np.array(list(blocks), dtype=np.int64), is_counter),
        np.array(list(blocks.values()), dtype=np.int64).reshape(-1, BLOCK_SERIES),
    )


def _of_series() -> tuple[ColumnElement[Any], ...]:
    series = tables.series
    return series.c.block_id, series.c.position, series.c.kind, series.c.metric, series.c.labels


def _placed(block_id: int, position: int, kind: int, metric: str, labels: Mapping[str, str]) -> Placed:
    return Placed(block_id, position - 1, Kind(kind), metric, labels)


def forget_inputs(connection: Connection, rule: RuleEntry) -> None:
    """Let a rule have no inputs. Uses indexes: rule_inputs_rule_id_idx, rule_shards_pkey."""
    connection.execute(delete(_TABLE).where(_TABLE.c.rule_id == rule.id))
    connection.execute(delete(tables.rule_shards).where(tables.rule_shards.c.shard_id == rule.shard_id))


def _add(connection: Connection, rule: RuleEntry, placed: Sequence[Placed], *, now: datetime) -> None:
    """Register the outputs of these series, and write down which goes into which."""
    keys = [rule.output_of(one.labels, one.kind) for one in placed]
    # In one order for all: who inserts the same output at the same time waits, and never for each other.
    distinct = sorted(set(keys), key=identity_hash)
    ids = ensure_series(connection, rule.target_id, distinct, now=now)
    id_of = dict(zip(distinct, ids, strict=True))
    blocks = _outputs_by_block(connection, rule, sorted({one.block_id for one in placed}))
    for one, key in zip(placed, keys, strict=True):
        blocks[one.block_id][one.position] = id_of[key]
    kind_of = {one.block_id: one.kind for one in placed}
    _replace(connection, rule, blocks, kind_of)


def _outputs_by_block(connection: Connection, rule: RuleEntry, block_ids: Sequence[int]) -> dict[int, Outputs]:
    """By block what each position goes into; zeros where there is no row yet. Uses index: rule_inputs_pkey."""
    stored = _read(connection, _TABLE.c.rule_id == rule.id, _TABLE.c.block_id.in_(block_ids))
    known = dict(zip(stored.grid.block_ids.tolist(), stored.outputs, strict=True))
    return {block_id: known.get(block_id, np.zeros(BLOCK_SERIES, dtype=np.int64)) for block_id in block_ids}


def _replace(
    connection: Connection, rule: RuleEntry, blocks: Mapping[int, Outputs], kind_of: Mapping[int, Kind]
) -> None:
    """Write the rows of these blocks anew. Uses index: rule_inputs_pkey."""
    connection.execute(delete(_TABLE).where(_TABLE.c.rule_id == rule.id, _TABLE.c.block_id.in_(list(blocks))))
    columns: dict[str, npt.NDArray[Any]] = {
        "block_id": np.array(list(blocks)),
        "rule_id": np.full(len(blocks), rule.id),
        "kind": np.array([int(kind_of[block_id]) for block_id in blocks]),
        "outputs": np.array(list(blocks.values())),
    }
    copy_in(connection, "aggregator.rule_inputs", _NAMES, [encode(_TABLE, _NAMES, Rows(columns))])


def _note_shards(connection: Connection, rule: RuleEntry, shard_ids: Iterable[int]) -> None:
    """Write down in which shards a rule has inputs. Uses index: rule_shards_pkey."""
    values = [{"shard_id": rule.shard_id, "input_shard_id": shard_id} for shard_id in shard_ids]
    if values:
        connection.execute(insert(tables.rule_shards).values(values).on_conflict_do_nothing())


def inputs_of(connection: Connection, rule: RuleEntry) -> Inputs:
    """All inputs of a rule, by block. Uses index: rule_inputs_rule_id_idx."""
    return _read(connection, _TABLE.c.rule_id == rule.id)


def _read(connection: Connection, *conditions: ColumnElement[bool]) -> Inputs:
    """A quarter of a million cells by COPY in some milliseconds."""
    query = select(*(_TABLE.c[name] for name in _NAMES)).where(*conditions).order_by(_TABLE.c.block_id)
    found = [rows.columns for rows in grouped(copy_out(connection, query), _TABLE, _NAMES)]
    if not found:
        nothing = np.zeros(0, dtype=np.int64)
        return Inputs(Grid(nothing, nothing.astype(np.bool_)), np.zeros((0, BLOCK_SERIES), dtype=np.int64))
    (columns,) = found  # all are of one width
    return Inputs(Grid(columns["block_id"].astype(np.int64), columns["kind"] == Kind.COUNTER), columns["outputs"])


def places_of(connection: Connection, rule: RuleEntry) -> npt.NDArray[np.int64]:
    """All outputs of a rule that have a place: id, block and position (from 0), by id; shape (3, n).

    Uses index: series_target_id_identity_hash_key.
    """
    series = tables.series
    rows = connection.execute(
        select(series.c.id, series.c.block_id, series.c.position - 1)
        .where(series.c.target_id == rule.target_id, series.c.block_id.is_not(None))
        .order_by(series.c.id)
    ).all()
    return np.array([tuple(row) for row in rows], dtype=np.int64).reshape(-1, 3).T


def rules_reading(connection: Connection, block_ids: Collection[int]) -> dict[int, frozenset[int]]:
    """By block the shards of the rules that read it; blocks that no rule reads are left out.

    Uses indexes: rule_inputs_pkey, rules_pkey.
    """
    found: dict[int, set[int]] = {}
    statement = select(_TABLE.c.block_id, tables.rules.c.shard_id).join(
        tables.rules, tables.rules.c.id == _TABLE.c.rule_id
    )
    for row in connection.execute(statement.where(_TABLE.c.block_id.in_(list(block_ids)), tables.rules.c.active)):
        found.setdefault(row.block_id, set()).add(row.shard_id)
    return {block_id: frozenset(shard_ids) for block_id, shard_ids in found.items()}


# Uses indexes rollup_pkey and clock_pkey at both ends of each block. What a clock has may begin and end with buckets
# without samples: the reach is then a span's length too long at most.
_REACH = text(
    """
    SELECT min(reach.first) AS first, max(reach.last) AS last
    FROM unnest(CAST(:block_ids AS integer[])) AS own (block_id)
    CROSS JOIN LATERAL (
        SELECT min(r.bucket) AS first, max(r.bucket) AS last FROM aggregator.rollup AS r
        WHERE r.tier_id = :tier_id AND r.block_id = own.block_id
        UNION ALL
        SELECT min(c.start), NULL FROM aggregator.clock AS c
        WHERE c.tier_id = :tier_id AND c.block_id = own.block_id
        UNION ALL
        (SELECT NULL, c.start + (c.buckets - 1) * c.step_ms * interval '1 millisecond' FROM aggregator.clock AS c
        WHERE c.tier_id = :tier_id AND c.block_id = own.block_id ORDER BY c.start DESC LIMIT 1)
    ) AS reach
    """
)


def kept_reach(connection: Connection, rule: RuleEntry, *, tier_id: int) -> tuple[datetime, datetime] | None:
    """The first and the last bucket of a tier that has rollups of any input or output; None where there is none.

    Uses index: rule_inputs_rule_id_idx.
    """
    inputs = connection.execute(select(_TABLE.c.block_id).where(_TABLE.c.rule_id == rule.id)).scalars().all()
    return reach_of(connection, [*inputs, *blocks_of_outputs(connection, rule)], tier_id=tier_id)


def blocks_of_outputs(connection: Connection, rule: RuleEntry) -> list[int]:
    """The blocks of what a rule has made so far. Uses index: blocks_shard_id_kind_idx."""
    statement = select(tables.blocks.c.id).where(tables.blocks.c.shard_id == rule.shard_id)
    return list(connection.execute(statement).scalars())


def blocks_selected(connection: Connection, selector: Selector) -> list[int]:
    """The blocks in which a rule of this selector would have inputs. Uses index: series_metric_idx."""
    statement = select(tables.series.c.block_id).join(*_TARGETS_OF_SERIES).where(*_is_input(selector)).distinct()
    return list(connection.execute(statement).scalars())


def reach_of(connection: Connection, block_ids: Collection[int], *, tier_id: int) -> tuple[datetime, datetime] | None:
    """The first and the last bucket of a tier that has rollups of any of these blocks; None where there is none."""
    row = connection.execute(_REACH, {"block_ids": list(block_ids), "tier_id": tier_id}).one()
    return None if row.first is None else (row.first, row.last)
