"""`aggregator db`: bring the schema up to date, show the database's URL, and make a role that only reads."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

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


@app.command()
def reader(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The role, such as grafana.")],
    password_file: Annotated[
        Path | None, typer.Option("--password-file", metavar="FILE", help="Its password, and a newline at most.")
    ] = None,
    print_sql: Annotated[bool, typer.Option("--print-sql", help="Print the SQL and change nothing.")] = False,  # noqa: FBT002 - typer's way to declare a flag
) -> None:
    """Make a role that can read the views and nothing else, or bring it up to date; print its URL."""
    from aggregator.errors import RoleRefusedError  # noqa: PLC0415 - as above
    from aggregator.storage.engine import Database  # noqa: PLC0415 - as above
    from aggregator.storage.reader_role import make_reader, statements  # noqa: PLC0415 - as above

    given = require_database_url(settings_of(context))
    password = None if password_file is None else _password_in(password_file)
    database = Database.connect(given, application="aggregator db reader")

    def show_sql() -> None:
        for statement in database.run(lambda connection: statements(connection, name, password=password)):
            typer.echo(f"{statement};")

    try:
        if print_sql:
            show_sql()
        else:
            typer.echo(database.run(lambda connection: make_reader(connection, name, password=password)).url(given))
    except RoleRefusedError:
        show_sql()
        raise
    finally:
        database.dispose()


def _password_in(path: Path) -> str:
    """The password that a file holds; raises UsageError where it holds none."""
    from aggregator.errors import UsageError  # noqa: PLC0415 - as above

    try:
        password = path.read_text(encoding="utf-8").rstrip("\n")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    if not password:
        raise UsageError(f"{path} is empty; write the password into it")
    return password
