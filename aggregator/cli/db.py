"""`aggregator db`: bring the schema up to date, and show the database's URL."""

from __future__ import annotations

from datetime import UTC, datetime

import typer

from aggregator.cli.invocation import settings_of
from aggregator.config.servers import require_database_url

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.command()
def migrate(context: typer.Context) -> None:
    """Bring the schema to this version's head and publish the configuration; doing it again changes nothing."""
    from aggregator.storage.bootstrap import bring_up  # noqa: PLC0415 - SQLAlchemy is loaded only where it is used

    settings = settings_of(context)
    published = bring_up(require_database_url(settings), settings, now=datetime.now(UTC))
    typer.echo("the schema is at head" + (", the configuration is published" if published else ""))


@app.command()
def url(context: typer.Context) -> None:
    """Print the URL of the database in use, password included, for psql and Grafana."""
    given = require_database_url(settings_of(context))
    typer.echo(given.replace("postgresql+psycopg2://", "postgresql://", 1))  # psql knows no drivers
