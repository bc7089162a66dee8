"""`aggregator rollup`: roll up what is due, now, in this process."""

from __future__ import annotations

from datetime import timedelta

import typer

from aggregator.cli.invocation import settings_of

_BUDGET = timedelta(hours=1)


def rollup(context: typer.Context) -> None:
    """Roll up everything that is due."""
    from aggregator.tasks.context import Context, now  # noqa: PLC0415 - SQLAlchemy is loaded only where it is used

    rows = Context(settings_of(context)).rollup.run(now, budget=_BUDGET)
    typer.echo(f"{rows} rollup rows written")
