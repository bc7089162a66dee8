"""`aggregator check`: every fault of the configuration, or what it will store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from aggregator.config.estimate import ASSUMED_SERIES
from aggregator.config.load import load_settings
from aggregator.errors import AggregatorError

if TYPE_CHECKING:
    from aggregator.cli.costs import Costing
    from aggregator.config.model import Settings
    from aggregator.storage.measured_bytes import Measured


def check(context: typer.Context) -> None:
    """Check the configuration; print each fault as file:line: field: message, or the expected series and bytes."""
    settings = load_settings(context.obj.config)
    from aggregator.cli.costs import costing  # noqa: PLC0415 - a fault is told without SQLAlchemy

    measured, why = _measured(settings)
    costs = costing(settings, measured)
    typer.echo("\n".join(_report(settings, costs, why)))


def _measured(settings: Settings) -> tuple[Measured | None, str]:
    """What the database has, or why it says nothing: the configuration is checked without one as well."""
    from aggregator.config.servers import with_running_servers  # noqa: PLC0415 - as above
    from aggregator.storage.measured_bytes import measure  # noqa: PLC0415 - as above
    from aggregator.storage.reading import Reader  # noqa: PLC0415 - as above

    try:
        url = with_running_servers(settings).database_url
        if url is None:
            return None, "No database is configured here"
        reader = Reader.connect(url.get_secret_value(), application="aggregator check")
        try:
            return reader.run(measure), ""
        finally:
            reader.dispose()
    except AggregatorError as error:
        return None, str(error)


def _report(settings: Settings, costs: Costing, why: str) -> list[str]:
    from aggregator.cli.costs import cost_table, source_table, summary_line  # noqa: PLC0415 - as above

    which = f"{settings.file} is right" if settings.file else "no configuration file: the defaults are in force"
    lines = [which, "", *source_table(costs), "", *cost_table(costs), "", summary_line(costs), *bytes_lines(costs, why)]
    if any(source.name not in costs.known for source in costs.sources):
        assumed = ", ".join(f"{kind} {count}" for kind, count in ASSUMED_SERIES.items())
        lines.append(f"Assumed series of a target, before keep and drop: {assumed} (this service itself).")
        lines.append("A host or command source without nodes is assumed on one node; it runs on every live one.")
    if any(source.has_file_sd and source.name not in costs.known for source in costs.sources):
        lines.append("Targets that file_sd finds are not counted.")
    if settings.rules:
        names = ", ".join(rule.name for rule in settings.rules)
        lines.append(f"What rules make is not counted, for nobody knows the labels yet: {names}.")
    return lines


def bytes_lines(costs: Costing, why: str = "") -> list[str]:
    """Where the bytes come from. `why`: for which reason nothing was measured."""
    names = list(costs.prices.of_layer)
    if names:
        lines = [f"Bytes of {', '.join(names)} as measured in this database; others as in docs/storage.md."]
    elif why:
        lines = [f"{why}; bytes are those of docs/storage.md."]
    else:
        lines = ["This database has too little yet to measure; bytes are those of docs/storage.md."]
    lines.append("Partitions are dropped whole, so data is kept for up to one partition longer than its retention.")
    return lines
