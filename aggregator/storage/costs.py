"""What samples and rollups take on disk: bytes each by form, and all of them after a day, a month, a year."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from aggregator.config.ladder import parents
from aggregator.config.model import Settings, Tier
from aggregator.rollups.buckets import Ladder
from aggregator.storage.partitions import SAMPLES, rollup_partitions
from aggregator.storage.sealed_spans import SAMPLE_SPANS, spans_of

#: After how long a cost is told: a day, a month of 30 days, a year, and when every tier is full.
HORIZONS: Mapping[str, timedelta] = {
    "day": timedelta(days=1),
    "month": timedelta(days=30),
    "year": timedelta(days=365),
    "full": timedelta.max,
}
FULL = "full"
SAMPLES_NAME = "samples"


@dataclass(frozen=True)
class Price:
    """Bytes on disk of a sample, or of the rollup of one series in one bucket, with indexes and TOAST; by form."""

    open: float
    sealed: float


# Measured: open rows by their layout (docs/architecture.md#bytes), sealed ones of a node exporter (docs/storage.md).
SAMPLE = Price(open=10, sealed=1.3)
FINEST_ROLLUP = Price(open=64, sealed=7.8)
#: Its open buckets are rewritten, on pages that are left half empty for it.
COARSER_ROLLUP = Price(open=128, sealed=7.8)


@dataclass(frozen=True)
class Load:
    """What one source gives: so many series, and so many samples a second."""

    source: str
    series: float
    samples_per_second: float


@dataclass(frozen=True)
class Layer:
    """Samples (`step` None), or the rollups of one tier.

    `kept`: how long at most, a partition's width longer than the retention, because partitions are dropped whole.
    `open_for`: how long at most they stay open; None: they are never sealed.
    """

    name: str
    step: timedelta | None
    retention: timedelta
    kept: timedelta
    open_for: timedelta | None
    price: Price

    def per_second(self, load: Load) -> float:
        """How many samples or rollups a source adds in a second."""
        return load.samples_per_second if self.step is None else load.series / self.step.total_seconds()

    def seconds(self, age: timedelta) -> tuple[float, float]:
        """Of how many seconds there is open data, and of how many sealed, so long after the first of it."""
        kept = min(age, self.kept)
        is_open = kept if self.open_for is None else min(kept, self.open_for)
        return is_open.total_seconds(), (kept - is_open).total_seconds()


@dataclass(frozen=True)
class Prices:
    """What is known better than the documented prices: by layer, and by layer and source."""

    of_layer: Mapping[str, Price] = field(default_factory=dict)
    of_source: Mapping[tuple[str, str], Price] = field(default_factory=dict)

    def of(self, layer: Layer, source: str) -> Price:
        """The price of a source's rows of a layer."""
        return self.of_source.get((layer.name, source)) or self.of_layer.get(layer.name) or layer.price


DOCUMENTED = Prices()


@dataclass(frozen=True)
class LayerCost:
    """One layer: `rows` samples or rollups when it is full, `open_rows` of them open, and its bytes by horizon."""

    layer: Layer
    rows: int
    open_rows: int
    size_bytes: Mapping[str, int]


@dataclass(frozen=True)
class Cost:
    """All layers, samples first, then the tiers from the finest."""

    layers: tuple[LayerCost, ...]

    def size_bytes(self, horizon: str) -> int:
        """Bytes of all layers at a horizon."""
        return sum(layer.size_bytes[horizon] for layer in self.layers)


def layers_of(settings: Settings) -> tuple[Layer, ...]:
    """The layers of a configuration: samples first, then the tiers from the finest."""
    kept = settings.sample_retention + SAMPLES.width
    open_for = SAMPLE_SPANS.length + settings.lateness
    samples = Layer(SAMPLES_NAME, None, settings.sample_retention, kept, open_for, SAMPLE)
    parent_of = parents(settings.tiers)
    ordered = sorted(settings.tiers, key=lambda tier: tier.step)
    tiers = (_layer(tier, lateness=settings.lateness, is_finest=parent_of[tier.name] is None) for tier in ordered)
    return (samples, *tiers)


def _layer(tier: Tier, *, lateness: timedelta, is_finest: bool) -> Layer:
    partitioned = rollup_partitions(tier.name, tier.step, is_finest=is_finest)
    spans = spans_of(Ladder(tier.step, tier.timezone, months=tier.months), partitioned)
    return Layer(
        name=tier.name,
        step=tier.step,
        retention=tier.retention,
        kept=tier.retention + partitioned.width,
        open_for=None if spans is None else spans.length + lateness,
        price=FINEST_ROLLUP if is_finest else COARSER_ROLLUP,
    )


def cost_of(layers: Iterable[Layer], loads: Sequence[Load], *, prices: Prices = DOCUMENTED) -> Cost:
    """What sources cost that go on as they are, from an empty database on."""
    return Cost(tuple(_cost_of_layer(layer, loads, prices) for layer in layers))


def _cost_of_layer(layer: Layer, loads: Sequence[Load], prices: Prices) -> LayerCost:
    open_seconds, sealed_seconds = layer.seconds(timedelta.max)
    per_second = sum(layer.per_second(load) for load in loads)
    sizes = {
        horizon: round(sum(_size(layer, load, age, prices.of(layer, load.source)) for load in loads))
        for horizon, age in HORIZONS.items()
    }
    return LayerCost(
        layer, round(per_second * (open_seconds + sealed_seconds)), round(per_second * open_seconds), sizes
    )


def _size(layer: Layer, load: Load, age: timedelta, price: Price) -> float:
    open_seconds, sealed_seconds = layer.seconds(age)
    return layer.per_second(load) * (open_seconds * price.open + sealed_seconds * price.sealed)
