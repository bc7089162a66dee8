"""A stored rollup against what its inputs give, computed anew from what an explanation shows. Pure: no I/O."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from aggregator.exposition.series import Kind
from aggregator.rollups.buckets import milliseconds
from aggregator.rollups.merge import merge
from aggregator.rollups.reduce import Edge, reduce_samples
from aggregator.rollups.statistics import Statistics, names_of
from aggregator.storage.explain import StoredRollup
from aggregator.storage.explain_facts import Facts
from aggregator.storage.explain_rule import RuleFacts

#: Added up in another order, numbers may differ by so much of their size.
RELATIVE_TOLERANCE = 1e-9
_EPSILON = float(np.finfo(np.float64).eps)

Values = Mapping[str, float | int | None]


@dataclass(frozen=True)
class Check:
    """A rollup computed again. `source`: `samples`, the tier whose rollups were merged, or the `inputs` of a rule.

    `differing`: statistics that are not as stored, beyond rounding; `is_exact`: all are the same to the last bit.
    """

    source: str
    values: Values
    differing: tuple[str, ...]
    is_exact: bool


def checks_of(facts: Facts) -> Iterator[Check]:
    """The checks that the kept inputs allow: from the samples, and from the tier that the bucket is built from."""
    if facts.rollup is None:
        return
    if facts.rule is not None:
        yield from _from_inputs(facts, facts.rule, facts.rollup)
    elif _are_all_there(facts.samples_kept_since, facts, len(facts.samples)):
        yield _compared(facts, facts.rollup, "samples", _from_samples(facts))
    if facts.levels and _are_all_there(
        facts.levels[0].kept_since, facts, sum(rollup.count for rollup in facts.levels[0].rollups)
    ):
        children = [statistics_of(rollup) for rollup in facts.levels[0].rollups]
        merged = merge(children) if children else Statistics.empty((1,))
        yield _compared(facts, facts.rollup, facts.levels[0].tier.name, merged)


def _from_inputs(facts: Facts, rule: RuleFacts, stored: StoredRollup) -> Iterator[Check]:
    """In the finest tier, of a rule that is in force: coarser buckets are merged from its own."""
    if facts.tier.is_finest and rule.active and rule.statistics.count[0] >= stored.count:
        yield _compared(facts, stored, "inputs", rule.statistics)


def _are_all_there(kept_since: datetime | None, facts: Facts, count: int) -> bool:
    """Whether an input is whole: nothing of it was dropped, or as much is there as was counted."""
    stored = facts.rollup.count if facts.rollup else 0
    return kept_since is None or kept_since <= facts.start or count >= stored


def _from_samples(facts: Facts) -> Statistics:
    is_counter = np.array([facts.series.kind is Kind.COUNTER])
    edge = Edge.unknown(1)
    if facts.edge is not None:
        edge = Edge(np.array([facts.edge.value]), np.array([milliseconds(facts.edge.at)]))
    return reduce_samples(
        np.array([[sample.value] for sample in facts.samples], dtype=np.float64).reshape(-1, 1),
        np.array([[milliseconds(sample.at)] for sample in facts.samples], dtype=np.int64).reshape(-1, 1),
        start_ms=milliseconds(facts.start),
        edge=edge,
        lookback_ms=round(facts.installation.lookback.total_seconds() * 1_000),
        is_counter=is_counter,
    )


def statistics_of(rollup: StoredRollup) -> Statistics:
    """A stored rollup as statistics of shape (1,)."""
    statistics = Statistics.empty((1,))
    for name, value in rollup.values.items():
        if value is not None:
            getattr(statistics, name)[0] = value
    return statistics


def _compared(facts: Facts, stored: StoredRollup, source: str, computed: Statistics) -> Check:
    is_counter = facts.series.kind is Kind.COUNTER
    compared = names_of(is_counter=is_counter, is_finest=facts.tier.is_finest, is_output=facts.rule is not None)
    values = {name: _plain(getattr(computed, name)[0].item()) for name in compared}
    pairs = {name: (_plain(stored.values[name]), values[name]) for name in compared}
    tolerance = _tolerance(stored)
    differing = tuple(name for name, pair in pairs.items() if not _is_close(*pair, tolerance.get(name, 0.0)))
    return Check(source, values, differing, is_exact=all(mine == theirs for mine, theirs in pairs.values()))


def _plain(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _is_close(stored: float | None, computed: float | None, absolute: float) -> bool:
    if stored is None or computed is None:
        return stored is computed
    return math.isclose(stored, computed, rel_tol=RELATIVE_TOLERANCE, abs_tol=absolute)


def _tolerance(stored: StoredRollup) -> dict[str, float]:
    """Absolute tolerances where a difference of large numbers decides.

    Means of size m are known to about eps times m; a deviation of d is then off by that, and its square by 2 d times
    that. A sum that cancels is off by eps times what was added up.
    """
    low, high = _plain(stored.values["min"]), _plain(stored.values["max"])
    if low is None or high is None or not math.isfinite(high - low):
        return {}
    unit = 8 * _EPSILON * max(abs(low), abs(high))
    return {"sum": unit * stored.count, "m2": 2 * stored.count * unit * (high - low + unit)}


def total(rollups: Sequence[StoredRollup], name: str) -> float | None:
    """The sum of a statistic over rollups; None where none of them has it."""
    given = [value for rollup in rollups if (value := _plain(rollup.values[name])) is not None]
    return math.fsum(given) if given and all(map(math.isfinite, given)) else (sum(given) if given else None)
