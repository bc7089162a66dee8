"""`aggregator query`: what Grafana would see of a selector."""

from __future__ import annotations

import csv
import json
import sys
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import typer

from aggregator.cli.invocation import settings_of
from aggregator.cli.times import EXAMPLES, parse_instant
from aggregator.config.selector import EXAMPLE, Selector, parse_selector
from aggregator.config.servers import require_database_url
from aggregator.errors import SelectorError, UsageError
from aggregator.printable import on_one_line
from aggregator.serving.points import DEFAULT_STATISTICS, parse_statistics, point_document

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from aggregator.storage.query import Point

#: A query typed by a person may take longer than a page.
STATEMENT_TIMEOUT = timedelta(seconds=60)
_UTC = ZoneInfo("UTC")


class Format(StrEnum):
    """How the result is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def query(  # noqa: PLR0917 - typer passes each by its name
    context: typer.Context,
    selector: Annotated[str, typer.Argument(metavar="SELECTOR", help=f"Prometheus' own, such as {EXAMPLE}.")],
    start: Annotated[str, typer.Option("--from", metavar="TIME", help=f"From when on: {EXAMPLES}.")] = "-1h",
    finish: Annotated[str, typer.Option("--to", metavar="TIME", help="Up to and without when.")] = "now",
    step: Annotated[str, typer.Option(help="A tier's name such as 1m, raw for samples, or auto.")] = "auto",
    stat: Annotated[str, typer.Option(help="Statistics, with commas between them.")] = DEFAULT_STATISTICS,
    form: Annotated[Format, typer.Option("--format", help="How to print the result.")] = Format.TABLE,
) -> None:
    """Print the rows of a selector from the tier that fits, or from the samples."""
    from aggregator.storage.query import choose_tier, explain_nothing, read_points, read_tiers  # noqa: PLC0415 - after --help
    from aggregator.storage.reading import Reader  # noqa: PLC0415 - as above

    now = datetime.now(UTC)
    since, until = parse_instant(start, now=now), parse_instant(finish, now=now)
    if since >= until:
        raise UsageError(f"--from {start} is not before --to {finish}; turn them round")
    wanted, statistics = _selector(selector), parse_statistics(stat)
    url = require_database_url(settings_of(context))

    def work(connection: Any) -> None:  # noqa: ANN401 - SQLAlchemy stays in storage
        tiers = read_tiers(connection, now=now)
        tier = choose_tier(tiers, step, start=since, finish=until)
        points = read_points(connection, wanted, tier=tier, start=since, finish=until, statistics=statistics)
        first = next(points, None)
        zone = next((ZoneInfo(one.timezone) for one in tiers if one.name == tier), _UTC)
        _PRINTERS[form](chain([first] if first else [], points), ("value",) if tier == "raw" else statistics, zone)
        if first is None:
            sys.stderr.write(f"nothing found: {explain_nothing(connection, wanted)}\n")

    reader = Reader.connect(url, application="aggregator query", statement_timeout=STATEMENT_TIMEOUT)
    try:
        reader.run(work)
    finally:
        reader.dispose()


def _selector(text: str) -> Selector:
    try:
        return parse_selector(text)
    except ValueError as error:
        raise SelectorError(str(error)) from None


def _instant(instant: datetime, zone: ZoneInfo = _UTC) -> str:
    return instant.astimezone(zone).isoformat(timespec="auto").replace("+00:00", "Z")


def _print_json(points: Iterable[Point], _statistics: Sequence[str], _zone: ZoneInfo) -> None:
    """A JSON array with a row a line, written as rows arrive."""
    sys.stdout.write("[")
    for number, point in enumerate(points):
        sys.stdout.write(("," if number else "") + "\n" + json.dumps(point_document(point), ensure_ascii=False))
    sys.stdout.write("\n]\n")


def _print_csv(points: Iterable[Point], statistics: Sequence[str], _zone: ZoneInfo) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["time", "metric", "labels", *statistics, "completeness", "is_final", "tier"])
    for point in points:
        values = [point.values[name] for name in statistics]
        labels = json.dumps(dict(point.labels), ensure_ascii=False)
        tail = (point.completeness, point.is_final, point.tier)
        writer.writerow([_instant(point.time), point.metric, labels, *values, *tail])


def _print_table(points: Iterable[Point], statistics: Sequence[str], zone: ZoneInfo) -> None:
    """Rows under their series, which is named once; times in the zone whose days these are."""
    from rich.console import Console  # noqa: PLC0415 - only a table needs it
    from rich.markup import escape  # noqa: PLC0415 - as above

    console = Console(soft_wrap=True)
    for series, own in _by_series(points):
        console.print(f"[bold]{escape(on_one_line(series))}[/bold]", highlight=False)
        console.print(_series_table(own, statistics, zone))


def _series_table(points: Iterable[Point], statistics: Sequence[str], zone: ZoneInfo) -> Any:  # noqa: ANN401 - rich's table, imported late
    from rich.table import Table  # noqa: PLC0415 - only a table needs it

    shown = Table(box=None, pad_edge=False)
    for name in ("time", *statistics, "complete", "final", "tier"):
        shown.add_column(name, justify="left" if name in ("time", "tier") else "right")
    for point in points:
        values = ("" if (value := point.values[name]) is None else f"{value:.6g}" for name in statistics)
        completeness = "" if point.completeness is None else f"{point.completeness:.0%}"
        final = {None: "", True: "yes", False: "no"}[point.is_final]
        shown.add_row(_instant(point.time, zone), *values, completeness, final, point.tier)
    return shown


def _by_series(points: Iterable[Point]) -> Iterator[tuple[str, list[Point]]]:
    """Points come sorted by series; those of one series are a table."""
    from itertools import groupby  # noqa: PLC0415 - only a table needs it

    for (metric, labels), own in groupby(points, key=lambda point: (point.metric, tuple(sorted(point.labels.items())))):
        named = ",".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in labels)
        yield f"{metric}{{{named}}}", list(own)


_PRINTERS = {Format.TABLE: _print_table, Format.JSON: _print_json, Format.CSV: _print_csv}
