"""`aggregator check`: every fault of the configuration, or what it will store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from aggregator.config.duration import format_duration
from aggregator.config.estimate import ASSUMED_SERIES, Estimate, TierEstimate, estimate
from aggregator.config.load import load_settings

if TYPE_CHECKING:
    from aggregator.config.model import Settings

_BYTES_PER_UNIT = 1_000
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def check(context: typer.Context) -> None:
    """Check the configuration; print each fault as file:line: field: message, or the estimated series and bytes."""
    settings = load_settings(context.obj.config)
    typer.echo("\n".join(_report(settings, estimate(settings))))


def _report(settings: Settings, cost: Estimate) -> list[str]:
    which = f"{settings.file} is right" if settings.file else "no configuration file: the defaults are in force"
    assumed = ", ".join(f"{kind} {count}" for kind, count in ASSUMED_SERIES.items())
    lines = [
        which,
        "",
        *_table([("source", "kind", "targets", "series", "samples/s"), *_source_rows(cost)]),
        "",
        *_table([("tier", "step", "kept", "rollups", "bytes"), *map(_tier_row, cost.tiers)]),
        "",
        f"At steady state: {cost.series:,} series, {_size(cost.size_bytes)}.",
        f"Assumed series of a target, before keep and drop: {assumed} (this service itself).",
        "A host or command source without nodes is counted for one node; it runs on every live one.",
    ]
    if any(source.has_file_sd for source in cost.sources):
        lines.append("Targets that file_sd finds are not counted.")
    if settings.rules:
        names = ", ".join(rule.name for rule in settings.rules)
        lines.append(f"What rules make is not counted, for nobody knows the labels yet: {names}.")
    return lines


def _source_rows(cost: Estimate) -> list[tuple[str, ...]]:
    return [
        (source.name, source.kind, f"{source.targets:,}", f"{source.series:,}", f"{source.samples_per_second:,.0f}")
        for source in cost.sources
    ]


def _tier_row(tier: TierEstimate) -> tuple[str, ...]:
    step = "" if tier.step is None else format_duration(tier.step)
    return (tier.name, step, format_duration(tier.retention), f"{tier.rows:,}", _size(tier.size_bytes))


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    """Columns as wide as their widest cell; all but the first are set to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _size(size_bytes: float) -> str:
    """Bytes in the decimal unit in which they are below 1,000."""
    for unit in _UNITS[:-1]:
        if size_bytes < _BYTES_PER_UNIT:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= _BYTES_PER_UNIT
    return f"{size_bytes:.3g} {_UNITS[-1]}"
