"""What is stored about an output of a rule: the rule, its inputs, and what these give together."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
from sqlalchemy import Connection, func, select

from aggregator.rollups.statistics import Statistics
from aggregator.storage import rule_inputs, rules, tables
from aggregator.storage.catalog import TierEntry
from aggregator.storage.explain import SeriesEntry
from aggregator.storage.rule_inputs import Inputs
from aggregator.storage.rule_rollups import added_up

#: Inputs that are held at once.
_MOST_CELLS = 150_000


@dataclass(frozen=True)
class RuleFacts:
    """The rule of an output. `series`: inputs that go into it, of `shards` shards; `present`: those with samples.

    `statistics`, shape (1,), and `slots`: what their rollups of the bucket's tier give together.
    """

    name: str
    select: str
    by: tuple[str, ...] | None
    without: tuple[str, ...]
    active: bool
    series: int
    shards: int
    present: int
    statistics: Statistics
    slots: int


def rule_facts(connection: Connection, series: SeriesEntry, *, tier: TierEntry, start: datetime) -> RuleFacts | None:
    """What the inputs of an output give in a bucket of a tier; None for a series that a target has.

    Uses indexes: rules_shard_id_key, rule_inputs_rule_id_idx, rule_shards_pkey, rollup_pkey.
    """
    rule = None if series.shard_id is None else rules.rule_of_shard(connection, series.shard_id)
    if rule is None:
        return None
    inputs = rule_inputs.inputs_of(connection, rule)
    own = np.where(inputs.outputs == series.id, inputs.outputs, 0)
    output_ids = np.array([series.id], dtype=np.int64)
    ((_, given),) = added_up(
        connection,
        tier,
        [start],
        inputs=Inputs(inputs.grid, own),
        output_ids=output_ids,
        most_cells=_MOST_CELLS,
    )
    table = tables.rule_shards
    shards = select(func.count()).where(table.c.shard_id == rule.shard_id)
    return RuleFacts(
        name=rule.name,
        select=str(rule.selector),
        by=None if rule.by is None else tuple(sorted(rule.by)),
        without=tuple(sorted(rule.without)),
        active=rule.active,
        series=int(np.count_nonzero(own)),
        shards=connection.execute(shards).scalar_one(),
        present=given.present,
        statistics=given.statistics,
        slots=int(given.slots[0]),
    )
