"""`aggregator maintain`: make partitions, apply retention and seal what has closed, now, in this process."""

from __future__ import annotations

import typer

from aggregator.cli.invocation import settings_of


def maintain(context: typer.Context) -> None:
    """Make partitions ahead of their time, drop those past their retention, and seal what has closed."""
    from aggregator.tasks.context import Context, now  # noqa: PLC0415 - SQLAlchemy is loaded only where it is used

    here = Context(settings_of(context))
    here.require_right_clock()
    done = here.maintain.run(clock=now)
    if done is None:
        raise AssertionError("a run without a slot is never refused")
    typer.echo(f"{done.partitions_made} partitions made, {len(done.partitions_dropped)} dropped")
    for name in done.partitions_dropped:
        typer.echo(f"dropped {name}")
    for name, reason in done.partitions_held:
        typer.echo(f"kept {name}: {reason}")
    typer.echo(f"{done.sealed.rollups:,} rollups and {done.sealed.samples:,} samples sealed")
    for name in done.sealed.partitions_dropped:
        typer.echo(f"dropped {name}, which is sealed")
