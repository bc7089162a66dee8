"""What the inputs of a rule give together: their stored rollups, added up by output."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from sqlalchemy import Connection

from aggregator.rollups.aggregate import aggregate, totals
from aggregator.rollups.statistics import Integers, Statistics
from aggregator.storage import forms
from aggregator.storage.blocks import BLOCK_SERIES
from aggregator.storage.catalog import TierEntry
from aggregator.storage.rollup_forms import read_rollups
from aggregator.storage.rule_inputs import Inputs


@dataclass(frozen=True)
class Aggregated:
    """The outputs in one bucket, shapes (n,); `present`: how many inputs have samples in it."""

    statistics: Statistics
    slots: Integers
    present: int


def added_up(
    connection: Connection,
    tier: TierEntry,
    buckets: Sequence[datetime],
    *,
    inputs: Inputs,
    output_ids: Integers,
    most_cells: int,
) -> Iterator[tuple[datetime, Aggregated]]:
    """Each bucket (ascending) with the outputs (ids ascending) as the stored rollups of all inputs give them.

    Of the inputs `most_cells` (series times buckets) are read at once. Uses index: rollup_pkey.
    """
    forms.hold(connection)  # the inputs lie in shards whose locks others hold
    until = tier.ladder.end_of(buckets[-1])
    length = max(1, round((until - buckets[0]) / tier.ladder.step))
    at_once = max(1, most_cells // (length * BLOCK_SERIES))
    parts: defaultdict[datetime, list[_Part]] = defaultdict(list)
    for first in range(0, len(inputs.outputs), at_once):
        for bucket, part in _read(connection, tier, buckets, inputs.part(first, first + at_once)):
            parts[bucket].append(part)
    for bucket in buckets:
        yield bucket, _joined(parts.pop(bucket, []), output_ids)


@dataclass(frozen=True)
class _Part:
    """Inputs that have samples in a bucket; shapes (n,)."""

    statistics: Statistics
    slots: Integers
    outputs: Integers


def _read(
    connection: Connection, tier: TierEntry, buckets: Sequence[datetime], inputs: Inputs
) -> Iterator[tuple[datetime, _Part]]:
    stored = read_rollups(
        connection,
        tier,
        grid=inputs.grid,
        since=buckets[0],
        until=tier.ladder.end_of(buckets[-1]),
    )
    outputs = inputs.outputs.reshape(-1)
    for bucket in buckets:
        if bucket in stored:
            one = stored[bucket]
            given = np.flatnonzero((outputs > 0) & (one.statistics.count.reshape(-1) > 0))
            yield bucket, _Part(one.statistics.at(given), one.slots_of_cells.reshape(-1)[given], outputs[given])


def _joined(parts: Sequence[_Part], ids: Integers) -> Aggregated:
    if not parts:
        return Aggregated(Statistics.empty((len(ids),)), np.zeros(len(ids), dtype=np.int64), 0)
    statistics = Statistics.joined([part.statistics for part in parts])
    groups = np.searchsorted(ids, np.concatenate([part.outputs for part in parts]))
    slots = totals(np.concatenate([part.slots for part in parts]), groups, size=len(ids))
    return Aggregated(aggregate(statistics, groups, size=len(ids)), slots, len(groups))
