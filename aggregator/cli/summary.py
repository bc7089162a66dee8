"""`aggregator summary`: a cached summary, as any application reads it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aggregator import client
from aggregator.cli.invocation import settings_of
from aggregator.config.servers import require_cache_url
from aggregator.printable import on_one_line
from aggregator.serving.sparkline import is_trend, sparkline

if TYPE_CHECKING:
    from datetime import datetime


def summary(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The summary's name in [[summaries]].")],
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,  # noqa: FBT002 - a flag
) -> None:
    """Show a summary with its age and how complete it is."""
    settings = settings_of(context)
    found = client.read(name, url=require_cache_url(settings), namespace=settings.namespace)
    if as_json:
        typer.echo(json.dumps(found.as_document(), ensure_ascii=False, indent=2))
    else:
        _print(found)


def _instant(value: datetime) -> str:
    return value.isoformat().replace("+00:00", "Z")


def _print(found: client.Summary) -> None:
    from rich.console import Console  # noqa: PLC0415 - only a table needs it
    from rich.markup import escape  # noqa: PLC0415 - as above
    from rich.table import Table  # noqa: PLC0415 - as above

    shown = Table(box=None, pad_edge=False)
    heads = list(dict.fromkeys(column for row in found.value for column in row))
    for head in heads:
        shown.add_column(escape(on_one_line(head)))
    for row in found.value:
        shown.add_row(*(escape(on_one_line(_cell(row.get(head)))) for head in heads))
    console = Console(soft_wrap=True)
    console.print(shown)
    complete = "unknown" if found.completeness is None else f"{found.completeness:.0%}"
    state = ["stale"] if found.is_stale() else []
    state += [
        f"as of {_instant(found.as_of)}",
        *([f"tier {found.tier}", f"complete {complete}"] if found.tier is not None else []),
        f"version {found.version}",
    ]
    console.print(", ".join(state), style="dim", highlight=False)
    if found.error is not None:
        console.print(f"The last refresh failed: {escape(on_one_line(found.error))}", style="red", highlight=False)


def _cell(value: Any) -> str:  # noqa: ANN401 - what JSON can hold
    if is_trend(value):
        return sparkline(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:.6g}" if is_number else "" if value is None else str(value)
