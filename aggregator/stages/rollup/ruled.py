"""The finest tier of a rule's outputs: from the stored rollups of its inputs, each bucket as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from aggregator.rollups.statistics import Integers, Statistics
from aggregator.stages.rollup.parts import countable, of_outputs
from aggregator.stages.rollup.spans import MOST_CELLS, Span
from aggregator.storage.blocks import Grid
from aggregator.storage.catalog import TierEntry
from aggregator.storage.engine import Connection
from aggregator.storage.rollup_forms import read_rollups
from aggregator.storage.rollup_matrix import Stored
from aggregator.storage.rollup_rows import Changed
from aggregator.storage.rule_inputs import Inputs
from aggregator.storage.rule_rollups import Aggregated, added_up

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
            self.tier,
            grid=self.outputs.grid,
            since=span.since,
            until=span.until,
        )
        nothing = Stored.nothing(len(self.outputs.grid.block_ids))
        computed = added_up(
            self.connection,
            self.tier,
            span.buckets,
            inputs=self.inputs,
            output_ids=self.outputs.ids,
            most_cells=MOST_CELLS,
        )
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
        return Changed(bucket, Stored(statistics, before.form, due, slots), np.asarray(differs.any(axis=1)))
