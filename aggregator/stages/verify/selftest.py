"""The series of the source kind `selftest`: each sample and each rollup must be what the function says, input or not.

All of a target's series are sampled at once, and its clock's value is the instant in milliseconds: so in every tier
the clock's `first` and `last` say when the first and the last sample of all others were taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt

from aggregator.collectors.selftest import (
    CLOCK,
    CONSTANT,
    CONSTANT_VALUE,
    FUNCTIONS,
    OFFSET,
    OFFSET_BASE,
    OFFSET_VALUES,
    RESET_MS,
    SAWTOOTH,
    TICKS,
    TIME,
    TOOTH_MS,
    Function,
)
from aggregator.rollups.buckets import milliseconds
from aggregator.rollups.statistics import Statistics
from aggregator.stages.verify.recompute import Given
from aggregator.storage import verify_inputs
from aggregator.storage.catalog import TierEntry
from aggregator.storage.engine import Connection
from aggregator.storage.verify_inputs import ShardSeries

KIND = "selftest"
#: Of a covered time: seconds as float64 that were added up.
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Law:
    """A column of a series (its place among the shard's) whose stored value is not `expected`."""

    place: int
    column: str
    expected: str


@dataclass(frozen=True)
class Member:
    """A series of a selftest target: its place among the shard's series, its function, and its target's clock."""

    place: int
    metric: str
    function: Function
    clock: int


def members(connection: Connection, series: ShardSeries) -> dict[int, Member]:
    """The series of selftest targets by their place; empty for shards of other sources, at the price of one query."""
    targets = np.array(verify_inputs.targets_of_kind(connection, KIND), dtype=np.int64)
    places = np.flatnonzero(np.isin(series.target_ids, targets)).tolist()
    if not places:
        return {}
    names = verify_inputs.names_of(connection, series.ids[places].tolist())
    named = {place: names[int(series.ids[place])] for place in places}
    clocks = {int(series.target_ids[place]): place for place, (metric, _) in named.items() if metric == CLOCK}
    found = {}
    for place, (metric, labels) in named.items():
        function = FUNCTIONS.get((metric, labels.get("le", "")))
        clock = clocks.get(int(series.target_ids[place]))
        if function is not None and clock is not None:
            found[place] = Member(place, metric, function, clock)
    return found


def of_part(known: dict[int, Member], places: npt.NDArray[np.int64]) -> dict[int, Member]:
    """The members among some of the series, at their places there; without those whose clock is not among them."""
    at = {place: index for index, place in enumerate(places.tolist())} if known else {}
    return {
        at[place]: replace(member, place=at[place], clock=at[member.clock])
        for place, member in known.items()
        if place in at and member.clock in at
    }


def wrong_samples(known: dict[int, Member], samples: Sequence[Given]) -> Iterator[tuple[int, int, float, float]]:
    """Samples that are not what their function says: place, instant (ms), the stored value and the right one."""
    for one in samples:
        for place, value in zip(one.columns.tolist(), one.values.tolist(), strict=True):
            if place in known and value != (right := known[place].function.value(one.at_ms)):
                yield place, one.at_ms, value, right


def broken_laws(
    known: dict[int, Member], stored: Statistics, *, tier: TierEntry, bucket: datetime, lookback: timedelta
) -> Iterator[Law]:
    """What of the stored rollups of a bucket is not as the functions say; no sample is needed for it."""
    start, end = milliseconds(bucket), milliseconds(tier.ladder.end_of(bucket))
    for member in known.values():
        place, clock = member.place, member.clock
        # A series that was left out for a while was not sampled whenever the clock was.
        if not stored.count[place] or stored.count[place] != stored.count[clock]:
            continue
        first, last = float(stored.first[clock]), float(stored.last[clock])
        if not start <= first <= last < end or not first.is_integer() or not last.is_integer():
            if place == clock:
                yield Law(place, "first", f"instants of the bucket, {start} to {end}, up to last")
            continue
        yield from _instants(member, stored, int(first), int(last), start=start if tier.is_finest else None)
        since = start - lookback // timedelta(milliseconds=1)
        yield from _counter(member, stored, since, int(last))
        yield from _gauge(member, stored, int(first), int(last))


def _instants(member: Member, stored: Statistics, first: int, last: int, *, start: int | None) -> Iterator[Law]:
    value = member.function.value
    yield from _equal(member, stored, "first", value(first))
    yield from _equal(member, stored, "last", value(last))
    if start is not None:
        yield from _equal(member, stored, "last_at", last - start)


def _counter(member: Member, stored: Statistics, since: int, last: int) -> Iterator[Law]:
    """What a counter gained is what it gains in the covered time; at a reset what was gained before it is lost."""
    increase, covered_ms = float(stored.increase[member.place]), float(stored.covered[member.place]) * 1_000
    rate = member.function.per_millisecond
    slack = _TOLERANCE * max(covered_ms, 1.0)
    if rate is not None and not abs(increase - rate * covered_ms) <= rate * slack:
        yield Law(member.place, "increase", f"{rate} a millisecond of the {covered_ms:.0f} ms covered")
    if member.metric == TICKS:
        resets = last // RESET_MS - since // RESET_MS
        if not -slack <= covered_ms - increase <= (RESET_MS * resets if resets else slack):
            yield Law(member.place, "increase", f"the {covered_ms:.0f} ms covered, without what {resets} resets lost")


def _gauge(member: Member, stored: Statistics, first: int, last: int) -> Iterator[Law]:
    count, value = int(stored.count[member.place]), member.function.value
    low: float | None = None
    if member.metric == CONSTANT:
        low = high = CONSTANT_VALUE
        yield from _equal(member, stored, "sum", CONSTANT_VALUE * count)
        yield from _equal(member, stored, "m2", 0.0)
    elif member.metric == TIME or (member.metric == SAWTOOTH and first // TOOTH_MS == last // TOOTH_MS):
        low, high = value(first), value(last)
    if low is not None:
        yield from _equal(member, stored, "min", low)
        yield from _equal(member, stored, "max", high)
    if member.metric == OFFSET:
        for column in ("min", "max"):
            above = float(getattr(stored, column)[member.place]) - OFFSET_BASE
            if not 0 <= above < OFFSET_VALUES or not above.is_integer():
                yield Law(member.place, column, f"one of {OFFSET_VALUES} whole numbers from {OFFSET_BASE:.0f} on")


def _equal(member: Member, stored: Statistics, column: str, right: float) -> Iterator[Law]:
    if float(getattr(stored, column)[member.place]) != right:
        yield Law(member.place, column, repr(right))
