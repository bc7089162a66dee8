"""Random samples and the random way by which they come: late, twice, in parts, by several collectors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from hypothesis import strategies as st

from aggregator.exposition.series import Kind

#: What may pass between two instants of a target: dense, about one frame a bucket, and whatever the lookback cuts.
GAPS_MS = {
    "dense": (5_000, 15_000, 15_000, 14_999, 1),
    "sparse": (60_000, 60_000, 59_000, 61_500, 120_000),
    "wild": (1, 15_000, 60_000, 299_999, 300_000, 300_001, 400_000, 3_600_000),
}
#: How long after its last instant a collection arrives.
DELAYS_MS = (0, 0, 0, 0, 20_000, 70_000, 200_000, 400_000, 7_200_000)
MOST_INSTANTS = 24
MOST_SERIES = 4

_EXTREMES = (0.0, -0.0, 5e-324, -5e-324, 1e-308, 1.0, -1.0, 1e308, -1e308, 1.7e308, float("inf"), float("-inf"))
_RESET_BELOW, _STILL_FROM = 24, 176

#: The values of a series by flavour, from drawn numbers between 0 and 255.
GAUGES = {
    "small": lambda drawn: [float(one - 128) for one in drawn],
    "offset": lambda drawn: [1e15 + one / 8 for one in drawn],
    "fractions": lambda drawn: [(one - 128) * 7_919.1 for one in drawn],
    "extreme": lambda drawn: [_EXTREMES[one % len(_EXTREMES)] for one in drawn],
}
COUNTERS = {
    "whole": lambda drawn: list(_counted(drawn, since=0.0, step=1.0)),
    "offset": lambda drawn: list(_counted(drawn, since=1e15, step=1.0)),
    "fractions": lambda drawn: list(_counted(drawn, since=0.0, step=1 / 7)),
    "extreme": GAUGES["extreme"],
}


def _counted(drawn: Sequence[int], *, since: float, step: float) -> Iterator[float]:
    """A counter that rises by what is drawn, begins at 0 again where that is little, and rests where it is much."""
    value = since
    for one in drawn:
        if one < _RESET_BELOW:
            value = one * step
        elif one < _STILL_FROM:
            value += one * step
        yield value


@dataclass(frozen=True)
class Series:
    """A scripted series of a target: its samples by millisecond, the last ones where some come with two values."""

    target: int
    name: str
    kind: Kind
    samples: Mapping[int, float] = field(repr=False)


@dataclass(frozen=True)
class Arrival:
    """What one collection brings at `at_ms`: by millisecond, the values of series by their number in the script."""

    target: int
    at_ms: int
    collector: int
    values: Mapping[int, Mapping[int, float]]


@dataclass(frozen=True)
class Script:
    """All series, the arrivals in their order, and who rolls up how far after the n-th of them.

    `churn_allowance`: how many dead series a frame map may hold; with 0 there are many maps of one target. `seals`:
    after which arrivals all that is open is sealed.
    """

    series: tuple[Series, ...]
    arrivals: tuple[Arrival, ...]
    roll_ups: tuple[tuple[int, int, bool], ...]
    churn_allowance: int = 1_000
    seals: frozenset[int] = frozenset()

    @property
    def targets(self) -> int:
        """How many targets there are."""
        return 1 + max(series.target for series in self.series)


@st.composite
def scripts(
    draw: st.DrawFn, *, start_ms: int, collectors: int = 2, most_targets: int = 3, conflicts: bool = False
) -> Script:
    """A script from `start_ms` on; with `conflicts` some samples come once more with another value."""
    series: list[Series] = []
    arrivals: list[Arrival] = []
    for target in range(draw(st.integers(1, most_targets))):
        instants = draw(_instants(start_ms))
        new = [draw(_series(target, place, instants)) for place in range(draw(st.integers(1, MOST_SERIES)))]
        arrivals += draw(_arrivals(target, dict(enumerate(new, start=len(series))), instants, collectors))
        series += new
    arrivals += draw(_again(arrivals, collectors, conflicts=conflicts))
    arrivals.sort(key=lambda arrival: arrival.at_ms)
    points = st.tuples(st.integers(0, len(arrivals) - 1), st.integers(0, 1), st.booleans())
    roll_ups = draw(st.lists(points, max_size=8))
    allowance = draw(st.sampled_from([1_000, 0]))
    seals = draw(st.frozensets(st.integers(0, len(arrivals) - 1), max_size=3))
    return Script(tuple(_as_arrived(series, arrivals)), tuple(arrivals), tuple(sorted(roll_ups)), allowance, seals)


def _as_arrived(series: Sequence[Series], arrivals: Sequence[Arrival]) -> Iterator[Series]:
    """The series with what arrived last for each instant."""
    for number, one in enumerate(series):
        arrived = ((at, values.get(number, math.nan)) for each in arrivals for at, values in each.values.items())
        yield replace(one, samples={at: value for at, value in arrived if not math.isnan(value)})


@st.composite
def _instants(draw: st.DrawFn, start_ms: int) -> list[int]:
    style = GAPS_MS[draw(st.sampled_from(sorted(GAPS_MS)))]
    instants, at_ms = [], start_ms
    for gap_ms in draw(st.lists(st.sampled_from(style), min_size=1, max_size=MOST_INSTANTS)):
        at_ms += gap_ms
        instants.append(at_ms)
    return instants


@st.composite
def _series(draw: st.DrawFn, target: int, place: int, instants: Sequence[int]) -> Series:
    """A series that joins at some instant and misses some of those that follow."""
    kind = draw(st.sampled_from([Kind.GAUGE, Kind.COUNTER]))
    flavours = GAUGES if kind is Kind.GAUGE else COUNTERS
    flavour = draw(st.sampled_from(sorted(flavours)))
    joined = instants[draw(st.integers(0, len(instants) - 1)) if draw(st.booleans()) else 0 :]
    values = flavours[flavour](draw(st.binary(min_size=len(joined), max_size=len(joined))))
    missing = draw(st.sets(st.integers(0, max(len(joined) - 1, 0)), max_size=6))
    samples = {at: value for count, (at, value) in enumerate(zip(joined, values, strict=True)) if count not in missing}
    return Series(target, f"{flavour}_{place}", kind, samples)


@st.composite
def _arrivals(
    draw: st.DrawFn, target: int, series: Mapping[int, Series], instants: Sequence[int], collectors: int
) -> list[Arrival]:
    """Collections of one to four instants; where one is in two parts, each brings every other series."""
    left, arrivals = list(instants), []
    while left:
        size = draw(st.integers(1, 4))
        here, left = left[:size], left[size:]
        parts = draw(st.sampled_from([1, 1, 2]))
        for part in range(parts):
            numbers = [number for number in series if number % parts == part]
            values = {at: found for at in here if (found := _values(series, numbers, at))}
            if not values:
                continue
            at_ms = here[-1] + draw(st.sampled_from(DELAYS_MS))
            arrivals.append(Arrival(target, at_ms, draw(st.integers(0, collectors - 1)), values))
    return arrivals


def _values(series: Mapping[int, Series], numbers: Sequence[int], at_ms: int) -> dict[int, float]:
    """What an instant brings; a series without a sample is there as NaN, or not there at all."""
    found = {number: series[number].samples.get(at_ms, math.nan) for number in numbers}
    return {number: value for number, value in found.items() if not math.isnan(value) or number % 3 == 0}


@st.composite
def _again(draw: st.DrawFn, arrivals: Sequence[Arrival], collectors: int, *, conflicts: bool) -> list[Arrival]:
    """Some of the arrivals once more, later."""
    repeated = []
    for arrival in draw(st.lists(st.sampled_from(arrivals), max_size=4)):
        at_ms = arrival.at_ms + draw(st.sampled_from(DELAYS_MS))
        changed = 1.0 if conflicts and draw(st.booleans()) else 0.0
        values = {
            at: {number: value + changed for number, value in by_number.items()}
            for at, by_number in arrival.values.items()
        }
        repeated.append(Arrival(arrival.target, at_ms, draw(st.integers(0, collectors - 1)), values))
    return repeated
