"""The finest tier of a rule's outputs: from the stored rollups of its inputs, each bucket as a whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from aggregator.rollups.aggregate import aggregate, totals
from aggregator.rollups.statistics import Integers, Statistics
from aggregator.stages.rollup.parts import countable, of_outputs
from aggregator.stages.rollup.spans import MOST_CELLS, Span
from aggregator.storage.blocks import BLOCK_SERIES, Grid
from aggregator.storage.catalog import TierEntry
from aggregator.storage.engine import Connection
from aggregator.storage.rollup_rows import Changed, Stored, read_rollups
from aggregator.storage.rule_inputs import Inputs

#: A bucket of outputs is computed so long after its end: by then all shards have rolled up their inputs, which are due
#: five seconds after it. So a minute is written once, and not once for each of a hundred shards.
OUTPUTS_SETTLE = timedelta(seconds=20)


@dataclass(frozen=True)
class Outputs:
    """The series that a rule makes: `ids` ascend, and `cells` says where on `grid` each lies; shapes (n,)."""

    ids: Integers
    cells: Integers
    grid: Grid


@dataclass(frozen=True)
class Aggregated:
    """The outputs in one bucket; shapes (n,)."""

    statistics: Statistics
    slots: Integers


@dataclass(frozen=True)
class Ruled:
    """One span of the finest tier on the locked shard of a rule."""

    connection: Connection
    tier: TierEntry
    inputs: Inputs
    outputs: Outputs

    def compute(self, span: Span) -> list[Changed]:
        """Recompute the buckets from all inputs; what has none any more has no samples then."""
        stored = read_rollups(
            self.connection,
            tier_id=self.tier.id,
            is_finest=True,
            grid=self.outputs.grid,
            since=span.since,
            until=span.until,
        )
        nothing = Stored.nothing(len(self.outputs.grid.block_ids))
        computed = aggregated(self.connection, self.tier, span, inputs=self.inputs, ids=self.outputs.ids)
        return [
            changed
            for bucket, one in computed
            if (changed := self._changed(bucket, one, stored.get(bucket, nothing))).lines.any()
        ]

    def _changed(self, bucket: datetime, one: Aggregated, before: Stored) -> Changed:
        shape = before.statistics.count.shape
        slots = np.zeros(shape, dtype=np.int64)
        slots.reshape(-1)[self.outputs.cells] = one.slots
        due, slots = of_outputs(slots)
        statistics = Statistics.empty(shape).replaced(self.outputs.cells, countable(one.statistics))
        differs = statistics.differs(before.statistics)
        differs |= (slots != before.slots_of_cells) & (statistics.count > 0)
        return Changed(bucket, Stored(statistics, before.has_row, due, slots), np.asarray(differs.any(axis=1)))


def aggregated(
    connection: Connection, tier: TierEntry, span: Span, *, inputs: Inputs, ids: Integers
) -> Iterator[tuple[datetime, Aggregated]]:
    """Each bucket of the span with the outputs `ids` (ascending) as the stored rollups of all inputs give them."""
    parts: defaultdict[datetime, list[_Part]] = defaultdict(list)
    for first in range(0, len(inputs.outputs), _blocks_at_once(tier, span)):
        for bucket, part in _read(connection, tier, span, inputs.part(first, first + _blocks_at_once(tier, span))):
            parts[bucket].append(part)
    for bucket in span.buckets:
        yield bucket, _joined(parts.pop(bucket, []), ids)


@dataclass(frozen=True)
class _Part:
    """Inputs that have samples in a bucket; shapes (n,)."""

    statistics: Statistics
    slots: Integers
    outputs: Integers


def _blocks_at_once(tier: TierEntry, span: Span) -> int:
    buckets = max(1, round((span.until - span.since) / tier.ladder.step))
    return max(1, MOST_CELLS // (buckets * BLOCK_SERIES))


def _read(connection: Connection, tier: TierEntry, span: Span, inputs: Inputs) -> Iterator[tuple[datetime, _Part]]:
    stored = read_rollups(
        connection, tier_id=tier.id, is_finest=True, grid=inputs.grid, since=span.since, until=span.until
    )
    outputs = inputs.outputs.reshape(-1)
    for bucket in span.buckets:
        if bucket in stored:
            one = stored[bucket]
            given = np.flatnonzero((outputs > 0) & (one.statistics.count.reshape(-1) > 0))
            yield bucket, _Part(one.statistics.at(given), one.slots_of_cells.reshape(-1)[given], outputs[given])


def _joined(parts: Sequence[_Part], ids: Integers) -> Aggregated:
    if not parts:
        return Aggregated(Statistics.empty((len(ids),)), np.zeros(len(ids), dtype=np.int64))
    statistics = Statistics.joined([part.statistics for part in parts])
    groups = np.searchsorted(ids, np.concatenate([part.outputs for part in parts]))
    slots = totals(np.concatenate([part.slots for part in parts]), groups, size=len(ids))
    return Aggregated(aggregate(statistics, groups, size=len(ids)), slots)
