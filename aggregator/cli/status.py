"""`aggregator status`: sources, lag, freshness and backlog; exit 1 when something is stale."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aggregator.cli.invocation import settings_of
from aggregator.config.servers import require_database_url
from aggregator.errors import ServerUnreachableError
from aggregator.printable import on_one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

_COLUMNS: dict[str, tuple[tuple[str, str], ...]] = {
    "sources": (
        ("name", "source"),
        ("kind", "kind"),
        ("interval_seconds", "interval s"),
        ("targets", "targets"),
        ("down", "down"),
        ("series", "series"),
        ("last_success", "last success"),
        ("slots_missed", "missed"),
        ("stale", "stale"),
        ("last_error", "last error"),
    ),
    "tiers": (
        ("name", "tier"),
        ("step_seconds", "step s"),
        ("newest_bucket", "newest bucket"),
        ("lag_seconds", "lag s"),
        ("backfill_lag_seconds", "backfill lag s"),
        ("backlog", "backlog"),
        ("verify_mismatches", "mismatches"),
        ("stale", "stale"),
    ),
    "summaries": (
        ("name", "summary"),
        ("computed_at", "computed"),
        ("version", "version"),
        ("stale", "stale"),
        ("last_error", "last error"),
    ),
    "partitions_held": (
        ("table", "kept too long"),
        ("partitions", "partitions"),
        ("oldest", "oldest"),
        ("since", "since"),
        ("reason", "because"),
    ),
    "stored": (
        ("tier", "stored of"),
        ("form", "form"),
        ("bytes", "bytes"),
        ("empty_bytes", "of them empty"),
        ("items", "samples or rollups"),
        ("bytes_each", "bytes each"),
        ("is_estimate", "estimated"),
    ),
    "stored_of_sources": (
        ("source", "stored of"),
        ("series", "series"),
        ("bytes", "bytes, estimated"),
        ("bytes_each", "bytes each"),
    ),
    "nodes": (
        ("name", "node"),
        ("last_seen", "last seen"),
        ("config_hash", "configuration"),
        ("version", "version"),
        ("alive", "alive"),
    ),
}


def status(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole status as JSON.")] = False,  # noqa: FBT002 - a flag
) -> None:
    """Show sources, lag, freshness and backlog per tier, summaries, last errors and nodes; exit 1 on any problem."""
    from aggregator.serving.observer import Addresses, Observer  # noqa: PLC0415 - after --help

    settings = settings_of(context)
    broker, cache = settings.broker_url, settings.cache_url
    addresses = Addresses(
        require_database_url(settings),
        broker.get_secret_value() if broker else None,
        cache.get_secret_value() if cache else None,
        settings.namespace,
    )
    found = Observer(addresses, application="aggregator status").status()
    document = found.document()
    if as_json:
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
    elif found.health is None:
        raise ServerUnreachableError("\n".join(document["problems"]))
    else:
        _print(document)
    if found.health is None:
        raise typer.Exit(ServerUnreachableError.exit_code)
    raise typer.Exit(0 if document["ok"] else 1)


def _print(document: dict[str, Any]) -> None:
    from rich.console import Console  # noqa: PLC0415 - only a table needs it
    from rich.markup import escape  # noqa: PLC0415 - as above

    console = Console(soft_wrap=True)
    for name, columns in _COLUMNS.items():
        if document[name]:
            console.print(_table(document[name], columns), "")
    if document["ok"]:
        console.print("[green]All is well.[/green]")
    for problem in document["problems"]:
        console.print(f"[red]{escape(on_one_line(problem))}[/red]", highlight=False)


def _table(rows: Sequence[dict[str, Any]], columns: Sequence[tuple[str, str]]) -> Any:  # noqa: ANN401 - rich's table, imported late
    from rich.markup import escape  # noqa: PLC0415 - only a table needs it
    from rich.table import Table  # noqa: PLC0415 - as above

    shown = Table(box=None, pad_edge=False)
    for _, head in columns:
        shown.add_column(head)
    for row in rows:
        shown.add_row(*(escape(on_one_line(_cell(row[name]))) for name, _ in columns))
    return shown


def _cell(value: Any) -> str:  # noqa: ANN401 - what JSON can hold
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_cell(item)}" for name, item in value.items())
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
