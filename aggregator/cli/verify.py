"""`aggregator verify`: recompute buckets and compare; exit 1 and a list where one differs."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from aggregator.cli.invocation import settings_of
from aggregator.cli.times import EXAMPLES, parse_instant
from aggregator.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from aggregator.stages.verify import Mismatch, Range, Sample


def verify(
    context: typer.Context,
    *,
    start: Annotated[str | None, typer.Option("--from", metavar="TIME", help=f"From when on: {EXAMPLES}.")] = None,
    finish: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Up to and without when.")] = None,
    sample: Annotated[
        int | None, typer.Option("--sample", metavar="N", min=1, help="Look at N buckets at random, not at all.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Recompute buckets of every tier from what they were made of, and compare; nothing is written.

    Without a time, 300 buckets at random are looked at; with one, all that reach into it. Exit 1 where any differs.
    """
    from aggregator.tasks.context import Context, now  # noqa: PLC0415 - SQLAlchemy is loaded only where it is used

    here = Context(settings_of(context))
    scope = _scope(start, finish, sample, now=now())
    with _progress() as progress:
        report = here.verify.look(scope, clock=now, progress=progress, found=_silent if as_json else _print)
    if as_json:
        typer.echo(json.dumps(report.document(), indent=2, ensure_ascii=False))
    else:
        typer.echo(report.summary())
        if report.total > len(report.mismatches):
            typer.echo(f"only the first {len(report.mismatches):,} mismatches are listed")
    raise typer.Exit(1 if report.total else 0)


def _scope(start: str | None, finish: str | None, sample: int | None, *, now: datetime) -> Sample | Range:
    """What is asked for; raises UsageError where the interval is none."""
    from aggregator.stages.verify import SAMPLE_BUCKETS, Range, Sample, Within  # noqa: PLC0415 - as above

    since = parse_instant(start, now=now) if start is not None else None
    until = parse_instant(finish, now=now) if finish is not None else None
    if since is not None and since >= (until or now):
        raise UsageError(f"--from {start} is not before --to {finish or 'now'}; turn them round")
    if since is not None and sample is None:
        return Range(since, until or now)
    if until is not None and sample is None:
        raise UsageError("--to alone would mean all there ever was; add --from, or --sample for some of it")
    return Sample(sample or SAMPLE_BUCKETS, Within(since, until))


def _print(mismatch: Mismatch) -> None:
    typer.echo(str(mismatch))


def _silent(_: Mismatch) -> None:
    """Mismatches are printed with the rest of the document."""


@contextmanager
def _progress() -> Iterator[Callable[[float], None]]:
    """A bar on a terminal, on standard error; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console  # noqa: PLC0415 - only a terminal needs it
    from rich.progress import Progress  # noqa: PLC0415 - as above

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("verify", total=1.0)
        yield lambda share: bar.update(task, completed=share)
