"""How costs are shown: by `check` without a database, by `check` and `plan` with what one has measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from aggregator.config.duration import format_duration
from aggregator.config.estimate import SourceEstimate, estimate
from aggregator.storage.costs import DOCUMENTED, FULL, HORIZONS, Cost, LayerCost, Load, Prices, cost_of, layers_of

if TYPE_CHECKING:
    from aggregator.config.model import Settings
    from aggregator.storage.measured_bytes import Measured

_BYTES_PER_UNIT = 1_000
_HOURS_SHOWN = 48
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


@dataclass(frozen=True)
class Costing:
    """What a configuration will cost. `known`: the sources whose series were counted; `prices`: what was measured."""

    sources: tuple[SourceEstimate, ...]
    known: frozenset[str]
    prices: Prices
    cost: Cost

    @property
    def series(self) -> int:
        """Series of all sources."""
        return sum(source.series for source in self.sources)

    def document(self) -> dict[str, Any]:
        """All of it as JSON holds it."""
        return {
            "sources": [
                {
                    "name": source.name,
                    "kind": source.kind,
                    "series": source.series,
                    "samples_per_second": source.samples_per_second,
                    "measured": source.name in self.known,
                }
                for source in self.sources
            ],
            "layers": [_as_document(layer, self.prices) for layer in self.cost.layers],
            "bytes": {horizon: self.cost.size_bytes(horizon) for horizon in HORIZONS},
        }


def costing(settings: Settings, measured: Measured | None = None) -> Costing:
    """What the settings will cost, by what is measured of their sources, else by what is documented."""
    counted = {measured.names[source_id]: count for source_id, count in measured.series.items()} if measured else {}
    sources = tuple(_counted(source, counted.get(source.name)) for source in estimate(settings))
    layers = layers_of(settings)
    prices = measured.prices(layers) if measured else DOCUMENTED
    loads = [Load(source.name, source.series, source.samples_per_second) for source in sources]
    known = frozenset(source.name for source in sources if counted.get(source.name))
    return Costing(sources, known, prices, cost_of(layers, loads, prices=prices))


def _counted(source: SourceEstimate, series: int | None) -> SourceEstimate:
    """With the series that it has; its interval stays that of the configuration."""
    if not series:
        return source
    return replace(source, series=series, samples_per_second=source.samples_per_second * series / source.series)


def source_table(costs: Costing) -> list[str]:
    """The sources with their series; one that was counted says so."""
    rows = [
        (
            source.name,
            source.kind,
            f"{source.targets:,}",
            f"{source.series:,}",
            "counted" if source.name in costs.known else "assumed",
            f"{source.samples_per_second:,.0f}",
        )
        for source in costs.sources
    ]
    return table([("source", "kind", "targets", "series", "", "samples/s"), *rows])


def cost_table(costs: Costing) -> list[str]:
    """The layers: how long data stays open, what one takes by form, and bytes by horizon."""
    heads = ("tier", "step", "kept", "open for", "rollups", "B open", "B sealed", "after a day", "a month", "a year")
    rows = [_row(layer, costs.prices) for layer in costs.cost.layers]
    total = ("all", *([""] * 6), *(size(costs.cost.size_bytes(horizon)) for horizon in HORIZONS))
    return table([(*heads, "when full"), *rows, total])


def _row(cost: LayerCost, prices: Prices) -> tuple[str, ...]:
    layer = cost.layer
    price = prices.of_layer.get(layer.name, layer.price)
    return (
        layer.name,
        "" if layer.step is None else format_duration(layer.step),
        format_duration(layer.retention),
        "ever" if layer.open_for is None else _length(layer.open_for),
        f"{cost.rows:,}",
        f"{price.open:.3g}",
        "" if layer.open_for is None else f"{price.sealed:.3g}",
        *(size(cost.size_bytes[horizon]) for horizon in HORIZONS),
    )


def _length(length: timedelta) -> str:
    hours = length / timedelta(hours=1)
    return f"{hours:.3g} h" if hours < _HOURS_SHOWN else f"{hours / 24:.3g} d"


def _as_document(cost: LayerCost, prices: Prices) -> dict[str, Any]:
    layer = cost.layer
    price = prices.of_layer.get(layer.name, layer.price)
    return {
        "name": layer.name,
        "step_seconds": _seconds(layer.step),
        "retention_seconds": layer.retention.total_seconds(),
        "open_seconds": _seconds(layer.open_for),
        "rows_when_full": cost.rows,
        "bytes_each": {"open": price.open, "sealed": price.sealed},
        "measured": layer.name in prices.of_layer,
        "bytes": dict(cost.size_bytes),
    }


def _seconds(length: timedelta | None) -> float | None:
    return None if length is None else length.total_seconds()


def summary_line(costs: Costing) -> str:
    """The sum in one sentence."""
    return f"At steady state: {costs.series:,} series, {size(costs.cost.size_bytes(FULL))}."


def table(rows: Sequence[Iterable[str]]) -> list[str]:
    """Columns as wide as their widest cell; all but the first are set to the right."""
    cells = [tuple(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def size(size_bytes: float) -> str:
    """Bytes in the decimal unit in which they are below 1,000."""
    for unit in _UNITS[:-1]:
        if size_bytes < _BYTES_PER_UNIT:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= _BYTES_PER_UNIT
    return f"{size_bytes:.3g} {_UNITS[-1]}"
