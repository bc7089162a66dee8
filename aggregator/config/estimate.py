"""How many series a configuration will have, and what they will take on disk, once every tier is full."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aggregator.config.model import Settings
from aggregator.config.source_model import BaseSource, CommandSource, HostSource, PrometheusSource

if TYPE_CHECKING:
    from datetime import timedelta

#: What a target has besides its own series: up, scrape_duration_seconds, scrape_samples_scraped.
SERIES_ABOUT_A_SCRAPE = 3
#: How many series one target is assumed to have: nobody knows before the first scrape.
ASSUMED_SERIES = {"prometheus": 1_000, "host": 150, "command": 5, "selftest": 12, "aggregator": 300}
#: Measured (docs/architecture.md, "Bytes"): a raw sample, a rollup of the finest tier, and one of a tier whose open
#: buckets are rewritten on pages that are left half empty for it.
SAMPLE_BYTES = 10
FINEST_ROLLUP_BYTES = 64
COARSER_ROLLUP_BYTES = 128


@dataclass(frozen=True)
class SourceEstimate:
    """One source: its targets (one for each node that it names, or one), and its series on all of them."""

    name: str
    kind: str
    targets: int
    series: int
    samples_per_second: float
    #: Whether targets come from files as well, which are not counted.
    has_file_sd: bool


@dataclass(frozen=True)
class TierEstimate:
    """One tier, or the samples, at steady state: `rows` values or rollups of one series each."""

    name: str
    step: timedelta | None
    retention: timedelta
    rows: int
    size_bytes: int


@dataclass(frozen=True)
class Estimate:
    """All of a configuration; the samples come first in `tiers`, then the tiers from the finest."""

    sources: tuple[SourceEstimate, ...]
    tiers: tuple[TierEstimate, ...]

    @property
    def series(self) -> int:
        """Series of all sources."""
        return sum(source.series for source in self.sources)

    @property
    def size_bytes(self) -> int:
        """Bytes of samples and all tiers."""
        return sum(tier.size_bytes for tier in self.tiers)


def estimate(settings: Settings) -> Estimate:
    """What the settings will cost, with assumed series for each target and before `keep` and `drop`."""
    sources = tuple(_source(source, settings) for source in settings.sources)
    samples = round(sum(source.samples_per_second for source in sources) * settings.sample_retention.total_seconds())
    raw = TierEstimate("samples", None, settings.sample_retention, samples, samples * SAMPLE_BYTES)
    series = sum(source.series for source in sources)
    ordered = sorted(settings.tiers, key=lambda tier: tier.step)
    tiers = []
    for place, tier in enumerate(ordered):
        rollups = series * (tier.retention // tier.step)
        size_bytes = rollups * (COARSER_ROLLUP_BYTES if place else FINEST_ROLLUP_BYTES)
        tiers.append(TierEstimate(tier.name, tier.step, tier.retention, rollups, size_bytes))
    return Estimate(sources, (raw, *tiers))


def _source(source: BaseSource, settings: Settings) -> SourceEstimate:
    kind: str
    if isinstance(source, PrometheusSource):
        kind, targets = "prometheus", len(source.targets)
        series = sum(_series_of(target, settings) for target in source.targets)
    else:
        kind = str(source.kind)  # type: ignore[attr-defined] # every concrete source has its kind
        targets = max(1, len(source.nodes)) if isinstance(source, HostSource | CommandSource) else 1
        series = targets * ASSUMED_SERIES[kind]
    series += targets * SERIES_ABOUT_A_SCRAPE
    has_file_sd = isinstance(source, PrometheusSource) and bool(source.file_sd)
    per_second = series / source.interval.total_seconds()
    return SourceEstimate(source.name, kind, targets, series, per_second, has_file_sd=has_file_sd)


def _series_of(target: str, settings: Settings) -> int:
    """What a target is assumed to have; the service's own are known better."""
    is_own = any(target.startswith(f"http://{listen}/") for listen in (settings.exporter_listen, settings.web_listen))
    return ASSUMED_SERIES["aggregator" if is_own else "prometheus"]
