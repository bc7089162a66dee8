"""The collector of kind `selftest`: values that are a pure function of the time, and so can be checked for ever."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from aggregator.collectors.outcome import REPORTED, now
from aggregator.collectors.placing import Placer
from aggregator.collectors.protocol import Batch, Collected, Target
from aggregator.exposition.series import Kind, SeriesKey
from aggregator.rollups.buckets import milliseconds

if TYPE_CHECKING:
    from aggregator.config.source_model import BaseSource

#: The name of the one target that such a source has: it is no machine, and any worker can collect it.
ADDRESS = "selftest"

CLOCK = "selftest_clock_milliseconds_total"
TICKS = "selftest_ticks_total"
TIME = "selftest_time_seconds"
SAWTOOTH = "selftest_sawtooth_seconds"
CONSTANT = "selftest_constant"
OFFSET = "selftest_offset"
LATENCY = "selftest_latency_seconds"

RESET_MS = 3_600_000
TOOTH_MS = 600_000
CONSTANT_VALUE = 42.0
OFFSET_BASE = 1e15
OFFSET_VALUES = 8
#: Observations each millisecond of at most so many seconds: one of 0.1, two of 0.45, three of 1, four of 1.5.
OBSERVATIONS = MappingProxyType({"0.1": 1, "0.5": 3, "1": 6, "+Inf": 10})
SECONDS_OBSERVED = 10


@dataclass(frozen=True)
class Function:
    """What a series is at each instant (milliseconds since the epoch); every value is exact in a float64.

    `per_millisecond`: of a counter that is never reset, how much it grows; None for others.
    """

    kind: Kind
    value: Callable[[int], float]
    per_millisecond: int | None = None


def _linear(rate: int) -> Function:
    return Function(Kind.COUNTER, lambda at_ms: float(rate * at_ms), rate)


def _functions() -> dict[tuple[str, str], Function]:
    named = {
        CLOCK: _linear(1),
        TICKS: Function(Kind.COUNTER, lambda at_ms: float(at_ms % RESET_MS)),
        TIME: Function(Kind.GAUGE, lambda at_ms: at_ms / 1_000),
        SAWTOOTH: Function(Kind.GAUGE, lambda at_ms: at_ms % TOOTH_MS / 1_000),
        CONSTANT: Function(Kind.GAUGE, lambda _: CONSTANT_VALUE),
        OFFSET: Function(Kind.GAUGE, lambda at_ms: OFFSET_BASE + at_ms // 1_000 % OFFSET_VALUES),
        f"{LATENCY}_count": _linear(OBSERVATIONS["+Inf"]),
        f"{LATENCY}_sum": _linear(SECONDS_OBSERVED),
    }
    buckets = {(f"{LATENCY}_bucket", bound): _linear(rate) for bound, rate in OBSERVATIONS.items()}
    return {(metric, ""): function for metric, function in named.items()} | buckets


#: By metric and, for a histogram's buckets, the label `le`.
FUNCTIONS: Mapping[tuple[str, str], Function] = MappingProxyType(_functions())

_EXPOSED = tuple(
    SeriesKey(metric, (("le", bound),) if bound else (), function.kind)
    for (metric, bound), function in FUNCTIONS.items()
)


class SelftestCollector:
    """Gives what the functions are now."""

    def __init__(self) -> None:
        self._placer = Placer(REPORTED)

    def collect(self, source: BaseSource, targets: Sequence[Target]) -> Iterator[Collected]:
        """One batch for each target (there is one), at the instant that its values are of."""
        for target in targets:
            started_at, started = now(), time.perf_counter()
            placement = self._placer.place(source, target, _EXPOSED)
            values = [function.value(milliseconds(started_at)) for function in FUNCTIONS.values()]
            duration = time.perf_counter() - started
            batch = Batch(started_at, placement.keys, placement.values((1.0, duration, len(values)), values))
            yield Collected(target, started_at, duration, (batch,), samples=len(placement.kept))
