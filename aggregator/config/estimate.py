"""How many series and samples a configuration will have, as far as it tells."""

from __future__ import annotations

from dataclasses import dataclass

from aggregator.config.model import Settings
from aggregator.config.source_model import BaseSource, CommandSource, HostSource, PrometheusSource

#: What a target has besides its own series: up, scrape_duration_seconds, scrape_samples_scraped.
SERIES_ABOUT_A_SCRAPE = 3
#: How many series one target is assumed to have: nobody knows before the first scrape.
ASSUMED_SERIES = {"prometheus": 1_000, "host": 150, "command": 5, "selftest": 12, "aggregator": 300}


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


def estimate(settings: Settings) -> tuple[SourceEstimate, ...]:
    """What the settings will collect, with assumed series for each target and before `keep` and `drop`."""
    return tuple(_source(source, settings) for source in settings.sources)


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
