"""`aggregator quarantine`: the jobs that were set aside because they kept losing their process."""

from __future__ import annotations

import json
from datetime import UTC
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aggregator.cli.invocation import settings_of
from aggregator.config.servers import require_database_url
from aggregator.errors import UnknownJobError

if TYPE_CHECKING:
    from datetime import datetime

    from aggregator.storage.engine import Database
    from aggregator.storage.quarantine import Losses

app = typer.Typer(no_args_is_help=True)


@app.command("list")
def list_(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False,  # noqa: FBT002 - a flag
) -> None:
    """List the jobs that are set aside: since when, why, and when each is tried again."""
    from aggregator.storage.quarantine import quarantined  # noqa: PLC0415 - after --help

    found = _database(context).run(quarantined)
    if as_json:
        typer.echo(json.dumps([_document(one) for one in found], indent=2, ensure_ascii=False))
    elif found:
        _print(found)
    else:
        typer.echo("no job is quarantined")


@app.command("release")
def release(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The job, as the list shows it.")],
) -> None:
    """Let a job run again from now on, and forget what it has lost."""
    from aggregator.storage.quarantine import forget, quarantined  # noqa: PLC0415 - after --help

    database = _database(context)
    found = database.run(quarantined)
    job = next((one.job for one in found if str(one.job) == name), None)
    if job is None or not database.run(partial(forget, job=job)):
        known = ", ".join(str(one.job) for one in found) or "none"
        raise UnknownJobError(f"no job named {name} is quarantined; there are: {known}")
    typer.echo(f"released {name}: it runs at its next slot")


def _database(context: typer.Context) -> Database:
    from aggregator.storage.engine import Database  # noqa: PLC0415 - after --help

    return Database.connect(require_database_url(settings_of(context)), application="aggregator quarantine")


def _document(found: Losses) -> dict[str, Any]:
    return {
        "name": str(found.job),
        "task": found.job.task,
        "subject": found.job.subject,
        "since": _instant(found.quarantined_at),
        "losses": found.losses,
        "reason": found.reason,
        "first_lost_at": _instant(found.first_lost_at),
        "last_lost_at": _instant(found.last_lost_at),
        "next_try": _instant(found.retry_at),
    }


def _instant(instant: datetime | None) -> str | None:
    return None if instant is None else instant.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _print(found: list[Losses]) -> None:
    from rich.console import Console  # noqa: PLC0415 - only a table needs it
    from rich.markup import escape  # noqa: PLC0415 - as above
    from rich.table import Table  # noqa: PLC0415 - as above

    shown = Table(box=None, pad_edge=False)
    columns = ("name", "since", "losses", "reason", "next_try")
    for head in columns:
        shown.add_column(head.replace("_", " "))
    for one in found:
        document = _document(one)
        shown.add_row(*(escape(str(document[column])) for column in columns))
    Console(soft_wrap=True).print(shown)
