"""`aggregator summarize`: refresh the summaries, now, in this process."""

from __future__ import annotations

from typing import Annotated

import typer

from aggregator.cli.invocation import settings_of


def summarize(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="One summary; all of them where none is named.")] = None,
) -> None:
    """Refresh summaries, whether their slot has come or not."""
    from aggregator.tasks.context import Context, now  # noqa: PLC0415 - SQLAlchemy is loaded only where it is used

    refreshed = Context(settings_of(context)).summarize.run(clock=now, only=name)
    typer.echo(f"{refreshed} summaries refreshed")
